"""Run with `python -m pytest tests/test_cards.py` from the repository's root; takes about 5 seconds.

Checks what a checkpoint's card may say: numbers and rules of methods and samplers, but never a file or a model;
anything else is refused when the checkpoint is opened, in one line with the card, the key and the value.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

import diffedit_min as dm
from diffedit_min.core.ddim import DDIM
from diffedit_min.core.diffedit import DiffEditOptions
from diffedit_min.methods import registry
from diffedit_min.methods.registry import Registry


def write_card(folder: Path, defaults: object) -> Path:
    (folder / "diffedit.json").write_text(json.dumps({"defaults": defaults}))
    return folder / "diffedit.json"


def refusal(folder: Path) -> str:
    """The message of a refused load, which must be one line that names the card."""
    with pytest.raises(ValueError) as error:
        dm.load(folder, device="cpu")
    message = str(error.value)
    assert "\n" not in message and message.startswith(f"{folder / 'diffedit.json'}")
    return message.removeprefix(f"{folder / 'diffedit.json'}").removeprefix(": ")


def test_a_card_does_not_choose_which_file_is_overwritten(copied, tmp_path, call_command):
    kept = tmp_path / "kept.safetensors"
    kept.write_text("mine")
    write_card(copied, {"unitune": {"save": str(kept), "tuning_steps": 1}})
    Image.new("RGB", (32, 32), "red").save("in.png")
    ended = call_command("edit", "in.png", "--query", "apples", "--method", "unitune", "--model", copied,
                         "--device", "cpu", "-o", "steps=2")
    assert ended.code == 1 and kept.read_text() == "mine"
    assert re.fullmatch(rf"error: .*diffedit.json: 'unitune': save names a file .*{re.escape(repr(str(kept)))}.*\n",
                        ended.err.splitlines(keepends=True)[-1])


@pytest.mark.parametrize(("method", "option"), [("unitune", "save"), ("unitune", "tuned"), ("cycle_diffusion", "clip")])
def test_every_option_that_names_a_file_is_refused_when_a_method_uses_the_card_too(model, method, option):
    """As it holds for a bundle that was made without `load`."""
    method = dm.METHODS[method]
    assert [one.name for one in method.known.values() if one.file].count(option) == 1
    told = {**vars(model), "defaults": {method.name: {option: "x.safetensors"}}}
    with pytest.raises(ValueError, match=f"^{option} names a file or a model"):
        method.settings(dm.StableDiffusion(**told), {})
    assert method.settings(model, {option: "x.safetensors"}) is not None        # the caller may


@dataclass(frozen=True)
class Logged(DDIM):
    name = "logged"
    log: str = dm.option("", "a file", file=True)
    scale: float = dm.option(1.0, "a number")


@dataclass(frozen=True)
class OwnOptions(DiffEditOptions):
    mask_file: str = dm.option("", "a file", file=True)
    grow: int = dm.option(0, "cells", least=0)


@dataclass(frozen=True)
class MoreOptions(OwnOptions):
    grow: str = dm.option("", "here it is a file", file=True)


@pytest.fixture
def own(monkeypatch):
    """A method and a sampler of one's own, registered."""
    monkeypatch.setattr(registry, "METHODS", Registry(dm.METHODS.values()))
    monkeypatch.setattr(registry, "SAMPLERS", registry.SAMPLERS)
    monkeypatch.setitem(dm.SAMPLERS, "logged", Logged())
    method = dm.Method("own", based_on=dm.diffedit, options=OwnOptions)
    registry.METHODS.add(method)
    return method


@pytest.mark.parametrize("values", [{"mask_file": "x"}, {"sampler": "logged:log=x"}])
def test_options_of_one_s_own_that_name_files(copied, own, values):
    name = next(iter(values)) if "sampler" not in values else "sampler log"
    write_card(copied, {"own": values})
    assert refusal(copied).startswith(f"'own': {name} names a file or a model")
    write_card(copied, {"own": {"grow": 2, "sampler": "logged:scale=2"}})
    settings = own.settings(dm.load(copied, device="cpu"), {})
    assert (settings.grow, settings.sampler) == (2, Logged(scale=2.0))


def test_a_variant_whose_option_became_a_file(model, own):
    variant = dm.Method("variant", based_on=own, options=MoreOptions)
    told = dm.StableDiffusion(**{**vars(model), "defaults": {"own": {"grow": 3, "steps": 7}}})
    assert (variant.settings(told, {}).grow, variant.settings(told, {}).steps) == ("", 7)


@pytest.mark.parametrize(("defaults", "message"), [
    ([1], "'defaults' must be an object of names and values, not [1]"),
    (None, "'defaults' must be an object of names and values, not None"),
    ({"diffedit": [["steps", 3]]}, "'diffedit' must be an object of names and values, not [['steps', 3]]"),
    ({"diffedit": {"step": 3}}, "'diffedit': diffedit has no option 'step'; it has encoding_ratio"),
    ({"diffedit, slow": {}}, "'diffedit, slow': diffedit has no preset 'slow'; it has recommended, paper, fast"),
    ({"diffedit, paper": {"steps": 3}}, "'diffedit, paper': preset 'paper' is no card's to say; 'diffedit' alone is "
     "what holds by default"),
    ({"diffedit": {"steps": "3"}}, "'diffedit': steps must be a whole number, not '3'"),
    ({"diffedit": {"steps": 0}}, "'diffedit': steps must be at least 1, not 0"),
    ({"diffedit": {"mask_threshold": 2}}, "'diffedit': mask_threshold must be from 0 to 1, not 2.0"),
    ({"diffedit": {"mask_clip": ["mean"]}}, "'diffedit': mask_clip must be a text, not ['mean']"),
    ({"diffedit": {"guidance_scale": float("nan")}}, "'diffedit': guidance_scale must be at least 0, not nan"),
    ({"diffedit": {"guidance_scale": 10**400}}, "'diffedit': guidance_scale must be a number, not 1000"),
    ({"diffedit": {"sampler": "edict:p=7"}}, "'diffedit': p must be above 0 and at most 1, not 7.0"),
    ({"diffedit": {"sampler": 3}}, "'diffedit': sampler must be a name or an object with encode and decode, not 3"),
    ({"diffedit, fast": {"mask_samples": -1}}, "'diffedit, fast': mask_samples must be from 1 to 1000, not -1"),
    ({"prompt_to_prompt": {"reweight": {"a": "x"}}}, "'prompt_to_prompt': reweight of 'a' must be a number, not 'x'"),
])
def test_what_a_card_can_not_say_is_told_when_it_is_read(copied, defaults, message):
    write_card(copied, defaults)
    assert refusal(copied).startswith(message)


@pytest.mark.parametrize(("text", "message"), [
    ('{"default": {}}', "'default' is not known; a card holds only 'defaults' and 'vocabulary'"),
    ('{"vocabulary": ["pears"]}', "'vocabulary' must be an object of names and values, not ['pears']"),
    ('{"vocabulary": {"fruit": "pears"}}', "'fruit' must be a list of words, not 'pears'"),
    ('{"vocabulary": {"fruit": ["pears", 3]}}', "'fruit' must be a list of words, not ['pears', 3]"),
    ("[]", " holds list instead of a JSON object"), ("", " can't be read as JSON: "), ("null", " holds NoneType"),
    ('{"defaults": {"diffedit": {"steps": ' + "9" * 5000 + "}}}", " can't be read as JSON: Exceeds the limit"),
])
def test_a_file_that_is_no_card(copied, text, message):
    (copied / "diffedit.json").write_text(text)
    assert refusal(copied).startswith(message)


def test_a_method_that_is_not_loaded_now_is_a_warning(copied):
    card = write_card(copied, {"diffedit": {"steps": 20}, "of_a_plugin": {"mask_file": "x"}})
    with pytest.warns(UserWarning, match=f"^{re.escape(str(card))}: 'of_a_plugin' is not a method here"):
        model = dm.load(copied, device="cpu")
    assert dm.diffedit.settings(model, {}).steps == 20


def test_info_checks_a_card_too(copied, call_command):
    write_card(copied, {"unitune": {"save": "x.safetensors"}})
    ended = call_command("info", copied)
    assert ended.code == 1 and "'unitune': save names a file or a model" in ended.err
