"""Run: python -m pytest tests/test_cli.py

The command, in this process with the tiny random model; exit codes in true processes too.
"""

import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image

import diffedit_min as dm
from diffedit_min import loading
from diffedit_min.bench.measures import against_truth, cell_mask
from diffedit_min.core.coding import RatioOptions
from diffedit_min.pictures import picture, picture_files
from diffedit_min.studio import cli, console, info
from diffedit_min.studio.command_help import GROUPS
from diffedit_min.tiny import scenes

RANDOM = ("--model", "random", "-o", "steps=4", "-o", "mask_samples=2")
EDIT = ("edit", "a.png", "--query", "a basket of pears", *RANDOM)
P2P = ("edit", "--method", "prompt-to-prompt", "--query", "a basket of pears", "--reference", "a bowl of pears",
       "--model", "random", "-o", "steps=4")
UNWANTED_LOAD = "AssertionError: loaded"


@pytest.fixture
def run(call_command, tmp_path):
    """The command, in a folder with a picture of odd sides, a text that claims to be one, and an empty folder.

    run("edit", ...) -> code, out, err, and the names of the files that are new.
    """
    scenes.sample(scenes.TEST[1]).render(45).crop((0, 0, 45, 37)).save("a.png")
    Path("text.png").write_text("no picture")
    Path("folder").mkdir()

    def call(*arguments):
        before = set(tmp_path.rglob("*"))
        done = call_command(*arguments)
        done.new = {path.name for path in set(tmp_path.rglob("*")) - before}
        return done

    return call


def pixels(path):
    return np.asarray(Image.open(path))


def fail_to_load(*_, **__):
    raise AssertionError("loaded")


def number_after(words, text):
    return float(text.split(words)[1].split()[0])


# ---- edit


def test_edit_writes_the_result_and_says_what_it_cost(run):
    done = run(*EDIT)
    assert (done.code, done.err, done.new) == (0, "", {"a-edit.png"})
    first, second, third = done.out.splitlines()
    assert first == "wrote a-edit.png"
    assert second.startswith("13 rows through the U-Net in ")       # 2*2 + 3 + 2*3
    assert " s, float32 on cpu; the mask covers " in second
    assert 0 < number_after("the mask covers ", done.out.replace("%", "")) <= 100
    assert third.startswith("edited at 40 × 32 px: the picture was shrunk")
    assert pixels("a-edit.png").shape == (37, 45, 3)


def test_methods_are_named_with_dashes_or_underscores_and_without_a_mask_none_is_spoken_of(run):
    for name in ("encode-decode", "encode_decode"):
        done = run("edit", "a.png", "--query", "pears", "--model", "random", "-o", "steps=4", "--method", name,
                   "--out", "x.jpg")
        assert done.code == 0 and done.out.startswith("wrote x.jpg\n9 rows") and "mask" not in done.out


def test_prompt_to_prompt_makes_both_pictures_from_a_seed(run):
    done = run(*P2P, "-o", "reweight=pears:2,basket:-0.5", "--source-out", "source.png", "--seed", "3")
    assert (done.code, done.err, done.new) == (0, "", {"generated-edit.png", "source.png"})
    assert "16 rows through the U-Net in" in done.out and "wrote generated-edit.png and source.png" in done.out
    settings = json.loads(Image.open("generated-edit.png").text["diffedit"])
    assert settings["reweight"] == {"pears": 2.0, "basket": -0.5} and settings["seed"] == 3
    edit = dm.prompt_to_prompt(dm.load("random"), None, "a basket of pears", "a bowl of pears", seed=3, steps=4,
                               reweight={"pears": 2, "basket": -0.5})
    assert np.array_equal(pixels("generated-edit.png"), np.asarray(edit.image))
    assert np.array_equal(pixels("source.png"), np.asarray(edit.source))


def test_rows_that_go_back_are_counted_apart(run):
    done = run("edit", "a.png", "--method", "null-text", *P2P[3:], "-o", "iterations=2", "-o", "stop_at=0")
    assert "rows through the U-Net and 8 back in" in done.out


def test_a_file_that_the_method_writes_is_named_too(run):
    done = run("edit", "a.png", "--query", "pears", "--model", "random", "--method", "unitune", "-o", "tuning_steps=1",
               "-o", "steps=2", "-o", "save=tuned.safetensors")
    assert done.out.startswith("wrote a-edit.png and tuned.safetensors\n") and "tuned.safetensors" in done.new


def test_each_method_has_an_embedded_model(run, monkeypatch):
    loaded = []
    monkeypatch.setattr(loading, "load", lambda name, **_: loaded.append(name) or fail_to_load())
    for method in ("sdedit", "instruct-pix2pix"):
        run("edit", "a.png", "--query", "q", "--method", method)
    assert loaded == ["tiny", "tiny-instruct"]


def test_an_option_with_a_dash_and_a_bool(run):
    @dataclasses.dataclass(frozen=True)
    class Flags(RatioOptions):
        sharp_edges: bool = False

    method = dm.Method("a_method", dm.sdedit.run, Flags)
    assert method.parsed(["sharp-edges=True"]) == {"sharp_edges": True}
    with pytest.raises(ValueError, match="^sharp_edges must be true or false, not 'yes'$"):
        method.parsed(["sharp_edges=yes"])


# ---- mask, invert, info, demo


def test_mask_writes_mask_and_map_and_the_mask_can_be_given_back(run):
    done = run("mask", *EDIT[1:], "-o", "encoding_ratio=1")     # which has no effect
    assert (done.code, done.err, done.new) == (0, "", {"a-mask.png", "a-map.png"})
    assert done.out.startswith("wrote a-mask.png and a-map.png\n4 rows")
    mask = pixels("a-mask.png")
    assert mask.shape == (37, 45) and set(np.unique(mask)) == {0, 255}
    assert pixels("a-map.png").shape == (37, 45, 3) and len(np.unique(pixels("a-map.png"))) > 10

    run(*EDIT, "--out", "found.png")
    run(*EDIT, "--mask", "a-mask.png", "--out", "given.png")
    assert np.array_equal(pixels("found.png"), pixels("given.png"))


def test_invert_measures_the_way_there_and_back(run):
    done = run("invert", "a.png", "--model", "random", "-o", "steps=4", "-o", "encoding_ratio=1")
    assert (done.code, done.err, done.new) == (0, "", {"a-inverted.png"})
    image, model = picture_files.open_picture("a.png"), dm.load("random")
    edit = dm.invert(model, image, steps=4, encoding_ratio=1.0)
    vae = picture.unfit(model.decode(model.encode(picture.fit(image, 8, 1024)[0])), edit.frame)
    error = (edit.decoded[0].latent - edit.encoded[0].latent).norm() / edit.encoded[0].latent.norm()
    assert done.out.splitlines()[1].startswith("8 rows through the U-Net in ")
    assert number_after("reconstruction against the input:", done.out) == round(picture.psnr(edit.image, image), 2)
    assert number_after("the VAE alone against the input:", done.out) == round(picture.psnr(vae, image), 2)
    assert number_after("relative latent error:", done.out) == pytest.approx(error.item(), rel=1e-2)
    assert np.array_equal(pixels("a-inverted.png"), np.asarray(edit.image))


def test_info_for_machines(run, folder):
    done = run("info", str(folder), "--json")
    assert (done.code, done.err) == (0, "") and json.loads(done.out) == info.describe(str(folder))
    assert run("info", "random", "--json", "--prediction-type", "epsilon").code == 0


def test_demo_on_the_random_model(run, monkeypatch):
    model = dm.load("random", device="cpu")
    monkeypatch.setattr(loading, "load", lambda *_, **__: model)
    done = run("demo", "-o", "steps=5", "-o", "mask_samples=2", "--seed", "3", "--change", "surface=marble")
    assert (done.code, done.err, done.new) == (0, "", {"demo.png"})
    scene = scenes.sample(scenes.TEST[3])
    lines = done.out.splitlines()
    assert [line.split(maxsplit=1) for line in lines[:2]] == [
        ["input", scene.caption], ["query", scene.replace(surface="marble").caption]]
    assert any(line.startswith("outside the true region ") for line in lines)
    assert "16 through the U-Net: mask 4, encode 4, decode 8" in done.out and lines[-1] == "wrote demo.png"
    settings = json.loads(Image.open("demo.png").text["diffedit"])
    assert settings["seed"] == 3 and settings["reference"] == scene.caption
    done = run("demo", "-o", "steps=5", "-o", "mask_samples=1", "--query", "pears")
    assert done.out.splitlines()[1].split() == ["query", "pears"]


def test_figures_of_a_perfect_and_of_a_useless_edit():
    scene, answer = scenes.demo_scenes(0, None)
    image, truth = scene.render(32), answer.render(32)
    edit = dm.diffedit(dm.load("random", device="cpu"), image, "a", "b", steps=2, mask_samples=1, encoding_ratio=0.0)
    region = scenes.changed(image, truth)
    cells = torch.from_numpy(cell_mask(region, edit.factor))

    def figures(**changes):
        return {name: value for name, value, _ in against_truth(dataclasses.replace(edit, **changes), truth)}

    perfect = figures(image=truth, mask=cells)
    assert list(perfect) == ["mask", "outside the true region", "true answer"]
    assert perfect["mask"] == "1.00" and perfect["true answer"] == "inf dB"
    assert float(perfect["outside the true region"].split()[0]) > 20
    useless = figures(image=image, mask=~cells)
    assert useless["mask"] == "0.00" and useless["outside the true region"] == "inf dB"
    assert useless["true answer"] == f"{picture.psnr(image, truth):.1f} dB"
    assert list(figures(mask=None)) == ["outside the true region", "true answer"]


def test_an_edit_that_finds_nothing_says_why_and_the_way_out(run):
    high = run(*EDIT, "-o", "mask_threshold=1").out.splitlines()[-1]
    assert high.startswith("nothing to change was found: the map of differences reaches ")
    assert "which is not above mask_threshold 1; try a lower one, for example -o mask_threshold=0." in high
    assert high.endswith(" (the input picture came back)")
    lower = high.partition("example ")[2].split()[1]
    assert "nothing" not in run(*EDIT, "-o", lower).out
    same = run("mask", *EDIT[1:], "--reference", EDIT[3]).out.splitlines()[-1]
    assert same == ("nothing to change was found: the model sees no difference between query and reference, so say it "
                    "in other words")
    shrunk = run(*EDIT, "--mask-grow", "-99").out
    assert "nothing to change was found: nothing is left of the mask; shrink it less" in shrunk


# ---- errors: code 1, one line, nothing written

EARLY = [
    (("edit", "no.png", "--query", "q"), "'no.png' can't be opened (No such file or directory): check the path"),
    (("mask", "folder", "--query", "q"), "'folder' is a folder: give the path of one picture in it"),
    (("invert", "text.png"), "'text.png' is not a picture that can be read here (PNG, JPEG, BMP, GIF, PPM, "
                                "WEBP, TIFF, AVIF, HEIF): save it as PNG or JPEG"),
    ((*EDIT, "-o", "encoding_ratio=nan"), "encoding_ratio must be from 0 to 1, not nan"),
    ((*EDIT, "-o", "steps=2.5"), "steps must be a whole number, not '2.5'"),
    (("edit", "a.png", "--query", "caf\udce9"), "the query 'caf\\udce9' has a stray byte, which is no text in UTF-8: "
                                                "write it anew"),
    ((*EDIT, "--reference", 10_001 * "a"), "the reference has 10,001 characters: give at most 10,000"),
    ((*EDIT, "-o", "negative_prompt=\udcff"), "negative_prompt '\\udcff' has a stray byte, which is no text in UTF-8: "
                                              "write it anew"),
    ((*EDIT, "-o", "steps"), "-o 'steps' has no value: write it as name=value, for example steps=25"),
    ((*EDIT, "--method", "sdedit"), "sdedit has no option 'mask_samples'; it has encoding_ratio, guidance_scale, "
                                    "negative_prompt, steps"),
    ((*EDIT, "--method", "magic"), "--method 'magic' is not known (one of your own needs --plugin FILE); known are "
                                   + ", ".join(method.dashed for method in dm.METHODS.values())),
    ((*EDIT[:4], "--preset", "fast", "--method", "sdedit"), "sdedit has no preset 'fast'; it has recommended, paper"),
    (("mask", "a.png", "--query", "q", "--preset", "slow"),
     "diffedit has no preset 'slow'; it has recommended, paper, fast"),
    (("demo", "--preset", "slow"), "diffedit has no preset 'slow'; it has recommended, paper, fast"),
    (("mask", "a.png", "--query", ""), "the query is empty: say what the edited picture should show"),
    (("demo", "--query", " "), "the query is empty: say what the edited picture should show"),
    ((*EDIT, "--size", "0"), "size is 0: give the side in pixels, from 1 to 8192"),
    ((*EDIT, "--size", "2147483648"), "size is 2147483648: give the side in pixels, from 1 to 8192"),
    ((*EDIT, "--source-out", "s.png"), "diffedit has no source branch: leave out --source-out 's.png'"),
    (("edit", "--query", "a bowl"), "diffedit needs a picture to edit: give its file, IMAGE"),
    ((*P2P, "-o", "word_windows=pears:1.5"), "word_windows of 'pears' must be from 0 to 1, not 1.5"),
    ((*P2P, "--source-out", "missing/b.png"), "there is no folder 'missing': make it first"),
    ((*EDIT, "--out", "b.gif"), "'b.gif' has the suffix '.gif': use one of .png, .jpg, .jpeg, .webp"),
    ((*EDIT, "--report", "b.png"), "'b.png' has the suffix '.png': use one of .html, .htm"),
    (("demo", "--strip", "missing/b.png"), "there is no folder 'missing': make it first"),
    (("invert", "a.png", "--out", "folder/../missing/b.png"), "there is no folder 'folder/../missing': make it first"),
    (("mask", *EDIT[1:], "--out", "b.png", "--map", "folder/../b.png"),
     "'b.png' can't hold two results: give each a file of its own"),
    (("demo", "--change", "pears"), "--change 'pears' has no value: write it as what=value, for example fruit=plums"),
    (("demo", "--seed", "-1"), "--seed must be from 0 to 999999999, not -1"),
]


@pytest.mark.parametrize(("arguments", "message"), EARLY, ids=[message for _, message in EARLY])
def test_refused_before_a_model_is_loaded(run, monkeypatch, arguments, message):
    monkeypatch.setattr(loading, "load", fail_to_load)
    done = run(*arguments)
    assert (done.code, done.err, done.out, done.new) == (1, f"error: {message}\n", "", set())


@pytest.mark.parametrize(("option", "value"), [("--model", "nowhere"), ("--device", "banana"), ("--dtype", "int8"),
                                               ("-o", "mask_norm=l3"), ("-o", "steps=1000")])
def test_refused_later_in_one_line_that_names_the_value(run, option, value):
    done = run(*EDIT, option, value)
    assert (done.code, done.out, done.new, done.err.count("\n")) == (1, "", set(), 1)
    assert done.err.startswith("error: ") and value.rpartition("=")[2] in done.err and "--debug" not in done.err


def test_a_folder_that_cannot_be_written_to(run, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, how: False)
    done = run(*EDIT, "--out", "folder/b.png")
    assert (done.code, done.err) == (1, "error: the folder 'folder' can't be written to: choose another\n")


@pytest.mark.parametrize(("error", "line"), [
    (RuntimeError("boom\nand more"), "RuntimeError: boom (--debug shows where)"),
    (MemoryError(), "MemoryError (--debug shows where)"),
    (ValueError(), "ValueError (--debug shows where)"),
    (ValueError("one\ntwo"), "one"),
])
def test_what_was_not_foreseen_is_one_line_too(run, monkeypatch, error, line):
    def load(*_, **__):
        raise error

    monkeypatch.setattr(loading, "load", load)
    done = run(*EDIT)
    assert (done.code, done.err, done.new) == (1, f"error: {line}\n", set())


@pytest.mark.parametrize("arguments", [("--debug", *EDIT), (*EDIT, "--debug")])
def test_debug_shows_the_traceback(run, monkeypatch, arguments):
    monkeypatch.setattr(loading, "load", fail_to_load)
    done = run(*arguments)
    assert done.code == 1 and "Traceback" in done.err and "in fail_to_load" in done.err
    assert done.err.endswith(f"\nerror: {UNWANTED_LOAD} (--debug shows where)\n")


def test_ctrl_c_leaves_the_old_result_and_nothing_else(run, monkeypatch):
    @contextmanager
    def interrupted(quiet, cost):
        def on_step(step):
            if (step.stage, step.index) == ("decode", 2):
                raise KeyboardInterrupt
        yield on_step

    monkeypatch.setattr(console, "progress", interrupted)
    Path("old.png").write_bytes(b"old")
    done = run(*EDIT, "--out", "old.png")
    assert (done.code, done.err, done.out, done.new) == (130, "interrupted\n", "", set())
    assert Path("old.png").read_bytes() == b"old"


def test_warnings_are_one_line(capsys):
    with console.one_line_errors(False):
        warnings.warn("cut off after 30 tokens", stacklevel=1)
    assert capsys.readouterr().err == "warning: cut off after 30 tokens\n"


# ---- progress


@pytest.fixture
def terminal(run, monkeypatch):
    """The command with a terminal as its stderr: what the bars on it said, each once."""

    def call(*arguments):
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        done = run(*arguments)
        assert done.code == 0, done.err
        return done, [line.strip() for line in done.err.replace("\n", "\r").split("\r") if line.strip()]

    return call


def test_one_bar_for_an_edit_counts_its_rows_and_ends_with_it(terminal):
    done, shown = terminal(*EDIT)
    assert done.err.count("\n") == 1                           # one bar
    doing = list(dict.fromkeys(line.split(":")[0] for line in shown))
    assert doing == ["mask", "encoding", "decoding", "picture", "done"]
    assert all("/13 rows [" in line and " left]" in line for line in shown)         # 2*2 + 3 + 2*3
    assert shown[0].startswith("mask:   0%") and shown[-1].startswith("done: 100%") and "| 13/13 " in shown[-1]
    assert any(line.startswith("decoding:") and "| 9/13 " in line for line in shown)


@pytest.mark.parametrize(("arguments", "rows"), [
    (("mask", *EDIT[1:]), 4), (("invert", "a.png", "--model", "random", "-o", "steps=4"), 6), (P2P, 16),
    ((*EDIT, "--mask-grow", "2"), 13), ((*EDIT, "-o", "mask_threshold=1"), 4), ((*EDIT, "--mask-grow", "-99"), 4),
    (("edit", "a.png", "--method", "null-text", *P2P[3:], "-o", "iterations=1", "-o", "stop_at=0"), 32)])
def test_each_commands_bar_is_full_at_its_end(terminal, arguments, rows):
    done, shown = terminal(*arguments)
    assert done.err.count("\n") == 1 and shown[-1].startswith("done: 100%") and f"| {rows}/{rows} rows" in shown[-1]


def test_a_report_has_a_bar_of_its_own_and_quiet_none(terminal, run):
    done, shown = terminal(*EDIT, "--report", "a.html")
    assert done.err.count("\n") == 2 and any(line.startswith("report: 100%") and " steps [" in line for line in shown)
    assert run(*EDIT, "--quiet").err == ""


# ---- true processes


def process(*arguments, **options):
    environment = os.environ | {"PYTHONPATH": str(loading.TINY.parents[2])}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, **options)


def test_version_and_help_in_a_process_do_not_import_torch():
    done = process("-m", "diffedit_min", "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"diffedit_min {dm.__version__}\n", "")
    code = "import sys, atexit; from diffedit_min.studio.cli import main; sys.argv = ['x', '--help']\n" \
           "atexit.register(lambda: print('torch' in sys.modules)); main()"
    done = process("-c", code)
    assert done.returncode == 0 and done.stdout.endswith("False\n")
    assert all(f"  {name} " in done.stdout for name in ("demo", "edit", "mask", "invert", "info"))


@pytest.mark.parametrize("arguments", [("edit", "a.png"), ("invert", "a.png", "--size", "x"), ("paint",), ()])
def test_a_command_line_that_cannot_be_parsed_is_code_2(run, arguments):
    done = run(*arguments)
    assert (done.code, done.new) == (2, set()) and "Traceback" not in done.err


def test_a_reader_that_leaves_is_no_error():
    code = ("from diffedit_min.studio.streams import prepare_streams\n"
            "prepare_streams()\nprint('x' * 10**6)\nprint('y', flush=True)")
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as stdout:
        environment = os.environ | {"PYTHONPATH": str(loading.TINY.parents[2])}
        done = subprocess.run([sys.executable, "-c", code], stdout=stdout, stderr=subprocess.PIPE, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")


# ---- help


COMMANDS = typer.main.get_command(cli.app).commands


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_has_groups_whole_sentences_and_examples_that_can_be_typed(run, name, monkeypatch):
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    shown = run(name, "--help").out
    titles = [line[:-1] for line in shown.splitlines() if line.endswith(":") and line[0] != " "]
    assert not re.search(r"[a-z]\.\.\.", shown)        # as click cuts a sentence off
    assert titles[-2:] == ["Other options", "Examples"] and max(map(len, shown.splitlines())) <= 80
    assert titles == [title for title in ("Arguments", *GROUPS, *titles[-2:]) if title in titles]
    others = shown.partition("Other options:")[2].partition("Examples:")[0]
    assert set(re.findall(r"^  (--\S+)", others, re.M)) <= {"--quiet", "--plugin", "--debug", "--help"}
    examples = [shlex.split(line) for line in shown.splitlines() if line.startswith("    diffedit-min ")]
    assert len(examples) == 2 and all(words[:2] == ["diffedit-min", name] for words in examples)
    for words in examples:      # parsed, not run
        COMMANDS[name].make_context(name, words[2:])


def test_the_list_of_commands_cuts_no_sentence_off(run):
    shown = " ".join(run("--help").out.split())
    for name, command in COMMANDS.items():
        first = command.get_short_help_str()
        assert f"{name} {first}" in shown and first[-1] in ".?" and not first.endswith("...")


def test_a_reference_promises_no_mask_where_there_is_none(run):
    assert "mask" not in run("invert", "--help").out
