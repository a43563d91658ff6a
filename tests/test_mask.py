"""pytest tests/test_mask.py: step 1, from predictions to the binary mask."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffedit_min.core.guidance import classifier_free_guidance
from diffedit_min.core.mask import binarise, ceilings, difference_map, predictions, remove_extremes, rescale

RULES = [
    {"norm": "l1", "average": "maps", "clip": "mean", "at": 3.0, "how": "ceiling"},
    {"norm": "l1", "average": "maps", "clip": "mean", "at": 3.0, "how": "max"},
    {"norm": "l2", "average": "maps", "clip": "quantile", "at": 0.9, "how": "minmax"},
    {"norm": "l1", "average": "differences", "clip": "none", "at": 0.0, "how": "minmax"},
]


def random_predictions(n=3, B=2, seed=0):
    """Under two prompts: they differ everywhere, and much more at one cell."""
    generator = torch.Generator().manual_seed(seed)
    one, other = (torch.randn(n, B, 4, 6, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    one[..., 1, 1] *= 20
    return one, other


def whole(query, reference, rule, valid=None, threshold=0.5):
    raw = difference_map(query, reference, rule["norm"], rule["average"])
    return cut(raw, rule["clip"], rule["at"], rule["how"], valid, threshold)


def cut(raw, clip="mean", at=3.0, how="ceiling", valid=None, threshold=0.5):
    clipped = remove_extremes(raw, clip, at, valid)
    return binarise(rescale(clipped, how, valid, ceilings(raw, clip, at, valid)), threshold)


def test_predictions_are_one_batch_in_order():
    noised, seen = torch.randn(5, 2, 4, 3, 3), []

    def eps_fn(x, t):
        seen.append((x.shape, t))
        return torch.cat([2 * x, 3 * x])        # under two prompts

    under_one, under_other = predictions(eps_fn, noised, 500)
    assert torch.equal(under_one, 2 * noised) and torch.equal(under_other, 3 * noised)
    assert seen == [((10, 4, 3, 3), 500)]


def test_difference_map_by_hand():
    query = torch.tensor([[[1.0, -3.0]], [[5.0, 1.0]]]).reshape(2, 1, 2, 1, 1)      # n=2, B=1, C=2, one cell
    reference = torch.zeros_like(query)
    assert difference_map(query, reference, "l1", "maps").item() == pytest.approx((2 + 3) / 2)
    assert difference_map(query, reference, "l2", "maps").item() == pytest.approx((5**0.5 + 13**0.5) / 2)
    assert difference_map(query, reference, "l1", "differences").item() == pytest.approx((3 + 1) / 2)
    assert difference_map(query, reference, "l2", "differences").item() == pytest.approx(5**0.5)


@pytest.mark.parametrize("rule", RULES)
def test_guidance_scales_the_raw_map_and_leaves_the_mask(rule):
    query, reference = random_predictions()
    empty = torch.zeros_like(query) + 0.3
    plain = difference_map(query, reference, rule["norm"], rule["average"])
    for s in (0.5, 3.0, 7.5, 50.0):
        guided = [classifier_free_guidance(empty, eps, s) for eps in (query, reference)]
        raw = difference_map(*guided, rule["norm"], rule["average"])
        assert (raw / s - plain).abs().max() < 1e-5 * plain.max()
        assert torch.equal(whole(*guided, rule), whole(query, reference, rule))


@pytest.mark.parametrize("rule", RULES)
def test_each_picture_has_its_own_statistics(rule):
    query, reference = random_predictions(B=3)
    query = query * torch.tensor([1.0, 100.0, 0.01], dtype=query.dtype)[:, None, None, None]
    together = whole(query, reference, rule)
    for b in range(3):
        assert torch.equal(together[b : b + 1], whole(query[:, b : b + 1], reference[:, b : b + 1], rule))


@pytest.mark.parametrize("rule", RULES)
def test_each_picture_tells_rounding_from_a_difference_by_itself(rule):
    """Beside a picture of large differences, or of large predictions."""
    _, reference = random_predictions()
    reference = reference * torch.tensor([1.0, 1e4], dtype=reference.dtype)[:, None, None, None]
    rounding, small = 1e-6 * torch.randn_like(reference[:, 0]), 1e-3 * torch.randn_like(reference[:, 0])
    for change, seen in ((rounding, False), (small, True)):
        change = torch.stack([change, reference[:, 1]], dim=1)
        change[..., 1, 1] *= 20
        mask = whole(reference + change, reference, rule)
        assert mask[0].any() == seen and mask[1].any()


@pytest.mark.parametrize(("clip", "at"), [("mean", 1.0), ("quantile", 0.5)])
def test_extremes_are_measured_without_the_padding(clip, at):
    """Whether the cells of padding are large or small, which moves the mean and the quantile either way."""
    raw = torch.rand(2, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(2, 6, 5, dtype=torch.bool)
    valid[:, 4:] = False
    for padding in (0.0, 100.0):
        raw[:, 4:] = padding
        clipped = remove_extremes(raw, clip, at, valid)
        assert torch.equal(clipped[:, :4], remove_extremes(raw[:, :4], clip, at))
        assert not torch.equal(clipped, remove_extremes(raw, clip, at))


@pytest.mark.parametrize("rule", RULES)
def test_padding_does_not_count(rule):
    """Whatever stands in cells of padding, the others' mask is the same, and theirs follows the nearest one."""
    valid = torch.ones(2, 6, 5, dtype=torch.bool)
    valid[:, 4:] = False
    query, reference = random_predictions()
    spoilt = query.clone()
    spoilt[..., 4:, :] += 1000
    assert torch.equal(whole(query, reference, rule, valid), whole(spoilt, reference, rule, valid))
    cropped = whole(query[..., :4, :], reference[..., :4, :], rule)
    assert torch.equal(whole(query, reference, rule, valid), cropped[..., [0, 1, 2, 3, 3, 3], :])


@pytest.mark.parametrize("rule", RULES)
def test_equal_predictions_and_rounding_give_an_empty_mask(rule):
    query, _ = random_predictions()
    assert not whole(query, query, rule).any()
    rounding = 1e-7 * query
    assert not whole(query, query + rounding, rule).any()
    assert whole(query, query + 1000 * rounding, rule).any(), "a small but real difference counts"


@st.composite
def maps(draw):
    """Two maps of different size: flat ones, which never reach 3 x their mean, and ones with a few peaks."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    return torch.stack([draw(st.floats(1e-3, 1e3)) * torch.rand(7, 9, generator=generator) ** draw(st.floats(0.1, 12))
                        for _ in range(2)])


@given(maps())
@settings(deadline=None)
def test_the_usual_rule_is_one_and_a_half_times_the_mean(raw):
    """Also where nothing reaches the ceiling, in each picture of a batch, and beside padding."""
    valid = torch.ones_like(raw, dtype=torch.bool)
    valid[:, 5:] = False
    for mask, own in ((cut(raw), raw), (cut(raw, valid=valid)[..., :5, :], raw[:, :5])):
        for made, m in zip(mask[:, 0], own, strict=True):
            rounding = (m - 1.5 * m.mean()).abs() < 1e-6 * m.max()
            assert ((made == (m > 1.5 * m.mean())) | rounding).all()


@given(maps(), st.floats(1.5, 4))
@settings(deadline=None)
def test_the_usual_rule_as_public_code_has_it(raw, ratio):
    """diffusers' pipeline_stable_diffusion_diffedit.py, which takes the mean over the whole batch: so one at a time."""
    for b in range(len(raw)):
        mask_guidance_map = raw[b : b + 1]
        clamp_magnitude = mask_guidance_map.mean() * ratio
        semantic_mask_image = mask_guidance_map.clamp(0, clamp_magnitude) / clamp_magnitude
        wanted = torch.where(semantic_mask_image <= 0.5, 0, 1)
        assert torch.equal(cut(raw, at=ratio)[b].int(), wanted.int())


def test_the_usual_rule_from_predictions_to_the_mask_as_public_code_has_it():
    """Its mean is over noises and channels at once."""
    for seed in range(5):
        target, source = random_predictions(n=10, B=1, seed=seed)
        mask_guidance_map = (target - source).abs().transpose(0, 1).mean([1, 2])
        clamp_magnitude = mask_guidance_map.mean() * 3.0
        wanted = mask_guidance_map.clamp(0, clamp_magnitude) / clamp_magnitude > 0.5
        assert wanted.any() and torch.equal(whole(target, source, RULES[0])[:, 0], wanted)


def test_max_is_another_rule_where_nothing_reaches_the_ceiling():
    flat = torch.tensor([[[0.4, 1.0], [1.0, 1.0]]])             # mean 0.85, and nothing above 1.5 x it
    assert not cut(flat).any()
    assert cut(flat, how="max").flatten().tolist() == [False, True, True, True]
    peak = torch.tensor([[[9.0, 1.0, 1.0], [1.0, 1.0, 1.0]]])   # mean 7/3, and 9 is above 3 x it
    assert torch.equal(cut(peak), cut(peak, how="max"))


@pytest.mark.parametrize(("clip", "at", "ceiling"), [
    ("mean", 2.0, 5.0), ("quantile", 0.5, 1.5), ("quantile", 1.0, 7.0), ("none", 0.0, 7.0)])
def test_a_rescaled_map_is_a_part_of_the_ceiling(clip, at, ceiling):
    """Without clipping no value is extreme, so the ceiling is the largest one: "ceiling" and "max" are the same."""
    raw = torch.tensor([[[0.0, 1.0], [2.0, 7.0]]])
    assert ceilings(raw, clip, at).tolist() == [ceiling]
    made = rescale(remove_extremes(raw, clip, at), "ceiling", ceiling=ceilings(raw, clip, at))
    assert torch.allclose(made, (raw / ceiling).clamp(max=1))
    if clip == "none":
        assert torch.equal(made, rescale(raw, "max"))


def test_clipping():
    raw = torch.tensor([[[0.0, 1.0], [2.0, 9.0]]])
    assert torch.equal(remove_extremes(raw, "none"), raw)
    assert remove_extremes(raw, "mean", 1.0).max() == 3.0
    assert remove_extremes(raw, "quantile", 0.0).max() == 0.0
    assert torch.equal(remove_extremes(raw, "quantile", 1.0), raw)


@given(st.lists(st.floats(0, 1e6), min_size=4, max_size=4), st.sampled_from(["ceiling", "minmax", "max"]))
@settings(deadline=None)
def test_rescaled_maps_are_in_the_unit_interval_and_keep_the_order(values, how):
    raw = torch.tensor(values, dtype=torch.float64).reshape(1, 2, 2)
    m = rescale(raw, how, ceiling=2 * raw.amax(dim=(1, 2))).flatten()
    assert not m.isnan().any() and m.min() >= 0 and m.max() <= 1
    order = raw.flatten().argsort()
    assert (m[order].diff() >= 0).all()
    if raw.max() > raw.min() or (how != "minmax" and raw.max() > 0):
        assert m.max() == (0.5 if how == "ceiling" else 1)


@given(st.floats(0, 1), st.floats(0, 1))
@settings(deadline=None)
def test_a_higher_threshold_never_adds_cells(a, b):
    m = torch.linspace(0, 1, 30).reshape(1, 5, 6)
    low, high = sorted((a, b))
    assert (binarise(m, high) <= binarise(m, low)).all()


def test_above_the_threshold_is_edited_at_it_is_not():
    mask_map = torch.tensor([[[0.0, 0.25], [0.5, 0.75], [0.75, 1.0]]])
    for threshold, edited in ((0.0, [0, 1, 1, 1, 1, 1]), (0.5, [0, 0, 0, 1, 1, 1]), (1.0, [0] * 6)):
        mask = binarise(mask_map, threshold)
        assert mask.shape == (1, 1, 3, 2) and mask.dtype == torch.bool
        assert mask.flatten().int().tolist() == edited, threshold


@pytest.mark.parametrize(("call", "message"), [
    (lambda m: difference_map(m, m, norm="l3"), "mask_norm 'l3' is not known; known are l1, l2"),
    (lambda m: difference_map(m, m, average="x"), "mask_average 'x' is not known; known are maps, differences"),
    (lambda m: remove_extremes(m[0, 0], "top"), "mask_clip 'top' is not known; known are mean, quantile, none"),
    (lambda m: remove_extremes(m[0, 0], "quantile", 3.0), "mask_clip_at must be from 0 to 1 for the quantile, not 3.0"),
    (lambda m: remove_extremes(m[0, 0], "mean", 0.0), "mask_clip_at must be above 0, not 0.0"),
    (lambda m: rescale(m[0, 0], "z"), "mask_rescale 'z' is not known; known are ceiling, max, minmax"),
    (lambda m: rescale(m[0, 0], "ceiling"),
     "mask_rescale 'ceiling' needs the ceiling: pass what ceilings() returns for the raw map"),
    (lambda m: binarise(m[0, 0], 1.5), "mask_threshold must be from 0 to 1, not 1.5"),
])
def test_bad_options(call, message):
    with pytest.raises(ValueError) as error:
        call(torch.rand(2, 1, 3, 4, 4))
    assert str(error.value) == message
