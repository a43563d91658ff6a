"""pytest tests/test_command_line.py: the command with paths, streams, tables and signals that nobody hoped for.

The slow ones run the command in a process of its own.
"""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import diffedit_min as dm
from diffedit_min import loading
from diffedit_min.bench.datasets import lists
from diffedit_min.bench.store import Appender, alone, hash_of, read_all
from diffedit_min.pictures.writing import NotWritten, part_of
from diffedit_min.studio.jobs.like import over
from diffedit_min.studio.streams import heed_signals

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
               "PYTHONPATH": str(Path(dm.__file__).parents[1])}
EDIT = ("--query", "a basket of pears", "--model", "random", "-o", "steps=3", "-o", "mask_samples=1")
BENCH = ("bench", "--dataset", "scenes", "--model", "random", "--limit", "2", "--methods", "sdedit", "--ratios", "0.5",
         "-o", "steps=3", "--quiet", "--out", "run")
posix = pytest.mark.skipif(os.name != "posix", reason="POSIX files and signals")


@pytest.fixture
def command(call_command):
    """The command, in a folder with four pictures and a mask."""
    for i in range(4):
        noise = np.random.default_rng(i).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((24, 24), Image.BICUBIC).save(f"p{i}.png")
    Image.new("L", (24, 24), 255).save("mask.png")
    return call_command


@pytest.fixture
def loads_nothing(monkeypatch):
    monkeypatch.setattr(loading, "load", lambda *_, **__: pytest.fail("loaded for nothing"))


def started(*arguments, **how):
    return subprocess.Popen([sys.executable, "-m", "diffedit_min", *map(str, arguments)],
                            env=ENVIRONMENT | how.pop("env", {}), encoding="utf-8", errors="replace", **how)


def run(*arguments, **how):
    """The exit code and what was said: in a process of its own."""
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how}
    process = started(*arguments, **how)
    out, err = process.communicate(timeout=200)
    return process.returncode, out, err


# ---------------------------------------------------------------- inputs are not replaced


@posix
@pytest.mark.parametrize("arguments", [
    ("edit", "p0.png", *EDIT, "--out", "p0.png"), ("edit", "p0.png", *EDIT, "--out", "sub/../p0.png"),
    ("edit", "p0.png", *EDIT, "--out", "soft.png"), ("edit", "p0.png", *EDIT, "--out", "hard.png"),
    ("edit", "soft.png", *EDIT, "--out", "hard.png"), ("edit", "p0.png", *EDIT, "--strip", "p0.png"),
    ("edit", "p0.png", *EDIT, "--report", "page.html"),
    ("edit", "p0.png", *EDIT, "--mask", "mask.png", "--out", "mask.png"),
    ("edit", "p0.png", *EDIT[:4], "--method", "negative-prompt-inversion", "--reference", "x", "--source-out",
     "p0.png"),
    ("edit", "p1.png", *EDIT, "--like", "p0.png", "--out", "p0.png"),
    ("mask", "p0.png", *EDIT, "--out", "p0.png"), ("mask", "p0.png", *EDIT, "--map", "hard.png"),
    ("invert", "p0.png", "--model", "random", "--out", "soft.png"),
    ("edit", "p1.png", "p2.png", *EDIT, "--like", "p0.png", "--out", ".", "--overwrite"),
])
def test_no_result_replaces_what_is_read(command, monkeypatch, arguments):
    os.mkdir("sub")
    os.symlink("p0.png", "soft.png")
    os.link("p0.png", "hard.png")
    os.link("p0.png", "page.html")
    if "--like" in arguments:       # it has to hold settings, and be what a result would be called
        assert command("edit", "p3.png", *EDIT, "--out", "p2-edit.png").code == 0
        os.replace("p2-edit.png", "p0.png")
        os.link("p0.png", "p2-edit.png")
    monkeypatch.setattr(loading, "load", lambda *_, **__: pytest.fail("loaded for nothing"))
    before = {path: path.read_bytes() for path in Path(".").rglob("*.*")}
    done = command(*arguments)
    assert done.code == 1 and "would replace '" in done.err and done.err.count("\n") == 1, done.err
    assert {path: path.read_bytes() for path in Path(".").rglob("*.*")} == before


# ---------------------------------------------------------------- tables and lists


@posix
def test_tables_are_regular_files_of_bounded_size(command, loads_nothing, monkeypatch):
    os.mkfifo("pipe.csv")
    with open("huge.csv", "wb") as file:
        file.truncate(2**40)
    for name, message in (("pipe.csv", "is not a file but a pipe or a device: save the list to a file first"),
                          ("/dev/zero", "is not a file but a pipe or a device: save the list to a file first"),
                          ("huge.csv", "has 1,099,511,627,776 bytes, more than a list of edits can have"),
                          (".", "can't be read (Is a directory): give the path of a file that can"),
                          ("a" * 5000, "can't be read (File name too long): give the path of a file that can")):
        done = command("edit", "--jobs", name, *EDIT)
        assert (done.code, done.err) == (1, f"error: {name!r} {message}\n")
        with pytest.raises(ValueError, match="pipe or a device|more than|can't be read"):
            lists.read_json(Path(name))


def test_a_name_with_a_line_end_is_told_in_one_line(command):
    os.replace("p0.png", "p\n0.png")
    assert command("edit", "p\n0.png", *EDIT).out.startswith("wrote 'p\\n0-edit.png'\n")
    done = command("edit", "p\n0.png", "p1.png", *EDIT)
    names = [repr(f"edits{os.sep}p\n0-edit.png"), f"edits{os.sep}p1-edit.png"]
    assert done.out.splitlines()[:2] == [f"wrote {name}" for name in names]


# ---------------------------------------------------------------- weights


@pytest.mark.filterwarnings("always:.*other weights today")
def test_a_result_of_other_weights_at_the_same_path_is_not_done(command, copied):
    words = ("--query", "x", "--model", str(copied), "-o", "steps=3", "-o", "mask_samples=1", "--out", "out")
    assert command("edit", "p0.png", "p1.png", *words).code == 0
    assert "0 edited, 2 done before" in command("edit", "p0.png", "p1.png", *words).out
    before = Path("out/p0-edit.png").read_bytes()
    from safetensors.torch import load_file, save_file
    path = copied / "unet" / "diffusion_pytorch_model.safetensors"
    weights, times = load_file(path), path.stat()
    last = sorted(weights)[-1]
    weights[last].view(-1)[-1] += 1e-3      # one number of 200,000; the file's size and date stay
    save_file(weights, path, {"format": "pt"})
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    done = command("edit", "p0.png", "p1.png", *words)
    assert done.code == 1 and "'out/p0-edit.png' is there already, and its weights is" in done.err
    done = command("edit", "p0.png", "--like", "out/p0-edit.png", "--out", "again.png")
    assert done.code == 0 and "has other weights today than those that made 'out/p0-edit.png'" in done.err
    assert command("edit", "p0.png", "p1.png", *words, "--overwrite").out.count("wrote") == 2
    assert Path("out/p0-edit.png").read_bytes() != before
    assert command("edit", "p0.png", "--like", "out/p0-edit.png", "--out", "again.png").err == ""


def test_the_hash_is_of_every_number_and_of_the_schedule():
    first, same = dm.load("random", device="cpu"), dm.load("random", device="cpu")
    assert hash_of(first) == hash_of(same) != hash_of(dm.load("random", device="cpu", seed=1))
    other = replace(same, schedule=type(same.schedule).from_config({"beta_end": 0.02}))
    assert hash_of(other) != hash_of(first) != hash_of(replace(same, prediction_type="v_prediction"))
    for network in (same.unet, same.vae, same.text_encoder):
        before, weight = hash_of(same), list(network.parameters())[-1].data
        weight.view(-1)[-1] += 1e-3
        assert hash_of(same) != before


# ---------------------------------------------------------------- --like


@pytest.mark.parametrize(("method", "name", "value"), [("unitune", "save", "/etc/x.safetensors"),
                                                       ("unitune", "tuned", "other.safetensors"),
                                                       ("cycle_diffusion", "clip", "someone/model")])
def test_a_picture_does_not_say_which_files_are_read_or_written(method, name, value):
    earlier = {"method": method, "options": {name: value}}
    with pytest.raises(ValueError, match=f"made with {name}='{value}', but a picture is not to say .* -o {name}= for"):
        over(earlier, {})
    assert over(earlier, {"option": [f"{name}="]})["options"] == {name: value}


def test_a_picture_does_not_say_it_by_its_sampler_either(monkeypatch):
    @dataclass(frozen=True)
    class Recorded(type(dm.SAMPLERS["ddim"])):
        name = "recorded"
        into: str = dm.option("", "a file to write", file=True)

    monkeypatch.setitem(dm.SAMPLERS, "recorded", Recorded())
    earlier = {"method": "diffedit", "options": {"sampler": "recorded:into=/some/file"}}
    with pytest.raises(ValueError, match="made with sampler='recorded:into=/some/file', but .* add -o sampler= and"):
        over(earlier, {})
    assert over(earlier, {"option": ["sampler=ddim"]})["options"] == earlier["options"]
    harmless = {"method": "diffedit", "options": {"sampler": "recorded"}}
    assert over(harmless, {}) == harmless


# ---------------------------------------------------------------- the benchmark


def test_a_full_disk_is_not_the_items_failure(call_command, monkeypatch):
    pytest.importorskip("matplotlib")
    true, full = os.replace, []

    def replace(source, target):
        if full and str(target).endswith(".mask.png"):
            raise OSError(28, "No space left on device")
        true(source, target)

    monkeypatch.setattr(os, "replace", replace)
    bench = [word if word != "sdedit" else "diffedit" for word in BENCH]
    full.append(True)
    done = call_command(*bench)
    assert done.code == 1 and "can't be written (No space left on device): make room there, or choose" in done.err
    assert "run/pictures" in done.err and read_all(Path("run"), "results") == {}
    full.clear()
    done = call_command(*bench)
    assert done.code == 0 and "2 edits measured, 0 failed" in done.out
    assert not list(Path("run").rglob("*.part"))


@posix
def test_a_second_run_in_the_same_folder_is_refused(call_command, tmp_path):
    pytest.importorskip("matplotlib")
    with alone(tmp_path / "run", "results"):
        done = call_command(*BENCH)
        assert (done.code, done.err) == (
            1, "error: another run is writing to 'run': wait for its end, or give another --out\n")
        with alone(tmp_path / "run", "results", rank=1):        # another process of the same run
            Appender(tmp_path / "run", "results", 1).append([{"key": "a"}])
    assert not (tmp_path / "run" / "run.json").exists()


def test_lines_that_cannot_be_appended_name_the_file(tmp_path):
    file = Appender(tmp_path, "results", 0)
    (tmp_path / "parts" / "results-0.jsonl").mkdir()
    with pytest.raises(NotWritten, match="results-0.jsonl' can't be written"):
        file.append([{"key": "a"}])


# ---------------------------------------------------------------- streams, signals, locales


@posix
@pytest.mark.slow
def test_streams_that_are_closed_full_or_left_by_their_reader(command):
    def close():
        os.close(1)
        os.close(2)

    assert run("edit", "p0.png", *EDIT, "--out", "a.png", stdout=None, stderr=None, preexec_fn=close)[0] == 0
    Image.open("a.png").load()
    message = "error: the standard output can't be written (No space left on device)\n"
    with open("/dev/full", "w") as full:
        for arguments in (("info", "tiny"), ("--version",)):
            assert run(*arguments, stdout=full) == (1, None, message)
        assert run("info", "nothing", stdout=full, stderr=full)[0] == 1
    process = started("edit", "p0.png", "p1.png", "p2.png", "p3.png", *EDIT, "--batch", "1", stdout=subprocess.PIPE,
                      stderr=subprocess.PIPE)
    assert process.stdout.readline() == f"wrote {Path('edits') / 'p0-edit.png'}\n"
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait(100) == 0
    assert len(os.listdir("edits")) == 4


@posix
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_sigterm_cleans_up_like_ctrl_c(command, number):
    code = ("import os, sys, time\nfrom diffedit_min.pictures import replacing\nfrom diffedit_min.studio import cli\n"
            "from diffedit_min.studio import info\n"
            "def slow(*_, **__):\n"
            "    with replacing('a.bin') as file:\n        print('begun', flush=True); time.sleep(100)\n"
            "info.describe = slow\nsys.argv = ['x', 'info', 'tiny']\ncli.main()")
    process = subprocess.Popen([sys.executable, "-c", code], env=ENVIRONMENT, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begun\n" and part_of("a.bin").exists()
    process.send_signal(number)
    _, err = process.communicate(timeout=50)
    assert (process.returncode, err) == (143, "terminated\n") and not part_of("a.bin").exists()


@posix
def test_a_signal_that_is_ignored_stays_so():
    """As under nohup."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        heed_signals()
        assert {signal.getsignal(number) for number in before} == {signal.SIG_IGN}
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@posix
@pytest.mark.slow
def test_no_locale_ends_a_command_after_its_work(command):
    """The narrowest: ASCII for streams and files; and Python warns of each file whose encoding isn't said."""
    pytest.importorskip("matplotlib")
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONWARNDEFAULTENCODING": "1"}
    Path("jobs.csv").write_text("image,query\np0.png,a grün – Birne\n", encoding="utf-8")
    for arguments, wrote in (
        (BENCH, ["run/table.md", "run/table.csv", "run/curves.svg", "run/curves.png"]),
        (("edit", "--jobs", "jobs.csv", *EDIT[2:]), ["edits/p0-edit.png"]),
        (("edit", "p0.png", *EDIT, "--report", "r.html", "--out", "ä.png"), ["r.html"]),
        (("info", "diffedit"), []),
    ):
        code, _, err = run(*arguments, env=env)
        assert code == 0 and "Traceback" not in err and "EncodingWarning" not in err.replace("site-packages", ""), err
        assert all(Path(path).exists() for path in wrote)
