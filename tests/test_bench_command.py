"""pytest tests/test_bench_command.py: `diffedit-min bench` as it is typed: what it writes, says and refuses.

In this process, with random weights; what a run computes is tested in test_bench.py.
"""

import csv
import io
import json
from pathlib import Path

import pytest
from PIL import Image

from diffedit_min import loading
from diffedit_min.bench import theory
from diffedit_min.bench.datasets.item import Dataset, Item
from diffedit_min.bench.metrics import FAMILIES
from diffedit_min.bench.variants import grid
from diffedit_min.studio import bench_command as command

SMALL = ("bench", "--dataset", "scenes", "--model", "random", "--limit", "2", "-o", "steps=4", "--out", "out")


@pytest.fixture
def run(call_command):
    return call_command


@pytest.fixture
def no_loading(monkeypatch):
    def fail(*_, **__):
        raise AssertionError("loaded")

    monkeypatch.setattr(loading, "load", fail)


def table(out="out") -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((Path(out) / "table.csv").read_text())))


@pytest.mark.slow
def test_a_run_writes_its_files_and_prints_its_table(run):
    done = run(*SMALL, "--methods", "diffedit", "sdedit", "--ratios", "0.5", "1.0")
    assert done.code == 0, done.err
    assert [(row["method"], row["settings"].split(",")[0], row["edits"]) for row in table()] == [
        (name, f"encoding_ratio={ratio}", "2") for name in ("diffedit", "sdedit") for ratio in (0.5, 1.0)]
    assert Path("out/table.md").read_text() in done.out
    named = {Path(word.strip(",")).name for line in done.out.splitlines() if line.startswith("wrote ")
             for word in line.split()[1:]}
    assert {"table.md", "table.csv", "groups.csv", "timings.csv", "results.jsonl", "curves.png", "curves.svg", "sheets",
            "pictures"} <= named and "wrote out/sheets (2 sheets)" in done.out
    assert "4 edits measured" not in done.out and "8 edits measured, 0 failed" in done.out
    assert {path.name for path in Path("out").iterdir()} == {
        "run.json", "results.jsonl", "timings.csv", "table.csv", "table.md", "groups.csv", "curves.png",
        "curves.svg", "parts", "pictures", "sheets"}


@pytest.mark.slow
def test_lists_can_be_typed_either_way(run):
    one = ("--methods", "sdedit", "--methods", "encode-decode", "--ratios", "0.5", "--ratios", "1.0")
    other = ("--methods", "sdedit", "encode-decode", "--ratios", "0.5", "1.0")
    for out, typed in (("one", one), ("other", other)):
        assert run(*SMALL[:-1], out, *typed).code == 0
    assert Path("one/table.csv").read_bytes() == Path("other/table.csv").read_bytes()


@pytest.mark.slow
def test_theory_is_a_preset_too(run, monkeypatch):
    monkeypatch.setattr(theory, "RATIOS", (0.1,))
    monkeypatch.setattr(theory, "STEPS", 10)
    done = run("bench", "--dataset", "scenes", "--limit", "1", "--preset", "theory", "--model", "random")
    assert done.code == 0, done.err
    assert "bound (5) as printed" in done.out and Path("runs/scenes/theory.svg").exists()


@pytest.mark.slow
def test_the_dtypes_are_a_preset_too(run):
    done = run("bench", "--dataset", "scenes", "--limit", "1", "--preset", "dtype", "--model", "random")
    assert done.code == 0, done.err
    assert "| float32 |" in done.out and "| bfloat16 |" in done.out and Path("runs/scenes/dtypes.csv").exists()


def test_a_study_is_not_shared_out(run, no_loading, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = run("bench", "--dataset", "scenes", "--preset", "theory")
    assert done.err == "error: --preset theory is for one process: start it without torchrun\n"


def test_each_process_of_torchrun_has_a_device_of_its_own(run, monkeypatch):
    """(`loading.load` is where it arrives, as there is no such device here.)"""
    asked = []

    def load(name, **how):
        asked.append(how["device"])
        raise ValueError("seen")

    monkeypatch.setattr(loading, "load", load)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "3")
    for device in ("auto", "cpu"):
        run(*SMALL, "--methods", "sdedit", "--device", device)
    assert asked == ["cuda:3", "cpu"]


@pytest.mark.slow
def test_a_preset_brings_its_curves(run):
    assert run("bench", "--dataset", "scenes", "--model", "random", "--limit", "1", "--preset", "reference", "--ratios",
               "0.1", "0.2", "--out", "out").code == 0
    assert [row["method"] for row in table()] == [*["reference: the caption"] * 2, *["reference: empty"] * 2]


def test_your_own_pairs(run, tmp_path):
    for name, colour in (("a.png", "red"), ("b.png", "green")):
        Image.new("RGB", (40, 30), colour).save(tmp_path / name)
    (tmp_path / "mine.csv").write_text("image,reference,query\na.png,red,blue\nb.png,,a hat\n")
    done = run("bench", "--dataset", "pairs", "--data", "mine.csv", "--model", "random", "--methods", "sdedit",
               "--ratios", "0.5", "-o", "steps=4", "--out", "out")
    assert done.code == 0, done.err
    assert "left out: clipscore: " in done.out and "left out: lpips: " in done.out
    row, = table()
    assert row["edits"] == "2" and 0 < float(row["changed"]) < 60


@pytest.mark.slow
def test_every_method_that_the_dataset_has_words_for_runs(run):
    done = run("bench", "--dataset", "scenes", "--limit", "1", "--methods", "prompt-to-prompt",
               "negative-prompt-inversion", "direct-inversion", "cycle-diffusion", "edit-friendly", "instruct-pix2pix",
               "null-text", "unitune", "--ratios", "0.5", "-o", "steps=2", "null-text:iterations=1",
               "unitune:tuning_steps=1", "--out", "out")
    assert done.code == 0, done.err
    assert [row["edits"] for row in table()] == ["1"] * 8, done.out
    assert set(json.loads(Path("out/run.json").read_text())["models"]) == {"tiny", "tiny-instruct"}


@pytest.mark.slow
def test_a_run_that_is_stopped_says_how_to_go_on(run, monkeypatch):
    from diffedit_min.bench import run as running

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(running, "do", stop)
        done = run(*SMALL, "--methods", "sdedit", "--ratios", "0.5")
    assert done.code == 130
    assert done.err == "stopped: what is done is in out, and the same command goes on from there\ninterrupted\n"
    assert not Path("out/table.csv").exists()
    assert run(*SMALL, "--methods", "sdedit", "--ratios", "0.5").code == 0 and len(table()) == 1


def test_a_failure_is_counted_and_all_failures_are_an_error(run, tmp_path):
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no picture")
    (tmp_path / "both.csv").write_text("image,reference,query\na.png,red,blue\nb.png,red,blue\n")
    (tmp_path / "bad.csv").write_text("image,reference,query\nb.png,red,blue\n")
    own = ("bench", "--dataset", "pairs", "--model", "random", "--methods", "sdedit", "--ratios", "0.5",
           "-o", "steps=4")
    done = run(*own, "--data", "both.csv", "--out", "both")
    assert (done.code, done.out.splitlines()[-1]) == (0, "1 edits measured, 1 failed: --retry-failed tries them again")
    done = run(*own, "--data", "bad.csv", "--out", "bad")
    assert done.code == 1
    assert done.err.startswith("error: no edit succeeded; the first failed with: 'b.png' is not a picture that can be ")


@pytest.mark.parametrize("arguments, message", [
    (("--dataset", "imagined"),
     "--dataset 'imagined' is not known; known are scenes, imagenet, coco, imagen, pie, pairs"),
    (("--dataset", "coco"), "--model is missing: the embedded model knows its own scenes only, not coco"),
    (("--dataset", "scenes", "--preset", "all"),
     "--preset 'all' is not known; known are comparison, parts, threshold, reference, noise, samples, guidance, "
     "fast"),
    (("--dataset", "scenes", "--preset", "parts", "--methods", "sdedit"),
     "--preset 'parts' brings its own methods and options: leave out --methods and -o"),
    (("--dataset", "scenes", "--metrics", "beauty"),
     f"--metrics 'beauty' is not known; known are {', '.join(FAMILIES)}"),
    (("--dataset", "scenes", "--metrics", "scenes", "answers"),
     "--metrics: two of scenes answers have a column 'answer': choose one of them"),
    (("--dataset", "scenes", "--metrics", "csfid"), "csfid: "),
    (("--dataset", "scenes", "--methods", "diffuse"), "--method 'diffuse' is not known (one of your own needs "),
    (("--dataset", "scenes", "--ratios", "2"), "encoding_ratio must be from 0 to 1, not 2.0"),
    (("--dataset", "pairs", "--model", "random"), "--data is missing: give "),
])
def test_what_is_refused_before_any_work(run, no_loading, arguments, message):
    done = run("bench", *arguments)
    assert done.code == 1 and done.out == ""
    assert done.err.startswith(f"error: {message}") and done.err.count("\n") == 1
    assert not Path("runs").exists()


def test_a_folder_that_cannot_be_written_is_refused(run, tmp_path):
    (tmp_path / "file").write_text("")
    done = run(*SMALL[:-1], "file", "--methods", "sdedit", "--ratios", "0.5")
    assert (done.code, done.err) == (1, "error: the folder 'file' can't be made (File exists): choose another\n")


def test_methods_without_words_are_refused():
    items = (Item("a", lambda: None, "a hat"),)
    dataset = Dataset("imagenet", items, "", (), ())
    command.check(grid(["diffedit", "sdedit"], []), dataset)
    with pytest.raises(ValueError, match="^prompt-to-prompt needs references, and imagenet has none$"):
        command.check(grid(["prompt-to-prompt"], []), dataset)
    with pytest.raises(ValueError, match="^instruct-pix2pix needs instructions, and imagenet has none$"):
        command.check(grid(["instruct-pix2pix"], []), dataset)


@pytest.mark.parametrize("missing", ["matplotlib", "torchmetrics"])
def test_the_extra_is_named_where_it_is_missing(run, no_loading, monkeypatch, missing):
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == missing else object())
    done = run("bench", "--dataset", "scenes")
    assert (done.code, done.err) == (1, "error: bench needs matplotlib and torchmetrics: "
                                        "pip install 'diffedit-min[bench]'\n")


def test_the_folder_of_another_version_is_refused(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.json").write_text('{"versions": {"diffedit_min": "0.0"}}')
    done = run(*SMALL, "--methods", "sdedit", "--ratios", "0.5")
    assert done.code == 1
    assert done.err.startswith("error: 'out' holds results made with diffedit_min 0.0, and this is ")
