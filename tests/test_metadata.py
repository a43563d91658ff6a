"""Run: python -m pytest tests/test_metadata.py

The settings in a picture: as other tools read them, as we read them back, and what a hostile picture may hold.
"""

import dataclasses
import json
import re
import struct
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

import diffedit_min as dm
from diffedit_min.core.state import Sampler
from diffedit_min.pictures import metadata, picture_files
from diffedit_min.samplers import SAMPLERS
from diffedit_min.studio.jobs.job import job_of
from diffedit_min.studio.jobs.like import KNOWN, RECORDED, over, told_by

SETTINGS = {"method": "diffedit", "model": "tiny", "query": "a basket, red", "reference": "a bowl: blue", "seed": 7,
            "size": None, "given": [], "steps": 50, "guidance_scale": 7.5, "negative_prompt": "grün\nand green",
            "encoding_ratio": 0.8, "sampler": "ddim"}
SUFFIXES = [".png", ".jpg", ".webp"]


def write(path, settings=SETTINGS, **text):
    picture_files.save(Image.new("RGB", (9, 7)), path, {**metadata.texts(settings, (9, 7)), **text})
    return path


# ---- written


def test_parameters_as_other_tools_write_them():
    assert metadata.parameters({**SETTINGS, "query": "a basket", "reference": ""}, (512, 384)) == (
        "a basket\nNegative prompt: grün\nand green\n"
        "Steps: 50, Sampler: DDIM, CFG scale: 7.5, Seed: 7, Size: 512x384, Model: tiny, Denoising strength: 0.8, "
        f"Method: diffedit, Version: diffedit_min {dm.__version__}")
    settings = {**SETTINGS, "negative_prompt": ""}
    del settings["encoding_ratio"]
    without = metadata.parameters(settings, (9, 7))
    assert "Negative" not in without and "strength" not in without


def test_their_reader_reads_ours():
    """The regular expression is that of stable-diffusion-webui's parse_generation_parameters."""
    *prompts, last = metadata.parameters({**SETTINGS, "model": 'a, "b": c'}, (9, 7)).split("\n")
    found = dict(re.findall(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', last))
    assert prompts == ["a basket, red", "Negative prompt: grün", "and green"]
    assert json.loads(found.pop("Model")) == 'a, "b": c' and json.loads(found.pop("Reference")) == "a bowl: blue"
    assert found == {"Steps": "50", "Sampler": "DDIM", "CFG scale": "7.5", "Seed": "7", "Size": "9x7",
                     "Denoising strength": "0.8", "Method": "diffedit", "Version": f"diffedit_min {dm.__version__}"}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_both_texts_come_back_from_every_format(tmp_path, suffix):
    path = write(tmp_path / f"a{suffix}")
    assert picture_files.read_text(path) == metadata.texts(SETTINGS, (9, 7))
    assert metadata.read(path) == SETTINGS


def test_where_other_tools_look_for_them(tmp_path):
    png, jpeg = Image.open(write(tmp_path / "a.png")), Image.open(write(tmp_path / "a.jpg"))
    assert png.text["parameters"] == metadata.parameters(SETTINGS, (9, 7))
    comment = jpeg.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
    assert comment == b"UNICODE\0" + png.text["parameters"].encode("utf-16-be")


def test_a_text_too_long_for_a_jpeg_is_left_out(tmp_path):
    path = write(tmp_path / "a.jpg", {**SETTINGS, "negative_prompt": "x" * 40_000})
    assert picture_files.read_text(path) == {} and Image.open(path).size == (9, 7)


# ---- read


OPTIONS = {str: st.text(max_size=20), int: st.integers(-5, 10**6), bool: st.booleans(),
           float: st.floats(-2, 10, allow_nan=False),
           dict: st.dictionaries(st.text(max_size=8), st.floats(0, 1), max_size=3),
           Sampler: st.sampled_from([*SAMPLERS, "edict:p=0.5", "ddim:time=source"])}


@st.composite
def chosen_options(draw):
    """A method, and values for any of its options, tried until it takes them."""
    method = draw(st.sampled_from(list(dm.METHODS.values())))
    found = {}
    for option in method.known.values():
        value = draw(OPTIONS[option.kind] | st.just(option.default))
        try:
            method.made({**found, option.name: value})
        except ValueError:
            continue
        found[option.name] = value
    return method, method.made(found)


@settings(deadline=None, database=None, derandomize=True, max_examples=150,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chosen=chosen_options(), query=st.text(max_size=30), seed=st.integers(0, 2**63),
       size=st.none() | st.integers(1, 4096), suffix=st.sampled_from(SUFFIXES))
def test_every_option_of_every_method_comes_back(tmp_path, model, chosen, query, seed, size, suffix):
    method, options = chosen
    options = dataclasses.replace(options, **({"save": ""} if hasattr(options, "save") else {}))
    names = {"model": model.name, "query": query, "reference": "ref", "seed": seed, "size": size, "given": []}
    written = method.record(names, options)
    told = told_by(write(tmp_path / f"a{suffix}", written))
    assert method.made(told["options"]) == options
    assert {name: told.get(name) for name in ("method", "model", "query", "reference", "seed", "size")} == {
        "method": method.name, "model": model.name, "query": query, "reference": "ref", "seed": seed, "size": size}


def test_no_option_has_a_name_that_means_something_else():
    for method in dm.METHODS.values():
        assert not set(method.known) & {*KNOWN, *RECORDED, "mask"}


def changed(**changes):
    return json.dumps({name: value for name, value in {**SETTINGS, **changes}.items() if value is not ...})


DAMAGED = "holds settings that are damaged: give another picture"
UNKNOWN = f"has settings that diffedit_min {dm.__version__} doesn't know: "
BAD = {
    "no JSON": ("{'a': 1}", DAMAGED),
    "a list": ("[1]", DAMAGED),
    "nested too deep": ("[" * 100_000, DAMAGED),
    "a number too long": ('{"seed": %s}' % ("9" * 10_000), DAMAGED),
    "too long": ('{"query": "%s"}' % ("x" * 10**6),
                 "holds 1,000,013 characters of settings: give a picture that diffedit_min wrote"),
    "no method": (changed(method=...), "was made by 'None', which `edit` doesn't have"),
    "a method of the future": (changed(method="magic"), "was made by 'magic', which `edit` doesn't have"),
    "a method that is no text": (changed(method=[1]), "was made by '[1]', which `edit` doesn't have"),
    "an option of the future": (changed(magic=1, version="9.0"), f"{UNKNOWN}magic; it was made with 9.0"),
    "a file's name": (changed(mask="/etc/passwd"), f"{UNKNOWN}mask; it was made with another version"),
    "a seed that is a text": (changed(seed="7"), "has damaged settings: seed must be a int, not '7'"),
    "a seed that is true": (changed(seed=True), "has damaged settings: seed must be a int, not 'True'"),
    "a query that is a list": (changed(query=["a"]), "has damaged settings: query must be a str, not \"['a']\""),
    "steps that are a text": (changed(steps="50"), "has damaged settings: steps must be a whole number, not '50'"),
    "a ratio out of range": (changed(encoding_ratio=2),
                             "has damaged settings: encoding_ratio must be from 0 to 1, not 2.0"),
    "not a number": (changed(guidance_scale=float("nan")),
                     "has damaged settings: guidance_scale must be at least 0, not nan"),
}


@pytest.mark.parametrize("name", BAD)
def test_settings_that_are_refused(tmp_path, name):
    text, message = BAD[name]
    path = write(tmp_path / "a.png", diffedit=text)
    with pytest.raises(ValueError) as error:
        told_by(path)
    assert str(error.value) == f"'{path}' {message}"


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def hostile(path, text):
    """A picture of ours with one more text after its header."""
    whole = write(path).read_bytes()
    path.write_bytes(whole[:33] + text + whole[33:])
    return path


def test_a_huge_text_is_refused(tmp_path):
    path = hostile(tmp_path / "a.png", chunk(b"tEXt", b"diffedit\0" + b"x" * 10**8))
    with pytest.raises(ValueError) as error:
        metadata.read(path)
    assert str(path) in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize("name", [b"diffedit", b"parameters", b"workflow"])
def test_a_text_that_unpacks_to_megabytes_is_left_out(tmp_path, name):
    path = hostile(tmp_path / "a.png", chunk(b"zTXt", name + b"\0\0" + zlib.compress(b"x" * 10**7)))
    assert metadata.read(path) == metadata.read(write(tmp_path / "b.png"))


def test_a_picture_of_another_program(tmp_path):
    for name, text in (("none.png", {}), ("other.png", {"parameters": "Steps: 3", "prompt": "{}"})):
        picture_files.save(Image.new("RGB", (3, 3)), tmp_path / name, text)
        with pytest.raises(ValueError, match="none.png' holds no settings|other.png' holds no settings"):
            metadata.read(tmp_path / name)
    Image.new("RGB", (3, 3)).save(tmp_path / "a.gif")
    with pytest.raises(ValueError, match="holds no settings of diffedit_min: give a picture that it wrote"):
        metadata.read(tmp_path / "a.gif")


# ---- with what was typed over it


def test_what_is_typed_goes_over_it(tmp_path):
    earlier = {**SETTINGS, "preset": "fast", "mask_samples": 4, "given": ["encoded", "mask_map"]}
    told = told_by(write(tmp_path / "a.png", earlier))
    assert told["preset"] == "fast" and not told["needs_mask"]
    assert over(told, {"seed": 3, "query": "pears"}) == {**told, "seed": 3, "query": "pears"}
    faster = over(told, {"preset": "fast"})["options"]
    assert set(told["options"]) - set(faster) == {"steps", "encoding_ratio", "mask_samples"}
    worded = {**told, "options": {**told["options"], "negative_prompt": "sand"}}
    for preset in ("recommended", "paper"):         # nothing of the earlier settings is left but its words
        assert over(worded, {"preset": preset})["options"] == {"negative_prompt": "sand"}
    other = over(told, {"method": "sdedit"})
    assert "preset" not in other and other["method"] == "sdedit"
    with pytest.raises(ValueError, match="^sdedit has no preset 'fast'"):
        over(told, {"method": "sdedit", "preset": "fast"})


def test_an_earlier_result_keeps_its_options_where_its_preset_meant_the_cards_values(tmp_path):
    """Its preset is called "paper", but what it holds are the values of the card."""
    tiny = dm.load("tiny", device="cpu")
    recommended = dm.diffedit.settings(tiny, {})
    about = {name: SETTINGS[name] for name in ("method", "model", "query", "reference", "seed")}
    told = told_by(write(tmp_path / "a.png", {**about, **recommended.record(), "preset": "paper"}))
    assert job_of(over(told, {"seed": 3}), "in.png", tmp_path / "b.png").asked.settings(tiny) == recommended


def test_a_picture_names_no_file_that_is_written(tmp_path):
    options = dataclasses.asdict(dm.METHODS["unitune"].options(save=str(tmp_path / "x.safetensors")))
    about = {name: SETTINGS[name] for name in ("model", "query", "reference", "seed")}
    told = told_by(write(tmp_path / "a.png", {**about, "method": "unitune", **options}))
    with pytest.raises(ValueError, match="a picture is not to say which files are read or written: add -o save=FILE"):
        over(told, {"option": ("steps=3",)})
    assert over(told, {"option": ("save=",)})
