"""pytest tests/test_evaluate.py: the measures of known answers, on results whose scores are known beforehand."""

import json
import math

import numpy as np
import pytest
import torch

import diffedit_min as dm
from diffedit_min.methods.base import Edit
from diffedit_min.picture import fit
from diffedit_min.tiny import evaluate, scenes
from diffedit_min.tiny.evaluate import read_results, summary, table
from diffedit_min.tiny.measures import cases, cell_mask, iou, measure, nearest_value


def edit_of(image, mask, scene):
    _, frame = fit(scene.render(), 16, 64 * 64)
    return Edit(image=image, mask=mask, mask_map=None, encoded=(), decoded=(), settings={}, rows=140, backward_rows=0,
                empty_mask=False, input=scene.render(), source=None, frame=frame, factor=4)


@pytest.fixture(params=range(3))
def case(request):
    return list(cases("validation", 3))[request.param]


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


def test_cases_go_round_the_kinds_and_stay_in_their_split():
    drawn = list(cases("test", 30))
    assert [kind for _, kind, _ in drawn] == [*scenes.VALUES] * 10
    for scene, kind, answer in drawn:
        assert scene.seed in scenes.TEST and answer == scene.replace(**{kind: getattr(answer, kind)}) != scene


def test_summary_means_squared_errors_before_taking_the_logarithm():
    entries = [{"correct": True, "outside": 1e-2, "answer": 1e-2}, {"correct": False, "outside": 1e-4, "answer": 1e-4}]
    s = summary(entries)
    assert s["correct"][0] == 0.5
    assert s["outside"][0] == pytest.approx(-10 * math.log10((1e-2 + 1e-4) / 2))
    assert s["outside"][1] <= s["outside"][0] <= s["outside"][2]


def test_a_run_resumes_and_ends_with_the_same_table(tmp_path):
    """Killed after some scenes, and in the middle of a line: the same results as in one go."""
    model = dm.load()
    options = {"steps": 2, "mask_samples": 1}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    whole = evaluate.run(model, "diffedit", "validation", 6, tmp_path / "one", options, batch=2)
    path = tmp_path / "two" / "results.jsonl"
    lines = (tmp_path / "one" / "results.jsonl").read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2]) + lines[2][:30])
    resumed = evaluate.run(model, "diffedit", "validation", 6, tmp_path / "two", options, batch=2)
    for entry in (*whole, *resumed):        # the one thing that no two runs have in common
        assert entry.pop("seconds") > 0
    assert len(path.read_text().splitlines()) == len(lines) == 6
    assert resumed == whole


def test_the_table_has_what_a_method_measures(tmp_path):
    entry = {"kind": "fruit", "correct": True, "outside": 1e-3, "answer": 1e-2, "rows": 100, "backward_rows": 0,
             "seconds": 1.25}
    tuned = {**entry, "iou": 0.5, "source": 1e-4, "backward_rows": 40}
    kinds = [{"kind": kind} for kind in evaluate.KINDS]
    measured = {"sdedit": [entry | kind for kind in kinds], "null_text": [tuned | kind for kind in kinds]}
    lines = table(measured).splitlines()
    assert lines[2:] == [
        "| sdedit | 3 | - | 1.00 (1.00–1.00) | 1.00 | 1.00 | 1.00 | 30.0 (30.0–30.0) | 20.0 (20.0–20.0) | - | 100 | "
        "1.2 |",
        "| null_text | 3 | 0.50 (0.50–0.50) | 1.00 (1.00–1.00) | 1.00 | 1.00 | 1.00 | 30.0 (30.0–30.0) | "
        "20.0 (20.0–20.0) | 40.0 (40.0–40.0) | 100 + 40 | 1.2 |",
    ]
    assert all(line.count("|") == lines[0].count("|") for line in lines)


def test_methods_with_instructions_are_asked_by_them(tmp_path, monkeypatch):
    asked = []

    def spy(self, model, images, queries, references, **options):
        asked.extend(zip(queries, references, strict=True))
        raise KeyboardInterrupt

    monkeypatch.setattr(type(evaluate.METHODS["sdedit"]), "__call__", spy)
    for method in ("sdedit", "instruct_pix2pix"):
        with pytest.raises(KeyboardInterrupt):
            evaluate.run(dm.load("random"), method, "validation", 1, tmp_path, {})
    (scene, kind, answer), = cases("validation", 1)
    assert asked == [(answer.caption, scene.caption), (evaluate.instruction(kind, scene, answer), scene.caption)]
    assert (evaluate.model_of("sdedit"), evaluate.model_of("instruct_pix2pix")) == ("tiny", "tiny-instruct")


def test_other_settings_are_other_results(tmp_path):
    model = dm.load()
    evaluate.run(model, "diffedit", "validation", 2, tmp_path, {"steps": 2, "mask_samples": 1})
    evaluate.run(model, "diffedit", "validation", 2, tmp_path, {"steps": 3, "mask_samples": 1})
    assert len({entry["key"] for entry in read_results(tmp_path / "results.jsonl")}) == 2
    assert all(json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines())
