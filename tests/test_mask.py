"""pytest tests/test_mask.py: step 1, from predictions to the binary mask."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffedit_min.core.guidance import classifier_free_guidance
from diffedit_min.core.mask import binarise, difference_map, predictions, remove_extremes, rescale

RULES = [
    {"norm": "l1", "average": "maps", "clip": "mean", "at": 3.0, "how": "max"},
    {"norm": "l2", "average": "maps", "clip": "quantile", "at": 0.9, "how": "minmax"},
    {"norm": "l1", "average": "differences", "clip": "none", "at": 0.0, "how": "minmax"},
]


def random_predictions(n=3, B=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(n, B, 4, 6, 5, generator=generator, dtype=torch.float64) for _ in range(2))


def whole(query, reference, rule, valid=None, threshold=0.5):
    raw = difference_map(query, reference, rule["norm"], rule["average"])
    return binarise(rescale(remove_extremes(raw, rule["clip"], rule["at"], valid), rule["how"], valid), threshold)


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
        mask = whole(torch.stack([reference[:, 0] + change, 2 * reference[:, 1]], dim=1), reference, rule)
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
    rounding = 1e-6 * torch.randn_like(query)
    assert not whole(query, query + rounding, rule).any()
    assert whole(query, query + 1000 * rounding, rule).any(), "a small but real difference counts"


def test_usual_rule_is_one_and_a_half_times_the_mean():
    """clip "mean" 3, rescale "max", threshold 0.5: map > 1.5 x mean, if anything reaches 3 x the mean."""
    raw = torch.rand(1, 16, 16, dtype=torch.float64) ** 8
    assert raw.max() > 3 * raw.mean()
    mask = binarise(rescale(remove_extremes(raw, "mean", 3.0), "max"), 0.5)
    assert torch.equal(mask[0, 0], raw[0] > 1.5 * raw.mean())


def test_clipping():
    raw = torch.tensor([[[0.0, 1.0], [2.0, 9.0]]])
    assert torch.equal(remove_extremes(raw, "none"), raw)
    assert remove_extremes(raw, "mean", 1.0).max() == 3.0
    assert remove_extremes(raw, "quantile", 0.0).max() == 0.0
    assert torch.equal(remove_extremes(raw, "quantile", 1.0), raw)


@given(st.lists(st.floats(0, 1e6), min_size=4, max_size=4), st.sampled_from(["minmax", "max"]))
@settings(deadline=None)
def test_rescaled_maps_are_in_the_unit_interval_and_keep_the_order(values, how):
    raw = torch.tensor(values, dtype=torch.float64).reshape(1, 2, 2)
    m = rescale(raw, how).flatten()
    assert not m.isnan().any() and m.min() >= 0 and m.max() <= 1
    order = raw.flatten().argsort()
    assert (m[order].diff() >= 0).all()
    if raw.max() > raw.min() or (how == "max" and raw.max() > 0):
        assert m.max() == 1


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
    (lambda m: rescale(m[0, 0], "z"), "mask_rescale 'z' is not known; known are minmax, max"),
    (lambda m: binarise(m[0, 0], 1.5), "mask_threshold must be from 0 to 1, not 1.5"),
])
def test_bad_options(call, message):
    with pytest.raises(ValueError) as error:
        call(torch.rand(2, 1, 3, 4, 4))
    assert str(error.value) == message
