"""pytest tests/test_measures.py: the measures of known answers, on results whose scores are known beforehand."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from PIL import Image

import diffedit_min as dm
from diffedit_min.bench.measures import cases, cell_mask, iou, measure, nearest_value, overlap, squared_error
from diffedit_min.core.state import Trajectory
from diffedit_min.methods.edit import Edit
from diffedit_min.pictures.picture import fit
from diffedit_min.tiny import scenes


def edit_of(image, mask, scene):
    _, frame = fit(scene.render(), 16, 64 * 64)
    return Edit(image=image, mask=mask, mask_map=None, encoded=Trajectory(), decoded=Trajectory(), settings={},
                rows_for={"decode": 140}, backward_rows=0, empty_mask=False, input=scene.render(), source=None,
                frame=frame, factor=4, method=dm.diffedit, options=dm.diffedit.made({}))


@pytest.fixture(params=cases("validation", 3), ids=scenes.VALUES)
def case(request):
    return request.param


def test_the_true_answer_scores_perfectly(case):
    scene, kind, answer = case
    truth = cell_mask(scenes.changed(scene, answer), 4)
    scores = measure(edit_of(answer.render(), torch.from_numpy(truth), scene), scene, kind, answer)
    assert scores["iou"] == scores["recall"] == 1 and scores["correct"] and scores["answer"] == 0
    assert scores["outside"] < 1e-3, "what is below the threshold of `changed`"


def test_the_input_itself_is_not_an_edit(case):
    scene, kind, answer = case
    scores = measure(edit_of(scene.render(), torch.zeros(16, 16, dtype=torch.bool), scene), scene, kind, answer)
    assert scores["iou"] == 0 and not scores["correct"] and scores["outside"] == 0 and scores["answer"] > 1e-3


def test_a_wrong_value_is_not_correct(case):
    scene, kind, answer = case
    used = (getattr(scene, kind), getattr(answer, kind))
    wrong = scene.replace(**{kind: next(value for value in scenes.VALUES[kind] if value not in used)})
    scores = measure(edit_of(wrong.render(), None, scene), scene, kind, answer)
    assert not scores["correct"] and "iou" not in scores


def test_a_round_trip_is_no_edit_and_its_picture_is_held_against_the_input(case):
    scene, kind, answer = case
    edit = dataclasses.replace(edit_of(answer.render(), None, scene), settings={"method": "invert"})
    off = squared_error(answer.render(), scene.render())
    assert measure(edit, scene, kind, answer) == {"source": off} and off > 0


def test_nearest_value_names_what_is_there(case):
    scene, kind, _ = case
    for value in scenes.VALUES[kind]:
        picture = scene.replace(**{kind: value}).render()
        assert nearest_value(picture, scene, kind, np.ones((64, 64), bool)) == value


def test_cell_mask_is_any_pixel():
    changed = np.zeros((64, 64), bool)
    changed[5, 63] = True
    mask = cell_mask(changed, 4)
    assert mask.shape == (16, 16) and mask.sum() == 1 and mask[1, 15]


def test_iou():
    a, b = np.array([1, 1, 0, 0], bool), np.array([0, 1, 1, 0], bool)
    assert iou(a, b) == pytest.approx(1 / 3) and iou(a, a) == 1 and iou(a, ~a) == 0
    assert iou(np.zeros(3, bool), np.zeros(3, bool)) == 1


@pytest.mark.filterwarnings("error")
def test_overlap_of_masks_and_of_empty_ones():
    none, some, more = np.zeros(4, bool), np.array([1, 0, 0, 0], bool), np.array([1, 1, 0, 0], bool)
    assert overlap(some, more) == {"iou": 0.5, "recall": 0.5, "precision": 1}
    assert overlap(some, none) == {"iou": 0, "recall": pytest.approx(math.nan, nan_ok=True), "precision": 0}
    assert overlap(none, some) == {"iou": 0, "recall": 0, "precision": pytest.approx(math.nan, nan_ok=True)}


def test_squared_errors_by_hand():
    black, grey = Image.new("RGB", (2, 1)), Image.fromarray(np.array([[[51, 0, 0], [0, 0, 0]]], np.uint8))
    left = np.array([[True, False]])
    assert squared_error(black, grey) == pytest.approx(0.04 / 6)
    assert squared_error(black, grey, left) == pytest.approx(0.04 / 3) and squared_error(black, grey, ~left) == 0
    assert math.isnan(squared_error(black, grey, left & ~left))


def test_cases_go_round_the_kinds_and_stay_in_their_split():
    drawn = list(cases("test", 30))
    assert [kind for _, kind, _ in drawn] == [*scenes.VALUES] * 10
    for scene, kind, answer in drawn:
        assert scene.seed in scenes.TEST and answer == scene.replace(**{kind: getattr(answer, kind)}) != scene
