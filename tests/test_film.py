"""Run: python -m pytest tests/test_film.py

An edit as an animation: its frames, how long each is shown, and the file, mostly with the tiny random model.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

import diffedit_min as dm
from diffedit_min.pictures import drawing, metadata, picture, picture_files
from diffedit_min.studio import film
from diffedit_min.tiny import scenes


@pytest.fixture(scope="module")
def model():
    return dm.load("random", device="cpu")


@pytest.fixture(scope="module")
def image():
    return scenes.sample(scenes.TEST[1]).render(45).crop((0, 0, 45, 37))


@pytest.fixture(scope="module")
def edit(model, image):
    return dm.diffedit(model, image, "a basket", "a bowl", steps=25, encoding_ratio=0.8, mask_samples=4, keep="trace")


@pytest.fixture(scope="module")
def made(edit, model):
    return film.film(edit, model)


def stills(edit, model):
    """What is shown, before it is laid out."""
    frame = film.at_most(edit.frame, film.MOST)
    before = film.Shot(film.sized(edit.input, frame), "input")
    return [*film.finding(edit, model, frame, before), *film.encoding(edit, before), *film.decoding(edit, before)]


def test_it_shows_the_three_steps_in_order(edit, model, made):
    shown = stills(edit, model)
    t = model.schedule.noised(0.5).t
    chosen = film.evenly(1, 20, film.LEVELS)
    assert [still.heading for still in shown[:10]] == [
        *(f"1  Find the mask: noise {i + 1} of 4, t = {t}" for i in range(3) for _ in range(3)),
        "1  Find the mask: cut the map"]
    assert [still.heading for still in shown[10:26]] == [
        f"2  Encode: step {j} of 20, t = {edit.encoded[j].level.t}" for j in chosen]
    assert [still.heading for still in shown[26:]] == [
        f"3  Decode inside the mask: step {21 - j} of 20, t = {edit.decoded[j].level.t}" for j in chosen[::-1]]
    assert chosen[0] == 1 and chosen[-1] == 20 and len(chosen) == 16 and film.evenly(1, 3, 16) == [1, 2, 3]
    assert len(made.frames) == len(shown) + 1 == 43
    assert made.durations == [1400] * 9 + [2800] + [160] * 32 + [3000]


def test_a_frame_shows_its_latents(edit, model, made):
    """The last but one: the latent of level 1 and the clean picture that the last step predicted; small, so enlarged
    by a whole number, each pixel a square."""
    j, (width, height) = 1, edit.input.size
    row = drawing.strip([picture.unfit(model.decode(latent), edit.frame).resize((width * 6, height * 6), 0)
                         for latent in (edit.decoded[j].latent, film.x0_of_step(edit.decoded[j], edit.decoded[0]))],
                        ["latent, decoded", "predicted clean image"], 1.0)
    wanted = drawing.headed(row, f"3  Decode inside the mask: step 20 of 20, t = {edit.decoded[j].level.t}")
    assert made.frames[-2].crop((0, 0, *wanted.size)).tobytes() == wanted.tobytes()
    assert {frame.size for frame in made.frames} == {made.frames[0].size}


def test_it_costs_no_row_and_says_how_far_it_is(edit, model):
    asked, seen = [], []
    hook = model.unet.register_forward_pre_hook(lambda *arguments: asked.append(arguments))
    film.film(edit, model, seen.append)
    hook.remove()
    assert not asked and {(step.stage, step.total) for step in seen} == {("film", 3 * 3 + 16 + 32)}
    assert seen[-1].index == seen[-1].total


@pytest.mark.parametrize(("method", "options", "count"), [
    ("diffedit", {"keep": "result", "mask_samples": 1}, 1 + 4 + 1),             # the map, the encoding, the result
    ("diffedit", {"mask": Image.new("L", (9, 9), "white")}, 1 + 4 + 4 + 1),
    ("diffedit", {"query": "a bowl"}, 1 + 1),                                   # nothing to change
    ("diffedit", {"encoding_ratio": 0.0, "mask_samples": 2}, 2 * 3 + 1 + 1),
    ("diffedit", {"sampler": "edict", "mask_samples": 1}, 3 + 1 + 4 + 4 + 1),   # whose latents show no clean picture
    ("sdedit", {}, 4 + 1),
    ("prompt_to_prompt", {"image": None}, 5 + 1)])
def test_what_there_is_not_is_left_out(model, image, method, options, count):
    told = {"query": "a basket", "reference": "a bowl", "steps": 5, "encoding_ratio": 0.8, "keep": "trace", **options}
    edit = dm.METHODS[method](model, told.pop("image", image), **told)
    assert len(film.film(edit, model).frames) == count


def test_a_large_picture_is_shown_smaller(model):
    edit = dm.sdedit(model, Image.new("RGB", (900, 90)), "a basket", steps=1, encoding_ratio=1.0)
    assert film.film(edit, model).frames[0].width < 2 * 384 + 40


@pytest.mark.parametrize("suffix", picture_files.ANIMATIONS)
def test_the_file_plays_and_loops_and_holds_the_settings(edit, model, made, tmp_path, suffix):
    path = tmp_path / f"edit{suffix}"
    path.write_bytes(b"an earlier one")
    made.save(path)
    with Image.open(path) as file:
        frames, durations = [], []
        for frame in ImageSequence.Iterator(file):
            frames.append(np.asarray(frame.convert("RGB"), dtype=int))
            durations.append(frame.info["duration"])
        assert file.info["loop"] == 0 and durations == made.durations
    assert all(abs(shown - np.asarray(wanted)).mean() < 8 for shown, wanted in zip(frames, made.frames, strict=True))
    assert path.stat().st_size < 3e6
    assert metadata.read(path) == json.loads(json.dumps(edit.settings))
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_another_suffix_is_refused(made, tmp_path):
    with pytest.raises(ValueError, match=r"has the suffix '.png': use one of .gif, .webp$"):
        made.save(tmp_path / "edit.png")


RANDOM = ("edit", "a.png", "--query", "a basket", "--model", "random", "-o", "steps=2", "-o", "mask_samples=1")


def test_the_command_writes_it(call_command, image):
    image.save("a.png")
    done = call_command(*RANDOM, "--film", "f.webp")
    assert (done.code, done.err) == (0, "") and done.out.startswith("wrote a-edit.png and f.webp\n")
    assert Image.open("f.webp").n_frames > 5 and metadata.read("f.webp") == metadata.read("a-edit.png")
    again = call_command("edit", "a.png", "--like", "f.webp", "--out", "again.png")
    assert again.code == 0 and Path("again.png").read_bytes() == Path("a-edit.png").read_bytes()


@pytest.mark.parametrize(("arguments", "message"), [
    (("--film", "f.mp4"), "'f.mp4' has the suffix '.mp4': use one of .gif, .webp"),
    (("--film", "f.webp", "--strip", "f.webp"), "'f.webp' can't hold two results: give each a file of its own"),
    (("--film", "missing/f.gif"), "there is no folder 'missing': make it first")])
def test_refused_before_any_work(call_command, image, monkeypatch, arguments, message):
    image.save("a.png")
    monkeypatch.setattr(dm.loading, "load", None)
    for words in (RANDOM, ("demo", "--out", "a-edit.png")):
        done = call_command(*words, *arguments)
        assert (done.code, done.err, done.out) == (1, f"error: {message}\n", "")
    done = call_command("edit", "a.png", "a.png", "--query", "a basket", "--film", "f.gif")
    assert done.err == "error: --film 'f.gif' is for one picture: leave it out\n"


def test_an_overflowing_latent_spoils_no_film(edit, model):
    shot = film.Shot(torch.full_like(edit.encoded[0].latent, torch.nan), "", "")
    film.develop([shot], model, edit.frame, stage="film")
    assert shot.image.size == edit.frame.size
