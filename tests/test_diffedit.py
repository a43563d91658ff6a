"""pytest tests/test_diffedit.py: the identities that hold for DiffEdit and its baselines on *any* network.

They run on tiny random weights in float64, where a level, a sign or an index that is off by one shows.
"""

import copy
import dataclasses
import json
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import diffedit_min as dm
from diffedit_min.core.ddim import DDIM
from diffedit_min.core.diffedit import find_map
from diffedit_min.core.guidance import Rows, conditional
from diffedit_min.core.schedule import add_noise, levels_used, log_snr, standard_noise
from diffedit_min.core.task import Task
from diffedit_min.methods import Asked
from diffedit_min.pictures.picture import unfit

QUERY, REFERENCE = "a bowl of pears", "a bowl of apples"
FEW = {"steps": 10, "mask_samples": 3}
OTHER_LEVELS = r"^encoded was made at other levels \(another number of steps, or another grid\): leave it out, or pass "


@pytest.fixture(scope="module")
def model():
    return dm.load("random", dtype="float64")


def picture(seed=0, size=(32, 32)):
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return coarse.resize(size, Image.BICUBIC)


def diffedit(model, image=None, query=QUERY, reference=REFERENCE, **options):
    return dm.diffedit(model, image or picture(), query, reference, **{**FEW, "keep": "trace", **options})


def final(edit):
    return edit.decoded[0].latent


def white(edit, value=True):
    return torch.full_like(edit.mask, value)


# ---------------------------------------------------------------- the mask's two extremes, and the ratio's


def test_black_mask_gives_the_vae_reconstruction(model):
    edit = diffedit(model, mask=Image.new("L", (7, 5), 0))
    x0 = model.encode(dm.pictures.to_pixels(picture()))
    for state in edit.decoded:
        assert torch.equal(state.latent, edit.encoded[state.index].latent), f"level {state.index}"
    assert torch.equal(final(edit), x0)
    assert edit.image.tobytes() == unfit(model.decode(x0), edit.frame).tobytes()
    assert not edit.empty_mask, "a caller's black mask is decoded as asked"


@pytest.mark.parametrize(("size", "time"), [((32, 32), "destination"), ((32, 32), "source"), ((45, 37), "destination")])
def test_white_mask_is_encode_decode(model, size, time):
    """Also where the picture is padded: the network sees those cells too."""
    image = picture(size=size)
    edit = diffedit(model, image, mask=Image.new("L", (32, 32), 255), sampler=DDIM(time))
    plain = dm.encode_decode(model, image, QUERY, steps=10, sampler=f"ddim:time={time}", keep="trace")
    for ours, theirs in zip(edit.decoded, plain.decoded, strict=True):
        assert torch.equal(ours.latent, theirs.latent)
    assert edit.image.tobytes() == plain.image.tobytes()


@pytest.mark.parametrize("method", [dm.diffedit, dm.encode_decode, dm.sdedit, dm.invert])
def test_ratio_zero_gives_the_reconstruction(model, method):
    query = () if method is dm.invert else (QUERY,)
    edit = method(model, picture(), *query, steps=10, encoding_ratio=0.0)
    assert torch.equal(final(edit), model.encode(dm.pictures.to_pixels(picture())))


@pytest.mark.parametrize("sampler", ["ddim", "edict", "bdia"])
def test_every_blend_is_at_its_own_level(model, sampler):
    """Outside the mask each y_j is the very x_j, never its neighbour: the commonest slip of all. EDICT's two latents
    are blended each with its own counterpart."""
    edit = diffedit(model, sampler=sampler)
    outside = ~edit.mask
    assert 0 < outside.double().mean() < 1
    for state in edit.decoded[:-2]:         # BDIA's encoding brings along two
        x = edit.encoded[state.index]
        assert state.level == x.level and state.latents.shape == x.latents.shape
        assert torch.equal(state.latents[..., outside], x.latents[..., outside])
        assert (state.latents - x.latents)[..., ~outside].abs().min() > 0
    if sampler == "edict":
        one, other = edit.encoded[3].latents.chunk(2, dim=1)
        assert not torch.equal(one[..., outside], other[..., outside]), "a blend with the other one would show"


def test_noise_instead_of_encoding_with_a_white_mask_is_sdedit(model):
    k = levels_used(0.8, 10)
    level = model.schedule.levels(10)[k]
    x0 = model.encode(dm.pictures.to_pixels(picture()))
    noised = add_noise(x0, standard_noise(x0, (7,), "noise"), level.abar)
    encoded = diffedit(model).encoded
    pretended = tuple(
        type(s)(s.index, s.level, noised if s.index == k else s.latent) for s in encoded
    )
    edit = diffedit(model, mask=white(diffedit(model)), encoded=pretended, seed=7)
    plain = dm.sdedit(model, picture(), QUERY, steps=10, seed=7)
    assert torch.equal(final(edit), final(plain))


def test_the_round_trip_is_under_the_reference(model):
    told = dm.invert(model, picture(), reference=QUERY, steps=10, keep="trace")
    levels = model.schedule.levels(10)[: levels_used(0.8, 10) + 1]
    eps_fn = conditional(model.eps, model.embed([QUERY]), Rows(), "any")
    with torch.no_grad():
        *_, noisy = DDIM().encode(eps_fn, model.encode(dm.pictures.to_pixels(picture())), levels)
        *_, clean = DDIM().decode(eps_fn, noisy, levels)
    assert torch.equal(told.encoded[-1].latent, noisy.latent) and torch.equal(final(told), clean.latent)


def test_scale_zero_is_the_plain_round_trip(model):
    unconditional = dm.invert(model, picture(), steps=10, keep="trace")
    zero = dm.encode_decode(model, picture(), QUERY, steps=10, guidance_scale=0.0, keep="trace")
    assert torch.equal(final(zero), final(unconditional)), "s = 0 decodes under the empty text"


# ---------------------------------------------------------------- the mask step


@pytest.mark.parametrize("reference", [QUERY, f"  {QUERY} "])
def test_equal_prompts_give_the_input_picture_itself(model, reference, monkeypatch):
    image = picture(size=(33, 21))
    monkeypatch.setattr(type(model), "decode", lambda *_: pytest.fail("decoded for nothing"))
    edit = diffedit(model, image, QUERY, reference)
    assert edit.empty_mask and not edit.mask.any() and edit.mask_map.max() == 0
    assert edit.image.tobytes() == image.tobytes()
    assert edit.rows == 0


def test_equal_prompts_in_a_batch_leave_the_others_alone(model):
    images = [picture(0), picture(1)]
    same, other = dm.diffedit(model, images, QUERY, [QUERY, REFERENCE], **FEW)
    assert same.empty_mask and same.image.tobytes() == images[0].tobytes()
    alone = dm.diffedit(model, images[1], QUERY, REFERENCE, **FEW)
    assert not other.empty_mask and torch.equal(other.mask, alone.mask)


class Uneven(dm.StableDiffusion):
    """In half precision the rows of one batch differ by more than the rounding of float32: here they surely do."""

    def eps(self, x, t, context, **seams):
        eps = super().eps(x, t, context, **seams)
        return eps * (1 + 0.01 * torch.arange(len(eps)).view(-1, 1, 1, 1))


def test_equal_prompts_have_an_empty_mask_however_the_rows_round(model):
    same, other = diffedit(Uneven(**vars(model)), [picture(0), picture(1)], query=[REFERENCE, QUERY])
    assert same.empty_mask and same.mask_map.max() == 0 and not other.empty_mask


@pytest.mark.parametrize(("told", "t"), [({}, 500), ({"mask_noise_ratio": 0.3}, 300)])
def test_mask_noise_is_the_named_stream_and_level(model, told, t):
    """Step 1 by hand: same noises for both prompts, half of the training timeline if nothing is said, no guidance."""
    edit = diffedit(model, seed=3, mask_norm="l2", mask_clip="none", mask_rescale="minmax", **told)
    x0 = edit.encoded[0].latent
    level = model.schedule.at(t)
    maps = []
    for i in range(3):
        x_t = add_noise(x0, standard_noise(x0, (3,), "mask", i), level.abar)
        difference = model.eps(x_t, t, model.embed([QUERY])) - model.eps(x_t, t, model.embed([REFERENCE]))
        maps.append(difference.square().mean(dim=1).sqrt()[0])
        eps_query = model.eps(x_t, t, model.embed([QUERY]))[0]
        assert (edit.trace["eps_query"][i] - eps_query).abs().max() < 1e-12
    raw = torch.stack(maps).mean(dim=0)
    by_hand = (raw - raw.min()) / (raw.max() - raw.min())
    assert (edit.mask_map - by_hand).abs().max() < 1e-5     # maps are float32
    assert torch.equal(edit.mask, by_hand > 0.5)


def test_swapping_the_prompts_keeps_the_mask(model):
    there, back = diffedit(model), diffedit(model, query=REFERENCE, reference=QUERY)
    assert torch.equal(there.mask, back.mask)
    assert (final(there) - final(back)).abs().max() > 1e-6


def test_the_mask_ignores_the_negative_prompt_and_the_guidance(model):
    plain, other = diffedit(model), diffedit(model, negative_prompt="grass", guidance_scale=2.0)
    assert torch.equal(plain.mask_map, other.mask_map)
    assert (final(plain) - final(other)).abs().max() > 1e-6


def test_the_negative_prompt_stands_in_for_the_empty_text_while_decoding_only(model):
    edit = diffedit(model, negative_prompt="grass", guidance_scale=3.0, mask=white(diffedit(model)))
    assert torch.equal(edit.encoded[-1].latent, diffedit(model).encoded[-1].latent), "encoded under the empty text"
    grass, query = (model.embed([text]) for text in ("grass", QUERY))

    def by_hand(x, t):
        negative, positive = model.eps(x, t, grass), model.eps(x, t, query)
        return negative + 3.0 * (positive - negative)

    with torch.no_grad():
        *_, last = DDIM().decode(by_hand, edit.encoded[-1], model.schedule.levels(10, 0.8))
    assert (last.latent - final(edit)).abs().max() < 1e-12


def test_the_map_leaves_the_padding_out(model):
    """Of 32 x 20 pixels the last of six rows of cells is padding: no statistic of the map knows it."""
    edit = diffedit(model, picture(0, (32, 20)), mask_clip_at=1.0, mask_rescale="minmax")
    raw, clipped, mask_map = edit.trace["raw_map"][0], edit.trace["clipped_map"][0], edit.mask_map
    assert raw.shape == (6, 8) and (raw[:5].mean() - raw.mean()).abs() > 1e-3 * raw.mean()
    assert clipped.max() == raw[:5].mean()
    low, high = clipped[:5].min(), clipped[:5].max()
    assert (mask_map[:5] - (clipped[:5] - low) / (high - low)).abs().max() < 1e-6
    assert torch.equal(mask_map[5], mask_map[4])


def test_the_usual_rule_is_the_default_in_each_picture_of_a_batch(model):
    """Map > 1.5 x its mean, without the padding; and without a ceiling, parts of the map's own maximum."""
    for edit in diffedit(model, [picture(0, (32, 20)), picture(1, (32, 20))]):
        raw, mask = edit.trace["raw_map"][0, :5], edit.mask[:5]
        assert torch.equal(mask, raw > 1.5 * raw.mean()) and raw.max() < 3 * raw.mean(), "the ceiling isn't reached"
    edit = diffedit(model, mask_clip="none")
    raw = edit.trace["raw_map"][0]
    assert torch.equal(edit.mask_map, raw / raw.max())


# ---------------------------------------------------------------- reuse, rows, repetition


@given(n=st.integers(1, 4), steps=st.integers(1, 8), ratio=st.floats(0, 1), scale=st.sampled_from([0.0, 1.0, 7.5]))
@settings(max_examples=6, deadline=None)
def test_rows(n, steps, ratio, scale):
    model, k = dm.load("random"), levels_used(ratio, steps)
    edit = dm.diffedit(model, picture(), QUERY, REFERENCE, mask_samples=n, steps=steps, encoding_ratio=ratio,
                       guidance_scale=scale)
    assert not edit.empty_mask
    assert edit.rows == 2 * n + k + k * (2 if scale == 7.5 else 1)
    assert Counter(edit.rows_for) == Counter(mask=2 * n, encode=k, decode=k * (2 if scale == 7.5 else 1))


def test_a_smaller_ratio_is_a_prefix(model):
    long, short = diffedit(model, encoding_ratio=0.9), diffedit(model, encoding_ratio=0.5)
    assert len(short.encoded) == 6
    for a, b in zip(long.encoded, short.encoded, strict=False):
        assert a.level == b.level and torch.equal(a.latent, b.latent)


def test_encoding_and_map_can_be_reused(model):
    first = diffedit(model, encoding_ratio=0.9)
    fresh = diffedit(model, encoding_ratio=0.5, mask_threshold=0.3)
    again = diffedit(model, encoding_ratio=0.5, mask_threshold=0.3, encoded=first.encoded, mask_map=first.mask_map)
    assert torch.equal(final(fresh), final(again)) and torch.equal(fresh.mask, again.mask)
    assert again.rows == 2 * 5
    assert again.encoded.made == fresh.encoded.made and again.mask_map.made == fresh.mask_map.made, "for the next one"
    longer = diffedit(model, encoding_ratio=1.0, encoded=first.encoded)
    assert torch.equal(final(longer), final(diffedit(model, encoding_ratio=1.0))), "too short an encoding is made anew"


@pytest.mark.parametrize(("change", "differs"), [
    ({"image": picture(1)}, "of another picture, or of this one at another size"),
    ({"sampler": "edict"}, "with sampler 'ddim', but this edit has 'edict'"),
    ({"sampler": DDIM("source")}, "with sampler 'ddim', but this edit has 'ddim:time=source'"),
    ({"steps": 7}, "at other levels (another number of steps, or another grid)"),
])
def test_an_encoding_made_by_something_else_is_refused_by_name_and_not_used_unasked(model, change, differs):
    first, fresh = diffedit(model), diffedit(model, **change)
    with pytest.raises(ValueError) as error:
        diffedit(model, **change, encoded=first.encoded)
    assert str(error.value) == f"encoded was made {differs}: leave it out, or pass one that was made the same way"
    unasked = diffedit(model, **change, reuse=dataclasses.replace(first, mask_map=None))
    assert unasked.rows == fresh.rows and torch.equal(final(unasked), final(fresh))


@pytest.mark.parametrize(("change", "differs"), [
    ({"image": picture(1)}, "of another picture, or of this one at another size"),
    ({"query": "plums"}, f"with query {QUERY!r}, but this edit has 'plums'"),
    ({"reference": "plums"}, f"with reference {REFERENCE!r}, but this edit has 'plums'"),
    ({"seed": 1}, "with seed 0, but this edit has 1"),
    ({"mask_samples": 4}, "with mask_samples 3, but this edit has 4"),
    ({"mask_norm": "l2"}, "with mask_norm 'l1', but this edit has 'l2'"),
])
def test_a_map_made_by_something_else_is_refused_by_name_and_not_used_unasked(model, change, differs):
    first, fresh = diffedit(model), diffedit(model, **change)
    with pytest.raises(ValueError) as error:
        diffedit(model, **change, mask_map=first.mask_map)
    assert str(error.value) == f"mask_map was made {differs}: leave it out, or pass one that was made the same way"
    unasked = diffedit(model, **change, reuse=first)
    assert unasked.rows_for["mask"] == fresh.rows_for["mask"] and torch.equal(unasked.mask_map, fresh.mask_map)
    assert torch.equal(final(unasked), final(fresh))


def test_another_models_encoding_and_map_are_refused(model):
    first, other = diffedit(model), dm.load("random", seed=1, dtype="float64")
    for name in ("encoded", "mask_map"):
        with pytest.raises(ValueError) as error:
            diffedit(other, **{name: getattr(first, name)})
        assert str(error.value).startswith(f"{name} was made with model 'random, float64, ")


def test_earlier_edits_are_used_where_they_can_be(model):
    """One of them has the map, another one the encoding, and which holds what need not be said."""
    of_map, of_encoding = diffedit(model, encoding_ratio=0.2), diffedit(model, query="plums", encoding_ratio=1.0)
    fresh, again = diffedit(model), diffedit(model, reuse=[of_encoding, of_map])
    assert torch.equal(final(fresh), final(again)) and torch.equal(fresh.mask_map, again.mask_map)
    assert again.rows_for == {"decode": 16}
    images = [picture(0), picture(1)]
    both = dm.diffedit(model, images, QUERY, REFERENCE, **FEW, reuse=[[of_encoding, of_map], None])
    for image, edit in zip(images, both, strict=True):
        assert torch.equal(edit.mask, diffedit(model, image).mask)


def test_no_second_vae_encoding_with_a_given_encoding(model, monkeypatch):
    first = diffedit(model)
    monkeypatch.setattr(type(model), "encode", lambda *_: pytest.fail("encoded again"))
    again = diffedit(model, query="a basket", reference="a table", encoded=first.encoded)
    assert "encode" not in again.rows_for, "the encoding is told neither of the words"


def test_one_vae_encoding(model, monkeypatch):
    calls, encode = [], type(model).encode

    def counting(self, pixels):
        calls.append(len(pixels))
        return encode(self, pixels)

    monkeypatch.setattr(type(model), "encode", counting)
    diffedit(model)
    assert calls == [1]


def test_pictures_in_a_batch_can_have_a_mask_each(model):
    images = [picture(i, size) for i, size in enumerate([(32, 32), (50, 20), (32, 32)])]
    top, left = Image.new("L", (2, 2), 255), Image.new("L", (2, 2), 255)
    top.paste(0, (0, 1, 2, 2))
    left.paste(0, (1, 0, 2, 2))
    masks = [top, left, left]
    together = dm.diffedit(model, images, QUERY, mask=masks, **FEW)
    for image, mask, edit in zip(images, masks, together, strict=True):
        alone = dm.diffedit(model, image, QUERY, mask=mask, **FEW)
        assert torch.equal(edit.mask, alone.mask) and edit.mask.any() and not edit.mask.all()
        assert (final(edit) - final(alone)).norm() / final(alone).norm() <= 1e-12
    with pytest.raises(ValueError, match="^3 pictures but 2 masks: give one for all, or one each$"):
        dm.diffedit(model, images, QUERY, mask=masks[:2], **FEW)


def test_gradients_are_off_inside_and_untouched_outside(model):
    steps = dm.METHODS["diffedit"].iterate(model, picture(), QUERY, REFERENCE, **FEW)
    for step in steps:
        assert torch.is_grad_enabled(), "between steps the caller's mode holds"
        assert step.latent is None or not step.latent.requires_grad


# ---------------------------------------------------------------- what costs fewer rows


def test_the_lambda_grid_is_even_in_lambda_and_a_smaller_ratio_is_a_prefix(model):
    long, short = (diffedit(model, encoding_ratio=ratio, grid="lambda", steps=20) for ratio in (0.9, 0.5))
    times = [state.level.t for state in long.encoded]
    assert times[0] == 0 and times == sorted(set(times)) and max(times) <= 900
    for state, other in zip(short.encoded, long.encoded, strict=False):
        assert state.level == other.level and torch.equal(state.latent, other.latent)
    assert max(state.level.t for state in short.encoded) <= 500 < max(times)
    lambdas = [log_snr(state.level) for state in long.encoded]
    steps = [a - b for a, b in zip(lambdas[5:], lambdas[6:], strict=False)]     # below, whole numbers t are too coarse
    assert max(steps) < 1.1 * min(steps)


@pytest.mark.parametrize(("first", "last", "guided"), [
    (0.2, 0.5, 3), (0.201, 0.501, 4), (0.2011, 0.501, 3), (0.201, 0.5009, 3), (0.701, 0.701, 1), (0.0, 1.0, 8),
])
def test_guidance_outside_its_interval_costs_one_row_a_level(model, first, last, guided):
    """Of the levels t = 1, 101, ..., 701; both ends belong to the interval."""
    edit = dm.encode_decode(model, picture(), QUERY, steps=10, guidance_from=first, guidance_until=last)
    assert edit.rows_for == {"encode": 8, "decode": 8 + guided}


def test_an_interval_without_levels_is_no_guidance(model):
    nowhere, plain = diffedit(model, guidance_from=0.9, guidance_until=0.1), diffedit(model, guidance_scale=1.0)
    assert torch.equal(final(nowhere), final(plain)) and nowhere.rows == plain.rows


def test_guidance_in_the_interval_is_the_formula_at_those_levels(model):
    """Guided above t = 500 and plain below: the one decoding down to there, the other from there on."""
    half = dm.encode_decode(model, picture(), QUERY, steps=10, guidance_from=0.5, keep="trace")
    whole = dm.encode_decode(model, picture(), QUERY, steps=10, keep="trace")
    j = next(state.index for state in half.decoded if state.level.t > 500) - 1      # what the last guided step reaches
    assert torch.equal(half.decoded[j].latent, whole.decoded[j].latent)
    query = model.embed([QUERY])
    eps_fn = conditional(model.eps, query, Rows(), "any")
    levels = model.schedule.levels(10, 0.8)
    *_, last = DDIM().decode(eps_fn, half.decoded[j], levels)
    assert (last.latent - final(half)).abs().max() <= 1e-12


def test_a_preset_is_its_options(model):
    fast, spelled = dm.diffedit(model, picture(), QUERY, REFERENCE, preset="fast"), dm.diffedit(
        model, picture(), QUERY, REFERENCE, **dm.METHODS["diffedit"].presets["fast"])
    assert torch.equal(final(fast), final(spelled)) and fast.settings == spelled.settings
    assert fast.rows <= 60


def test_what_is_said_goes_over_the_preset_and_the_preset_over_the_card(model):
    presets = dm.METHODS["diffedit"].presets["fast"]
    card = dataclasses.replace(model, defaults={"diffedit": {"steps": 7, "mask_threshold": 0.3}})
    found = dm.METHODS["diffedit"].settings(card, {"mask_samples": 1}, "fast")
    assert (found.steps, found.mask_samples, found.mask_threshold) == (presets["steps"], 1, 0.3)
    assert dm.METHODS["diffedit"].settings(card, {}).steps == 7
    card.defaults["diffedit, fast"] = {"guidance_scale": 2.5, "mask_samples": 9}
    found = dm.METHODS["diffedit"].settings(card, {"mask_samples": 1}, "fast")
    assert (found.steps, found.mask_samples, found.guidance_scale) == (presets["steps"], 1, 2.5)
    assert dm.METHODS["diffedit"].settings(card, {}).guidance_scale == 7.5


@pytest.mark.parametrize("method", [dm.diffedit, dm.sdedit, dm.prompt_to_prompt, dm.edit_friendly])
def test_the_papers_values_are_the_defaults_whatever_a_card_says(method):
    tiny = dm.load()
    assert method.settings(tiny, {}) == method.settings(tiny, {}, "recommended") != method.options()
    assert method.settings(tiny, {}, "paper") == method.options()
    assert method.settings(tiny, {"steps": 7}, "paper") == method.options(steps=7)
    assert method.settings(dataclasses.replace(tiny, defaults={}), {}) == method.options()


def test_the_papers_own_values():
    own = dm.diffedit.settings(dm.load(), {}, "paper")
    assert (own.mask_samples, own.mask_noise_ratio, own.mask_threshold) == (10, 0.5, 0.5)
    assert (own.encoding_ratio, own.guidance_scale, own.sampler) == (0.8, 7.5, dm.SAMPLERS["ddim"])
    assert (own.mask_norm, own.mask_clip, own.mask_clip_at, own.mask_rescale) == ("l1", "mean", 3.0, "ceiling")


@pytest.mark.parametrize("name", ["paper", "recommended"])
def test_a_method_can_not_give_the_names_of_every_methods_presets_another_meaning(name):
    with pytest.raises(ValueError, match=f"^method 'own': every method has a preset '{name}'; give yours another name"):
        dm.Method("own", based_on=dm.diffedit, presets={name: {"steps": 3}})


def test_unknown_presets_are_refused(model):
    with pytest.raises(ValueError, match="^diffedit has no preset 'quick'; it has recommended, paper, fast$"):
        diffedit(model, preset="quick")
    with pytest.raises(ValueError, match="^sdedit has no preset 'fast'; it has recommended, paper$"):
        dm.sdedit(model, picture(), QUERY, preset="fast")


# ---------------------------------------------------------------- progress, records, sizes


def test_raising_in_on_step_stops(model):
    seen = []

    def stop(step):
        seen.append(step)
        if step.stage == "encode":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dm.diffedit(model, picture(), QUERY, REFERENCE, **FEW, on_step=stop)
    assert [step.stage for step in seen] == ["mask", "encode"]


def test_what_is_kept(model):
    result, trace = (diffedit(model, keep=keep) for keep in ("result", "trace"))
    assert torch.equal(final(result), final(trace))
    assert len(result.decoded) == 1 and result.trace == {}
    assert [s.index for s in trace.decoded] == list(range(9)) == [s.index for s in trace.encoded]
    assert set(trace.trace) == {"noised", "eps_query", "eps_reference", "raw_map", "clipped_map"}
    assert trace.trace["eps_query"].shape == (3, 4, 8, 8) and trace.trace["raw_map"].shape == (1, 8, 8)


def test_the_models_defaults_hold_where_nothing_is_said(model):
    own = copy.copy(model)
    own.defaults = {"diffedit": {"guidance_scale": 2.0, "mask_samples": 2}, "sdedit": {"steps": 3}}
    assert dm.METHODS["diffedit"].settings(own, {"mask_samples": 5}).mask_samples == 5
    edit = dm.diffedit(own, picture(), QUERY, steps=5)
    assert edit.settings["guidance_scale"] == 2.0 and edit.settings["mask_samples"] == 2
    assert dm.METHODS["sdedit"].settings(own, {}).steps == 3 and dm.invert.settings(own, {}).guidance_scale == 1.0


@given(width=st.integers(1, 70), height=st.integers(1, 70))
@settings(max_examples=10, deadline=None)
def test_any_size_comes_back_at_its_size(width, height):
    edit = dm.diffedit(dm.load("random"), picture(0, (width, height)), QUERY, steps=2, mask_samples=1)
    assert edit.image.size == (width, height) == edit.mask_image.size


def test_padding_follows_the_picture(model):
    """Found or given, a mask goes on into the padding, which mirrors the picture: the two are the same mask."""
    image = picture(0, (32, 20))
    edit = diffedit(model, image)
    assert edit.mask.shape == (6, 8) and torch.equal(edit.mask[5], edit.mask[4])
    again = diffedit(model, image, mask=edit.mask_image)
    assert torch.equal(again.mask, edit.mask) and torch.equal(final(again), final(edit))


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(("change", "message"), [
    ({"query": None}, "the query must be a text, not None"),
    ({"query": b"pears"}, "the query must be a text, not b'pears'"),
    ({"reference": 3}, "the reference must be a text, not 3"),
    ({"query": "a \ud83c"}, r"the query 'a \ud83c' has a stray byte, which is no text in UTF-8: write it anew"),
    ({"query": "pears " * 10**6}, "the query has 6,000,000 characters: give at most 10,000"),
    ({"seed": 0.5}, "seed must be a whole number, not 0.5"),
    ({"seed": np.float64(1)}, "seed must be a whole number, not 1.0"),
    ({"seed": True}, "seed must be a whole number, not True"),
    ({"seed": "1"}, "seed must be a whole number, not '1'"),
    ({"seed": None}, "seed must be a whole number, not None"),
    ({"size": 16.0}, "size must be a whole number, not 16.0"),
    ({"steps": np.bool_(True)}, "steps must be a whole number, not True"),
    ({"steps": np.arange(2)}, "steps must be a whole number, not [0, 1]"),
    ({"query": "  "}, "the query is empty: say what the edited picture should show"),
    ({"encoding_ratio": 1.5}, "encoding_ratio must be from 0 to 1, not 1.5"),
    ({"encoding_ratio": float("nan")}, "encoding_ratio must be from 0 to 1, not nan"),
    ({"encoding_ratio": "x"}, "encoding_ratio must be a number, not 'x'"),
    ({"steps": 0}, "steps must be at least 1, not 0"),
    ({"steps": 1000}, "steps must be from 1 to 999, not 1000"),
    ({"steps": 2.5}, "steps must be a whole number, not 2.5"),
    ({"guidance_scale": -1}, "guidance_scale must be at least 0, not -1.0"),
    ({"mask_samples": 0}, "mask_samples must be from 1 to 1000, not 0"),
    ({"mask_samples": 10**30}, f"mask_samples must be from 1 to 1000, not {10**30}"),
    ({"mask_noise_ratio": 2}, "mask_noise_ratio must be from 0 to 1, not 2.0"),
    ({"mask_threshold": -0.1}, "mask_threshold must be from 0 to 1, not -0.1"),
    ({"mask_norm": "l3"}, "mask_norm 'l3' is not known; known are l1, l2"),
    ({"mask_clip": "quantile", "mask_clip_at": 3.0}, "mask_clip_at must be from 0 to 1 for the quantile, not 3.0"),
    ({"sampler": "ddim:time=now"}, "time 'now' is not known; known are destination, source"),
    ({"keep": "all"}, "keep 'all' is not known; known are result and trace"),
    ({"mask_map": torch.zeros(3, 3)}, "mask_map is (3, 3), but the picture's latents are (8, 8)"),
])
def test_bad_options(model, change, message):
    with pytest.raises(ValueError) as error:
        diffedit(model, **change)
    assert str(error.value) == message


def test_numbers_of_numpy_and_torch_are_numbers(model):
    plain = {"seed": 3, "size": 24, "steps": 3, "mask_samples": 2, "encoding_ratio": 0.5, "guidance_scale": 2.0}
    other = {"seed": np.int64(3), "size": np.int32(24), "steps": np.int16(3), "mask_samples": torch.tensor(2),
             "encoding_ratio": np.float32(0.5), "guidance_scale": np.uint8(2)}
    edit = diffedit(model, **other)
    assert json.dumps(edit.settings) == json.dumps(diffedit(model, **plain).settings)
    assert Asked(dm.METHODS["diffedit"], "a", seed=np.uint8(7), size=torch.tensor(9)).seed.bit_length() == 3
    pictures = [picture(0), picture(1), picture(2)]
    for seeds in (np.arange(3), torch.arange(3), list(np.arange(3)), (0, 1, 2)):
        edits = dm.diffedit(model, pictures, QUERY, seed=seeds, steps=2, mask_samples=1)
        assert json.dumps([edit.settings["seed"] for edit in edits]) == "[0, 1, 2]"
    options = {"reweight": {"pears": np.int64(2)}, "cross_replace": torch.tensor(0.5)}
    settings = dm.METHODS["prompt_to_prompt"].made(options).record()
    assert json.loads(json.dumps(settings))["reweight"] == {"pears": 2} and settings["cross_replace"] == 0.5


def test_other_refusals(model):
    with pytest.raises(ValueError, match="^diffedit has no option 'strength'; it has encoding_ratio, "):
        diffedit(model, strength=1)
    with pytest.raises(ValueError, match="^2 pictures but 3 queries: give one for all, or one each$"):
        dm.diffedit(model, [picture(), picture()], ["a", "b", "c"])
    with pytest.raises(ValueError, match="^there is no picture in the list$"):
        dm.diffedit(model, [], QUERY)
    with pytest.raises(ValueError, match="^sdedit takes no mask$"):
        dm.sdedit(model, picture(), QUERY, mask=picture())
    with pytest.raises(ValueError, match="^encoded belongs to one picture, but 2 are given$"):
        dm.diffedit(model, [picture(), picture()], QUERY, encoded=diffedit(model).encoded)
    with pytest.raises(ValueError, match=OTHER_LEVELS):
        diffedit(model, steps=7, encoded=diffedit(model).encoded)
    with pytest.raises(ValueError, match=r"^encoded is of latents of \(8, 8\), but the picture's are \(4, 8\)$"):
        diffedit(model, picture(0, (32, 16)), encoded=diffedit(model).encoded)


def test_map_is_found_for_a_task_by_itself(model):
    """`find_map` is a function of the task: it can be read and called alone."""
    pixels = dm.pictures.to_pixels(picture())
    x0 = model.encode(pixels)
    contexts = [model.embed([text]) for text in (QUERY, REFERENCE, "", "")]
    valid = torch.ones(1, 8, 8, dtype=torch.bool)
    task = Task(model, pixels, x0, (QUERY,), (REFERENCE,), *contexts, (0,), valid, Rows(), "result", False)
    with torch.no_grad():
        mask_map, trace = find_map(task, dm.METHODS["diffedit"].settings(model, {"mask_samples": 3}))
        assert conditional(model.eps, contexts[0], Rows(), "any")(x0, 1).shape == x0.shape
    assert torch.equal(mask_map[0], diffedit(model).mask_map) and trace == {}
    assert task.rows.forward == {"mask": 6}
