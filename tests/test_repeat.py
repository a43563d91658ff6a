"""Run: python -m pytest tests/test_repeat.py

The command and the Python text that make an edit again: both are run, and give the very same pixels.
"""

import ast
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

import diffedit_min as dm
from diffedit_min.pictures import metadata
from diffedit_min.studio.repeat import command_of, python_of
from diffedit_min.tiny import scenes

FEW = {"steps": 3, "encoding_ratio": 1.0}
HARD = 'a "basket"\nof $HOME\'s `pears`, \\ 100 % & more; --seed 9 #é'


@pytest.fixture(scope="module")
def model():
    return dm.load("random", device="cpu")


@pytest.fixture
def folder(call_command):
    """The current folder, with a picture whose name needs quotes, and a mask."""
    scenes.sample(scenes.TEST[1]).render(40).save("-my 'own' bowl.png")
    mask = Image.new("L", (40, 40))
    mask.paste(255, (8, 8, 24, 28))
    mask.save("mask.png")
    return Path(".")


PICTURE = "-my 'own' bowl.png"


def by_command(call, settings, image, model):
    """The picture that the command makes, called as a shell would call it; and its settings."""
    command = command_of(settings, image, model)
    program, *words = shlex.split(command, comments=True)
    done = call(*words, "--out", "again.png", "--quiet")
    assert (program, done.code) == ("diffedit-min", 0), done.err
    return Image.open("again.png"), metadata.read("again.png")


def by_python(text):
    """The picture that the Python text makes, and the edit."""
    made = {}
    exec(compile(text, "again", "exec"), made)
    assert Image.open("result.png").tobytes() == made["result"].tobytes()
    return made["result"], made["edit"]


@pytest.mark.filterwarnings("ignore:.*some programs take this for an instruction", "ignore:the prompt is too long")
@pytest.mark.parametrize(("name", "options"), [
    ("diffedit", {"query": HARD, "reference": "- 'a' bowl", "seed": 3, "sampler": "edict:p=0.9", "mask_samples": 2}),
    ("diffedit", {"size": 32, "negative_prompt": "-o 'steps=9'\n", "mask_threshold": 0.1 + 0.2, "preset": "fast"}),
    ("diffedit", {"mask": "mask.png", "time": "source"}),
    ("invert", {"reference": "a bowl"}),
    ("prompt_to_prompt", {"reference": "a bowl of pears", "query": "a bowl of (apples:2)", "local_blend": "changed",
                          "blend_size": 0.5, "word_windows": {"bowl": 0.4}, "reweight": {"of": -1.5}}),
    ("prompt_to_prompt", {"image": None, "reference": "a bowl", "query": "a basket", "encoding_ratio": 1.0})])
def test_both_make_the_edit_again(call_command, folder, model, name, options):
    method, named = dm.METHODS[name], {**FEW, **options}
    image = named.pop("image", PICTURE)
    if method.takes_query:
        named.setdefault("query", "a basket")
    if "mask" in named:
        named["mask"] = Image.open(named["mask"])
    named = {key: value for key, value in named.items()
             if key in method.known or key in ("query", "reference", "seed", "size", "preset", "mask")}
    edit = method(model, image and Image.open(image), **named)
    again, settings = by_command(call_command, edit.settings, image, model)
    assert again.tobytes() == edit.image.tobytes()
    assert {key: settings[key] for key in edit.settings} == ast.literal_eval(str(edit.settings))
    # From the settings in the picture, which tell the preset, too.
    again, made = by_python(python_of(settings, image, model))
    assert again.tobytes() == edit.image.tobytes()
    assert edit.settings == {key: made.settings[key] for key in edit.settings}


@pytest.mark.parametrize("around", [
    ("--composite", "--mask-feather", "3", "--mask-grow", "4"),
    ("--mask", "mask.png", "--crop", "mask", "--mask-grow", "-2"),
    ("--mask", "mask.png", "--method", "sdedit", "--composite", "--crop", "4,4,32,30")])
def test_what_is_done_around_the_method_is_done_again(call_command, folder, model, around):
    done = call_command("edit", f"./{PICTURE}", "--query", "a basket", "--model", "random", "-o", "steps=2", *around,
                        "--out", "first.png")
    assert done.code == 0, done.err
    settings, first = metadata.read("first.png"), Image.open("first.png").tobytes()
    again, told = by_command(call_command, settings, PICTURE, model)
    assert again.tobytes() == first and told == settings
    again, _ = by_python(python_of(settings, PICTURE, model))
    assert again.tobytes() == first


def test_only_what_would_not_hold_anyway_is_told(model):
    tiny, image = dm.load(), scenes.sample(scenes.TEST[1]).render(64)
    settings = dm.diffedit(tiny, image, "a basket", keep="result", encoding_ratio=0.0, mask_samples=1).settings
    assert command_of(settings, "a.png", tiny) == (
        "diffedit-min edit a.png --query 'a basket' -o encoding_ratio=0.0 -o mask_samples=1")
    assert python_of(settings, "a.png", tiny) == """\
from PIL import Image

import diffedit_min as dm

model = dm.load()
picture = Image.open('a.png')
edit = dm.diffedit(model, picture, query='a basket', encoding_ratio=0.0, mask_samples=1)
result = edit.image
result.save("result.png")
"""
    # What the card recommends is told where another value was used, also if that is the method's own default.
    card = next(name for name, value in tiny.defaults["diffedit"].items() if value != dm.diffedit.known[name].default)
    changed = {**settings, card: dm.diffedit.known[card].default}
    assert f"-o {card}={changed[card]}" in command_of(changed, "a.png", tiny)
    fast = dm.methods.Asked(dm.diffedit, "a basket", preset="fast").record(tiny)
    assert command_of({**fast, "preset": "fast"}, "a.png", tiny) == (
        "diffedit-min edit a.png --query 'a basket' --preset fast")
    assert "-o steps=14" in command_of(fast, "a.png", tiny)     # an edit made in Python doesn't tell its preset
    # How the model was loaded, where it isn't as it would be.
    double = dm.load("random", device="cpu", dtype="float64")
    other = {**settings, "model": "random", "prediction_type": "epsilon", "revision": None}
    assert "--model random --prediction-type epsilon --dtype float64" in command_of(other, "a.png", double)
    assert "dm.load('random', prediction_type='epsilon', dtype='float64')" in python_of(other, "a.png", double)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("query", ["it's $(x) `y` \\n !a", "two\nlines", "a\x1b[201~\nrm it's \\ 7\r", "\x9b0 é犬"])
def test_a_pasted_command_steers_no_terminal(model, query):
    edit = dm.sdedit(model, Image.new("RGB", (20, 16)), query, steps=2)
    command = command_of(edit.settings, "a.png", model)
    assert not {c for c in command if not c.isprintable()} - {"\n"}
    words = subprocess.run(["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, check=True).stdout
    assert query in words.decode().split("\0")


def test_what_no_command_can_say_is_told_below_it(model):
    settings = dm.METHODS["prompt_to_prompt"](model, Image.new("RGB", (32, 32)), "a red bowl", "a bowl", steps=2,
                                              word_windows={"red": (0.2, 1)}, reweight={"red": 2.0}).settings
    line, comment = command_of(settings, "a.png", model).split("\n")
    assert "reweight=red:2.0" in line and "word_windows" not in line
    assert comment == "# word_windows={'red': (0.2, 1)} can be told in Python only"
    assert "word_windows={'red': (0.2, 1)}" in python_of(settings, "a.png", model)


def test_the_files_of_plugins_are_told(call_command, folder, tmp_path, unregistered):
    Path("mine.py").write_text("import diffedit_min as dm\nfrom diffedit_min.core.ddim import DDIM\n"
                               "class Mine(DDIM):\n    name = 'mine'\ndm.register(Mine)\n"
                               "dm.register(dm.Method('my_method', based_on=dm.diffedit))\n")
    done = call_command("edit", f"./{PICTURE}", "--query", "a basket", "--model", "random", "-o", "steps=2",
                        "--plugin", "mine.py", "-o", "sampler=mine", "--out", "first.png")
    assert done.code == 0, done.err
    settings, model = metadata.read("first.png"), dm.load("random", device="cpu")
    assert re.findall(r"--plugin (\S+)", command_of(settings, "a.png", model)) == [str(tmp_path / "mine.py")]
    assert f"load_plugin({str(tmp_path / 'mine.py')!r})" in python_of(settings, "a.png", model)
    again, _ = by_command(call_command, settings, PICTURE, model)
    assert again.tobytes() == Image.open("first.png").tobytes()
