"""pytest tests/test_speed.py: `diffedit-min speed`: what is measured, counted, composed, kept on disk and shown.

No test looks at how long anything took. What is measured runs in this process, with random weights.
"""

import csv
import io
import json
import subprocess
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import checkpoints
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import diffedit_min as dm
from diffedit_min.bench.speed import edits, machine, memory, networks, plan, report, rival, shapes, workbench
from diffedit_min.bench.store import Appender
from diffedit_min.networks.unet import UNetConfig
from diffedit_min.networks.vae import VAEConfig

QUICK = ("--model", "random", "--repeats", "1", "--out", "out", "-o", "steps=4")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Ceilings of a millisecond, and nothing twice to fill time."""
    monkeypatch.setattr(machine, "MATRICES", ((16, 8, 32), (32, 32, 32)))
    monkeypatch.setattr(machine, "COPIED", 2**10)
    monkeypatch.setattr(workbench, "LEAST", 0.0)
    monkeypatch.setenv("KINETO_LOG_LEVEL", "99")


@pytest.fixture
def run(call_command):
    return partial(call_command, "speed")


@pytest.fixture
def bench():
    """One with a random model in float32."""
    return workbench.Bench("random", "float32")


def lines(title: str, out: str = "out") -> list[dict[str, str]]:
    """A table's lines as table.csv has them."""
    found = csv.DictReader(io.StringIO((Path(out) / "table.csv").read_text()))
    return [line for line in found if line["table"] == title]


def rounds(out: str = "out") -> list[dict]:
    return [json.loads(line) for line in (Path(out) / "parts" / "rounds-0.jsonl").read_text().splitlines()]


# ---------------------------------------------------------------- the command


def test_a_run_writes_its_tables_and_prints_them(run):
    done = run(*QUICK, "--rows", 1, 2, "--size", 32, 40)
    assert done.code == 0, done.err
    text = Path("out/table.md").read_text()
    assert text in done.out and done.out.endswith("wrote out/table.md, out/table.csv\n")
    first = text.splitlines()[0]
    assert f"torch {torch.__version__}" in first and "cores" in first
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        f"### {title}" for title in ("U-Net", "Operations", "VAE", "Whole edit", "Whole edit, composed", "Ceilings")]
    assert [(line["size"], line["rows"], line["program"]) for line in lines("U-Net")] == [
        (size, rows, "diffedit_min") for size in ("32", "40") for rows in ("1", "2")]
    assert [(line["size"], line["what"]) for line in lines("VAE")] == [
        (size, what) for size in ("32", "40") for what in ("encode", "decode")]
    for line in lines("U-Net"):
        assert float(line["seconds a row"]) == pytest.approx(float(line["seconds"]) / int(line["rows"]))
    assert {line["size"] for line in lines("Operations")} == {"32", "40"}
    assert done.err.splitlines()[0] == "unet random float32 32 1, rounds: 1"


def test_an_edit_is_counted(run):
    assert run(*QUICK, "--parts", "edit").code == 0
    line, = lines("Whole edit")
    assert (line["U-Net rows"], line["encodings"], line["decodings"]) == (str(2 * 10 + 3 + 2 * 3), "1", "1")
    assert float(line["overhead"]) == pytest.approx(float(line["seconds"]) / float(line["inside the networks"]))
    assert float(line["overhead"]) > 1 and line["options"] == "steps=4"
    assert not lines("Whole edit, composed")        # single calls were not measured


def test_a_large_edit_is_composed(run, monkeypatch):
    monkeypatch.setattr(plan, "EDIT_SIDE", 32)
    assert run(*QUICK, "--parts", "unet", "vae", "edit", "--rows", 2, "--size", 32, 48).code == 0
    assert [line["size"] for line in lines("Whole edit")] == ["32"]
    small, large = lines("Whole edit, composed")
    assert (small["size"], large["size"]) == ("32", "48")
    assert small["measured"] == lines("Whole edit")[0]["seconds"] and large["measured"] == ""


def test_what_is_on_disk_is_not_measured_again(run, monkeypatch):
    assert run(*QUICK, "--rows", 1).code == 0
    before, table = Path("out/parts/rounds-0.jsonl").read_bytes(), Path("out/table.md").read_bytes()
    measured = []

    def fail(case, bench):
        measured.append(case)
        raise AssertionError("measured again")

    with monkeypatch.context() as patched:
        for part in plan.PARTS:
            patched.setitem(plan.PARTS, part, fail)
        again = run(*QUICK, "--rows", 1)
    assert again.code == 0 and not measured and again.err == ""
    assert Path("out/parts/rounds-0.jsonl").read_bytes() == before
    assert Path("out/table.md").read_bytes() == table
    more = run(*QUICK[:2], *QUICK[4:], "--repeats", 2, "--rows", 1, "--parts", "unet")
    assert more.code == 0 and more.err == "unet random float32 32 1, rounds: 1\n"
    assert [(entry["case"]["part"], entry["round"]) for entry in rounds()] == [
        ("unet", 0), ("operations", 0), ("vae", 0), ("vae", 0), ("edit", 0), ("unet", 1)]


def test_a_run_that_is_stopped_goes_on(run, monkeypatch):
    turns, done = workbench.Bench.turns, []

    def stop(self, *arguments, **named):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(1)
        return turns(self, *arguments, **named)

    words = (*QUICK[:2], *QUICK[4:], "--parts", "unet", "--rows", 1, 2, "--repeats", 3)
    with monkeypatch.context() as patched:
        patched.setattr(workbench.Bench, "turns", stop)
        stopped = run(*words)
    assert stopped.code == 130
    assert stopped.err.splitlines()[-2:] == [
        "stopped: what is done is in out, and the same command goes on from there", "interrupted"]
    with Path("out/parts/rounds-0.jsonl").open("a") as file:
        file.write('{"key": "cut sho')      # as a kill leaves it
    before = Path("out/parts/rounds-0.jsonl").read_text().splitlines()[:2]
    assert run(*words).code == 0
    assert Path("out/parts/rounds-0.jsonl").read_text().splitlines()[:2] == before
    assert [(entry["case"]["rows"], entry["round"]) for entry in rounds()] == [
        (rows, i) for rows in (1, 2) for i in range(3)]


def test_what_a_round_depends_on_is_its_key():
    case = {"part": "unet", "model": "tiny", "dtype": "float32", "threads": 2, "against": None, "size": 64, "rows": 2}
    keys = {plan.key({**case, **change}, index) for index in (0, 1) for change in (
        {}, {"model": "random"}, {"dtype": "bfloat16"}, {"threads": 1}, {"against": "against_diffusers"}, {"size": 32},
        {"rows": 1})}
    assert len(keys) == 14 and plan.key(dict(reversed(case.items())), 0) in keys


def test_threads_are_part_of_the_case_and_given_back(run):
    before = torch.get_num_threads()
    assert run(*QUICK, "--parts", "vae", "--threads", before + 1).code == 0
    assert torch.get_num_threads() == before
    assert {line["threads"] for line in lines("VAE")} == {str(before + 1)}


def test_results_of_another_machine_are_not_mixed_in(run):
    assert run(*QUICK, "--parts", "vae").code == 0
    record = json.loads(Path("out/run.json").read_text())
    record["versions"]["processor"] = "Z80"
    Path("out/run.json").write_text(json.dumps(record))
    done = run(*QUICK, "--parts", "vae")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: 'out' holds results made with processor Z80, and this is ")


@pytest.mark.parametrize("arguments, message", [
    (("--dtype", "float8"), "--dtype 'float8' is not known; known are float32, float64, float16, bfloat16"),
    (("--parts", "unet", "gpu"), "--parts 'gpu' is not known; known are unet, operations, vae, edit, memory, compile"),
    (("--size", "30"), "--size 30: random takes multiples of 8 pixels"),
    (("--model", "sd15-shape", "--size", "100"), "--size 100: sd15-shape takes multiples of 64 pixels"),
    (("--against", "nobody"), "--against 'nobody': there is no tests/against_nobody.py beside the package; it comes "
                              "with a checkout, or give the path of such a file"),
    (("--against", "nowhere/mine.py"), "--against 'nowhere/mine.py': there is no file 'nowhere/mine.py'; it comes with "
                                       "a checkout, or give the path of such a file"),
    (("--preset", "paper", "best"), "diffedit has no preset 'best'; it has paper"),
    (("-o", "steps=none"), "steps must be a whole number, not 'none'"),
])
def test_what_is_refused_before_any_work(run, arguments, message):
    done = run(*("--model", "random") * ("--model" not in arguments), *arguments, "--out", "out")
    assert (done.code, done.out) == (1, "") and done.err.startswith(f"error: {message}") and done.err.count("\n") == 1
    assert not Path("out/parts/rounds-0.jsonl").exists()


def test_parts_that_cannot_be_measured_here_are_named(run, monkeypatch, tmp_path):
    def refuse(model):
        raise ValueError("there is no compiler")

    monkeypatch.setattr(plan, "compile_unet", refuse)
    monkeypatch.setattr(memory, "CLEAR", tmp_path / "nowhere")
    done = run(*QUICK, "--parts", "vae", "compile", "memory")
    assert done.code == 0
    assert done.err.splitlines()[:2] == [
        "left out: compile: there is no compiler",
        "left out: memory: peaks are read from /proc/self, which only Linux has"]
    assert lines("VAE") and not lines("torch.compile")


# ---------------------------------------------------------------- tables from given measurements

CASE = {"model": "tiny", "dtype": "float32", "threads": 2, "size": 64}


def put(out: Path, *given: tuple[dict, dict]) -> list[report.Table]:
    """Rounds as if they had been measured -> the tables."""
    file = Appender(out, "rounds", 0)
    for i, (case, entry) in enumerate(given):
        file.append([{"key": str(i), "case": {**CASE, **case}, "round": i, **entry}])
    (out / "run.json").write_text(json.dumps({"machine": {
        "processor": "Z80", "cores": 2, "instructions": ["avx2"], "used": "AVX2", "torch": "2.6"}}))
    return report.write(out)


UNET = [({"part": "unet", "rows": 2}, {"seconds": {"diffedit_min": ours, "it": its}, "flops":
         {"diffedit_min": 40e9, "it": 60e9}, "ceilings": {"a": a, "b": [10.0], "copy": [500.0]}})
        for ours, its, a in ((9.0, 8.0, [80.0, 1.0]), (1.0, 4.0, [20.0]), (2.0, 5.0, [30.0, 20.0]))]


def test_seconds_are_medians_and_ratios_are_of_medians(tmp_path):
    table, ceilings = put(tmp_path, *UNET)
    ours, theirs = table.lines
    assert ours == {**CASE, "rows": 2, "program": "diffedit_min", "seconds": 2.0, "seconds a row": 1.0,
                    "GFLOP a row": 20.0, "GFLOP/s": 20.0, "of the matrix product": 1.0, "/ it": 0.4}
    assert theirs["seconds"] == 5.0 and theirs["GFLOP/s"] == 12.0 and theirs["of the matrix product"] == 0.6
    assert "/ it" not in theirs
    line, = ceilings.lines
    assert (line["matrix product, GFLOP/s"], line["best of"]) == (20.0, "a")
    assert (line["copy, GB/s"], line["rounds"]) == (500.0, 3)


def test_the_tables_as_text(tmp_path):
    put(tmp_path, *UNET)
    assert (tmp_path / "table.md").read_text().splitlines()[:9] == [
        "Z80, 2 cores (avx2; torch uses AVX2); torch 2.6. Medians; ratios are of medians.", "", "### U-Net", "",
        "model tiny, dtype float32, threads 2, size 64, rows 2. One call. An even number of rows are pairs that share "
        "x and t and differ in the prompt.", "",
        "| program | seconds | seconds a row | GFLOP a row | GFLOP/s | of the matrix product | / it |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| diffedit_min | 2 | 1 | 20 | 20 | 100% | 0.40 |"]
    assert [line["/ it"] for line in lines("U-Net", tmp_path)] == ["0.4", ""]


@pytest.mark.parametrize("value, text", [
    (None, ""), ("a", "a"), (3, "3"), (0.0012345, "0.00123"), (12.34, "12.3"), (1234.5, "1234"),
    (report.Share(0.256), "26%"), (report.Ratio(0.999), "1.00")])
def test_cells(value, text):
    assert report.cell(value) == text


def test_what_differs_within_a_table_gets_a_column(tmp_path):
    (case, entry), = UNET[:1]
    put(tmp_path, (case, entry), ({**case, "dtype": "bfloat16", "threads": 1}, entry))
    text = (tmp_path / "table.md").read_text()
    assert "model tiny, size 64, rows 2. One call." in text
    assert "| dtype | threads | program |" in text and "| bfloat16 | 1 | diffedit_min |" in text


def test_tables_do_not_depend_on_the_order_of_measuring(tmp_path):
    (case, entry), = UNET[:1]
    given = [({**case, "size": size, "rows": rows}, entry) for size in (64, 128) for rows in (1, 8)]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    put(tmp_path / "a", *given)
    put(tmp_path / "b", *reversed(given))
    assert (tmp_path / "a/table.md").read_text() == (tmp_path / "b/table.md").read_text()
    assert [(line["size"], line["rows"]) for line in lines("U-Net", tmp_path / "a")][::2] == [
        ("64", "1"), ("64", "8"), ("128", "1"), ("128", "8")]


SAID = {"inside": {"unet": 60.0, "encode": 1.0, "decode": 2.0, "text": 3.0}, "rows": 30, "encodings": 1,
        "decodings": 2, "calls": [[1, 10], [4, 5]], "as": "diffedit_min", "dtype": "float32"}


def test_composition():
    """10 calls of one row, 5 of four (as in calls of two), the VAE's, and the 70 - 63 seconds that were left over."""
    row, vae = {1: 0.5, 2: 0.25, 8: 9.0}, {"encode": 3.0, "decode": 100.0}
    assert edits.compose(SAID, 70.0, row, **vae) == 10 * 0.5 + 20 * 0.25 + 3.0 + 200.0 + 7.0
    assert edits.compose(SAID, 70.0, {2: 1.0, 4: 2.0}, **vae) == 10 * 1.0 + 20 * 2.0 + 3.0 + 200.0 + 7.0
    assert edits.compose(SAID, 70.0, {8: 2.0}, **vae) == 30 * 2.0 + 3.0 + 200.0 + 7.0


def test_an_edit_is_composed_of_its_own_networks(tmp_path):
    """At each size with both U-Net and VAE: ours from ours in its dtype, a rival's from its variant in its own."""
    def single(part, size, dtype, seconds, **more):
        return ({"part": part, "size": size, "dtype": dtype, **more},
                {"seconds": seconds, "flops": dict.fromkeys(seconds, 1), "ceilings": {"a": [1.0], "copy": [1.0]}})

    theirs = {**SAID, "as": "it, plain", "dtype": "float32"}
    given = [({"part": "edit", "dtype": "bfloat16", "options": {}, "presets": []},
              {"seconds": {"diffedit_min": 70.0, "it, default": 140.0}, "ceilings": {"a": [1.0], "copy": [1.0]},
               "said": {"diffedit_min": {**SAID, "dtype": "bfloat16"}, "it, default": theirs}})]
    for size in (64, 128):
        for dtype, factor in (("float32", 2), ("bfloat16", 1)):
            both = {"diffedit_min": 2.0 * factor, "it, plain": 3.0 * factor}
            given.append(single("unet", size, dtype, both, rows=2))
            if size == 128 or dtype == "float32":
                given += [single("vae", size, dtype, both, what=what) for what in ("encode", "decode")]
    others = [({**case, **change}, entry) for case, entry in given[1:] if case["size"] == 128
              for change in ({"threads": 1, "size": 256}, {"model": "random", "size": 256})]
    *_, table, _ = put(tmp_path, *given, *others)
    assert table.title == "Whole edit, composed"
    columns = ("size", "program", "in", "composed", "measured")
    assert [tuple(line[column] for column in columns) for line in table.lines] == [
        (64, "it, default", "float32", 30 * 3.0 + 3 * 6.0 + 77.0, 140.0),
        (128, "diffedit_min", "bfloat16", 30 * 1.0 + 3 * 2.0 + 7.0, None),
        (128, "it, default", "float32", 30 * 3.0 + 3 * 6.0 + 77.0, None)]
    assert table.lines[1]["/ it, default"] == pytest.approx(43 / 185)


def test_memory_and_compile_tables(tmp_path):
    peaks = {"diffedit_min": {"peak": 30e6, "weights": 20e6}, "it, tuned": {"peak": 60e6, "weights": 20e6},
             "it, default": {"peak": None, "weights": None}}
    memory_table, compile_table, _ = put(
        tmp_path, ({"part": "memory", "options": {"steps": 4}, "presets": []}, {"said": peaks}),
        ({"part": "compile", "rows": 2}, {"seconds": {"diffedit_min": 4.0, "diffedit_min, compiled": 3.0}, "first":
         {"diffedit_min": 5.0, "diffedit_min, compiled": 50.0}, "ceilings": {"a": [1.0], "copy": [1.0]}}))
    ours, _, too_large = memory_table.lines
    assert (ours["weights, MB"], ours["peak, MB"], ours["peak / weights"], ours["/ it, tuned"]) == (20, 30, 1.5, 0.5)
    assert too_large["peak, MB"] == "did not fit" and "/ it, default" not in ours
    plain, fast = compile_table.lines
    assert (fast["to the first call's end"], fast["seconds a call"], fast["/ diffedit_min"]) == (50.0, 3.0, 0.75)
    assert plain["/ diffedit_min"] == 1.0


# ---------------------------------------------------------------- turns and the machine


def test_programs_take_turns_with_the_ceilings_in_between(bench, monkeypatch):
    order = []
    monkeypatch.setattr(machine.Ceilings, "measure", lambda self: order.append("-") or {"a": 1.0, "copy": 2.0})
    programs = {name: lambda name=name: order.append(name) for name in "xyz"}
    bench.ceilings.measure()
    for index, expected in enumerate(("-x-y-z-", "-y-z-x-", "-z-x-y-", "-x-y-z-")):
        order.clear()
        entry = bench.turns(programs, index)
        assert "".join(order) == expected
        assert list(entry["seconds"]) == list("xyz") and entry["ceilings"] == {"a": [1.0] * 4, "copy": [2.0] * 4}


def test_what_is_fast_is_called_until_the_time_has_passed(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(workbench, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    calls = []
    seconds, said = workbench.timed(lambda: calls.append(1) or {"rows": 3}, least=3.0)
    assert len(calls) == 3 and seconds == pytest.approx(4 / 3) and said == {"rows": 3}


def test_the_ceilings_are_measured():
    for dtype in (torch.float32, torch.bfloat16):
        rates = machine.Ceilings(dtype).measure()
        assert list(rates) == ["16 x 8 x 32", "32 x 32 x 32", "copy"] and min(rates.values()) > 0


def test_the_machine_is_described():
    about = machine.describe()
    assert about["processor"] and about["cores"] >= 1 and set(about["instructions"]) <= set(machine.SETS)


# ---------------------------------------------------------------- single calls


def test_flops_by_hand():
    """A multiply-add is two; a convolution's are those of a product at each cell; attention's of its two products."""
    linear, conv = nn.Linear(5, 7), nn.Conv2d(3, 4, 3, padding=1)
    with torch.no_grad():
        assert networks.flops(lambda: linear(torch.zeros(11, 5)))[0] == 2 * 11 * 5 * 7
        assert networks.flops(lambda: conv(torch.zeros(2, 3, 8, 6)))[0] == 2 * 2 * 8 * 6 * 4 * 3 * 9
        q, kv = torch.zeros(2, 3, 16, 8), torch.zeros(2, 3, 5, 8)
        assert networks.flops(lambda: F.scaled_dot_product_attention(q, kv, kv))[0] == 2 * 2 * 2 * 3 * 16 * 5 * 8
        assert networks.flops(lambda: q @ kv.mT @ kv)[0] == 2 * 2 * 2 * 3 * 16 * 5 * 8


@pytest.mark.parametrize("rows, latents", [(1, 1), (2, 1), (3, 3), (8, 4)])
def test_an_even_number_of_rows_are_pairs(rows, latents):
    model = dm.load("random", device="cpu")
    x, context = networks.latents_and_context(model, 32, rows)
    assert x.shape == (latents, 4, 8, 8) and len(context) == rows
    first, last = context.ids[0], context.ids[-1]
    assert (context.ids[:latents] == first).all() and (context.ids[-latents:] == last).all()
    assert (first == last).all() == (rows == latents)
    with torch.no_grad():
        out = networks.call_rows(model, model.unet, x, context)
        alone = torch.cat([model.eps(x[[i % latents]], 500, context[[i]]) for i in range(rows)])
    assert (out - alone).abs().max() <= 1e-5


def test_numbers_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="^what diffedit_min puts out is not finite: it would not cost what it should"):
        networks.warmed({"diffedit_min": lambda: torch.tensor([1.0, float("nan")])})


@pytest.mark.parametrize("operation, kind", [
    ("aten::mkldnn_convolution", "convolution"), ("aten::_slow_conv2d_forward", "convolution"),
    ("mkldnn::_convolution_pointwise", "convolution"),
    ("aten::addmm", "matrix product"), ("aten::mm", "matrix product"), ("aten::bmm", "attention"),
    ("aten::baddbmm", "attention"), ("aten::linear", "matrix product"), ("aten::mkldnn_linear", "matrix product"),
    ("mkldnn::_linear_pointwise", "matrix product"),
    ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"), ("aten::_softmax", "attention"),
    ("aten::native_group_norm", "normalisation"), ("aten::native_layer_norm", "normalisation"),
    ("aten::silu", "pointwise"), ("aten::gelu", "pointwise"), ("aten::add", "pointwise"), ("aten::mul_", "pointwise"),
    ("aten::copy_", "copies and casts"), ("aten::_to_copy", "copies and casts"), ("aten::cat", "copies and casts"),
    ("aten::upsample_nearest2d", "copies and casts"), ("aten::upsample_bilinear2d", "copies and casts"),
    ("aten::view", "other"), ("aten::empty", "other"), ("aten::address", "other"), ("aten::comm", "other"),
])
def test_kinds_of_operation(operation, kind):
    assert networks.kind_of(operation) == kind


def test_an_operation_is_counted_without_those_inside_it():
    events = [SimpleNamespace(key=key, self_cpu_time_total=own, cpu_time_total=9e9) for key, own in (
        ("aten::conv2d", 1e6), ("aten::mkldnn_convolution", 2e6), ("aten::silu", 5e5), ("aten::view", 1e3))]
    seconds = networks.by_kind(events)
    assert {kind: value for kind, value in seconds.items() if value} == {
        "convolution": 3.0, "pointwise": 0.5, "other": 0.001}
    assert len(seconds) == len(networks.KINDS) + 1


def test_shares_of_operations_sum_to_one(run):
    assert run(*QUICK, "--parts", "operations").code == 0
    line, = lines("Operations")
    shares = {kind: float(line[kind]) for kind in (*(kind for kind, _ in networks.KINDS), networks.OTHER)}
    assert sum(shares.values()) == pytest.approx(1) and min(shares.values()) >= 0
    assert all(shares[kind] > 0 for kind in ("attention", "convolution", "matrix product", "normalisation"))


def test_the_compiled_unet_is_a_shadow_of_the_same_weights(bench, monkeypatch):
    monkeypatch.setattr(networks, "compile_unet", lambda model: model.unet.compile(backend="eager", fullgraph=True))
    with torch.no_grad():
        entry = networks.compiled({"size": 32, "rows": 2}, bench)(0)
    assert list(entry["seconds"]) == list(entry["first"]) == ["diffedit_min", "diffedit_min, compiled"]
    assert bench.model.unet._compiled_call_impl is None


# ---------------------------------------------------------------- edits


def test_a_watch_counts_rows_and_calls_and_leaves_nothing_behind():
    layer, pair = nn.Linear(2, 2), nn.LSTM(2, 2)        # the second returns a tuple
    with edits.Watch({"unet": [layer], "text": [pair]}) as watch:
        for rows in (3, 1, 3):
            layer(torch.zeros(rows, 2))
        pair(torch.zeros(4, 2))
    layer(torch.zeros(1, 2))
    assert watch.calls == {"unet": {3: 2, 1: 1}, "text": {4: 1}} and watch.rows("unet") == 7
    assert watch.seconds["unet"] > 0 and not layer._forward_hooks and not layer._forward_pre_hooks


def test_what_is_watched_is_what_the_edit_says():
    model = dm.load("random", device="cpu")
    image, query, reference = edits.task(32)
    assert image.size == (32, 32) and query != reference
    run = edits.OurEditor(model, "float32", steps=5)
    said = edits.watched(run, image, query, reference)
    assert said["rows"] == dm.diffedit(model, image, query, reference, steps=5).rows
    assert sum(rows * calls for rows, calls in said["calls"]) == said["rows"]
    assert (said["encodings"], said["decodings"], said["dtype"]) == (1, 1, "float32")
    assert min(said["inside"].values()) > 0


def test_an_edit_that_stops_early_is_refused(monkeypatch):
    monkeypatch.setattr(edits, "diffedit", lambda *_, **__: SimpleNamespace(empty_mask=True))
    with pytest.raises(ValueError, match="^the mask is empty, so that the edit stopped early: give another"):
        edits.OurEditor(dm.load("random", device="cpu"), "float32")(*edits.task(32))


def test_each_preset_is_a_program(bench, monkeypatch):
    told = []
    monkeypatch.setattr(edits, "diffedit", lambda *_, **options: told.append(options) or SimpleNamespace(
        empty_mask=False, image=None))
    case = {"dtype": "float32", "presets": ["paper", "fast"], "options": {"mask_samples": 2}}
    made = edits.editors(case, bench)
    assert list(made) == ["diffedit_min, paper", "diffedit_min, fast"]
    made["diffedit_min, fast"]()(*edits.task(32), steps=2)
    assert told == [{"size": 32, "preset": "fast", "mask_samples": 2, "steps": 2}]


# ---------------------------------------------------------------- memory


needs_linux = pytest.mark.skipif(not memory.CLEAR.exists(), reason="only Linux has it")
ORDER = {"case": {"model": "random", "dtype": "float32", "threads": 1, "size": 32, "presets": [], "options": {}},
         "against": "", "program": "diffedit_min"}


@needs_linux
def test_the_peak_is_read(monkeypatch, tmp_path):
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(memory, "FIRST_TO_END", tmp_path / "score")
    said = memory.measure(ORDER)
    model = dm.load("random", device="cpu")
    assert said["weights"] == 4 * sum(weight.numel() for network in (model.unet, model.vae, model.text_encoder)
                                      for weight in network.parameters())
    assert memory.held("VmHWM") >= memory.held("VmRSS") > 0


@needs_linux
@pytest.mark.slow
def test_memory_is_measured_in_a_process_of_its_own(run):
    done = run(*QUICK, "--parts", "memory", "--dtype", "bfloat16", "--repeats", 3)
    assert done.code == 0, done.err
    line, = lines("Memory")
    assert float(line["peak, MB"]) > 2 * float(line["weights, MB"]) > 0 and len(rounds()) == 1
    with pytest.raises(ValueError, match="^diffedit_min failed at 32 px in float32: ValueError: sampler 'x' is not kn"):
        memory.in_a_process({**ORDER, "case": {**ORDER["case"], "options": {"sampler": "x"}}})


@pytest.mark.parametrize("returncode, said", [
    (-9, ""), (1, "RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")])
def test_a_process_without_enough_memory_has_no_peak(monkeypatch, returncode, said):
    ended = subprocess.CompletedProcess([], returncode, stdout="", stderr=said)
    monkeypatch.setattr(subprocess, "run", lambda *a, **given: ended)
    assert memory.in_a_process(ORDER) == {"peak": None, "weights": None}


# ---------------------------------------------------------------- shapes


@pytest.mark.parametrize("name, unet, vae, side", [
    ("sd15-shape", 859_520_964, 83_653_863, 512), ("sd21-shape", 865_910_724, 83_653_863, 512),
    ("sdxl-shape", 2_567_463_684, 83_653_863, 1024)])
def test_shapes_have_the_published_numbers_of_weights(name, unet, vae, side):
    networks = shapes.empty_networks(shapes.SHAPES[name])
    counts = [sum(weight.numel() for weight in network.parameters()) for network in networks]
    assert counts[:2] == [unet, vae] and shapes.SHAPES[name].side == side
    assert counts[2:] == {"sd15-shape": [123_060_480], "sd21-shape": [340_387_840],
                          "sdxl-shape": [123_060_480, 694_659_840]}[name]
    assert all(weight.is_meta for network in networks for weight in network.parameters())


@pytest.mark.parametrize("name, family", [
    ("sd15-shape", "sd15"), ("sd21-shape", "sd21-base"), ("sdxl-shape", "sdxl")])
def test_shapes_have_the_published_configs(name, family):
    shape, published = shapes.SHAPES[name], checkpoints.REAL[family]
    assert shape.unet == UNetConfig.from_dict(checkpoints.full_config("unet", published["unet"]))
    assert shape.vae == VAEConfig.from_dict(published["vae"])
    assert shape.zero_empty_prompt == published["index"].get("force_zeros_for_empty_prompt", False)
    texts = [published[part] for part in ("text_encoder", "text_encoder_2") if part in published]
    for own, theirs in zip(shape.texts, texts, strict=True):
        assert own == {**own, **{key: value for key, value in theirs.items() if key in own}}


SMALL_TEXT = {**shapes.VIT_L, "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2,
              "num_hidden_layers": 2}
SMALL = {
    "small": shapes.Shape(
        UNetConfig(block_out_channels=(32, 64), down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                   cross_attention_dim=16, sample_size=8), VAEConfig(block_out_channels=(32, 32, 64)), (SMALL_TEXT,)),
    "small-xl": shapes.Shape(
        UNetConfig(block_out_channels=(32, 64), down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                   attention_head_dim=(2, 4), transformer_layers_per_block=(1, 2), cross_attention_dim=40,
                   use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
                   projection_class_embeddings_input_dim=24 + 6 * 8, sample_size=8),
        VAEConfig(block_out_channels=(32, 32, 64), force_upcast=True),
        (SMALL_TEXT, {**SMALL_TEXT, "hidden_size": 24, "projection_dim": 24,
                      "architectures": ["CLIPTextModelWithProjection"]}), zero_empty_prompt=True),
}


@pytest.fixture
def small_shapes(monkeypatch):
    monkeypatch.setattr(shapes, "SHAPES", {**shapes.SHAPES, **SMALL})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", SMALL)
def test_a_shape_is_a_model_whose_numbers_are_sane(small_shapes, name, dtype):
    """What comes out is finite and of about the size of what went in: no kernel is slowed down, or sped up, by it."""
    model = shapes.make(name, getattr(torch, dtype))
    assert model.name == name and model.dtype == getattr(torch, dtype)
    in_full = dtype == "float32" or name == "small-xl"
    assert next(model.vae.parameters()).dtype == (torch.float32 if in_full else torch.bfloat16)
    context = model.embed(["", "a bowl of pears"])
    weight = model.unet.down_blocks[0].resnets[0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) == (dtype == "bfloat16")      # as load has it
    assert context.tokens.shape[1] == 77 and 0.1 < context.tokens[1].float().std() < 10
    x = torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        for out in (model.eps(x, 500, context), model.encode(x[:, :3]), model.decode(x)):
            assert out.isfinite().all() and 0.01 < out.std() < 10
    assert not any(weight.requires_grad for weight in model.unet.parameters())


def test_a_shape_is_edited(run, small_shapes):
    done = run("--model", "small", "--parts", "unet", "edit", "--rows", 2, "--repeats", 1, "--out", "out", "-o",
               "steps=4", "--dtype", "bfloat16")
    assert done.code == 0, done.err
    assert [(line["dtype"], line["size"], line["U-Net rows"]) for line in lines("Whole edit")] == [
        ("bfloat16", "32", "29")]


# ---------------------------------------------------------------- rivals

FAKE = """
from types import SimpleNamespace

def rival(model):
    networks = SimpleNamespace(unet=lambda x, t, tokens, summary: {factor} * model.unet(x, t, tokens, None, summary),
                               encode=lambda pixels: model.vae.encode(pixels)[0], decode=model.vae.decode)
    return SimpleNamespace(name="fake", networks={{"plain": lambda: networks}}, editors={{}})
"""


def test_a_rival_takes_turns(run, tmp_path):
    (tmp_path / "against_fake.py").write_text(FAKE.format(factor=1))
    done = run(*QUICK, "--rows", 2, "--against", "against_fake.py")
    assert done.code == 0, done.err
    for table in ("U-Net", "VAE"):
        assert {line["program"] for line in lines(table)} == {"diffedit_min", "fake, plain"}
        ours, theirs = lines(table)[:2]
        assert float(ours["/ fake, plain"]) == pytest.approx(float(ours["seconds"]) / float(theirs["seconds"]))
    assert len(lines("Whole edit")) == 1        # this one can't edit


def test_a_rival_that_does_other_work_is_refused(run, tmp_path):
    (tmp_path / "against_fake.py").write_text(FAKE.format(factor=1.2))
    done = run(*QUICK, "--rows", 2, "--against", "against_fake.py")
    assert done.code == 1
    assert done.err.splitlines()[-1] == ("error: fake, plain does other work than diffedit_min: what it puts out is "
                                         "20% off")


def test_what_a_rival_needs_is_named(run, tmp_path):
    (tmp_path / "against_it.py").write_text("import no_such_module_at_all\n")
    done = run(*QUICK, "--against", "against_it.py")
    assert (done.code, done.err) == (1, "error: --against 'it' needs no_such_module_at_all, which isn't installed: "
                                        'pip install -e ".[parity]"\n')
    (tmp_path / "empty.py").write_text("")
    refused = run(*QUICK, "--against", "empty.py").err
    assert refused == "error: --against 'empty.py': the file has no function rival(model)\n"


# ---------------------------------------------------------------- diffusers


@pytest.fixture
def diffusers_rival():
    pytest.importorskip("diffusers")
    return rival.load(rival.find("diffusers"))


@pytest.mark.parametrize("name", ["random", *SMALL])
def test_diffusers_does_the_same_work(small_shapes, diffusers_rival, name):
    """Networks of the very same weights give the same numbers, and ours stay as they are."""
    model = workbench.Bench(name, "float32").model
    before = {key: (weight.stride(), weight.data_ptr()) for key, weight in model.unet.state_dict().items()}
    for rows in (1, 2):
        x, context = networks.latents_and_context(model, 32, rows)
        repeated = x.repeat(len(context) // len(x), 1, 1, 1)
        pixels = torch.rand(1, 3, 32, 32) * 2 - 1
        for variant, make in diffusers_rival(model).networks.items():
            theirs = make()
            with torch.no_grad():
                for ours, other in (
                    (networks.call_rows(model, model.unet, x, context),
                     theirs.unet(repeated, networks.TIME, context.tokens, model.summary(repeated, context, None))),
                    (model.vae.encode(pixels)[0], theirs.encode(pixels)), (model.vae.decode(x), theirs.decode(x)),
                ):
                    assert (difference := (ours - other).abs().max()) <= 1e-5, (variant, difference)
    assert before == {key: (weight.stride(), weight.data_ptr()) for key, weight in model.unet.state_dict().items()}


def test_diffusers_shares_the_weights(diffusers_rival):
    model = dm.load("random", device="cpu")
    theirs = diffusers_rival(model).networks["as made"]()
    contiguous = {weight.data_ptr() for weight in model.unet.parameters() if weight.is_contiguous()}
    shared = {weight.data_ptr() for weight in theirs._unet.parameters()}
    assert contiguous and contiguous <= shared


def test_diffusers_edits_with_more_rows(diffusers_rival, monkeypatch):
    """Its defaults: 4 x 10 rows for the mask and 2 x 40 each for encoding and decoding; a VAE encoding for each noise
    and one for the encoding."""
    model = dm.load("random", device="cpu", dtype="bfloat16")
    editors = diffusers_rival(model).editors
    assert list(editors) == ["default", "tuned"]
    run = editors["default"]()
    with torch.no_grad():
        said = edits.watched(run, *edits.task(32))
    assert (said["rows"], said["encodings"], said["decodings"], said["dtype"]) == (200, 11, 1, "float32")
    assert said["calls"] == [[2, 80], [40, 1]] and run.unet.conv_in.weight.dtype == torch.float32
    tuned = editors["tuned"]()
    weight = tuned.unet.down_blocks[0].resnets[0].conv1.weight
    assert (tuned.dtype, tuned.variant, weight.dtype) == ("bfloat16", "channels_last", torch.bfloat16)
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    with torch.no_grad():
        assert tuned(*edits.task(32), steps=2).size == (32, 32)
    assert model.dtype == torch.bfloat16


def test_diffusers_has_no_edit_for_two_text_encoders(small_shapes, diffusers_rival):
    assert diffusers_rival(shapes.make("small-xl", torch.float32)).editors == {}


def test_a_whole_run_against_diffusers(run, diffusers_rival):
    done = run(*QUICK, "--parts", "unet", "vae", "edit", "--rows", 2, "--against", "diffusers")
    assert done.code == 0, done.err
    assert [(line["program"], line["U-Net rows"]) for line in lines("Whole edit")] == [
        ("diffedit_min", "29"), ("diffusers, default", "200"), ("diffusers, tuned", "200")]
    ours, default, tuned = lines("Whole edit, composed")
    unet = {line["program"]: float(line["seconds"]) for line in lines("U-Net")}
    assert float(default["seconds a row, in pairs"]) == pytest.approx(unet["diffusers, as made"] / 2)
    assert float(tuned["seconds a row, in pairs"]) == pytest.approx(unet["diffusers, channels_last"] / 2)
    assert float(ours["/ diffusers, tuned"]) == pytest.approx(float(ours["composed"]) / float(tuned["composed"]))
