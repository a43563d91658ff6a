"""Run with `python -m pytest tests/test_scenes.py` from the repository's root; takes about 10 seconds.

Checks the still lifes of `diffedit_min.tiny`: what is promised of `sample`, captions, edits and errors, and
that every edit's picture changes where, and only where, the thing that was edited is seen.
"""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from diffedit_min.tiny.paint import FLATNESS
from diffedit_min.tiny.scenes import (
    COMBINATIONS,
    HELD_OUT,
    TEST,
    TRAIN,
    TRAINED,
    VALIDATION,
    VALUES,
    Scene,
    changed,
    sample,
)

SPLITS = [TRAIN, VALIDATION, TEST]
# How much of a thing an edit must change noticeably; a bucket has some of a bowl's colours.
LEAST_CHANGED = {"container": 0.65, "fruit": 0.9, "surface": 0.95}
SCENES = st.integers(0, TEST.stop - 1).map(sample)
APPLES = sample(0).replace(container="bowl", fruit="apples", surface="wooden table")


def examples(count: int) -> settings:
    """The same examples in every run; no time limit, since the machine may be busy; no search for a smaller seed."""
    phases = [Phase.explicit, Phase.generate]
    return settings(max_examples=count, derandomize=True, deadline=None, database=None, phases=phases)


def attributes_of(scene: Scene) -> tuple[str, str, str]:
    return scene.container, scene.fruit, scene.surface


def pixels(scene: Scene, size: int = 64) -> np.ndarray:
    """The rendered picture: int, (size, size, 3), in [0, 255]."""
    return np.asarray(scene.render(size)).astype(int)


def differ(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Where two pictures differ at all, be it in one channel by 1: bool, (height, width)."""
    return (first != second).any(axis=2)


@dataclasses.dataclass
class Zones:
    """Where a thing is according to the scene's layout alone: bool masks, (size, size)."""

    core: np.ndarray  # surely shows the thing, whatever its value, and nothing else
    reach: np.ndarray  # the most that an edit of it may change


def zones(scene: Scene, size: int) -> dict[str, Zones]:
    """For each attribute; no core meets the reach of another attribute."""
    centres = (np.arange(size) + 0.5) / size
    across = (centres[None, :] - scene.centre) / scene.half_width
    down = (centres[:, None] - scene.rim) / scene.half_width
    pixel = 1 / size / scene.half_width
    margin = 1.5 * pixel  # a pixel for antialiasing, and half of one since these are the pixels' centres
    base = scene.height / scene.half_width
    sag = FLATNESS * np.sqrt(np.clip(1 - across**2, 0, 1))

    def discs(scale: float, margin: float) -> np.ndarray:
        return np.any([np.hypot(across - place.x, down - place.y) < scale * place.radius + margin
                       for place in scene.heap], axis=0)

    body = (np.abs(across) < 0.5) & (down > FLATNESS + margin) & (down < base - margin)
    fruit = discs(0.5, 0) & (down < -pixel)  # below the rim, the container hides the heap
    cylinder = (np.abs(across) < 1 + margin) & (down > -sag - margin) & (down < base + sag + margin)
    heap = discs(1.7, margin)  # with stalks and leaves
    ground = (centres[:, None] > scene.horizon + 1 / size) & ~cylinder & ~heap
    below_horizon = np.broadcast_to(centres[:, None] > scene.horizon - 1 / size, heap.shape)
    return {
        "container": Zones(body, cylinder & ~fruit),
        "fruit": Zones(fruit, heap & ~body),
        "surface": Zones(ground, below_horizon & ~body & ~fruit),
    }


# What `sample` draws


@examples(100)
@given(st.integers(0, TEST.stop - 1))
def test_a_seed_always_gives_the_same_scene(seed):
    assert sample(seed) == sample(seed) == sample(np.int64(seed))


def test_seeds_keep_their_scenes_between_versions():
    """Else trained weights have seen the test scenes, and published numbers cannot be compared."""
    assert [sample(split.start).caption for split in SPLITS] == [
        "a bucket of oranges on sand",
        "a bucket of plums on a checked cloth",
        "a bucket of lemons on marble",
    ]
    scene = sample(VALIDATION.start)
    assert (scene.centre, scene.horizon, scene.heap[-1].tilt) == pytest.approx((0.64181, 0.49366, 0.34454), abs=1e-5)


def test_neighbouring_seeds_give_different_scenes():
    scenes = [dataclasses.replace(sample(seed), seed=0) for seed in range(1000)]
    assert len(set(scenes)) == len(scenes)


@pytest.mark.parametrize("split", SPLITS, ids=["train", "validation", "test"])
def test_exactly_the_held_out_combinations_are_missing_in_training(split):
    seen = {attributes_of(sample(seed)) for seed in split[:3000]}
    assert seen == set(COMBINATIONS) - (HELD_OUT if split is TRAIN else set())


@examples(300)
@given(st.integers(0, TRAIN.stop - 1))
def test_no_training_seed_gives_a_held_out_combination(seed):
    assert attributes_of(sample(seed)) not in HELD_OUT


def test_every_value_is_trained_in_many_combinations():
    assert HELD_OUT < set(COMBINATIONS) and len(COMBINATIONS) == 3 * 5 * 5
    for index, values in enumerate(VALUES.values()):
        for value in values:
            assert sum(combination[index] == value for combination in TRAINED) >= 12


def test_splits_do_not_overlap():
    assert all(first.stop <= second.start for first, second in itertools.pairwise(SPLITS))


@examples(300)
@given(SCENES)
def test_container_and_heap_stay_in_the_frame(scene):
    assert scene.half_width <= scene.centre <= 1 - scene.half_width
    assert scene.rim + scene.height + FLATNESS * 0.85 * scene.half_width <= 0.95
    assert all(scene.rim + (place.y - place.radius) * scene.half_width >= 0 for place in scene.heap)
    assert scene.rim - 0.13 <= scene.horizon <= scene.rim + 0.04
    assert 6 <= len(scene.heap) <= 8
    assert np.linalg.norm(scene.light) == pytest.approx(1)


# Captions


@pytest.mark.parametrize(("surface", "caption"), [
    ("wooden table", "a bowl of apples on a wooden table"),
    ("checked cloth", "a bowl of apples on a checked cloth"),
    ("marble", "a bowl of apples on marble"),
    ("grass", "a bowl of apples on grass"),
    ("sand", "a bowl of apples on sand"),
])
def test_caption(surface, caption):
    assert APPLES.replace(surface=surface).caption == caption


@pytest.mark.parametrize(("attributes", "caption"), [
    ((), ""),
    (("fruit",), "apples"),
    (("container",), "a bowl"),
    (("surface",), "a wooden table"),
    (("container", "fruit"), "a bowl of apples"),
    (("fruit", "surface"), "apples on a wooden table"),
    (("container", "surface"), "a bowl on a wooden table"),
    (("container", "fruit", "surface"), "a bowl of apples on a wooden table"),
])
def test_partial_caption_in_any_order(attributes, caption):
    for order in itertools.permutations(attributes):
        assert APPLES.partial_caption(order) == caption
        assert APPLES.partial_caption(iter(order + order)) == caption


@examples(100)
@given(SCENES, st.sets(st.sampled_from(list(VALUES))))
def test_partial_captions_name_the_given_attributes_only(scene, attributes):
    caption = scene.partial_caption(attributes)
    assert {name for name in VALUES if getattr(scene, name) in caption} == attributes


def test_captions_tell_all_combinations_apart():
    captions = {APPLES.replace(**dict(zip(VALUES, combination, strict=True))).caption for combination in COMBINATIONS}
    assert len(captions) == len(COMBINATIONS)


# Edits


@examples(100)
@given(SCENES)
def test_edits_are_all_scenes_with_exactly_one_other_attribute(scene):
    edits = scene.edits()
    assert len(edits) == len({edited for _, edited in edits}) == 10
    for attribute, edited in edits:
        before, after = dataclasses.asdict(scene), dataclasses.asdict(edited)
        assert [name for name in before if before[name] != after[name]] == [attribute]
        assert after[attribute] in VALUES[attribute]
        assert edited.replace(**{attribute: before[attribute]}) == scene


def test_replace_changes_several_attributes_and_leaves_the_original():
    edited = APPLES.replace(fruit="plums", surface="sand")
    assert attributes_of(edited) == ("bowl", "plums", "sand")
    assert attributes_of(APPLES) == ("bowl", "apples", "wooden table")
    assert APPLES.replace() == APPLES


# Errors: one line that says what is wrong and what would be right


@pytest.mark.parametrize("seed", [-1, 3 * 10**9, np.int64(-1)])
def test_a_seed_outside_the_splits_is_an_error(seed):
    with pytest.raises(ValueError) as error:
        sample(seed)
    assert str(error.value) == f"seed {seed} is in no split: it must be from 0 to 2999999999"


UNKNOWN_ATTRIBUTE = "unknown attribute 'colour': choose from container, fruit, surface"


def test_unknown_attributes_are_errors():
    with pytest.raises(ValueError) as error:
        APPLES.replace(fruit="pears", colour="red")
    assert str(error.value) == UNKNOWN_ATTRIBUTE
    with pytest.raises(ValueError) as error:
        APPLES.partial_caption(["fruit", "colour"])
    assert str(error.value) == UNKNOWN_ATTRIBUTE


def test_parts_of_the_layout_are_not_attributes():
    with pytest.raises(ValueError, match=r"^unknown attribute 'seed': "):
        APPLES.replace(seed=3)


def test_an_unknown_value_is_an_error():
    with pytest.raises(ValueError) as error:
        APPLES.replace(fruit="basket")
    assert str(error.value) == "unknown fruit 'basket': choose from apples, pears, oranges, lemons, plums"


@pytest.mark.parametrize("size", [15, 0, -64])
def test_a_size_below_16_is_an_error(size):
    with pytest.raises(ValueError) as error:
        APPLES.render(size)
    assert str(error.value) == f"size must be at least 16, not {size}"


def test_pictures_of_differing_sizes_cannot_be_compared():
    with pytest.raises(ValueError) as error:
        changed(Image.new("RGB", (20, 30)), Image.new("RGB", (30, 20)))
    assert str(error.value) == "the pictures must have one size, not (20, 30) and (30, 20)"
    with pytest.raises(ValueError) as error:
        changed(APPLES, APPLES.render(32))
    assert str(error.value) == "the pictures must have one size, not (64, 64) and (32, 32)"


# Pictures


@examples(20)
@given(SCENES, st.integers(16, 200))
def test_renders_have_the_asked_size_and_are_always_the_same(scene, size):
    picture = scene.render(size)
    assert (picture.mode, picture.size) == ("RGB", (size, size))
    assert picture.tobytes() == scene.render(size).tobytes()
    assert size != 64 or picture.tobytes() == scene.render().tobytes()


@examples(20)
@given(SCENES)
def test_a_larger_render_shows_the_same(scene):
    difference = np.abs(pixels(scene) - np.asarray(scene.render(128).reduce(2)).astype(int))
    assert difference.mean() < 1.2
    assert np.quantile(difference, 0.99) < 24


@pytest.mark.parametrize("attribute", VALUES)
def test_zones_do_not_meet(attribute):
    """This is about the tests below: they say something about every zone, and nothing contradictory."""
    for seed in range(100):
        zone = zones(sample(seed), 64)
        assert not (zone[attribute].core & ~zone[attribute].reach).any()
        for other in set(VALUES) - {attribute}:
            assert not (zone[attribute].core & zone[other].reach).any()


@pytest.mark.parametrize("attribute", VALUES)
@examples(16)
@given(scene=SCENES, size=st.sampled_from([64, 100]))
def test_an_edit_changes_its_thing_and_nothing_out_of_its_reach(attribute, scene, size):
    zone = zones(scene, size)[attribute]
    assert zone.core.sum() > 0.02 * size**2
    before = pixels(scene, size)
    for value in set(VALUES[attribute]) - {getattr(scene, attribute)}:
        edited = scene.replace(**{attribute: value})
        assert not (differ(before, pixels(edited, size)) & ~zone.reach).any()
        mask = changed(scene.render(size), edited.render(size))
        assert mask[zone.core].mean() >= LEAST_CHANGED[attribute], value


@pytest.mark.parametrize("surface", VALUES["surface"])
@examples(5)
@given(scene=SCENES)
def test_every_surface_meets_the_wall_at_the_horizon(surface, scene):
    scene, size = scene.replace(surface=surface), 64
    wall = differ(pixels(scene, size), pixels(dataclasses.replace(scene, wall=(0.0, 0.0, 0.0)), size))
    rows = np.arange(size) / size  # of the pixels' upper edges
    free = ~zones(scene, size)["fruit"].reach & ~zones(scene, size)["container"].reach
    assert wall[free & (rows[:, None] < scene.horizon - 2 / size)].all()
    assert not wall[rows > scene.horizon].any()


def see_through(scene: Scene, behind: list[str], size: int) -> np.ndarray:
    """Where a scene shows its wall or one of the things behind, surely: bool, (size, size).

    That is where the picture gets different if they are exchanged, less two pixels along every border.
    """
    others = {attribute: next(value for value in VALUES[attribute] if value != getattr(scene, attribute))
              for attribute in behind}
    exchanged = dataclasses.replace(scene, wall=(0.0, 0.0, 0.0), **others)
    seen = differ(pixels(scene, size), pixels(exchanged, size))
    return np.asarray(Image.fromarray(seen.astype(np.uint8)).filter(ImageFilter.MinFilter(5))) > 0


@pytest.mark.parametrize(("attribute", "behind"), [("container", ["surface"]), ("fruit", ["surface", "container"])])
@examples(6)
@given(scene=SCENES)
def test_what_is_seen_behind_both_things_is_not_shaded_by_either(attribute, behind, scene):
    size = 192  # so large that even stalks are wider than a pixel, and no border goes unseen
    before, visible = pixels(scene, size), see_through(scene, behind, size)
    assert 0.3 < visible.mean() < 0.95
    edits = [scene.replace(**{attribute: value}) for value in VALUES[attribute] if value != getattr(scene, attribute)]
    if attribute == "fruit":
        edits.append(dataclasses.replace(scene, heap=()))
    for edited in edits:
        both = visible & see_through(edited, behind, size)
        assert both.mean() > 0.3
        assert not (differ(before, pixels(edited, size)) & both).any(), edited


@pytest.mark.parametrize("attribute", VALUES)
def test_values_have_distinct_mean_colours(attribute):
    colours = {}
    for value in VALUES[attribute]:
        scenes = [sample(seed).replace(**{attribute: value}) for seed in range(8)]
        colours[value] = np.mean([pixels(scene)[zones(scene, 64)[attribute].core].mean(axis=0) for scene in scenes], 0)
    for (a, first), (b, second) in itertools.combinations(colours.items(), 2):
        assert np.abs(first - second).max() > 30, (a, b)


# The mask of an edit


def test_changed_is_where_one_channel_differs_by_more_than_a_tenth():
    first = np.full((20, 30, 3), 100, np.uint8)
    second = first.copy()
    second[3, 4] += np.array([25, 25, 25], np.uint8)  # 25 / 255 is just below 0.1, 26 / 255 just above it
    second[5, 6, 2] += 26
    second[7, 8, 0] -= 26
    expected = np.zeros((20, 30), bool)
    expected[5, 6] = expected[7, 8] = True
    for a, b in itertools.permutations([Image.fromarray(first), Image.fromarray(second)]):
        mask = changed(a, b)
        assert mask.dtype == bool and np.array_equal(mask, expected)


def test_changed_takes_scenes_or_their_pictures():
    edited = APPLES.replace(fruit="lemons")
    mask = changed(APPLES, edited)
    assert mask.shape == (64, 64) and 0 < mask.mean() < 0.5
    assert np.array_equal(mask, changed(APPLES.render(), edited))
    assert np.array_equal(mask, changed(APPLES, edited.render().convert("RGBA")))
    assert not changed(APPLES, APPLES).any()
