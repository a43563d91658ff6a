"""pytest tests/test_bench.py: sweeps share what they can, and a run ends with one table wherever it was cut or spread.

Datasets and metrics have files of their own; runs that are killed for real are in test_bench_kills.py.
"""

import csv
import dataclasses
import io
import itertools
import json
import math
import random
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import diffedit_min as dm
from diffedit_min.bench import curves, presets, report
from diffedit_min.bench.datasets import scenes as scenes_dataset
from diffedit_min.bench.datasets.item import Item, Location
from diffedit_min.bench.metrics.base import Column, Files, Metric
from diffedit_min.bench.metrics.pictures import ScenesMetric
from diffedit_min.bench.report import RESAMPLES, Line, Value, average, difference
from diffedit_min.bench.run import Plan, begin, work
from diffedit_min.bench.store import Appender, hash_of, packed, read_all, unpacked
from diffedit_min.bench.variants import Variant, grid, sweep
from diffedit_min.methods.cost import Estimate
from diffedit_min.pictures.picture_files import open_picture

FEW = ["steps=10", "diffedit:mask_samples=2"]
N, K = 2, {0.4: 4, 0.6: 6, 0.8: 8}      # of FEW: noises, and levels by ratio


@pytest.fixture(scope="module")
def items() -> tuple[Item, ...]:
    return scenes_dataset.read(Location(split="validation")).items[:3]


def edits_of(model, items, variants):
    pictures = [item.image() for item in items]
    return {variant.title: edits for variant, edits, _ in sweep(model, items, pictures, variants)}


# ---------------------------------------------------------------- what is shared


def test_a_sweep_costs_one_mask_one_encoding_and_the_decodes(model, items):
    edits = edits_of(model, items[:2], grid(["diffedit"], list(K), FEW))
    for item in (0, 1):
        assert sum(edits[title][item].rows for title in edits) == 2 * N + max(K.values()) + 2 * sum(K.values())


def test_encode_decode_and_sdedit_cost_what_the_formula_says(model, items):
    edits = edits_of(model, items[:1], grid(["encode-decode", "sdedit"], list(K), FEW[:1]))
    rows = {name: sum(edits[title][0].rows for title in edits if title.startswith(name))
            for name in ("encode-decode", "sdedit")}
    assert rows == {"encode-decode": max(K.values()) + 2 * sum(K.values()), "sdedit": 2 * sum(K.values())}


def test_a_sweep_encodes_each_picture_once(model, items, monkeypatch):
    calls, encode = [], type(model).encode
    monkeypatch.setattr(type(model), "encode", lambda self, pixels: calls.append(len(pixels)) or encode(self, pixels))
    edits_of(model, items, grid(["encode-decode"], [0.2, 0.4], FEW[:1]))
    assert calls == [len(items)]


@pytest.mark.parametrize("method, given", [
    ("diffedit", FEW), pytest.param("diffedit", [*FEW, "sampler=edict"], marks=pytest.mark.slow),
    ("encode-decode", ["steps=10", "sampler=bdia"]),
])
def test_what_is_shared_changes_nothing(model, items, method, given):
    items, variants = items[:2], grid([method], [0.4, 0.8], given)
    swept = edits_of(model, items, variants)
    for variant in variants:
        for item, edit in zip(items, swept[variant.title], strict=True):
            alone = variant.method(model, item.image(), item.query, item.reference, seed=item.seed, **variant.options)
            latents = [edit.decoded[0].latent, alone.decoded[0].latent]
            assert torch.allclose(*latents, rtol=0, atol=1e-11)
            assert edit.mask is None or torch.equal(edit.mask, alone.mask)


def test_thresholds_share_the_map_and_mask_noises_do_not(model, items):
    thresholds = edits_of(model, items[:1], grid(["diffedit"], [0.4], [*FEW, "mask_threshold=0.3,0.5"]))
    noises = edits_of(model, items[:1], grid(["diffedit"], [0.4], [*FEW, "mask_noise_ratio=0.3,0.5"]))
    decodes = 2 * 2 * K[0.4]
    assert sum(edits[0].rows for edits in thresholds.values()) == 2 * N + K[0.4] + decodes
    assert sum(edits[0].rows for edits in noises.values()) == 2 * 2 * N + K[0.4] + decodes
    a, b = thresholds.values()
    assert torch.equal(a[0].mask_map, b[0].mask_map) and not torch.equal(a[0].mask, b[0].mask)


def test_other_steps_share_no_encoding(model, items):
    edits = edits_of(model, items[:1], grid(["encode-decode"], [0.5], ["steps=4,8"]))
    assert [edits[title][0].rows for title in sorted(edits)] == [3 * 2, 3 * 4]


def test_a_variant_alone_neither_gives_nor_takes(model, items):
    small, middle, large = grid(["diffedit"], list(K), FEW)
    alone = dataclasses.replace(middle, alone=True)
    found = edits_of(model, items[:1], [small, alone, large])
    assert found[alone.title][0].rows == 2 * N + 3 * K[0.6]
    assert found[large.title][0].rows == 2 * N + 3 * K[0.8] and found[small.title][0].rows == 2 * K[0.4]
    again = [dataclasses.replace(alone, curve=name) for name in ("one", "two")]
    assert [edit.rows for edit, in edits_of(model, items[:1], again).values()] == [2 * N + 3 * K[0.6]] * 2


# ---------------------------------------------------------------- which variants


def test_a_grid_has_every_combination_in_order():
    variants = grid(["diffedit", "sdedit"], [0.4, 0.8], ["guidance_scale=1,3", "diffedit:mask_threshold=0.5"])
    assert [variant.title for variant in variants] == [
        f"{name} encoding_ratio={ratio}, guidance_scale={scale}{more}"
        for name, more in (("diffedit", ", mask_threshold=0.5"), ("sdedit", ""))
        for ratio in (0.4, 0.8) for scale in (1.0, 3.0)
    ]
    assert variants[0].options == {"encoding_ratio": 0.4, "guidance_scale": 1.0, "mask_threshold": 0.5}


def test_every_method_can_be_in_a_grid():
    variants = grid(list(dm.METHODS), [0.5])
    assert {variant.method.name for variant in variants} == set(dm.METHODS)
    assert {variant.label for variant in variants} == {"encoding_ratio=0.5", ""}


def test_words_with_numbers_are_one_value():
    variant, = grid(["prompt-to-prompt"], [], ["reweight=apples:2,red bowl:0.5"])
    assert variant.options == {"reweight": {"apples": 2.0, "red bowl": 0.5}}


@pytest.mark.parametrize("methods, ratios, given, message", [
    (["sdedit", "sdedit"], [], [], "--methods names a method twice: sdedit sdedit"),
    (["sdedit"], [1.5], [], "encoding_ratio must be from 0 to 1, not 1.5"),
    (["sdedit"], [], ["steps"], "-o 'steps' has no value: write it as option=value, or option=value,value for several"),
    (["sdedit"], [], ["stairs=3"], "sdedit has no option 'stairs'; it has encoding_ratio, guidance_scale"),
    (["sdedit"], [], ["diffedit:steps=3"], "-o 'diffedit:steps=3' is for diffedit, which is not among --methods"),
])
def test_a_grid_that_cannot_be(methods, ratios, given, message):
    with pytest.raises(ValueError) as error:
        grid(methods, ratios, given)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("name", presets.PRESETS)
def test_presets_fit_the_models_and_differ_in_titles(model, name):
    variants = presets.PRESETS[name].variants([0.4, 0.8])
    assert len({variant.title for variant in variants}) == len(variants) > 1
    assert all(variant.settings(model) for variant in variants)


@pytest.mark.slow
def test_every_variant_of_the_fast_preset_costs_all_of_its_rows(model, items):
    variants = presets.fast([])
    first = variants[0]
    assert all(variant.alone for variant in variants) and (first.name, first.options) == ("recommended settings", {})
    tried = [variant for variant in variants if variant.options.get("steps", 50) == 10]
    assert {variant.name for variant in variants} - {variant.name for variant in tried} == {
        "recommended settings", "preset fast", "preset fast, n"}
    found = edits_of(model, items[:1], tried)
    for variant in tried:
        edit, = found[variant.title]
        settings = variant.settings(model)
        noisy = settings.levels(model.schedule)[1:]
        k, n = len(noisy), getattr(settings, "mask_samples", 0)
        guided_at = [level for level in noisy if settings.guidance_scale != 1
                     and level.t / model.schedule.T >= getattr(settings, "guidance_from", 0.0)]
        assert not edit.empty_mask and edit.rows == 2 * n + k + k + len(guided_at), variant.title


def test_without_encoding_and_with_a_white_map_it_is_sdedit(model, items):
    given = {"steps": 10, "encoding_ratio": 0.6, "seed": 5}
    picture, query = items[0].image(), items[0].query
    white = torch.ones_like(dm.diffedit(model, picture, query, **given).mask_map)
    edit = presets.without_encoding(model, picture, query, mask_map=white, **given)
    plain = dm.sdedit(model, picture, query, **given)
    assert torch.equal(edit.decoded[0].latent, plain.decoded[0].latent)
    found = presets.without_encoding(model, picture, query, items[0].reference, mask_samples=2, **given)
    outside = ~found.mask
    x0 = dm.invert(model, picture, encoding_ratio=0.0).encoded[0].latent
    assert outside.any() and torch.equal(found.decoded[0].latent[0][:, outside], x0[0][:, outside])
    assert found.rows == 2 * 2 + 2 * 6


def test_the_reference_presets_curves_differ_in_the_reference_alone(model, items):
    told, empty = presets.reference([0.4])
    assert told.words(items[0]) == (items[0].query, items[0].reference)
    assert empty.words(items[0]) == (items[0].query, "")
    assert told.settings(model) == empty.settings(model) and told.name != empty.name


# ---------------------------------------------------------------- the store


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.text(max_size=8), min_size=1, max_size=6), st.data())
def test_a_file_cut_anywhere_keeps_its_whole_lines_and_takes_more(tmp_path_factory, values, data):
    out = tmp_path_factory.mktemp("cut")
    file = Appender(out, "results", 0)
    file.append({"key": str(i), "value": value} for i, value in enumerate(values))
    whole = file.path.read_bytes()
    cut = whole[: data.draw(st.integers(0, len(whole)))]
    file.path.write_bytes(cut)
    left = cut.count(b"\n")
    assert list(read_all(out, "results")) == [str(i) for i in range(left)]
    Appender(out, "results", 0).append([{"key": "new"}])
    assert list(read_all(out, "results")) == [*(str(i) for i in range(left)), "new"]


def test_other_processes_files_are_read_and_left_alone(tmp_path):
    Appender(tmp_path, "results", 0).append([{"key": "a"}])
    others = tmp_path / "parts" / "results-1.jsonl"
    others.write_bytes(b'{"key": "b"}\nnonsense\n[1]\n{"no": "key"}\n{"key": "c"}\n{"k')
    Appender(tmp_path, "results", 0)
    assert set(read_all(tmp_path, "results")) == {"a", "b", "c"}
    assert others.read_bytes().endswith(b'{"k')


def test_a_failure_never_hides_a_success(tmp_path):
    """Whichever process tried again, and whichever file is read last."""
    tries = [[{"key": "a", "error": "x"}, {"key": "b"}], [{"key": "a"}, {"key": "b", "error": "x"}]]
    for rank, entries in enumerate(tries):
        Appender(tmp_path, "results", rank).append(entries)
    assert read_all(tmp_path, "results") == {"a": {"key": "a"}, "b": {"key": "b"}}


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=50))
def test_vectors_come_back_as_they_were(numbers):
    vector = np.array(numbers, np.float32)
    assert np.array_equal(unpacked(packed(vector)), vector)


# ---------------------------------------------------------------- runs


class Brightness(Metric):
    """A metric with a feature: the mean colour."""

    columns = (Column("brightness", "brightness", ""), Column("shift", "shift", "lower", of_set=True))
    feature_name = "colour"

    def about(self):
        return "mean colour"

    def measure(self, shown):
        return {"brightness": float(np.asarray(shown.result, float).mean())}

    def feature(self, shown):
        return np.asarray(shown.result, np.float32).mean(axis=(0, 1))

    def of_set(self, items, features, inputs):
        return {"shift": float(np.abs(features - np.stack([inputs[item.id] for item in items])).mean())}


@pytest.fixture(scope="module")
def plan_in():
    network = dm.load("random", device="cpu")
    dataset = scenes_dataset.read(Location(split="validation"))
    variants = grid(["diffedit", "sdedit"], [0.3, 0.6], ["steps=5", "diffedit:mask_samples=1"])

    def make(out: Path, items: int = 3, **changes) -> Plan:
        plan = Plan(dataclasses.replace(dataset, items=dataset.items[:items]), tuple(variants), lambda _: network,
                    {"scenes": ScenesMetric(Files()), "colour": Brightness(Files())}, out, batch=2, pictures=1)
        return dataclasses.replace(plan, **changes)

    return make


def finish(plan: Plan, drawn: bool = True) -> dict[str, bytes]:
    """The files of a finished run, but for the timings. Curves take a second."""
    entries = report.results(plan)
    assert entries is not None, "something is missing"
    found = report.write(plan, entries)
    if drawn:
        curves.draw(found, report.drawable(plan), plan.dataset.panels, plan.out)
    return {str(path.relative_to(plan.out)): path.read_bytes() for path in sorted(plan.out.rglob("*"))
            if path.is_file() and path.parent.name != "parts" and path.name != "timings.csv"}


def differing(a: dict[str, bytes], b: dict[str, bytes]) -> set[str]:
    return {name for name in a.keys() | b.keys() if a.get(name) != b.get(name)}


@pytest.fixture(scope="module")
def uninterrupted(plan_in, tmp_path_factory) -> tuple[Plan, dict[str, bytes]]:
    plan = plan_in(tmp_path_factory.mktemp("whole"))
    begin(plan)
    work(plan, quiet=True)
    return plan, finish(plan)


def test_a_run_leaves_what_it_should(uninterrupted):
    plan, files = uninterrupted
    first = plan.dataset.items[0].id
    assert {"run.json", "results.jsonl", "table.csv", "table.md", "curves.png", "curves.svg", f"sheets/{first}.png",
            f"pictures/{first}/sdedit encoding_ratio=0.3, steps=5.png"} <= set(files)
    entries = [json.loads(line) for line in files["results.jsonl"].splitlines()]
    assert [entry["item"] for entry in entries] == [item.id for item in plan.dataset.items for _ in plan.variants]
    for entry, item in zip(entries[:: len(plan.variants)], plan.dataset.items, strict=True):
        assert (entry["query"], entry["reference"], entry["seed"]) == (item.query, item.reference, item.seed)
    record = json.loads(files["run.json"])
    assert record["versions"]["torch"] == torch.__version__ and len(record["variants"]) == len(plan.variants)
    assert record["models"] == {"random": hash_of(plan.model_of(plan.variants[0]))}


def test_however_many_processes_share_a_run_its_files_are_the_same(plan_in, uninterrupted, tmp_path):
    plan = plan_in(tmp_path)
    begin(plan)
    for rank in reversed(range(2)):
        assert report.results(plan) is None
        work(plan, rank, 2, quiet=True)
    assert differing(finish(plan), uninterrupted[1]) == set()


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 10))])
def test_wherever_a_run_was_cut_it_ends_with_the_same_table(plan_in, uninterrupted, tmp_path, seed):
    """Every file of results, timings and features is cut at a byte of its own."""
    rng, before, after = random.Random(seed), uninterrupted[0], plan_in(tmp_path)
    begin(after)
    (tmp_path / "parts").mkdir()
    for path in (before.out / "parts").iterdir():
        whole = path.read_bytes()
        (tmp_path / "parts" / path.name).write_bytes(whole[: rng.randrange(len(whole) + 1)])
    world = rng.choice([1, 2])
    for rank in range(world):
        work(after, rank, world, quiet=True)
    changed = differing(finish(after, False), uninterrupted[1])
    assert not changed & {"results.jsonl", "table.csv", "table.md", "groups.csv"}


def test_what_is_done_is_not_done_again(plan_in, uninterrupted, monkeypatch):
    plan = plan_in(uninterrupted[0].out)
    monkeypatch.setattr("diffedit_min.bench.run.sweep", lambda *_: pytest.fail("edited again"))
    work(plan, quiet=True)
    assert report.results(plan) == report.results(uninterrupted[0])


def test_how_long_it_will_take_is_said_from_the_first_variants_rows(plan_in, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("diffedit_min.bench.run.Estimate", partial(Estimate, least=0, after=0))
    plan = plan_in(tmp_path)
    work(plan)
    rows = sum(entry["rows"] for entry in report.results(plan))
    [said] = [line for line in capsys.readouterr().err.splitlines() if " left: " in line]
    assert said.startswith("about ") and f" left: {rows} rows through the U-Net in all, " in said
    work(plan)          # there is nothing left to do
    work(plan_in(tmp_path, items=4), quiet=True)
    assert " left: " not in capsys.readouterr().err


def test_other_settings_are_other_results(plan_in, uninterrupted):
    plan, other = uninterrupted[0], dm.load("random", seed=1, device="cpu")
    for changed in (plan_in(plan.out, size=32), plan_in(plan.out, variants=plan.variants[:1]),
                    plan_in(plan.out, metrics={"scenes": plan.metrics["scenes"]}),
                    plan_in(plan.out, model_of=lambda _: other)):
        assert not set(changed.keys.values()) & set(plan.keys.values())
    assert set(plan_in(plan.out, items=2).keys.values()) < set(plan.keys.values())


def test_results_of_other_versions_are_not_mixed(plan_in, tmp_path):
    plan = plan_in(tmp_path)
    begin(plan)
    record = json.loads((tmp_path / "run.json").read_text())
    record["versions"]["torch"] = "1.0"
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"holds results made with torch 1\.0, and this is .*: give another --out$"):
        begin(plan)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run\.json' is not a run's record: give another --out$"):
        begin(plan)


def test_a_variant_alone_is_the_same_result_in_any_run(plan_in, tmp_path):
    shared = plan_in(tmp_path).variants[:2]
    alone = tuple(dataclasses.replace(variant, alone=True) for variant in shared)
    both, one, sharing = (plan_in(tmp_path, variants=variants) for variants in (alone, alone[:1], shared))
    assert len(both.groups) == 2 and len(sharing.groups) == 1
    assert set(one.keys.values()) < set(both.keys.values())
    assert not set(sharing.keys.values()) & set(both.keys.values())


# ---------------------------------------------------------------- failures


@pytest.fixture
def damaged(plan_in, tmp_path):
    """A run whose second item's picture is cut short."""
    path = tmp_path / "cut.jpg"
    Image.effect_noise((64, 64), 50).convert("RGB").save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    plan = plan_in(tmp_path / "out", items=3)
    first, second, third = plan.dataset.items
    broken = dataclasses.replace(second, image=partial(open_picture, path))
    dataset = dataclasses.replace(plan.dataset, items=(first, broken, third))
    return dataclasses.replace(plan, dataset=dataset), path, whole


def test_an_item_that_fails_is_recorded_and_the_run_goes_on(damaged):
    plan, path, whole = damaged
    begin(plan)
    work(plan, quiet=True)
    files, found = finish(plan, False), report.lines(plan, report.results(plan))
    assert [(line.edits, len(line.failures)) for line in found] == [(2, 1)] * len(plan.variants)
    assert found[0].failures[0].startswith(f"{str(path)!r} is cut short")
    assert b"1 failed, the first with: " in files["table.md"]

    path.write_bytes(whole)
    work(plan, quiet=True)
    assert report.results(plan)[len(plan.variants)]["error"], "failures stay: a resumed run ends as it would have"
    work(plan, retry=True, quiet=True)
    assert not any("error" in entry for entry in report.results(plan))


def test_an_edit_that_fails_takes_no_other_with_it(plan_in, tmp_path, monkeypatch):
    plan = plan_in(tmp_path, items=2)
    bad = plan.dataset.items[1].query
    embed = dm.StableDiffusion.embed

    def refuse(self, prompts):
        if bad in prompts:
            raise RuntimeError("out of\nmemory")
        return embed(self, prompts)

    monkeypatch.setattr(dm.StableDiffusion, "embed", refuse)
    begin(plan)
    work(plan, quiet=True)
    entries = report.results(plan)
    assert [entry["item"] for entry in entries if "error" in entry] == [plan.dataset.items[1].id] * len(plan.variants)
    assert {entry["error"] for entry in entries if "error" in entry} == {"RuntimeError: out of memory"}


def test_a_metric_that_fails_is_that_edits_failure(plan_in, tmp_path, monkeypatch):
    plan = plan_in(tmp_path, items=2)
    monkeypatch.setattr(Brightness, "measure", lambda self, shown: {}[0])
    begin(plan)
    work(plan, quiet=True)
    assert {entry["error"] for entry in report.results(plan)} == {"KeyError: 0"}
    found = report.lines(plan, report.results(plan))
    assert all(line.edits == 0 and math.isnan(line.rows) for line in found)
    assert "nan" not in finish(plan, False)["table.csv"].decode()


# ---------------------------------------------------------------- the table


def test_the_table_is_what_the_results_say(uninterrupted):
    plan, files = uninterrupted
    entries = [json.loads(line) for line in files["results.jsonl"].splitlines()]
    for line in report.lines(plan, entries):
        own = [entry for entry in entries if (entry["method"], entry["settings"]) == (line.variant.name,
                                                                                      line.variant.label)]
        assert line.values["correct"].value == pytest.approx(np.mean([entry["correct"] for entry in own]))
        assert line.values["outside"].value == pytest.approx(-10 * math.log10(np.mean([e["outside"] for e in own])))
        assert line.rows == np.mean([entry["rows"] for entry in own])
        assert line.values["shift"].value > 0 and math.isnan(line.values["shift"].low)
    text = files["table.md"].decode()
    head, rows = text.splitlines()[0], [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert "| edit accuracy |" in head and len(rows) == len(plan.variants)
    assert {row.count("|") for row in rows} == {head.count("|")}
    n, k, short = 1, 3, 2       # of steps=5 and ratios 0.3, 0.6; floor(r N + 0.5) levels
    assert f"diffedit {2 * n + k + 2 * (k + short)}, sdedit {2 * (k + short)}." in text


def test_the_table_of_each_group(uninterrupted):
    plan, files = uninterrupted
    head, *rows = csv.reader(io.StringIO(files["groups.csv"].decode()))
    groups = list(dict.fromkeys(item.group for item in plan.dataset.items))
    assert [row[0] for row in rows] == [group for group in groups for _ in plan.variants]
    entries = [json.loads(line) for line in files["results.jsonl"].splitlines()]
    for row in rows:
        group, method, label = row[:3]
        own = [entry["correct"] for entry in entries
               if (entry["group"], entry["method"], entry["settings"]) == (group, method, label)]
        assert int(row[head.index("edits")]) == len(own)
        assert float(row[head.index("correct")]) == pytest.approx(np.mean(own))


def test_an_average_has_an_interval_that_holds_the_truth():
    rng, held = np.random.default_rng(1), 0
    for _ in range(200):
        value = average(list(rng.normal(3.0, 1.0, 40)), Column("x", "x", ""))
        assert value.low <= value.value <= value.high
        held += value.low <= 3.0 <= value.high
    assert 0.88 < held / 200 < 0.99


def test_averages_of_special_values():
    assert math.isnan(average([], Column("x", "x", "")).value) and average([], Column("x", "x", "")).text(2) == "-"
    assert average([math.nan, 2.0, 4.0], Column("x", "x", "")).value == 3.0
    psnr = average([0.01, 0.0001], Column("x", "x", "higher", 1, "psnr"))
    assert psnr.value == pytest.approx(-10 * math.log10(0.00505)) and psnr.low <= psnr.value <= psnr.high
    assert average([0.0, 0.0], Column("x", "x", "higher", 1, "psnr")).value == math.inf


ERROR, SHARE = Column("x", "x", "higher", 1, "psnr"), Column("x", "x", "higher")


@pytest.mark.parametrize("column", [ERROR, SHARE], ids=["psnr", "mean"])
def test_a_paired_difference_is_what_a_few_lines_of_numpy_say(column):
    rng = np.random.default_rng(3)
    ours, theirs = rng.uniform(0.001, 0.1, (2, 40))
    ours[5], theirs[[7, 8]] = math.nan, math.nan
    a, b = np.delete(ours, [5, 7, 8]), np.delete(theirs, [5, 7, 8])
    of = (lambda x: -10 * math.log10(sum(x) / len(x))) if column is ERROR else (lambda x: sum(x) / len(x))
    drawn = np.random.default_rng(0).integers(37, size=(RESAMPLES, 37))
    resampled = sorted(of([a[i] for i in items]) - of([b[i] for i in items]) for items in drawn)
    found = difference(list(ours), list(theirs), column)
    assert found.value == pytest.approx(of(a) - of(b))
    assert [found.low, found.high] == pytest.approx(list(np.quantile(resampled, [0.025, 0.975])))
    back = difference(theirs, ours, column)
    assert [back.value, back.low, back.high] == pytest.approx([-found.value, -found.high, -found.low])


@pytest.mark.parametrize("column", [ERROR, SHARE], ids=["psnr", "mean"])
def test_equal_results_do_not_differ(column):
    for values in ([0.3, 0.1, 0.2], [0.0, 0.0], [math.nan, 0.5]):
        assert difference(values, values, column) == Value(0.0, 0.0, 0.0)
    assert math.isnan(difference([math.nan, 1.0], [1.0, math.nan], column).value)


@pytest.mark.parametrize("column", [ERROR, SHARE], ids=["psnr", "mean"])
def test_pairing_narrows_the_interval_of_what_rises_and_falls_together(column):
    rng = np.random.default_rng(4)
    hard = rng.uniform(0.01, 0.1, 50)
    easier = hard * rng.uniform(0.85, 0.95, 50)
    one, other, paired = average(easier, column), average(hard, column), difference(easier, hard, column)
    unpaired = math.hypot(one.high - one.low, other.high - other.low)
    assert paired.value == pytest.approx(one.value - other.value)
    assert paired.low <= paired.value <= paired.high and paired.high - paired.low < unpaired / 5


def test_differences_are_written_with_their_signs():
    assert Value(-0.031, -0.05, 0.01).text(2, signed=True) == "-0.03 (-0.05 to +0.01)"
    assert Value(math.nan).text(2, signed=True) == "-" and Value(0.5).text(1, signed=True) == "+0.5"


@pytest.fixture(scope="module")
def by_rows(plan_in, tmp_path_factory) -> tuple[Plan, dict[str, bytes]]:
    """A run like the fast preset's: a baseline, fewer rows, and round trips; a curve for each."""
    variants = [Variant(dm.diffedit, {"steps": 6, "mask_samples": 2}, "baseline", alone=True),
                *(Variant(dm.diffedit, {"steps": n, "mask_samples": 1}, "fewer", alone=True) for n in (3, 4)),
                *(Variant(dm.invert, {"steps": n}, "round trip", told=False, alone=True) for n in (3, 4))]
    plan = plan_in(tmp_path_factory.mktemp("rows"), variants=tuple(variants), paired=True,
                   metrics={"scenes": ScenesMetric(Files())})
    plan = dataclasses.replace(plan, dataset=dataclasses.replace(plan.dataset, panels=presets.ROWS))
    begin(plan)
    work(plan, quiet=True)
    return plan, finish(plan)


def test_round_trips_have_no_measure_but_their_own(by_rows):
    plan, files = by_rows
    entries = [json.loads(line) for line in files["results.jsonl"].splitlines()]
    trips = [entry for entry in entries if entry["method"] == "round trip"]
    assert len(trips) == 2 * 3 and all(entry["source"] > 0 for entry in trips)
    assert not {"correct", "answer", "outside", "iou"} & set().union(*trips)
    assert all("source" not in entry for entry in entries if entry not in trips)


def test_panels_by_rows_stand_in_two_rows_and_the_table_says_rows_once(by_rows):
    plan, files = by_rows
    svg, text = files["curves.svg"].decode(), files["table.md"].decode()
    assert svg.count(">U-Net rows (lower is better)</text>") == 4
    for title in ("edit accuracy", "PSNR to the answer, dB", "mask IoU", "PSNR of the input made anew, dB"):
        assert svg.count(f">{title} (higher is better)</text>") == 1, title
    assert [svg.count(f">{name}</text>") for name in ("baseline", "fewer", "round trip")] == [1, 1, 1]
    with Image.open(io.BytesIO(files["curves.png"])) as image:
        assert 1 < image.width / image.height < 1.5
    head, = [line for line in text.splitlines() if line.startswith("| method") and line.endswith("| rows |")]
    assert head.count("rows") == 1 and "Nothing is shared: they are all that the edit costs." in text
    assert [line.values["rows"].value for line in report.lines(plan, report.results(plan))] == [
        2 * 2 + 3 * 5, 2 + 3 * 2, 2 + 3 * 3, 2 * 2, 2 * 3]       # floor(0.8 N + 0.5) levels


def test_a_paired_runs_table_is_followed_by_its_differences(by_rows, uninterrupted):
    plan, files = by_rows
    entries = [json.loads(line) for line in files["results.jsonl"].splitlines()]
    baseline, other = (entries[i :: len(plan.variants)] for i in (0, 1))
    column = next(column for column in ScenesMetric.columns if column.name == "answer")
    expected = difference([e["answer"] for e in other], [e["answer"] for e in baseline], column).text(1, signed=True)
    text = files["table.md"].decode().partition("\nDifferences from baseline steps=6, mask_samples=2, over ")[2]
    head, _, *rows = [line.split(" | ") for line in text.splitlines() if line.startswith("|")]
    assert [row[:3] for row in rows] == [["| fewer", f"steps={n}, mask_samples=1", "3"] for n in (3, 4)]
    assert rows[0][head.index(column.title)] == expected and {len(row) for row in rows} == {len(head)}
    assert "PSNR of the input made anew, dB" not in head, "the baseline has none"
    assert b"Differences from" not in uninterrupted[1]["table.md"]


def test_differences_are_over_the_items_that_both_have(by_rows):
    plan, files = by_rows
    entries = [json.loads(line) for line in files["results.jsonl"].splitlines()]
    failed = [{"item": entries[0]["item"], "error": "x"}, *entries[1:]]     # the baseline on the first item
    rows = [line for line in report.differences(plan, failed).splitlines() if line.startswith("| fewer")]
    assert [row.split(" | ")[2] for row in rows] == ["2", "2"]
    rest = report.differences(plan, entries[len(plan.variants) :])
    assert rows == [line for line in rest.splitlines() if line.startswith("| fewer")]


# ---------------------------------------------------------------- curves


def line_of(curve: str, ratio: float, **values: float) -> Line:
    return Line(Variant(dm.METHODS["sdedit"], {"encoding_ratio": ratio}, curve), 1, (), 0, 1.0, 0.0,
                {name: Value(value, value - 0.1, value + 0.1) for name, value in values.items()})


COLUMNS = {name: Column(name, f"title of {name}", "higher") for name in "xy"}


def test_curves_show_every_method_and_setting(tmp_path):
    found = [line_of(curve, ratio, x=ratio, y=1 - ratio) for curve in ("one", "two") for ratio in (0.25, 0.75)]
    paths = curves.draw(found, COLUMNS, [("x", "y")], tmp_path)
    svg = (tmp_path / "curves.svg").read_text()
    assert paths == [tmp_path / "curves.png", tmp_path / "curves.svg"]
    for text in ("one", "two", "0.25", "0.75", "title of x (higher is better)"):
        assert f">{text}</text>" in svg, text
    with Image.open(tmp_path / "curves.png") as image:
        assert image.width > 500
    before = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in curves.draw(found, COLUMNS, [("x", "y")], tmp_path)] == before


def test_no_label_hides_another_or_leaves_its_panel(tmp_path):
    """Three curves whose points lie as close as rounding makes them: all in one place, and in one column."""
    from matplotlib.text import Text

    found = [line_of(curve, ratio / 10, x=x, y=30 + 0.2 * ratio if x else 24.0)
             for curve in ("one", "two", "three") for x, ratio in ((0.0, 4), (1.0, 5), (1.0, 6), (1.0, 7), (1.0, 8))]
    panels = []

    def fill(axes):
        curves.panel(axes[0], found, COLUMNS["x"], COLUMNS["y"])
        curves.legends(axes)
        panels.append(axes[0])

    curves.save_figure(fill, 1, tmp_path, "close")
    [axes] = panels
    axes.figure.draw_without_rendering()        # again in its own resolution
    boxes = [Text.get_window_extent(label, axes.figure.canvas.get_renderer()) for label in axes.texts]
    frame = axes.get_window_extent()
    assert len(boxes) == 15 and sum(a.overlaps(b) for a, b in itertools.combinations(boxes, 2)) == 0
    assert all(frame.contains(*corner) for box in boxes for corner in (box.min, box.max))


def test_more_curves_than_colours_still_differ():
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    found = [line_of(f"curve {i}", 0.5, x=float(i), y=0.5) for i in range(20)]
    curves.panel(axes, found, COLUMNS["x"], COLUMNS["y"])
    drawn = {(line.get_color(), line.get_marker()) for line in axes.lines if line.get_label().startswith("curve")}
    assert len(drawn) == 20


def test_a_panel_without_points_is_not_drawn(tmp_path):
    assert curves.draw([line_of("one", 0.5, x=1.0)], COLUMNS, [("x", "y")], tmp_path) == []
    assert curves.draw([line_of("one", 0.5, x=1.0, y=math.nan)], COLUMNS, [("x", "y")], tmp_path) == []
    assert not list(tmp_path.iterdir())
