"""pytest tests/test_evaluate.py: the table of known answers is a run of the benchmark, in fewer columns."""

import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

import diffedit_min as dm
from diffedit_min.bench.known import evaluate
from diffedit_min.bench.measures import KINDS, cases
from diffedit_min.bench.run import begin
from diffedit_min.tiny.instructions import instruction


def entry(planned, item, variant, **values):
    return {"key": planned.keys[item.id, variant.title], "item": item.id, "group": item.group,
            "method": variant.name, "settings": "", "rows": 100, "backward_rows": 0, "empty_mask": False,
            "correct": 1.0, "outside": 1e-3, "answer": 1e-2, **values}


def test_the_table_has_what_a_method_measures(tmp_path):
    planned = evaluate.plan(["sdedit", "null_text"], "validation", 3, tmp_path, "random")
    begin(planned)
    plain, tuned = planned.variants
    entries = [one for item in planned.dataset.items for one in (
        entry(planned, item, plain, correct=float(item.group == KINDS[0])),
        entry(planned, item, tuned, iou=0.5, source=1e-4, backward_rows=40))]
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "timings-0.jsonl").write_text("".join(
        json.dumps({"key": one["key"], "seconds": 1.25}) + "\n" for one in entries))
    assert [evaluate.HEAD, *evaluate.rows(planned, entries)] == [
        ["method", "edits", "mask IoU", "accuracy", "container", "fruit", "surface", "outside, dB", "to the answer, dB",
         "source, dB", "rows", "seconds"],
        ["sdedit", 3, "-", "0.33 (0.00–1.00)", "1.00", "0.00", "0.00", "30.0 (30.0–30.0)", "20.0 (20.0–20.0)", "-",
         "100", "1.2"],
        ["null_text", 3, "0.50 (0.50–0.50)", "1.00 (1.00–1.00)", "1.00", "1.00", "1.00", "30.0 (30.0–30.0)",
         "20.0 (20.0–20.0)", "40.0 (40.0–40.0)", "100 + 40 back", "1.2"]]


def test_methods_are_asked_in_their_own_words_of_their_own_model(tmp_path, monkeypatch):
    asked = []

    def spy(self, model, images, queries, references, **options):
        asked.extend((model.name, *words) for words in zip(queries, references, strict=True))
        raise KeyboardInterrupt

    monkeypatch.setattr(dm.Method, "__call__", spy)
    for method in ("sdedit", "instruct_pix2pix"):
        with pytest.raises(KeyboardInterrupt):
            evaluate.run(evaluate.plan([method], "validation", 1, tmp_path), quiet=True)
    (scene, kind, answer), = cases("validation", 1)
    assert asked == [("tiny", answer.caption, scene.caption),
                     ("tiny-instruct", instruction(kind, scene, answer), scene.caption)]


def test_latent_errors_are_relative_to_the_latents_norm():
    """Errors of 0.5 and 0.4 in latents of length 5 and 1: of the first a tenth, of all sqrt(0.41 / 26)."""
    before, after = [[3.0, 4.0], [1.0, 0.0]], [[3.0, 4.5], [1.0, 0.4]]
    edits = [SimpleNamespace(**{name: [SimpleNamespace(latent=torch.tensor([[[values]]]))] for name, values in
                                (("encoded", x0), ("decoded", y0))}) for x0, y0 in zip(before, after, strict=True)]
    lost, each = evaluate.latent_error(edits)
    assert lost == pytest.approx((0.41 / 26) ** 0.5) and each == pytest.approx([0.1, 0.4])


def test_round_trips_without_a_query(monkeypatch):
    """Nothing is lost where nothing is walked or what is walked can be undone; DDIM loses; the caption is told."""
    monkeypatch.setattr(evaluate, "TRIPS", (("none", 0.0, "none", {}), ("none", 0.8, "edict", {"sampler": "edict"}),
                                            ("none", 0.8, "ddim", {}), ("caption", 0.8, "ddim", {})))
    cells = evaluate.reconstruction_table(dm.load("random", dtype="float64"), "validation", 2)
    assert [row[:3] for row in cells[1:]] == [["none", "0", "none"], ["none", "0.8", "edict"], ["none", "0.8", "ddim"],
                                              ["caption", "0.8", "ddim"]]
    alone, exact, empty, told = ([float(cell) for cell in row[3:]] for row in cells[1:])
    assert alone == exact and alone[1:] == [0, 0, 0]
    assert all(lost > 0.5 and 0 < median < worst for _, lost, median, worst in (empty, told)) and empty != told


def test_the_worst_missed_what_was_asked_then_where(tmp_path):
    planned = evaluate.plan(["diffedit"], "validation", 4, tmp_path, "random")
    variant, = planned.variants
    values = [(1.0, 0.9), (1.0, 0.2), (0.0, 0.8), (0.0, 0.3)]
    entries = [entry(planned, item, variant, correct=correct, iou=iou)
               for item, (correct, iou) in zip(planned.dataset.items, values, strict=True)]
    first = evaluate.worst(planned, entries, 3)
    assert first == [planned.dataset.items[i] for i in (3, 2, 1)]


def test_pictures_have_a_row_for_each_scene(tmp_path):
    planned = evaluate.plan(["sdedit"], "validation", 2, tmp_path, "random")
    for masks, name in ((True, "failures.png"), (False, "gallery.png")):
        heights = []
        for count in (1, 2):
            evaluate.draw(planned, planned.dataset.items[:count], tmp_path / name, masks)
            with Image.open(tmp_path / name) as sheet:
                heights.append(sheet.height)
        assert heights[1] > 1.5 * heights[0]
