"""Run: python -m pytest tests/test_edit_command.py

What `edit` does around a method: masks grown and feathered, pixels put back, crops, and results repeated. On the tiny
random model; the simple cases are in test_cli.py, the kinds of pictures in test_picture_matrix.py.
"""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import diffedit_min as dm
from diffedit_min import loading
from diffedit_min.methods import Asked
from diffedit_min.pictures.compositing import grow, mask_box
from diffedit_min.studio.jobs.editing import edit_jobs, finished, open_job, settings_of
from diffedit_min.studio.jobs.job import Job

RANDOM = ("--model", "random", "-o", "steps=4", "-o", "mask_samples=2")
EDIT = ("edit", "a.png", "--query", "a basket of pears", *RANDOM)
SOURCE = {"prediction_type": None, "config": None, "revision": None}


@pytest.fixture(scope="module")
def network():
    return dm.load("random", device="cpu")


@pytest.fixture
def call(call_command, tmp_path):
    """The command in a folder with a picture of odd sides, larger than the model's, and two masks of other sizes."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (6, 7, 3), dtype=np.uint8)).resize((77, 61), Image.BICUBIC).save("a.png")
    box((100, 80), 30, 20, 60, 50).save("mask.png")
    Image.new("L", (4, 4)).save("black.png")
    Image.new("L", (16_384, 1)).save("wide.png")
    box((4, 4), 0, 0, 2, 2).point([value // 255 for value in range(256)]).save("ones.png")      # white written as 1
    Image.new("RGBA", (4, 4), (255, 255, 255, 0)).save("clear.png")

    def call(*arguments):
        before = set(tmp_path.rglob("*"))
        done = call_command(*arguments)
        done.new = {path.name for path in set(tmp_path.rglob("*")) - before}
        return done

    return call


@pytest.fixture
def run(call, network, monkeypatch):
    """The same with a model that is there already, whatever is asked for."""
    monkeypatch.setattr(loading, "load", lambda *_, **__: network)
    return call


def box(size, left, top, right, bottom):
    mask = Image.new("L", size)
    mask.paste(255, (left, top, right, bottom))
    return mask


def pixels(path):
    return np.asarray(Image.open(path))


def settings(path):
    return json.loads(Image.open(path).text["diffedit"])


def laid(path, size=(77, 61)):
    return np.asarray(dm.pictures.compositing.at_size(Image.open(path), size)) == 255


# ---- masks and composite


@pytest.mark.parametrize(("size", "feather"), [((), "0"), (("--size", "24"), "3"), (("--size", "90"), "3")])
def test_outside_the_mask_composite_keeps_the_inputs_bits(run, size, feather):
    given = (*EDIT, "--mask", "mask.png", *size)
    assert run(*given, "--composite", "--mask-feather", feather, "--out", "composed.png").code == 0
    assert run(*given, "--out", "plain.png").code == 0
    before, plain, composed, inside = pixels("a.png"), pixels("plain.png"), pixels("composed.png"), laid("mask.png")
    assert np.array_equal(composed[~inside], before[~inside]) and not np.array_equal(plain[~inside], before[~inside])
    deep = np.asarray(grow(Image.fromarray(inside), -int(feather))) == 255
    assert np.array_equal(composed[deep], plain[deep])
    seam = inside & ~deep
    assert seam.any() == (feather != "0") and (not seam.any() or not np.array_equal(composed[seam], plain[seam]))


def test_composite_by_the_mask_that_is_found(run, network):
    assert run(*EDIT, "--composite").code == 0
    edit = dm.diffedit(network, Image.open("a.png"), "a basket of pears", steps=4, mask_samples=2)
    outside = np.asarray(edit.mask_image) == 0
    expected = np.where(outside[..., None], pixels("a.png"), np.asarray(edit.image))
    assert outside.any() and np.array_equal(pixels("a-edit.png"), expected)
    assert settings("a-edit.png")["composite"] is True


@pytest.mark.parametrize("by", [5, -3])
def test_a_found_mask_is_grown_before_the_decoding_and_no_row_is_taken_twice(run, network, by):
    done = run(*EDIT, "--mask-grow", by, "--composite")
    assert done.code == 0 and "13 rows through the U-Net" in done.out       # 2n + k + 2k, n = 2, k = 3
    picture = Image.open("a.png")
    found = dm.diffedit(network, picture, "a basket of pears", steps=4, mask_samples=2)
    mask = grow(found.mask_image, by)
    inside = np.asarray(mask) == 255
    assert 0 < inside.sum() < inside.size and inside.sum() != (np.asarray(found.mask_image) == 255).sum()
    again = dm.diffedit(network, picture, "a basket of pears", steps=4, mask=mask, encoded=found.encoded)
    assert np.array_equal(pixels("a-edit.png"), np.where(inside[..., None], np.asarray(again.image), pixels("a.png")))


def test_a_given_mask_is_grown_too_and_the_latents_mask_covers_it(network, run):
    job = Job(Asked(dm.diffedit, "pears", options={"steps": 4}), "a.png", Path("o.png"), "mask.png", 4)
    opened = open_job(job)
    assert np.array_equal(np.asarray(opened.mask), np.asarray(grow(Image.fromarray(laid("mask.png")), 4)))
    [(edit, image)] = edit_jobs(network, SOURCE, [opened])
    assert (np.asarray(opened.mask) <= np.asarray(edit.mask_image)).all()
    assert edit.mask.dtype == dm.diffedit(network, Image.open("a.png"), "pears", steps=1).mask.dtype


def test_nothing_found_or_nothing_left_gives_the_input_back(run):
    for more in (("--reference", "a basket of pears", "--mask-grow", "5"), ("--mask-grow", "-70")):
        done = run(*EDIT, *more)
        assert done.code == 0 and "the mask covers 0.0%\n" in done.out and "\nnothing to change was found: " in done.out
        assert "4 rows" in done.out or "0 rows" in done.out
        assert np.array_equal(pixels("a-edit.png"), pixels("a.png"))
        assert settings("a-edit.png")["encoding_ratio"] == 0.8


def test_a_method_without_a_mask_is_composed_by_a_given_one(run, network):
    plain = ("edit", "a.png", "--query", "pears", "--model", "random", "--method", "sdedit", "-o", "steps=4")
    assert run(*plain, "--mask", "mask.png", "--composite", "--mask-grow", "2").code == 0
    edit = dm.sdedit(network, Image.open("a.png"), "pears", steps=4)
    inside = np.asarray(grow(Image.fromarray(laid("mask.png")), 2))[..., None] == 255
    assert np.array_equal(pixels("a-edit.png"), np.where(inside, np.asarray(edit.image), pixels("a.png")))
    assert settings("a-edit.png")["given"] == []


# ---- crop


def test_a_crop_is_edited_as_a_picture_of_its_own_and_put_back(run, network):
    assert run(*EDIT, "--crop", "10,5,33,41").code == 0
    before = Image.open("a.png")
    edit = dm.diffedit(network, before.crop((10, 5, 43, 46)), "a basket of pears", steps=4, mask_samples=2)
    expected = pixels("a.png").copy()
    expected[5:46, 10:43] = np.asarray(edit.image)
    assert np.array_equal(pixels("a-edit.png"), expected) and settings("a-edit.png")["crop"] == "10,5,33,41"


@pytest.mark.parametrize("crop", ["20,10,40,40", "mask"])
def test_the_mask_is_cut_likewise_and_composite_composes_all(run, network, crop):
    assert run(*EDIT, "--mask", "mask.png", "--crop", crop, "--composite", "--mask-feather", "2").code == 0
    whole = dm.pictures.compositing.at_size(Image.open("mask.png"), (77, 61))
    part = mask_box(whole, (77, 61)) if crop == "mask" else (20, 10, 60, 50)
    picture = Image.open("a.png")
    edit = dm.diffedit(network, picture.crop(part), "a basket of pears", steps=4, mask=whole.crop(part))
    inside = Image.new("L", (77, 61))
    inside.paste(whole.crop(part), part)
    put = dm.pictures.compositing.put_back(picture, edit.image, part)
    expected = dm.pictures.compositing.composite(picture, put, inside, feather=2)
    assert np.array_equal(pixels("a-edit.png"), np.asarray(expected))


def test_the_inputs_transparency_and_profile_stay_with_its_pixels(run):
    rgba = np.dstack([pixels("a.png"), np.arange(77 * 61, dtype=np.uint8).reshape(61, 77)])
    profile = bytes(16) + b"RGB " + bytes(108)
    Image.fromarray(rgba).save("b.png", icc_profile=profile)
    inside = laid("mask.png")
    for more, outside in ((("--composite", "--mask", "mask.png"), ~inside), (("--crop", "0,0,77,30"), np.s_[30:])):
        assert run("edit", "b.png", *EDIT[2:], *more, "--out", "c.png").code == 0
        assert np.array_equal(pixels("c.png")[outside], rgba[outside])
        assert (pixels("c.png")[inside if more[0] == "--composite" else np.s_[:30]][..., 3] == 255).all()
        assert Image.open("c.png").info["icc_profile"] == profile
    assert run("edit", "b.png", *EDIT[2:], "--out", "c.png").code == 0
    assert Image.open("c.png").mode == "RGB" and Image.open("c.png").info["icc_profile"] == profile
    both = (*EDIT[2:6], "--method", "prompt-to-prompt", "--reference", "a bowl", "-o", "steps=2")
    assert run("edit", "b.png", *both, "--out", "c.webp", "--source-out", "source.jpg", "--strip", "strip.png",
               "--report", "report.html").code == 0
    assert run("invert", "b.png", "-o", "steps=2").code == 0
    for name in ("c.webp", "source.jpg", "strip.png", "b-inverted.png"):
        assert Image.open(name).info["icc_profile"] == profile, name
    inside = re.findall(r"data:image/\w+;base64,([\w+/=]+)", open("report.html", encoding="utf-8").read())
    shown = [Image.open(io.BytesIO(base64.b64decode(data))) for data in inside]
    assert len(shown) > 3 and all(image.info["icc_profile"] == profile for image in shown)


# ---- refusals


REFUSED = [
    (("--mask-feather", "3"), "--mask-feather softens the seam of --composite: add that, or leave it out"),
    (("--mask-feather", "-3", "--composite"), "--mask-feather must be 0 pixels or more, not -3"),
    (("--crop", "1,2,3"), "--crop must be LEFT,TOP,WIDTH,HEIGHT in pixels, or mask, not '1,2,3'"),
    (("--crop", "70,0,10,10"),
     "crop 70,0,10,10 (left, top, width, height) does not lie in the picture, which has 77 x 61 pixels"),
    (("--crop", "mask"), "--crop mask needs a mask: give one with --mask"),
    (("--crop", "0,0,10,10", "--mask", "mask.png"), "there is nothing white in 'mask.png' within --crop 0,0,10,10"),
    (("--mask", "mask.png", "--mask-grow", "-99"), "--mask-grow -99 leaves nothing white in 'mask.png'"),
    (("a.png", "--source-out", "s.png"), "--source-out 's.png' is for one picture: leave it out"),
    (("--like", "a.png"), "'a.png' holds no settings of diffedit_min: give a picture that it wrote"),
]
NO_WHITE = [
    (("black.png",), "every pixel is 0 of 255"),
    (("black.png", "--crop", "mask"), "every pixel is 0 of 255"),
    (("black.png", "mask.png"), "every pixel is 0 of 255"),         # two pictures
    (("ones.png",), "its values are 0 and 1, of 255"),
    (("clear.png",), "all of it is transparent"),
]
SDEDIT = [
    (("--composite",), "sdedit finds no mask: give --composite one with --mask, or leave it out"),
    (("--mask-grow", "2"), "sdedit finds no mask that --mask-grow could grow: leave it out"),
    (("--mask", "mask.png"), "sdedit takes no mask: add --composite to put back what is outside it, or leave it out"),
]


@pytest.mark.parametrize(("arguments", "message"), [
    *(((*EDIT, *more), message) for more, message in REFUSED),
    *((("edit", "a.png", "--query", "q", "--method", "sdedit", *more), message) for more, message in SDEDIT),
    *(((*EDIT, "--mask", *more), f"the mask '{more[0]}' has nothing white, so nothing would be edited: {holds}; make "
       "what is to be edited white (255, or at least 128)") for more, holds in NO_WHITE),
    (("edit", "wide.png", *EDIT[2:], "--out", "out.webp"),
     "'out.webp' can't hold 16384 x 1 pixels: .webp takes at most 16,383 a side, use .png"),
    (("edit", "--query", "a", "--reference", "b", "--method", "prompt-to-prompt", "--crop", "1,1,5,5"),
     "--mask, --composite and --crop need a picture: give its file, IMAGE"),
])
def test_refused_before_a_model_is_loaded(run, monkeypatch, arguments, message):
    def load(*_, **__):
        raise AssertionError("loaded")

    monkeypatch.setattr(loading, "load", load)
    done = run(*arguments)
    assert (done.code, done.err, done.out, done.new) == (1, f"error: {message}\n", "", set())


# ---- what is said of words and sizes


@pytest.mark.filterwarnings("default")
def test_words_that_the_model_does_not_know_are_said_once(call, copied):
    (copied / "diffedit.json").write_text(json.dumps({"vocabulary": {"fruit": ["pears"], "other words": ["a", "of"]}}))
    done = call("edit", "a.png", "--model", copied, "--query", "A cup of Paers", "--reference", "a paers",
                "--mask-grow", "2", "-o", "steps=2", "-o", "mask_samples=1", "-o", "negative_prompt=pears")
    said = "the model doesn't know the words 'cup', 'paers' (did you mean 'pears'?); it knows a, of, pears"
    assert (done.code, done.err) == (0, f"warning: {said}\n")


@pytest.mark.slow
def test_a_photo_of_12_megapixels_says_at_which_size_it_was_edited(run):
    Image.new("RGB", (4000, 3000), "red").save("photo.png", compress_level=1)
    done = run("edit", "photo.png", *EDIT[2:], "--out", "big.jpg")
    assert done.out.splitlines()[-1] == (
        "edited at 40 × 32 px: the picture was shrunk from 4000 × 3000 to 37 × 28; with --size SIDE it is about "
        "SIDE × SIDE px, and `edit --crop` edits a part of the picture, which is shrunk less")


def test_every_way_to_edit_says_that_a_picture_was_shrunk(run, tmp_path):
    said = "edited at 40 × 32 px: the picture was shrunk from 77 × 61 to 36 × 28"
    for done in (run(*EDIT, "--report", "r.html"), run("mask", *EDIT[1:]), run("invert", "a.png", *RANDOM[:4])):
        assert f"\n{said}; with --size" in done.out
    assert said in (tmp_path / "r.html").read_text(encoding="utf-8")
    several = run("edit", "a.png", "black.png", *EDIT[2:], "--out", "several").out
    assert several.startswith(f"wrote several/a-edit.png ({said})\nwrote several/black-edit.png")
    assert several.count("edited at") == 1 and "edited at" not in run(*EDIT, "--crop", "0,0,32,32").out


# ---- like


EVERY = [
    ("--reference", "a bowl", "--seed", "7", "--size", "24", "-o", "negative_prompt=grün", "--preset", "fast",
     "--dtype", "float64"),
    ("--mask-grow", "3", "--composite", "--mask-feather", "2", "--crop", "3,4,50,40"),
]


@pytest.mark.parametrize("more", EVERY)
def test_like_repeats_a_result_to_the_last_byte(call, more):
    first, second = "first.jpg", "second.jpg"
    assert call(*EDIT, *more, "--out", first).code == 0
    assert call("edit", "a.png", "--like", first, "--out", second).code == 0
    assert open(first, "rb").read() == open(second, "rb").read()


@pytest.mark.parametrize("picture", [("a.png",), ()])
def test_like_repeats_a_method_with_options_of_its_own(call, picture):
    words = ("--query", "a bowl of pears", "--reference", "a bowl of figs", "-o", "steps=2", "--model", "random")
    more = ("--method", "prompt-to-prompt", "-o", "reweight=pears:2", "-o", "word_windows=pears:0.5")
    assert call("edit", *picture, *words, *more, "--out", "1.png").code == 0
    assert call("edit", *picture, "--like", "1.png", "--out", "2.png").code == 0
    assert open("1.png", "rb").read() == open("2.png", "rb").read()


def test_the_command_line_goes_over_like(run):
    run(*EDIT, "--seed", "7", "--composite", "--mask-grow", "3", "--crop", "0,0,50,50", "--out", "first.png")
    plain = ("--no-composite", "--mask-grow", "0", "--crop", "none")
    done = run("edit", "a.png", "--like", "first.png", *plain, "--seed", "0", "--query", "figs", "-o", "steps=3",
               "--out", "second.png")
    assert done.code == 0, done.err
    first, second = settings("first.png"), settings("second.png")
    assert second == {**first, "seed": 0, "query": "figs", "steps": 3,
                      "composite": False, "mask_grow": 0, "crop": None}
    done = run("edit", "a.png", "--like", "first.png", *plain, "--method", "sdedit", "--out", "third.png")
    assert done.code == 0, done.err
    assert {name: settings("third.png")[name] for name in ("method", "steps", "seed", "query")} == {
        "method": "sdedit", "steps": 4, "seed": 7, "query": "a basket of pears"}


@pytest.mark.parametrize("method", ["diffedit", "sdedit"])
def test_like_asks_for_a_mask_that_was_given_by_hand(run, method):
    given = ("edit", "a.png", "--query", "pears", "--method", method, "-o", "steps=4", "--mask", "mask.png")
    assert run(*given, "--composite", "--out", "first.png").code == 0
    done = run("edit", "a.png", "--like", "first.png", "--out", "second.png")
    message = "the earlier edit was made with a mask of your own, which is not in its picture: give --mask"
    assert (done.code, done.err, done.new) == (1, f"error: {message}\n", set())
    assert run("edit", "a.png", "--like", "first.png", "--mask", "mask.png", "--out", "second.png").code == 0
    assert open("first.png", "rb").read() == open("second.png", "rb").read()


def test_a_masks_settings_make_the_edit_that_it_is_for(run):
    run("mask", *EDIT[1:], "--seed", "3")
    assert run("edit", "a.png", "--like", "a-mask.png").code == 0
    assert settings("a-edit.png")["encoding_ratio"] == 0.8 and settings("a-edit.png")["seed"] == 3


def test_the_settings_are_the_edits_and_what_is_around_it(run, network):
    job = Job(Asked(dm.diffedit, "pears", seed=3, options={"steps": 4}), "a.png", Path("o.png"))
    opened = open_job(job)
    [(edit, image)] = edit_jobs(network, SOURCE, [opened])
    plain = dm.diffedit(network, opened.cut, "pears", seed=3, steps=4).settings
    assert edit.settings == settings_of(opened, network, SOURCE) == {**plain, **edit.settings}
    assert set(edit.settings) - set(plain) == {
        "preset", "mask_grow", "mask_feather", "composite", "crop", "input_sha256", "mask_sha256", "dtype", "version",
        *SOURCE}
    assert re.fullmatch("[0-9a-f]{16}", edit.settings["input_sha256"])
    assert finished(opened, edit, None).tobytes() == image.tobytes() == edit.image.tobytes()
