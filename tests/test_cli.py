"""Run: python -m pytest tests/test_cli.py

The command, in this process with the tiny random model; exit codes in true processes too.
"""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import diffedit_min as dm
from diffedit_min import loading
from diffedit_min.bench.known.measures import cell_mask
from diffedit_min.core.coding import RatioOptions
from diffedit_min.pictures import picture, picture_files
from diffedit_min.studio import cli, console, demo, info
from diffedit_min.tiny import scenes

RANDOM = ("--model", "random", "-o", "steps=4", "-o", "mask_samples=2")
EDIT = ("edit", "a.png", "--query", "a basket of pears", *RANDOM)
P2P = ("edit", "--method", "prompt-to-prompt", "--query", "a basket of pears", "--reference", "a bowl of pears",
       "--model", "random", "-o", "steps=4")
UNWANTED_LOAD = "AssertionError: loaded"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of its own with a picture of odd sides, a text that claims to be one, and an empty folder."""
    monkeypatch.chdir(tmp_path)
    scenes.sample(scenes.TEST[1]).render(45).crop((0, 0, 45, 37)).save("a.png")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "folder").mkdir()
    return tmp_path


@pytest.fixture
def run(here, monkeypatch, capsys):
    """The command in this process: run("edit", ...) -> code, out, err, and the names of the files that are new."""

    def call(*arguments):
        before = set(here.rglob("*"))
        monkeypatch.setattr(sys, "argv", ["diffedit-min", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed = capsys.readouterr()
        new = {path.name for path in set(here.rglob("*")) - before}
        return SimpleNamespace(code=end.value.code or 0, out=printed.out, err=printed.err, new=new)

    return call


def pixels(path):
    return np.asarray(Image.open(path))


def fail_to_load(*_, **__):
    raise AssertionError("loaded")


def number_after(words, text):
    return float(text.split(words)[1].split()[0])


# ---- edit


def test_edit_with_a_preset(run):
    done = run("edit", "a.png", "--query", "a bowl of pears", "--reference", "a bowl of apples", "--model", "random",
               "--preset", "fast", "-o", "mask_samples=1")
    settings = json.loads(Image.open("a-edit.png").text["diffedit"])
    preset = dm.METHODS["diffedit"].presets["fast"]
    assert done.code == 0 and {name: settings[name] for name in preset} == {**preset, "mask_samples": 1}


def test_edit_writes_the_result_and_says_what_it_cost(run):
    done = run(*EDIT)
    assert (done.code, done.err, done.new) == (0, "", {"a-edit.png"})
    first, second = done.out.splitlines()
    assert first == "wrote a-edit.png"
    assert second.startswith("13 rows through the U-Net in ")       # 2*2 + 3 + 2*3
    assert " s, float32 on cpu; the mask covers " in second
    assert 0 < number_after("the mask covers ", done.out.replace("%", "")) <= 100
    assert pixels("a-edit.png").shape == (37, 45, 3)


def test_the_settings_in_the_png_make_the_same_picture_again(run):
    run(*EDIT, "--reference", "a bowl", "--seed", "7", "--size", "40", "-o", "negative_prompt=grün", "--out", "b.png")
    image = Image.open("b.png")
    settings = json.loads(image.text["diffedit"])
    assert settings["method"] == "diffedit" and settings["negative_prompt"] == "grün" and settings["seed"] == 7
    method = dm.METHODS[settings["method"]]
    options = {f.name: settings[f.name] for f in dataclasses.fields(method.options)}
    words = {name: settings[name] for name in ("query", "reference", "seed", "size")}
    assert settings["given"] == []
    again = method(dm.load(settings["model"]), picture_files.open_picture("a.png"), **words, **options)
    assert again.image.tobytes() == image.tobytes()


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(run):
    for name, seed in (("1.png", "3"), ("2.png", "3"), ("3.png", "4")):
        assert run("edit", "a.png", "--query", "pears", "--model", "random", "--method", "sdedit", "-o", "steps=4",
                   "--out", name, "--seed", seed).code == 0
    one, two, three = (Path(name).read_bytes() for name in ("1.png", "2.png", "3.png"))
    assert one == two != three


def test_a_white_mask_is_encode_decode_and_a_black_or_transparent_one_the_vae(run):
    Image.open("a.png").crop((0, 0, 24, 32)).save("b.png")      # no padding, which even a white mask leaves out
    plain = ("edit", "b.png", "--query", "pears", "--model", "random", "-o", "steps=4")
    Image.new("L", (9, 9), 255).save("white.png")
    Image.new("L", (9, 9), 0).save("black.png")
    Image.new("RGBA", (9, 9), (255, 255, 255, 0)).save("clear.png")
    for name in ("white", "black", "clear"):
        done = run(*plain, "--mask", f"{name}.png", "--out", f"by-{name}.png")
        assert done.code == 0 and f"covers {'100.0%' if name == 'white' else '0.0%'}" in done.out
        assert "nothing to change" not in done.out
    assert run(*plain, "--method", "encode_decode", "--out", "encode-decode.png").code == 0
    assert run("invert", "b.png", "--model", "random", "-o", "encoding_ratio=0", "--out", "vae.png").code == 0
    assert np.array_equal(pixels("by-white.png"), pixels("encode-decode.png"))
    assert np.array_equal(pixels("by-black.png"), pixels("vae.png"))
    assert np.array_equal(pixels("by-clear.png"), pixels("vae.png"))


def test_methods_are_named_with_dashes_or_underscores_and_without_a_mask_none_is_spoken_of(run):
    for name in ("encode-decode", "encode_decode"):
        done = run("edit", "a.png", "--query", "pears", "--model", "random", "-o", "steps=4", "--method", name,
                   "--out", "x.jpg")
        assert done.code == 0 and done.out.startswith("wrote x.jpg\n9 rows") and "mask" not in done.out


def test_an_empty_mask_gives_the_input_back_and_says_so(run):
    done = run(*EDIT, "--reference", "a basket of pears")
    assert done.code == 0
    assert done.out.endswith("the mask covers 0.0%\nnothing to change was found: the mask is empty, and the input "
                             "picture came back\n")
    assert np.array_equal(pixels("a-edit.png"), pixels("a.png"))


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


def test_mask_that_is_empty(run):
    done = run("mask", *EDIT[1:], "--reference", "a basket of pears", "--out", "m.png", "--map", "n.webp")
    assert done.code == 0 and done.out.endswith("nothing to change was found: the mask is empty\n")
    assert done.new == {"m.png", "n.webp"} and not pixels("m.png").any()


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


def test_info_shows_which_defaults_are_the_cards(run, folder, tmp_path_factory):
    model = Path(shutil.copytree(folder, tmp_path_factory.mktemp("card") / "model"))
    (model / "diffedit.json").write_text('{"defaults": {"diffedit": {"steps": 25}, "sdedit": {"guidance_scale": 1.0}}}')
    done = run("info", str(model), "--verify")
    assert (done.code, done.err, done.new) == (0, "", set())
    lines = [line.strip() for line in done.out.splitlines()]
    spaced = [line.split() for line in lines]
    assert lines[0] == f"diffedit_min {dm.__version__}, torch {torch.__version__}"
    assert lines[1] == f"model        {model}: Stable Diffusion's make, of its own size; predicts epsilon"
    assert f"U-Net {sum(p.numel() for p in dm.load(folder).unet.parameters()):,} (float32), VAE" in done.out
    assert "32 x 32 px" in done.out and "4 x 8 x 8; a cell is 4 px" in done.out
    assert ["steps", "25", "*"] in spaced and ["encoding_ratio", "0.8"] in spaced
    assert "verified     every number is finite" in lines
    assert any(line.startswith("encode-decode: steps=50, guidance_scale=7.5, ") for line in lines)


def test_info_for_machines(run, folder):
    done = run("info", str(folder), "--json")
    assert (done.code, done.err) == (0, "") and json.loads(done.out) == info.describe(str(folder))
    assert run("info", "random", "--json", "--prediction-type", "epsilon").code == 0


def test_info_of_what_is_no_model(run):
    done = run("info", "a.png")
    assert (done.code, done.new) == (1, set())
    assert done.err == "error: a.png looks like a picture; expected weights, as .safetensors, .bin or .ckpt\n"


def test_demo_on_the_random_model(run, monkeypatch):
    model = dm.load("random", device="cpu")
    monkeypatch.setattr(loading, "load", lambda *_, **__: model)
    done = run("demo", "-o", "steps=5", "-o", "mask_samples=2", "--seed", "3", "--change", "surface=marble")
    assert (done.code, done.err, done.new) == (0, "", {"demo.png"})
    scene = scenes.sample(scenes.TEST[3])
    lines = done.out.splitlines()
    assert lines[:2] == [f"input      {scene.caption}", f"query      {scene.replace(surface='marble').caption}"]
    assert "rows       16 through the U-Net: mask 4, encode 4, decode 8" in lines and lines[-1] == "wrote demo.png"
    settings = json.loads(Image.open("demo.png").text["diffedit"])
    assert settings["seed"] == 3 and settings["reference"] == scene.caption
    done = run("demo", "-o", "steps=5", "-o", "mask_samples=1", "--query", "pears")
    assert done.out.splitlines()[1] == "query      pears"


def test_demo_scenes_are_of_the_test_split_and_change_the_fruit_by_default():
    scene, answer = scenes.demo_scenes(12, None)
    assert scene == scenes.sample(scenes.TEST.start + 12)
    assert answer == scene.replace(fruit=answer.fruit) != scene


def test_demo_measures_of_a_perfect_and_of_a_useless_edit():
    scene, answer = scenes.demo_scenes(0, None)
    image, truth = scene.render(32), answer.render(32)
    edit = dm.diffedit(dm.load("random", device="cpu"), image, "a", "b", steps=2, mask_samples=1, encoding_ratio=0.0)
    region = scenes.changed(image, truth)
    cells = torch.from_numpy(cell_mask(region, edit.factor))
    mask, outside, whole, rows = demo.demo_measures(dataclasses.replace(edit, image=truth, mask=cells), truth)
    assert "1.00" in mask and "inf" in whole and float(outside.split()[1]) > 20 and rows.split()[1] == "2"
    mask, outside, whole, _ = demo.demo_measures(dataclasses.replace(edit, image=image, mask=~cells), truth)
    assert "0.00" in mask and "inf" in outside
    assert float(whole.split()[1]) == pytest.approx(picture.psnr(image, truth), abs=0.05)


@pytest.mark.skipif(not (loading.TINY / "unet/diffusion_pytorch_model.safetensors").is_file(),
                    reason="the embedded model isn't there yet")
def test_demo(run):
    done = run("demo", "-o", "steps=10", "-o", "mask_samples=4")
    assert (done.code, done.err, done.new) == (0, "", {"demo.png"})
    assert number_after("\nmask ", done.out) > 0.2 and number_after("\noutside ", done.out) > 20


# ---- errors: code 1, one line, nothing written

EARLY = [
    (("edit", "no.png", "--query", "q"), "'no.png' can't be opened (No such file or directory): check the path"),
    (("edit", "text.png", "--query", "q"), "'text.png' is not a picture that Pillow can read: save it as PNG or JPEG"),
    (("mask", "folder", "--query", "q"), "'folder' is a folder: give the path of one picture in it"),
    (("invert", "no.png"), "'no.png' can't be opened (No such file or directory): check the path"),
    (("edit", "a.png", "--query", "q", "--mask", "text.png"),
     "'text.png' is not a picture that Pillow can read: save it as PNG or JPEG"),
    ((*EDIT, "-o", "encoding_ratio=1.5"), "encoding_ratio must be from 0 to 1, not 1.5"),
    ((*EDIT, "-o", "encoding_ratio=nan"), "encoding_ratio must be from 0 to 1, not nan"),
    ((*EDIT, "-o", "steps=0"), "steps must be at least 1, not 0"),
    ((*EDIT, "-o", "steps=2.5"), "steps must be a whole number, not '2.5'"),
    ((*EDIT, "-o", "guidance_scale="), "guidance_scale must be a number, not ''"),
    ((*EDIT, "-o", "steps"), "-o 'steps' has no value: write it as name=value, for example steps=25"),
    ((*EDIT, "--method", "sdedit"), "sdedit has no option 'mask_samples'; it has encoding_ratio, guidance_scale, "
                                    "negative_prompt, steps"),
    (("invert", "a.png", "-o", "ratio=1"), "invert has no option 'ratio'; it has encoding_ratio, grid, "
                                           "guidance_scale, negative_prompt, sampler, steps"),
    ((*EDIT, "--method", "magic"), "--method 'magic' is not known (one of your own needs --plugin FILE); known are "
                                   + ", ".join(method.dashed for method in dm.METHODS.values())),
    ((*EDIT, "--preset", "quick"), "diffedit has no preset 'quick'; it has paper, fast"),
    ((*EDIT[:4], "--preset", "fast", "--method", "sdedit"), "sdedit has no preset 'fast'; it has paper"),
    (("mask", "a.png", "--query", "q", "--preset", "slow"), "diffedit has no preset 'slow'; it has paper, fast"),
    (("demo", "--preset", "slow"), "diffedit has no preset 'slow'; it has paper, fast"),
    ((*EDIT, "--source-out", "s.png"), "diffedit has no source branch: leave out --source-out 's.png'"),
    (("edit", "--query", "a bowl"), "diffedit needs a picture to edit: give its file, IMAGE"),
    ((*P2P, "-o", "reweight=pears"), "reweight must be words with numbers, for example apples:2,red bowl:0.5, not "
                                     "'pears'"),
    ((*P2P, "-o", "word_windows=pears:1.5"), "word_windows of 'pears' must be from 0 to 1, not 1.5"),
    ((*P2P, "--source-out", "missing/b.png"), "there is no folder 'missing': make it first"),
    ((*EDIT[:4], "--method", "cycle-diffusion", "-o", "eta=0"),
     "eta must be above 0 and at most 1, not 0.0"),
    ((*EDIT, "--out", "missing/b.png"), "there is no folder 'missing': make it first"),
    ((*EDIT, "--out", "b.gif"), "'b.gif' has the suffix '.gif': use one of .png, .jpg, .jpeg, .webp"),
    ((*EDIT, "--out", "b"), "'b' has the suffix '': use one of .png, .jpg, .jpeg, .webp"),
    (("demo", "--out", "missing/b.png"), "there is no folder 'missing': make it first"),
    (("mask", *EDIT[1:], "--out", "b.png", "--map", "folder/../b.png"),
     "'b.png' can't hold two results: give each a file of its own"),
    (("demo", "--change", "pears"), "--change 'pears' has no value: write it as what=value, for example fruit=plums"),
    (("demo", "--change", "fruit=figs"), "unknown fruit 'figs': choose from apples, pears, oranges, lemons, plums"),
    (("demo", "--change", "size=big"), "unknown attribute 'size': choose from container, fruit, surface"),
    (("demo", "--seed", "-1"), "--seed must be from 0 to 999999999, not -1"),
]
LATE = [
    ((*P2P, "-o", "reweight=figs:2"), "'figs' is not in the prompt 'a basket of pears'"),
    ((*P2P[:3], "--query", "pears", *P2P[5:], "-o", "align=swap"),
     "a swap needs as many words: 'a bowl of pears' has 4, 'pears' has 1; align=refine takes any"),
    (("edit", "a.png", "--query", "q", "--model", "random", "--method", "instruct-pix2pix"),
     "instruct_pix2pix needs a U-Net with 8 input channels; 'random' has 4 and is made for making pictures from text, "
     "as most methods here do"),
    (("edit", "a.png", "--query", " ", *RANDOM), "the query is empty: say what the edited picture should show"),
    (("mask", "a.png", "--query", "", *RANDOM), "the query is empty: say what the edited picture should show"),
    ((*EDIT, "-o", "steps=1000"), "steps must be from 1 to 999, not 1000"),
    ((*EDIT, "-o", "mask_norm=l3"), "mask_norm 'l3' is not known; known are l1, l2"),
    ((*EDIT, "--size", "0"), "size is 0: give the side in pixels, 1 or more"),
    ((*EDIT, "--dtype", "int8"), "dtype 'int8' is not known; known are auto, float32, float64, float16, bfloat16"),
]


@pytest.mark.parametrize(("arguments", "message"), EARLY, ids=[message for _, message in EARLY])
def test_refused_before_a_model_is_loaded(run, monkeypatch, arguments, message):
    monkeypatch.setattr(loading, "load", fail_to_load)
    done = run(*arguments)
    assert (done.code, done.err, done.out, done.new) == (1, f"error: {message}\n", "", set())


@pytest.mark.parametrize(("arguments", "message"), LATE, ids=[message for _, message in LATE])
def test_refused_by_the_library(run, arguments, message):
    done = run(*arguments)
    assert (done.code, done.err, done.out, done.new) == (1, f"error: {message}\n", "", set())


@pytest.mark.parametrize(("option", "value"), [("--model", "folder"), ("--model", "nowhere"), ("--device", "banana")])
def test_refused_by_the_loader_in_one_line_that_names_the_value(run, option, value):
    done = run(*EDIT, option, value)
    assert (done.code, done.out, done.new, done.err.count("\n")) == (1, "", set(), 1)
    assert done.err.startswith("error: ") and repr(value) in done.err and "--debug" not in done.err


def test_a_folder_that_cannot_be_written_to(run, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, how: False)
    done = run(*EDIT, "--out", "folder/b.png")
    assert (done.code, done.err) == (1, "error: the folder 'folder' can't be written to: choose another\n")


def test_a_folder_in_the_place_of_the_result(run, here):
    (here / "b.png").mkdir()
    done = run(*EDIT, "--out", "b.png")
    assert (done.code, done.err) == (1, "error: 'b.png' is a folder: give the path of a file\n")


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


def test_ctrl_c_leaves_the_old_result_and_nothing_else(run, here, monkeypatch):
    @contextmanager
    def interrupted(quiet):
        def on_step(step):
            if (step.stage, step.index) == ("decode", 2):
                raise KeyboardInterrupt
        yield on_step

    monkeypatch.setattr(console, "progress", interrupted)
    (here / "old.png").write_bytes(b"old")
    done = run(*EDIT, "--out", "old.png")
    assert (done.code, done.err, done.out, done.new) == (130, "interrupted\n", "", set())
    assert (here / "old.png").read_bytes() == b"old"


def test_warnings_are_one_line(capsys):
    with console.one_line_errors(False):
        warnings.warn("cut off after 30 tokens", stacklevel=1)
    assert capsys.readouterr().err == "warning: cut off after 30 tokens\n"


# ---- progress


def test_a_bar_a_stage_where_stderr_is_a_terminal(here, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    model, image = dm.load("random", device="cpu"), picture_files.open_picture("a.png")
    options = {"query": "a", "steps": 5, "mask_samples": 1}
    cli.timed(dm.diffedit, False, model, image, **options)
    bars = capsys.readouterr().err
    for stage in ("mask: 100%", "encode: 100%", "decode: 100%"):
        assert stage in bars
    assert "| 4/4 [" in bars and "| 5/4" not in bars
    cli.timed(dm.diffedit, True, model, image, **options)
    assert capsys.readouterr().err == ""


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


@pytest.mark.slow
def test_exit_codes_of_true_processes(here):
    assert process("-m", "diffedit_min", "edit", "a.png").returncode == 2
    failed = process("-m", "diffedit_min", "edit", "no.png", "--query", "q", "--model", "random")
    assert (failed.returncode, failed.stderr) == (1, f"error: {EARLY[0][1]}\n")
    done = process("-m", "diffedit_min", *EDIT, "--out", "b.png")
    assert (done.returncode, done.stderr) == (0, "") and (here / "b.png").is_file()


def test_a_reader_that_leaves_is_no_error():
    code = ("from diffedit_min.studio.console import one_line_errors\n"
            "with one_line_errors(False):\n    print('x' * 10**6)")
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as stdout:
        environment = os.environ | {"PYTHONPATH": str(loading.TINY.parents[2])}
        done = subprocess.run([sys.executable, "-c", code], stdout=stdout, stderr=subprocess.PIPE, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
