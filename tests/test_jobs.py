"""Run: python -m pytest tests/test_jobs.py

Many pictures: several on the command line, and tables. What stops a run and how it goes on is in test_jobs_kills.py.
"""

import json
import os
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tqdm import tqdm

import diffedit_min as dm
from diffedit_min import loading
from diffedit_min.methods import Asked, cost
from diffedit_min.pictures import picture
from diffedit_min.pictures.compositing import at_size
from diffedit_min.studio.jobs import editing, run
from diffedit_min.studio.jobs.job import Job
from diffedit_min.studio.jobs.table import read_table

WORDS = ("--query", "a basket of pears", "--model", "random", "-o", "steps=3", "-o", "mask_samples=1")


@pytest.fixture(scope="module")
def network():
    return dm.load("random", device="cpu")


@pytest.fixture
def loads():
    return []


@pytest.fixture
def command(call_command, network, loads, monkeypatch, tmp_path):
    """The command, with a model that counts its loads, in a folder with five pictures, two of them of another size."""
    monkeypatch.setattr(loading, "load", lambda name, **_: loads.append(name) or network)
    for i in range(5):
        width = 45 if i < 3 else 24
        noise = np.random.default_rng(i).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((width, 37), Image.BICUBIC).save(f"p{i}.png")
    return call_command


def files(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def settings(path):
    return json.loads(Image.open(path).text["diffedit"])


def table(*lines, name="jobs.csv"):
    Path(name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return name


# ---- several pictures


def test_several_pictures_are_edited_as_each_alone_with_one_model(command, loads, network):
    done = command("edit", "p0.png", "p1.png", "p3.png", "p4.png", *WORDS, "--batch", "3")
    assert (done.code, done.err, loads) == (0, "", ["random"])
    *wrote, summary = done.out.splitlines()
    names = [f"p{i}-edit.png" for i in (0, 1, 3, 4)]
    told = [line.partition(" (edited at ")[0] for line in wrote]        # which is said of those that were shrunk
    assert sorted(told) == [f"wrote {Path('edits') / name}" for name in names] and sorted(files("edits")) == names
    assert summary.startswith("4 edited, 0 done before, 0 failed; 32 rows through the U-Net in ")
    for i in (0, 1, 3, 4):
        alone = dm.diffedit(network, Image.open(f"p{i}.png"), "a basket of pears", steps=3, mask_samples=1)
        together = Image.open(f"edits/p{i}-edit.png")
        assert together.size == alone.image.size and picture.psnr(together, alone.image) > 55
        assert settings(f"edits/p{i}-edit.png").items() >= alone.settings.items()


@pytest.fixture
def batches(monkeypatch):
    """The pictures of each batch that is edited."""
    seen, true = [], editing.edit_jobs
    monkeypatch.setattr(run, "edit_jobs", lambda *a, **k: seen.append([o.job.image for o in a[2]]) or true(*a, **k))
    return seen


def test_what_is_done_is_skipped_and_what_is_not_is_made_in_the_same_batch(command, batches):
    three = ("edit", "p0.png", "p1.png", "p2.png", *WORDS, "--out", "out", "--batch", "2")
    assert command(*three).code == 0
    before = files("out")
    os.remove("out/p1-edit.png")
    done = command(*three)
    assert done.out.startswith("wrote out/p1-edit.png ")
    assert "\n1 edited, 2 done before, 0 failed; 8 rows" in done.out
    assert files("out") == before
    assert batches == [["p0.png", "p1.png"], ["p2.png"], ["p0.png", "p1.png"]]      # so that its bytes are the same
    assert command(*three).out.startswith("0 edited, 3 done before, 0 failed; 0 rows")
    assert len(batches) == 3


def test_a_result_of_other_settings_is_not_overwritten_unless_that_is_said(command):
    two = ("edit", "p0.png", "p1.png", *WORDS)
    assert command(*two).code == 0
    before = files("edits")
    for change, difference in ((("-o", "guidance_scale=2"), "its guidance_scale is '7.5', not '2.0'"),
                               (("--composite",), "its composite is 'False', not 'True'")):
        done = command(*two, *change)
        message = f"'edits/p0-edit.png' is there already, and {difference}: give another --out, or --overwrite"
        assert (done.code, done.out, done.err) == (1, "", f"error: {message}\n") and files("edits") == before
    assert command(*two, *change, "--overwrite").out.count("wrote") == 2 and files("edits") != before


def test_a_result_of_the_same_settings_under_another_presets_name_is_done(command):
    two = ("edit", "p0.png", "p1.png", *WORDS)
    assert command(*two).code == 0
    before = files("edits")
    assert command(*two, "--preset", "paper").out.startswith("0 edited, 2 done before") and files("edits") == before


def test_a_file_without_settings_and_a_changed_input_are_no_results(command):
    two = ("edit", "p0.png", "p1.png", *WORDS)
    assert command(*two).code == 0
    os.replace("p2.png", "p1.png")
    done = command(*two)
    assert done.code == 1 and "'edits/p1-edit.png' is there already, and its input_sha256 is" in done.err
    Image.new("RGB", (3, 3)).save("edits/p1-edit.png")
    done = command(*two)
    assert done.code == 1 and "'edits/p1-edit.png' is there already, and holds no settings: give another" in done.err


def test_a_picture_that_fails_stops_no_other(command):
    Path("p1.png").write_bytes(Path("p1.png").read_bytes()[:200])
    done = command("edit", "p0.png", "p1.png", "p2.png", *WORDS)
    assert done.code == 1 and sorted(files("edits")) == ["p0-edit.png", "p2-edit.png"]
    assert "2 edited, 0 done before, 1 failed" in done.out
    failed, error = done.err.splitlines()
    assert failed.startswith("failed: p1.png: 'p1.png' is cut short, damaged or unusual (")
    assert error == "error: 1 of 3 pictures failed: the same command tries them again"
    debug = command("edit", "p1.png", "p2.png", *WORDS, "--debug")
    assert debug.code == 1 and "Traceback" in debug.err


def test_a_batch_that_fails_is_done_one_by_one(command, monkeypatch):
    true, out_of_memory = editing.edit_jobs, RuntimeError("out of memory")

    def small(model, source, opened, **rest):
        if len(opened) > 1 or opened[0].job.image == "p2.png":
            raise out_of_memory
        return true(model, source, opened, **rest)

    monkeypatch.setattr(run, "edit_jobs", small)
    done = command("edit", "p0.png", "p1.png", "p2.png", *WORDS)
    assert done.code == 1 and sorted(files("edits")) == ["p0-edit.png", "p1-edit.png"]
    assert done.err.startswith("failed: p2.png: RuntimeError: out of memory (--debug shows where)\n")


def test_a_full_disk_names_the_file_and_ends_the_run(command, monkeypatch, batches):
    true = os.replace

    def full(source, target):
        if target.name == "p1-edit.png":
            raise OSError(28, "No space left on device")
        true(source, target)

    monkeypatch.setattr(os, "replace", full)
    three = ("edit", "p0.png", "p1.png", "p2.png", *WORDS, "--batch", "1")
    done = command(*three)
    assert done.code == 1 and sorted(files("edits")) == ["p0-edit.png"]
    assert done.err == ("stopped: 1 of 3 pictures are done, and the same command goes on from there\n"
                        "error: 'edits/p1-edit.png' can't be written (No space left on device): make room there, or "
                        "choose another place\n")
    assert batches == [["p0.png"], ["p1.png"]]
    monkeypatch.setattr(os, "replace", true)
    assert command(*three).out.count("wrote") == 2


@pytest.mark.parametrize("same", [False, True])
def test_what_another_run_writes_meanwhile_is_not_replaced(command, monkeypatch, same):
    """Another run's result appears where this one is about to write: of other words, or of the same."""
    two = ("edit", "p0.png", "p1.png", *WORDS)
    assert command(*two, "--out", "other", *(() if same else ("--reference", "a bowl"))).code == 0
    theirs, true = files("other"), editing.edit_jobs

    def slowly(*given, **rest):
        made = true(*given, **rest)
        os.makedirs("edits", exist_ok=True)
        os.replace("other/p0-edit.png", "edits/p0-edit.png")
        return made

    monkeypatch.setattr(run, "edit_jobs", slowly)
    done = command(*two)
    assert files("edits")["p0-edit.png"] == theirs["p0-edit.png"]
    assert (done.code, sorted(files("edits"))) == ((0, sorted(theirs)) if same else (1, ["p0-edit.png"]))
    message = ("'edits/p0-edit.png' was written by another program meanwhile: wait for its end, or choose another "
               "place")
    assert same or f"error: {message}\n" in done.err


def test_in_a_batch_only_what_was_found_is_grown_and_edited(command, network):
    path = table("image,reference", "p0.png,a bowl", "p1.png,a basket of pears", "p2.png,a plate")
    assert command("edit", "--jobs", path, *WORDS, "--mask-grow", "2").out.count("nothing to change was found") == 1
    assert np.array_equal(np.asarray(Image.open("edits/p1-edit.png")), np.asarray(Image.open("p1.png")))
    for i, reference in ((0, "a bowl"), (2, "a plate")):
        one = ("--query", "a basket of pears", "--reference", reference, *WORDS[2:], "--mask-grow", "2")
        assert command("edit", f"p{i}.png", *one, "--out", "alone.png").code == 0
        together = Image.open(f"edits/p{i}-edit.png")
        assert picture.psnr(together, Image.open("alone.png")) > 55 > picture.psnr(together, Image.open(f"p{i}.png"))


def test_a_bar_with_the_time_left(command, monkeypatch, capsys):
    monkeypatch.setattr(tqdm, "__init__", lambda bar, *a, __init__=tqdm.__init__, **k: __init__(
        bar, *a, **{**k, "disable": k["disable"] is True, "file": sys.stderr, "mininterval": 0}))
    done = command("edit", "p0.png", "p1.png", *WORDS)
    assert "| 2/2 [" in done.err and "picture" in done.err and "decoding 2/2" in done.err and "<00:" in done.err
    assert command("edit", "p0.png", "p1.png", *WORDS, "--quiet").err == ""


def test_how_long_it_will_take_is_said_once_from_the_first_rows(command, monkeypatch):
    monkeypatch.setattr(cost, "Estimate", partial(cost.Estimate, least=0, after=0))
    words = ("edit", "p0.png", "p1.png", "p2.png", *WORDS, "--batch", "2")
    done = command(*words)
    rows = int(done.out.splitlines()[-1].split("; ")[1].split()[0])
    [said] = [line for line in done.err.splitlines() if " left: " in line]
    assert said.startswith("about ") and f" left: {rows} rows through the U-Net in all, " in said
    os.remove("edits/p2-edit.png")
    assert f" left: {rows // 3} rows " in command(*words).err
    os.remove("edits/p2-edit.png")
    assert command(*words, "--quiet").err == ""


def test_rows_that_are_through_rise_to_all_of_them(command, network):
    asked = [Asked(dm.METHODS[name], "pears", "plums", options={"steps": 3, **more})
             for name, more in (("diffedit", {"mask_samples": 1, "mask_threshold": 0.0}), ("sdedit", {}))]
    jobs = [Job(one, f"p{i}.png", Path(f"{one.method.name}{i}.png")) for one in asked for i in range(3)]
    rows, through = run.Rows(run.batches(jobs, set(), 2), network), []
    edits = [edit for _, edit in run.run(jobs, network, {}, set(), 2, lambda *each: through.append(rows.after(*each)))]
    assert through == sorted(through) and through[-1] == rows.total == sum(edit.rows for edit in edits)
    rest = run.Rows(run.batches(jobs, set(jobs[:2]), 2), network)
    assert rest.total == rows.total - sum(edit.rows for edit in edits[:2])


# ---- tables


def test_a_table_says_what_the_command_line_does_not(command, network, loads, tmp_path):
    os.makedirs("deep/pictures")
    for i in range(3):
        os.replace(f"p{i}.png", f"deep/pictures/p{i}.png")
    white = Image.new("L", Image.open("deep/pictures/p1.png").size, 255)
    white.putpixel((0, 0), 0)       # of one that is white all over, or of another shape, there is a warning
    white.save("deep/white.png")
    path = table(
        "\ufeffimage,Query,reference,seed,mask,out,steps,mask-grow,method,composite",
        "pictures/p0.png,,,,,,,,,",
        'pictures/p1.png,"grün, red",a bowl,3,,named.webp,2,,,',
        "",
        "pictures/p1.png,figs,,,white.png,2.png,,1,,true",
        "pictures/p2.png,,,,,3.png,,,sdedit,",
        name="deep/jobs.csv")
    told = {"query": "apples", "option": ["steps=3"], "seed": 5}
    jobs = read_table(Path(path), told, Path("out"))
    assert [(j.line, j.image, j.asked.query, j.asked.reference, j.asked.seed, str(j.out)) for j in jobs] == [
        (2, "deep/pictures/p0.png", "apples", "", 5, "out/p0-edit.png"),
        (3, "deep/pictures/p1.png", "grün, red", "a bowl", 3, "deep/named.webp"),
        (5, "deep/pictures/p1.png", "figs", "", 5, "deep/2.png"),
        (6, "deep/pictures/p2.png", "apples", "", 5, "deep/3.png")]
    assert [job.asked.options for job in jobs] == [{"steps": 3}, {"steps": 2}, {"steps": 3}, {"steps": 3}]
    assert (jobs[2].mask, jobs[2].mask_grow, jobs[2].composite) == ("deep/white.png", 1, True)
    assert [job.asked.method.name for job in jobs] == ["diffedit"] * 3 + ["sdedit"]

    typed = ("--query", "apples", "--seed", "5", "-o", "steps=3", "--out", "out", "--model", "random")
    done = command("edit", "--jobs", path, *typed)
    assert (done.code, done.err, loads) == (0, "", ["random"])
    assert os.listdir("out") == ["p0-edit.png"] and {"named.webp", "2.png", "3.png"} <= set(os.listdir("deep"))
    edit = dm.diffedit(network, Image.open("deep/pictures/p0.png"), "apples", seed=5, steps=3)
    assert np.array_equal(np.asarray(Image.open("out/p0-edit.png")), np.asarray(edit.image))
    assert command("edit", "--jobs", path, *typed).out.startswith("0 edited, 4 done before")


def test_masks_of_their_own_in_one_batch(command, network):
    left = Image.new("L", (2, 1))
    left.putpixel((0, 0), 255)
    left.save("left.png")
    left.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save("right.png")
    path = table("image,mask", "p0.png,left.png", "p1.png,right.png")
    assert command("edit", "--jobs", path, *WORDS, "--composite").code == 0
    for i, mask in enumerate(["left.png", "right.png"]):
        before, after = Image.open(f"p{i}.png"), np.asarray(Image.open(f"edits/p{i}-edit.png"))
        mask = at_size(Image.open(mask), before.size)
        alone = np.array(dm.diffedit(network, before, "a basket of pears", steps=3, mask=mask).image)
        kept = np.asarray(mask) == 0
        alone[kept] = np.asarray(before)[kept]
        assert np.array_equal(after[kept], alone[kept]) and np.abs(after.astype(int) - alone).max() <= 1


def test_a_table_with_like(command):
    assert command("edit", "p0.png", *WORDS, "--seed", "9", "--out", "first.png").code == 0
    path = table("image,seed", "p0.png,", "p1.png,4")
    assert command("edit", "--jobs", path, "--like", "first.png").code == 0
    assert Path("edits/p0-edit.png").read_bytes() == Path("first.png").read_bytes() or \
        settings("edits/p0-edit.png") == settings("first.png")
    assert settings("edits/p1-edit.png")["seed"] == 4 and settings("edits/p1-edit.png")["steps"] == 3


TABLE = [       # what is wrong with the whole
    (["image,query"], "jobs.csv has no line below its header: there is nothing to do"),
    ([""], "'jobs.csv' is empty: give a list of edits"),
    (["query", "pears"], "'jobs.csv', line 1 lacks image; it has 'query'"),
    (["image,query,query", "p0.png,a,b"], "'jobs.csv', line 1 has 'query' twice: leave one out"),
    (["image,colour", "p0.png,a"],
     "jobs.csv has a column 'colour'; known are image, out, method, query, reference, seed, size, preset, mask, "
     "mask_grow, mask_feather, composite, crop and the options that `info` lists, with commas between them"),
    (["image,query", 'p0.png,"a"b'], "'jobs.csv', line 2 is not CSV (',' expected after '\"'): mend its quotes "),
    (["image,query", "p0.png,a,b"], "'jobs.csv', line 2 has 3 cells, and the header 2: mend its commas, and quote "),
]
LINE_2 = [      # ... and with a line
    (["image,query", ",b"], "there is no image"),
    (["image,mask", "p0.png,no.png"], "'no.png' can't be opened (No such file or directory): check the path"),
    (["image", "http://example.org/a.png"], "'http://example.org/a.png' is a web address: download it first (curl -O "),
    (["image,composite", "p0.png,yes"], "composite must be true or false, not 'yes'"),
    (["image,crop", 'p0.png,"1,2"'], "--crop must be LEFT,TOP,WIDTH,HEIGHT in pixels, or mask, not '1,2'"),
    (["image,rare", "p0.png,x"], "diffedit has no option 'rare'; it has "),
    (["image,method", "p0.png,prompt-to-prompt"], "prompt_to_prompt needs a reference: a caption of the input picture"),
    (["image,out", "p0.png,no/a.png"], "there is no folder 'no': make it first"),
    (["image,seed", "p0.png,x", "p1.png,y", "p9.png,1"],
     "seed must be a whole number, not 'x' (2 more lines are wrong)"),
]
FAULTS = [
    *TABLE,
    *((lines, f"jobs.csv, line 2: {message}") for lines, message in LINE_2),
    (["image,out", "p0.png,a.png", "p1.png,a.png"],
     "the results of line 2 and line 3 would both be 'a.png': rename one, or give each an `out` in a table, --jobs"),
    (["image,out", "p0.png,p1.png", "p1.png,"],
     "the result of line 2 would replace 'p1.png', which line 3 reads: give another --out"),
]


@pytest.mark.parametrize(("lines", "message"), FAULTS, ids=[message[:60] for _, message in FAULTS])
def test_every_fault_of_a_table_is_found_before_any_work(command, loads, lines, message):
    path = table(*lines)
    before = sorted(os.listdir())
    done = command("edit", "--jobs", path, "--query", "pears", "--model", "random")
    assert (done.code, done.out, loads) == (1, "", []) and sorted(os.listdir()) == before
    assert done.err.startswith(f"error: {message}") and done.err.count("\n") == 1


@pytest.mark.parametrize(("arguments", "message"), [
    (("--jobs", "none.csv"), "'none.csv' can't be read (No such file or directory): give the path of a file that can"),
    (("--jobs", "p0.png"), "'p0.png', line 1 is not UTF-8: save the file in that encoding"),
    (("p0.png", "--jobs", "jobs.csv"), "--jobs 'jobs.csv' names its pictures itself: leave out 'p0.png'"),
    (("p0.png", "deep/p0.png"), "the results of 'p0.png' and 'deep/p0.png' would both be 'edits/p0-edit.png': rename "
                                "one, or give each an `out` in a table, --jobs"),
    *((("p0.png", "p1.png", "--out", name), f"--out '{name}' is one file, but several are to be written: give a folder")
      for name in ("x.png", "p2.png")),
    (("p0.png", "p0-edit.png", "--out", "."), "the result of 'p0.png' would replace 'p0-edit.png', which 'p0-edit.png' "
                                              "reads: give another --out"),
    (("p0.png", "deep"), "'deep' is a folder: give the path of one picture in it"),
    (("p0.png", "p1.png", "--method", "unitune", "-o", "save=x.safetensors"),
     "a tuning belongs to one picture, but 2 are given: leave out save and tuned"),
])
def test_refused_before_any_work(command, loads, arguments, message):
    os.mkdir("deep")
    for name in ("deep/p0.png", "p0-edit.png"):
        Image.new("RGB", (9, 9)).save(name)
    before = sorted(os.listdir())
    done = command("edit", *arguments, "--query", "pears")
    assert (done.code, done.err, done.out, loads) == (1, f"error: {message}\n", "", [])
    assert sorted(os.listdir()) == before


def test_a_folder_that_cannot_be_made(command):
    Path("file").write_text("x")
    done = command("edit", "p0.png", "p1.png", *WORDS, "--out", "file/folder")
    assert (done.code, done.err) == (
        1, "error: the folder 'file/folder' can't be made (Not a directory): choose another\n")


def test_methods_of_different_embedded_models(command, loads):
    path = table("image,method", "p0.png,diffedit", "p1.png,instruct-pix2pix")
    done = command("edit", "--jobs", path, "--query", "q")
    assert done.err == "error: diffedit and instruct-pix2pix have no embedded model in common: give a table for each\n"
    assert loads == []
