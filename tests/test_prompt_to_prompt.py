"""pytest tests/test_prompt_to_prompt.py: the methods that edit through attention, on tiny random weights in float64.

With nothing to edit they are plain decodings, with something to edit attention is what a few lines of softmax say, and
the source branch is what each method promises: prompt_to_prompt, negative_prompt_inversion, direct_inversion.
"""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import diffedit_min as dm
from diffedit_min.core.ddim import DDIM, step
from diffedit_min.core.guidance import Rows, conditional, guided
from diffedit_min.core.schedule import standard_noise
from diffedit_min.core.state import State
from diffedit_min.methods.local_blend import LocalBlend
from diffedit_min.methods.prompt_to_prompt import Control, EditedAttention
from diffedit_min.networks.attention import Place
from diffedit_min.pictures.picture import unfit

QUERY, REFERENCE, LONGER = "a bowl of pears", "a bowl of apples", "a red bowl of apples"
STEPS, L = 8, 24
PLAIN = {"cross_replace": 0.0, "self_replace": 0.0}
FULL = {"cross_replace": 1.0, "self_replace": 1.0}
BLEND = {"local_blend": "bowl", "blend_size": 0.5, "blend_threshold": 0.98}     # random maps are nearly even
BRANCHED = ["prompt_to_prompt", "negative_prompt_inversion", "direct_inversion"]


def picture(seed=0, size=(32, 32)):
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return coarse.resize(size, Image.BICUBIC)


PICTURE = picture()


def run(model, image=PICTURE, query=QUERY, reference=REFERENCE, *, method="prompt_to_prompt", **options):
    """The edit, and what the method itself saw and returned: (Edit, Outcome, Task)."""
    plain, seen = dm.METHODS[method], []

    def seeing(task, settings):
        outcome = yield from plain.run(task, settings)
        seen.append((outcome, task))
        return outcome

    edit = replace(plain, run=seeing)(model, image, query, reference, **{"steps": STEPS, **options})
    return edit, *seen[-1]


@pytest.fixture
def calls(model, monkeypatch):
    """What the model is asked for: (x, t, attend) of each call."""
    seen, eps = [], type(model).eps

    def seeing(self, x, t, context, attend=None, *rest, **more):
        seen.append((x, t, attend))
        return eps(self, x, t, context, attend, *rest, **more)

    monkeypatch.setattr(type(model), "eps", seeing)
    return seen


@torch.no_grad()
def decoded(model, start, text, s, levels, negative=""):
    """By hand: one picture's plain guided decoding, by level."""
    eps_fn = guided(model.eps, model.embed([text]), model.embed([negative]), s, Rows(), "any")
    return list(DDIM().decode(eps_fn, start, levels))[::-1]


def distance(a, b):
    return ((a - b).norm() / b.norm()).item()


def final(edit):
    return edit.decoded[0].latent


# ---------------------------------------------------------------- nothing to edit


@pytest.mark.parametrize(("image", "s", "ratio"), [
    (PICTURE, 7.5, 0.5), (PICTURE, 1.0, 1.0), (PICTURE, 0.0, 0.5), (None, 7.5, 0.5),
])
def test_without_windows_both_branches_are_plain_decodings(model, image, s, ratio):
    """From the inversion's end, or from the seed's noise; a generated picture has no ratio."""
    edit, outcome, task = run(model, image, guidance_scale=s, encoding_ratio=ratio, negative_prompt="grass", seed=3,
                              keep="trace", **PLAIN)
    k = STEPS if image is None else round(ratio * STEPS)
    levels = model.schedule.levels(STEPS)[: k + 1]
    start = edit.encoded[k] if image else State(k, levels[k], standard_noise(task.x0, (3,), "generate"))
    source, target = (decoded(model, start, text, s, levels, "grass") for text in (REFERENCE, QUERY))
    assert len(edit.decoded) == k + 1 and (distance(target[0].latent, source[0].latent) > 1e-3) == (s > 0)
    for ours, theirs in zip(edit.decoded, target, strict=True):
        assert ours.level == theirs.level and distance(ours.latent, theirs.latent) <= 1e-12
    assert distance(outcome.source, source[0].latent) <= 1e-12


def test_the_inversion_is_under_the_reference_and_unguided(model):
    levels = model.schedule.levels(STEPS)
    with torch.no_grad():
        eps_fn = conditional(model.eps, model.embed([REFERENCE]), Rows(), "any")
        expected = list(DDIM().encode(eps_fn, model.encode(dm.pictures.to_pixels(PICTURE)), levels))
    for method in BRANCHED:
        edit, *_ = run(model, method=method)
        assert all(torch.equal(a.latent, b.latent) for a, b in zip(edit.encoded, expected, strict=True))


def test_ratio_zero_gives_the_reconstruction(model):
    for method in BRANCHED:
        edit, outcome, task = run(model, method=method, encoding_ratio=0.0, **BLEND)
        assert torch.equal(outcome.latent, task.x0) and torch.equal(outcome.source, task.x0) and edit.rows == 0


@given(cross=st.floats(0, 1), own=st.floats(0, 1), size=st.sampled_from([0.0, 0.5, 1.0]), window=st.floats(0, 1),
       align=st.sampled_from(["auto", "swap", "refine"]), image=st.sampled_from([PICTURE, None]))
@settings(deadline=None, database=None, derandomize=True, max_examples=8)
def test_equal_prompts_make_equal_branches(cross, own, size, window, align, image):
    model = dm.load("random", dtype="float64")
    _, outcome, _ = run(model, image, LONGER, LONGER, steps=4, cross_replace=cross, self_replace=own, self_size=size,
                        align=align, word_windows={"bowl": (window / 2, window)})
    assert distance(outcome.latent, outcome.source) <= 1e-12


# ---------------------------------------------------------------- attention, written out


class ByHand:
    """Attention at every place, one target token at a time.

    Of each picture: counterparts {target token: (source tokens, how many target tokens share them)}, without the new
    ones; taken, the target tokens that may take their attention; weights {target token: c}. own_height: the tallest map
    whose self-attention is the source's.
    """

    def __init__(self, counterparts, taken, weights, own_height):
        self.counterparts, self.taken, self.weights, self.own_height = counterparts, taken, weights, own_height
        self.maps = {}

    def wants(self, place):
        return True

    def __call__(self, q, k, v, place):
        maps = [torch.exp(a @ b.mT / a.shape[-1] ** 0.5) for a, b in zip(q, k, strict=True)]
        maps = [m / m.sum(dim=-1, keepdim=True) for m in maps]              # of each row (heads, hw, tokens)
        B = len(self.counterparts)
        for i in range(B):
            source, target = maps[i], maps[B + i].clone()
            if not place.cross and place.height <= self.own_height:
                target = source
            for j in range(L if place.cross else 0):
                if j in self.taken[i] and j in self.counterparts[i]:
                    old, share = self.counterparts[i][j]
                    target[..., j] = sum(source[..., o] for o in old) / share
                target[..., j] = self.weights[i].get(j, 1) * target[..., j]
            maps[B + i] = target
        self.maps[place] = torch.stack(maps[: 2 * B])
        return torch.stack([m @ values for m, values in zip(maps, v, strict=True)])


# Of two pictures, both with the reference below: a swap of a word of 2 tokens for one of 4, and a refinement.
#   a 1, red 2-3, frog 4-5, on 6, sand 7, end 8  ->  a 1, red 2-3, lamp 4-7, on 8, sand 9, end 10
#                                                ->  a 1, red 2-3, frog 4-5, on 6, a 7, sand 8, end 9
FROG, QUERIES = "a red frog on sand", ["a red lamp on sand", "a red frog on a sand"]
SWAPPED = {**{j: ([j], 1) for j in range(4)}, **{j: ([4, 5], 4) for j in range(4, 8)},
           **{j: ([j - 2], 1) for j in range(8, L)}}
REFINED = {**{j: ([j], 1) for j in range(7)}, **{j: ([j - 1], 1) for j in range(8, L)}}
ALL, NONE, SAND = (set(range(L)), set(range(L))), (set(), set()), ({9}, {8})
NOT_SAND = ALL[0] - {9}, ALL[1] - {8}
WEIGHTED = {"reweight": {"sand": -1.5, "red": 0.5}}
LIGHT = {2: 0.5, 3: 0.5, 9: -1.5}, {2: 0.5, 3: 0.5, 8: -1.5}


@pytest.fixture(scope="module")
def frogs(model):
    """A task of two pictures."""
    _, _, task = run(model, [picture(0), picture(1)], QUERIES, FROG, steps=1)
    return task


def control_of(task, k=4, **options):
    settings = dm.METHODS["prompt_to_prompt"].settings(task.model, options)
    return Control.of(task, settings, task.model.schedule.levels(k))


@pytest.mark.parametrize(("options", "step", "taken", "weights", "own_height"), [
    (FULL, 0, ALL, ({}, {}), 4),
    (FULL | {"self_size": 1.0}, 3, ALL, ({}, {}), 8),
    (PLAIN | {"cross_replace": 1.0}, 3, ALL, ({}, {}), 0),
    (PLAIN | {"self_replace": 0.5}, 1, NONE, ({}, {}), 4),
    (PLAIN | WEIGHTED, 3, NONE, LIGHT, 0),
    (FULL | WEIGHTED, 0, ALL, LIGHT, 4),
    (FULL | WEIGHTED | {"reweight_until": 0.5}, 2, ALL, ({}, {}), 4),
    ({"cross_replace": 0.5, "self_replace": 0.25, "word_windows": {"sand": (0.5, 1.0)}}, 0, NOT_SAND, ({}, {}), 4),
    ({"cross_replace": 0.5, "self_replace": 0.25, "word_windows": {"sand": (0.5, 1.0)}}, 2, SAND, ({}, {}), 0),
])
@pytest.mark.parametrize("guided_branches", [2, 1, 0])
def test_one_call_is_what_the_softmax_says(model, frogs, options, step, taken, weights, own_height, guided_branches):
    """A swap and a refinement in one batch, in every row and through the whole U-Net."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(4 + 2 * guided_branches, 4, 8, 8, dtype=torch.float64, generator=generator)
    context = frogs.reference.join(frogs.query)
    if guided_branches:
        context = context.join(frogs.negative.repeat(guided_branches))
    by_hand = ByHand((SWAPPED, REFINED), taken, weights, own_height)
    with torch.no_grad():
        ours = model.eps(x, 500, context, control_of(frogs, **options).at(step))
        theirs, plain = model.eps(x, 500, context, by_hand), model.eps(x, 500, context)
    assert distance(ours, theirs) <= 1e-12
    assert all(distance(ours[i], plain[i]) <= 1e-12 for i in range(len(x)) if i not in (2, 3))
    assert all(distance(ours[i], plain[i]) > 1e-6 for i in (2, 3))


def test_weights_and_shares_are_as_exact_as_the_latents(model):
    """0.1, and a fifth of the attention to each token of a word of five: in float64, not rounded to float32."""
    _, _, task = run(model, PICTURE, "a zebra on sand", "a frog on sand", steps=1)
    control = control_of(task, reweight={"sand": 0.1})
    assert control.weights[0, 8] == 0.1
    assert (control.table[0, 2:4, 2:7] == 1 / 5).all()


@pytest.mark.parametrize("rows", [8, 6, 4])
def test_only_the_targets_conditional_rows_are_touched(frogs, rows):
    generator = torch.Generator().manual_seed(0)
    q, own, text = (torch.randn(rows, 2, n, 8, dtype=torch.float64, generator=generator) for n in (16, 16, L))
    attend = control_of(frogs, **FULL, reweight={"sand": 2}).at(0)
    for place, k in ((Place("attn1", False, 4, 4), own), (Place("attn2", True, 4, 4), text)):
        v = torch.randn(k.shape, dtype=torch.float64, generator=generator)
        out, plain = attend(q, k, v, place), F.scaled_dot_product_attention(q, k, v)
        assert torch.equal(out[:2], plain[:2]) and torch.equal(out[4:], plain[4:])
        assert (out[2:4] - plain[2:4]).abs().amax(dim=(1, 2, 3)).min() > 1e-3
        if not place.cross:
            maps = torch.softmax(q[:2] @ k[:2].mT / 8**0.5, dim=-1)
            assert (out[2:4] - maps @ v[2:4]).abs().max() <= 1e-13, "the source's map, the target's values"


def test_prompt_to_prompt_is_the_papers_loop(model):
    """Algorithm 1 in plain lines, both branches in lockstep: of 4 steps, 3 with the source's cross-attention and 1 with
    its self-attention."""
    edit, outcome, _ = run(model, query=QUERIES[0], reference=FROG, encoding_ratio=0.5, cross_replace=0.75,
                           self_replace=0.25, guidance_scale=5.0, keep="trace")
    levels, texts, empty = model.schedule.levels(STEPS), model.embed([FROG, QUERIES[0]]), model.embed(["", ""])
    z = edit.encoded[4].latent.repeat(2, 1, 1, 1)       # the source, and the target
    with torch.no_grad():
        for number, j in enumerate((4, 3, 2, 1)):
            edited = ByHand([SWAPPED], [set(range(L) if number < 3 else ())], [{}], 4 if number < 1 else 0)
            t, a, b = levels[j].t, levels[j].abar, levels[j - 1].abar
            eps = -4.0 * model.eps(z, t, empty) + 5.0 * model.eps(z, t, texts, edited)
            z = b**0.5 * (z - (1 - a) ** 0.5 * eps) / a**0.5 + (1 - b) ** 0.5 * eps
            assert distance(edit.decoded[j - 1].latent, z[1:]) <= 1e-12, f"level {j - 1}"
    assert distance(outcome.source, z[:1]) <= 1e-12


def test_word_windows(model):
    """Each word at its own steps. a 1, red 2-3, bowl 4, of 5, pears 6; 10 steps."""
    _, _, task = run(model, PICTURE, "a red bowl of pears", "a lamp bowl of apples", steps=1)
    control = control_of(task, k=10, cross_replace=0.4, word_windows={"pears": (0.2, 1), "red": 0.1, "of": [0.9, 1.0]})
    first, last = torch.zeros(L), torch.full((L,), 4)
    last[2:4] = 1
    first[5], last[5] = 9, 10
    first[6], last[6] = 2, 10
    steps = torch.arange(10)[:, None]
    assert torch.equal(control.taken[:, 0], ((steps >= first) & (steps < last)).double())


def test_new_words_never_take_the_sources_attention(model):
    _, _, task = run(model, PICTURE, LONGER, REFERENCE, steps=1)
    control = control_of(task, **FULL, word_windows={"red": 1.0})
    assert control.taken[:, 0].all(dim=0).tolist() == [j not in (2, 3) for j in range(L)]


# ---------------------------------------------------------------- where attention is left alone


CROSS = {(True, 8), (True, 4)}


@pytest.mark.parametrize(("options", "expected"), [
    ({"cross_replace": 0.5, "self_replace": 0.25}, [CROSS | {(False, 4)}] * 2 + [CROSS] * 2 + [None] * 4),
    ({"cross_replace": 0.0, "self_replace": 0.25}, [{(False, 4)}] * 2 + [None] * 6),
    ({"cross_replace": 0.0, "self_replace": 0.5, "self_size": 1.0}, [{(False, 4), (False, 8)}] * 4 + [None] * 4),
    ({"cross_replace": 0.5, "self_replace": 1.0, "self_size": 0.0}, [CROSS] * 4 + [set()] * 4),
    (PLAIN | {"word_windows": {"pears": (0.5, 0.75)}}, [None] * 4 + [CROSS] * 2 + [None] * 2),
    (PLAIN | {"reweight": {"pears": 2}, "reweight_until": 0.25}, [CROSS] * 2 + [None] * 6),
    (PLAIN | {"reweight": {"pears": 1}}, [None] * 8),
    (PLAIN | BLEND, [{(True, 4)}] * 8),
    ({"cross_replace": 0.5, "self_replace": 0.25} | BLEND,
     [CROSS | {(False, 4)}] * 2 + [CROSS] * 2 + [{(True, 4)}] * 4),
])
def test_the_fast_kernel_runs_where_nothing_is_done(model, calls, monkeypatch, options, expected):
    """At which places (cross or self, height) attention is taken out of its hands, step by step; None: it isn't asked.

    The random model's maps are 8 cells high, 4 in the middle; latents are 8 high. The inversion is left alone.
    """
    edited, call = {}, EditedAttention.__call__

    def seeing(self, q, k, v, place):
        edited.setdefault(len(calls), set()).add((place.cross, place.height))
        return call(self, q, k, v, place)

    monkeypatch.setattr(EditedAttention, "__call__", seeing)
    run(model, **options)
    assert len(calls) == 16 and all(attend is None for _, _, attend in calls[:8])
    attends = [attend for _, _, attend in calls[8:]]
    assert [None if attends[i] is None else edited.get(9 + i, set()) for i in range(8)] == expected


# ---------------------------------------------------------------- weights


def test_weight_one_changes_nothing(model):
    _, plain, _ = run(model)
    _, one, _ = run(model, reweight={"pears": 1, "a bowl": 1.0})
    assert torch.equal(plain.latent, one.latent)


def test_a_weight_changes_the_target_only(model):
    _, plain, _ = run(model)
    results = [run(model, reweight={"pears": c})[1] for c in (2, -2, 0)]
    results.append(run(model, reweight={"bowl": 2})[1])
    for outcome in results:
        assert distance(outcome.source, plain.source) <= 1e-12
    latents = [plain.latent, *(outcome.latent for outcome in results)]
    assert all(distance(a, b) > 1e-4 for i, a in enumerate(latents) for b in latents[:i])
    _, never, _ = run(model, reweight={"pears": 2}, reweight_until=0.0)
    assert torch.equal(never.latent, plain.latent)


@pytest.mark.parametrize("method", BRANCHED)
def test_typed_weights_are_weights(model, method):
    _, told, _ = run(model, method=method, reweight={"pears": 2, "a bowl": -0.5})
    edit, typed, _ = run(model, query="(a bowl:-0.5) of (pears:2)", method=method)
    assert torch.equal(typed.latent, told.latent) and torch.equal(typed.source, told.source)
    assert edit.settings["query"] == "(a bowl:-0.5) of (pears:2)"
    _, both, _ = run(model, query="a bowl of (pears:2)", method=method, reweight={"pears": 5, "a bowl": -0.5})
    assert torch.equal(both.latent, told.latent), "what is typed comes first"


def test_typed_weights_take_no_room_in_the_prompt(model):
    """23 tokens as typed, with room for 22; 14 as read."""
    typed = "a bowl of (pears:2) on (sand:1.5) on (grass:-1) on a bowl"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(model, query=typed, reference="a bowl of apples on sand on grass on a bowl", steps=1)


# ---------------------------------------------------------------- the local blend


def test_outside_the_blend_the_target_is_the_source_at_every_level(model, calls, monkeypatch):
    masks, blend_mask = {}, Control.blend_mask

    def seeing(self, steps):
        masks[steps] = blend_mask(self, steps)
        return masks[steps]

    monkeypatch.setattr(Control, "blend_mask", seeing)
    edit, outcome, _ = run(model, **BLEND, blend_start=0.25, keep="trace")
    pairs = {STEPS - i: x[:2] for i, (x, _, _) in enumerate(calls[STEPS:])}     # by level: source and target
    pairs[0] = torch.cat([outcome.source, outcome.latent])
    for j in range(STEPS - 1, -1, -1):
        (source, target), mask = pairs[j], masks[STEPS - j]
        assert torch.equal(target, edit.decoded[j].latent[0])
        same = (source == target).all(dim=0)
        if STEPS - j <= 2:
            assert mask is None and not same.any(), "a quarter of the steps without"
        else:
            assert 0 < mask.double().mean() < 1 and torch.equal(same, ~mask[0, 0])
    assert torch.equal(edit.mask, masks[STEPS][0, 0]) and not edit.empty_mask


def test_what_is_read_are_the_chosen_words_maps(model, frogs):
    """The source's, and the target's as edited: mean over heads, sum over the words' tokens and over layers and calls.

    frog and sand are 4-5 and 7 in the source; 9, the sand alone, and 4-5 and 8 in the targets.
    """
    control = control_of(frogs, **FULL, reweight={"sand": 2}, local_blend="frog, sand", blend_size=1.0)
    by_hand = ByHand((SWAPPED, REFINED), ALL, ({9: 2}, {8: 2}), 4)
    x = torch.randn(4, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    context, tokens = frogs.reference.join(frogs.query), ([4, 5, 7], [4, 5, 7], [9], [4, 5, 8])
    with torch.no_grad():
        for _ in range(2):
            model.eps(x, 500, context, control.at(0))
        model.eps(x, 500, context, by_hand)
    read = [maps for place, maps in by_hand.maps.items() if place.cross and place.height == 8]
    expected = torch.stack([2 * sum(maps[i, :, :, own].mean(dim=0).sum(dim=-1) for maps in read).view(8, 8)
                            for i, own in enumerate(tokens)])
    assert len(read) == 3 and (control.blend.total - expected).abs().max() <= 1e-12


def test_the_blends_mask_by_hand():
    """One cell around included, nearest neighbour up, above the threshold of its maximum, in either branch."""
    valid = torch.ones(2, 8, 8, dtype=torch.bool)
    valid[1, 6:] = False
    total = torch.rand(4, 4, 4, generator=torch.Generator().manual_seed(1)).double() ** 3
    ours = LocalBlend(torch.zeros(4, L), 0.7, 0, 4, valid, total).mask()
    expected = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    for row in range(4):
        near = torch.zeros(8, 8, dtype=torch.float64)
        for y in range(8):
            for x in range(8):
                if valid[row % 2, y, x]:
                    near[y, x] = total[row, max(y // 2 - 1, 0) : y // 2 + 2, max(x // 2 - 1, 0) : x // 2 + 2].max()
        expected[row % 2, 0] |= near > 0.7 * near.max()
    assert torch.equal(ours, expected) and 0 < expected.double().mean() < 1


def test_nothing_changes_in_the_padding(model):
    edit, outcome, task = run(model, picture(0, (32, 20)), **{**BLEND, "blend_threshold": 0.0})
    assert not task.valid.all() and torch.equal(edit.mask, task.valid[0]), "threshold 0 blends nothing of the picture"
    assert torch.equal((outcome.source == outcome.latent).all(dim=1), ~task.valid)


@pytest.mark.parametrize("image", [PICTURE, None])
def test_equal_prompts_have_no_changed_words(model, image):
    edit, outcome, _ = run(model, image, REFERENCE, REFERENCE, local_blend="changed", blend_size=0.5)
    assert edit.empty_mask and torch.equal(outcome.latent, outcome.source)
    assert edit.image.tobytes() == (image or edit.source).tobytes()


def test_changed_words_are_the_ones_to_blend_around(model):
    first, second = (run(model, **{**BLEND, "local_blend": words})[1] for words in ("changed", "apples, pears"))
    assert torch.equal(first.mask, second.mask) and torch.equal(first.latent, second.latent)
    _, third, _ = run(model, **BLEND)
    assert not torch.equal(first.mask, third.mask)


@pytest.mark.parametrize(("sampler", "steps"), [("edict", 6), ("belm", 6), ("belm", 1), ("belm", 2), ("dpm_solver", 6)])
def test_other_samplers_can_blend(model, sampler, steps):
    _, outcome, _ = run(model, **BLEND, blend_start=0.0, sampler=sampler, steps=steps)
    changed = (outcome.source != outcome.latent).any(dim=1, keepdim=True)
    assert outcome.mask is None or not (changed & ~outcome.mask).any()
    assert steps < 6 or changed.any()


# ---------------------------------------------------------------- batches, rows, repetition, generation


@pytest.mark.parametrize(("method", "image", "s", "invert", "decode"), [
    ("prompt_to_prompt", PICTURE, 7.5, 1, 4), ("prompt_to_prompt", PICTURE, 1.0, 1, 2),
    ("prompt_to_prompt", None, 7.5, 0, 4), ("prompt_to_prompt", None, 1.0, 0, 2),
    ("negative_prompt_inversion", PICTURE, 7.5, 1, 3), ("negative_prompt_inversion", PICTURE, 1.0, 1, 2),
    ("direct_inversion", PICTURE, 7.5, 1, 3), ("direct_inversion", PICTURE, 1.0, 1, 2),
])
def test_rows(model, calls, method, image, s, invert, decode):
    edit, *_ = run(model, image, method=method, guidance_scale=s)
    assert [len(x) for x, _, _ in calls] == [1] * (invert * STEPS) + [decode] * STEPS
    assert edit.rows == (invert + decode) * STEPS


def test_what_is_generated_is_the_input(model):
    edit, outcome, _ = run(model, None, seed=5)
    assert edit.input.tobytes() == edit.source.tobytes() == unfit(model.decode(outcome.source), edit.frame).tobytes()
    assert edit.image.tobytes() != edit.input.tobytes() and edit.image.size == (32, 32) and edit.encoded == ()
    other, *_ = run(model, None, "a basket", seed=5)
    assert other.input.tobytes() == edit.input.tobytes() and other.image.tobytes() != edit.image.tobytes()


def test_a_step_shows_the_picture_that_is_made(model):
    steps = []
    _, outcome, _ = run(model, on_step=steps.append)
    counted = [("encode", i, STEPS) for i in range(1, STEPS + 1)] + [("decode", i, STEPS) for i in range(1, STEPS + 1)]
    assert [(step.stage, step.index, step.total) for step in steps] == counted
    assert all(step.latent.shape == outcome.latent.shape for step in steps)
    assert torch.equal(steps[-1].latent, outcome.latent)


# ---------------------------------------------------------------- samplers


@pytest.mark.parametrize(("sampler", "method", "limit"), [
    ("edict", "prompt_to_prompt", 1e-12), ("dpm_solver", "prompt_to_prompt", 1e-12),
    ("belm", "negative_prompt_inversion", 1e-10),       # the target's guidance multiplies what would cancel
])
def test_equal_prompts_make_equal_branches_with_other_samplers(model, sampler, method, limit):
    _, outcome, _ = run(model, query=REFERENCE, method=method, sampler=sampler)
    assert distance(outcome.latent, outcome.source) <= limit


@pytest.mark.parametrize(("sampler", "method", "s"), [
    ("edict", "negative_prompt_inversion", 7.5), ("bdia", "prompt_to_prompt", 1.0),
    ("belm", "negative_prompt_inversion", 1.0),
])
def test_exact_samplers_bring_the_source_back(model, sampler, method, s):
    """Where the source is decoded unguided."""
    edit, outcome, _ = run(model, query=LONGER, method=method, sampler=sampler, guidance_scale=s)
    assert distance(outcome.source, edit.encoded[0].latent) <= 1e-9
    assert distance(outcome.latent, outcome.source) > 1e-4


@pytest.mark.parametrize("sampler", ["ddim", "edict", "belm"])
def test_direct_inversions_source_is_the_picture(model, sampler):
    """Not about, but bitwise, whatever the sampler and the guidance."""
    edit, outcome, task = run(model, query=LONGER, method="direct_inversion", sampler=sampler)
    assert torch.equal(outcome.source, edit.encoded[0].latent) and torch.equal(outcome.source, task.x0)
    assert edit.source.tobytes() == unfit(model.decode(task.x0), edit.frame).tobytes()


def test_null_text_has_no_samplers(model):
    with pytest.raises(ValueError, match="^null_text has no option 'sampler'; it has align, "):
        dm.null_text(model, PICTURE, QUERY, REFERENCE, sampler="edict")


# ---------------------------------------------------------------- negative-prompt and direct inversion


def test_negative_prompt_inversions_source_is_decoded_unguided(model):
    """As it came, whatever the guidance and the query."""
    back = dm.invert(model, PICTURE, reference=REFERENCE, steps=STEPS, encoding_ratio=1.0)
    assert distance(final(back), back.encoded[0].latent) > 1e-4, "DDIM's own error"
    for options in ({"guidance_scale": 1.0}, {"guidance_scale": 3.0}, {"query": LONGER}):
        _, outcome, _ = run(model, method="negative_prompt_inversion", **options)
        assert distance(outcome.source, final(back)) <= 1e-12


def test_negative_prompt_inversion_guides_from_the_reference(model):
    """The first step by hand: eps(C) + s (eps(query) - eps(C)). A negative prompt, which had no part in it, is refused.
    """
    edit, *_ = run(model, method="negative_prompt_inversion", guidance_scale=3.0, keep="trace", **PLAIN)
    k, levels, start = STEPS, model.schedule.levels(STEPS), edit.encoded[-1].latent
    with torch.no_grad():
        eps_c, eps_q = (model.eps(start, levels[k].t, model.embed([text])) for text in (REFERENCE, QUERY))
    expected = step(start, eps_c + 3.0 * (eps_q - eps_c), levels[k].abar, levels[k - 1].abar)
    assert distance(edit.decoded[k - 1].latent, expected) <= 1e-12
    whole = decoded(model, edit.encoded[-1], QUERY, 3.0, levels, negative=REFERENCE)
    assert all(distance(a.latent, b.latent) <= 1e-12 for a, b in zip(edit.decoded, whole, strict=True))
    with pytest.raises(ValueError, match="^negative_prompt 'grass': here the reference takes its place; leave it out$"):
        run(model, method="negative_prompt_inversion", negative_prompt="grass")


def test_direct_inversion_asks_with_the_encoding_at_every_level(model, calls):
    edit, *_ = run(model, method="direct_inversion")
    for i, (x, t, _) in enumerate(calls[STEPS:]):
        state = edit.encoded[STEPS - i]
        assert t == state.level.t and torch.equal(x[:1], state.latent), f"level {state.index}"


def test_direct_inversions_target_without_windows_is_plainly_decoded(model):
    edit, *_ = run(model, method="direct_inversion", negative_prompt="grass", keep="trace", **PLAIN)
    expected = decoded(model, edit.encoded[-1], QUERY, 7.5, model.schedule.levels(STEPS), "grass")
    assert all(distance(a.latent, b.latent) <= 1e-12 for a, b in zip(edit.decoded, expected, strict=True))


def test_outside_the_blend_direct_inversion_keeps_the_picture(model):
    edit, outcome, task = run(model, method="direct_inversion", **BLEND)
    change = (outcome.latent - task.x0).abs().amax(dim=1)[0]
    assert 0 < edit.mask.double().mean() < 1 and change[~edit.mask].max() == 0 < change[edit.mask].min()


# ---------------------------------------------------------------- refusals


def test_what_is_needed(model):
    for name in [name for name in dm.METHODS if name != "prompt_to_prompt"]:
        with pytest.raises(ValueError, match=f"^{name} needs a picture to edit$"):
            dm.METHODS[name](model, None, QUERY, REFERENCE)
    for name in [*BRANCHED, "null_text"]:
        with pytest.raises(ValueError, match=f"^{name} needs a reference: a caption of the input picture$"):
            dm.METHODS[name](model, PICTURE, QUERY, " ")


@pytest.mark.parametrize(("change", "message"), [
    ({"align": "words"}, "align 'words' is not known; known are auto, swap, refine"),
    ({"align": "swap", "query": LONGER}, "a swap needs as many words: 'a bowl of apples' has 4, "
                                         "'a red bowl of apples' has 5; align=refine takes any"),
    ({"cross_replace": 1.5}, "cross_replace must be from 0 to 1, not 1.5"),
    ({"self_replace": -1}, "self_replace must be from 0 to 1, not -1.0"),
    ({"reweight_until": float("nan")}, "reweight_until must be from 0 to 1, not nan"),
    ({"blend_threshold": 2}, "blend_threshold must be from 0 to 1, not 2.0"),
    ({"blend_start": 2}, "blend_start must be from 0 to 1, not 2.0"),
    ({"word_windows": {"bowl": 2}}, "word_windows of 'bowl' must be from 0 to 1, not 2"),
    ({"word_windows": {"bowl": (0.2, 1.2)}}, "word_windows of 'bowl' must be from 0 to 1, not 1.2"),
    ({"word_windows": {"bowl": (0, 0.5, 1)}},
     "word_windows of 'bowl' must be a number or two, from 0 to 1, not (0, 0.5, 1)"),
    ({"word_windows": {"bowl": "all"}}, "word_windows of 'bowl' must be a number or two, from 0 to 1, not 'all'"),
    ({"word_windows": {"bowl": (0, "1")}}, "word_windows of 'bowl' must be a number or two, from 0 to 1, not (0, '1')"),
    ({"word_windows": {"apples": 1}}, "'apples' is not in the prompt 'a bowl of pears'"),
    ({"word_windows": ["bowl"]},
     "word_windows must be words with numbers, for example apples:2,red bowl:0.5, not ['bowl']"),
    ({"reweight": {"pears": "2"}}, "reweight of 'pears' must be a number, not '2'"),
    ({"reweight": {"pears": float("inf")}}, "reweight of 'pears' must be a number, not inf"),
    ({"reweight": {"apples": 2}}, "'apples' is not in the prompt 'a bowl of pears'"),
    ({"local_blend": "lion", "blend_size": 0.5}, "'lion' is in neither prompt: 'a bowl of apples', 'a bowl of pears'"),
    ({"local_blend": "bowl, lion", "blend_size": 0.5},
     "'lion' is in neither prompt: 'a bowl of apples', 'a bowl of pears'"),
    ({"local_blend": ",", "blend_size": 0.5}, "local_blend ',' must be words, by commas, or changed"),
    ({"local_blend": "bowl"}, "blend_size must be one of 1, 0.5, where 'random' has attention to the text, not 0.25"),
])
def test_bad_options(model, change, message):
    with pytest.raises(ValueError) as error:
        run(model, **{"steps": 2, **change})
    assert str(error.value) == message


@pytest.mark.parametrize("name", [name for name, method in dm.METHODS.items() if method.channels == 4])
def test_which_methods_remake_the_picture(model, name):
    """What is said of a method before it runs is so after it."""
    few = {"steps": 2} | {"null_text": {"iterations": 0}, "unitune": {"tuning_steps": 0}}.get(name, {})
    edit = dm.METHODS[name](model, Image.new("RGB", (32, 32), "red"), "a bowl of pears", "a bowl of apples", **few)
    assert (edit.source is not None) == dm.METHODS[name].remakes
