"""Run: python -m pytest tests/test_comparisons.py

`grid` and `compare`: what their cells cost, what is made once, what is kept and goes on, what is refused, and what the
sheets show. On the tiny random model.
"""

import random
import re
from functools import partial
from html import unescape

import numpy as np
import pytest
import torch
from PIL import Image

import diffedit_min as dm
from diffedit_min.methods import cost
from diffedit_min.studio.comparisons import axis, whole
from diffedit_min.studio.comparisons.making import cost_of_all, make
from diffedit_min.studio.comparisons.plan import plan_grid, told_of

QUERY, REFERENCE = "a basket of pears", "a bowl of apples"
SMALL = {"steps": 8, "mask_samples": 2, "mask_threshold": 0.1}


@pytest.fixture(scope="module")
def network():
    return dm.load("random", device="cpu")


@pytest.fixture(scope="module")
def picture():
    noise = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((20, 16), Image.BICUBIC)


@pytest.fixture
def counted(network):
    """How many rows really go through the U-Net: counted[0]."""
    counted = [0]
    hook = network.unet.register_forward_hook(lambda unet, inputs, out: counted.__setitem__(0, counted[0] + len(out)))
    yield counted
    hook.remove()


def planned(network, picture, x, y, **told):
    told = told_of({"query": QUERY, "reference": REFERENCE, **SMALL, **told})
    for name in (*x, *(y or ())):
        told["options"].pop(name, None)
    return plan_grid(network, picture, "input.png", told, axis(x), y and axis(y))


def grid(network, picture, x, y=None, **told):
    options = {name: value for name, value in SMALL.items() if name not in x and name not in (y or ())}
    return dm.grid(network, picture, QUERY, REFERENCE, x=x, y=y, **{**options, **told})


# ---- what it costs


@pytest.mark.parametrize(("x", "y", "rows_for"), [
    # Ratios of 2, 4, 6 of 8 steps: the encoding is made once, to the largest; the map once; decoding takes 2k.
    ({"encoding_ratio": [0.25, 0.75, 0.5]}, {"mask_threshold": [0.1, 0.2]}, {"mask": 4, "encode": 6, "decode": 48}),
    # A map for each seed, and one encoding; guidance 1 takes one row a step.
    ({"seed": [0, 1, 2]}, {"guidance_scale": [1.0, 3.0]}, {"mask": 12, "encode": 6, "decode": 3 * (6 + 12)}),
    ({"query": [QUERY, "plums"]}, {"encoding_ratio": [0.25, 0.5]}, {"mask": 8, "encode": 4, "decode": 2 * (4 + 8)}),
    # Of the samplers' encodings none serves the other, nor one of 4 steps one of 8; there is one map.
    ({"sampler": ["ddim", "edict"]}, {"steps": [4, 8]}, {"mask": 4, "encode": 9 + 18, "decode": 18 + 36}),
])
def test_a_grid_costs_what_it_says_and_makes_nothing_twice(network, picture, counted, x, y, rows_for):
    sheet = grid(network, picture, x, y)
    assert sheet.rows_for == rows_for and sheet.rows == sum(edit.rows for edit in sheet.edits) == counted[0]
    assert f"{len(sheet.cells)} edits, {sheet.rows} rows through the U-Net" in sheet.cost
    expected = cost_of_all(planned(network, picture, x, y))
    assert expected.rows_for == rows_for and expected.steps[-1][2] == sheet.rows
    assert len({step[:2] for step in expected.steps}) == len(expected.steps), "a step is found by its name"


def test_shared_or_not_a_cell_is_the_edit_that_its_settings_name(network, picture):
    sheet = grid(network, picture, {"encoding_ratio": [0.25, 0.5]}, {"mask_threshold": [0.1, 0.3]})
    assert [cell.label for cell in sheet.cells] == [
        f"encoding_ratio={r}, mask_threshold={t}" for t in (0.1, 0.3) for r in (0.25, 0.5)]
    for edit, (threshold, ratio) in zip(sheet.edits, [(t, r) for t in (0.1, 0.3) for r in (0.25, 0.5)], strict=True):
        alone = dm.diffedit(network, picture, QUERY, REFERENCE, steps=8, mask_samples=2, mask_threshold=threshold,
                            encoding_ratio=ratio)
        assert np.array_equal(alone.image, edit.image) and edit.settings["encoding_ratio"] == ratio


def test_methods_share_nothing_and_the_sheet_says_what_each_costs(network, picture, counted):
    sheet = dm.compare(network, picture, QUERY, REFERENCE, methods=["diffedit", "encode_decode", "sdedit"],
                       truth=picture, **SMALL)
    assert [edit.rows for edit in sheet.edits] == [4 + 3 * 6, 3 * 6, 2 * 6] and sheet.rows == counted[0]
    for cell in sheet.cells:
        rows, answer = sheet.figures(cell)
        assert rows.startswith(f"{cell.edit.rows} rows, ") and re.fullmatch(r"[\d.]+ dB to the answer", answer)


# ---- stopped and taken up again


class Stop(Exception):
    pass


@pytest.mark.parametrize("place", random.Random(1).sample(range(6), 2))
def test_a_run_that_was_stopped_ends_with_the_same_sheet(network, picture, counted, tmp_path, place):
    plan = planned(network, picture, {"encoding_ratio": [0.25, 0.75, 0.5]}, {"seed": [0, 1]}, steps=4)

    def stop(now, step):
        if now == plan.order[place] and step.stage == "decode":
            raise Stop

    made = {}
    with pytest.raises(Stop):
        made.update(make(plan, keep=tmp_path / "cells", on_step=stop))
    before = counted[0]
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}
    assert len(kept) == 2 * place
    first = written(plan, make(plan, keep=tmp_path / "cells"), tmp_path / "first")
    taken = counted[0] - before
    again = written(plan, make(plan, keep=tmp_path / "cells"), tmp_path / "again")
    assert first == again and counted[0] == before + taken, "all is there by now"
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    unbroken = whole(plan, [cell for _, cell in sorted(make(plan), key=lambda made: made[0])])
    for one, other in zip(unbroken.edits, whole_of(plan, tmp_path).edits, strict=True):
        assert np.array_equal(one.image, other.image) and one.rows_for == other.rows_for
        assert one.settings == other.settings and one.mask.equal(other.mask) and one.empty_mask == other.empty_mask
    there = sum(unbroken.cells[earlier].edit.rows for earlier in plan.order[:place])
    assert taken == unbroken.rows - there, "no encoding and no map of a kept cell is made again"


def whole_of(plan, folder):
    return whole(plan, [cell for _, cell in sorted(make(plan, keep=folder / "cells"), key=lambda made: made[0])])


def written(plan, making, folder):
    """The bytes of sheet and page."""
    folder.mkdir()
    sheet = whole(plan, [cell for _, cell in sorted(making, key=lambda made: made[0])])
    sheet.save(folder / "s.png", folder / "s.html")
    return (folder / "s.png").read_bytes(), (folder / "s.html").read_bytes()


def test_a_kept_cell_is_used_only_where_nothing_differs(network, picture, counted, tmp_path):
    def rows(model, image, **told):
        before = counted[0]
        grid(model, image, {"encoding_ratio": [0.25, 0.5]}, keep=tmp_path, **told)
        return counted[0] - before

    everything = rows(network, picture)
    assert everything == 4 + 4 + 12 and rows(network, picture) == 0
    assert rows(network, picture, seed=3) == everything and rows(network, picture, negative_prompt="sand") == everything
    other = picture.copy()
    other.putpixel((0, 0), (1, 2, 3))
    assert rows(network, other) == everything and rows(network, picture) == 0
    weight = network.unet.conv_out.weight.data
    before = weight.clone()
    try:
        weight[-1, -1, -1, -1] += 1
        assert rows(network, picture) > 0, "other weights"
    finally:
        weight.copy_(before)
    for damaged in tmp_path.glob("*.pt"):
        damaged.write_bytes(damaged.read_bytes()[:100])
    assert rows(network, picture) == everything, "damaged ones are made again"


def test_another_largest_ratio_makes_the_rows_anew(network, picture, tmp_path):
    """The rows of a cell depend on those before it: what was made with another cell's encoding isn't taken for it."""
    one = grid(network, picture, {"encoding_ratio": [0.25, 0.5]}, keep=tmp_path)
    other = grid(network, picture, {"encoding_ratio": [0.25]}, keep=tmp_path)
    assert one.cells[0].edit.rows == 4 and other.cells[0].edit.rows == 4 + 2 + 4


# ---- refusals


@pytest.mark.parametrize(("x", "y", "told", "message"), [
    ({"colour": [1]}, None, {}, "has no option 'colour' for an axis"),
    ({"mask_threshold": [0.1]}, None, {"method": "sdedit"}, "sdedit has no option 'mask_threshold'"),
    ({"steps": []}, None, {}, "steps has no values"),
    ({"steps": [4, 4]}, None, {}, "steps has a value twice"),
    ({"steps": [4]}, {"steps": [5]}, {}, "steps is on both axes"),
    ({"steps": [4]}, None, {"steps": 5}, "steps is on an axis"),
    ({"steps": [0]}, None, {}, "steps must be at least 1, not 0"),
    ({"seed": range(11)}, {"guidance_scale": range(10)}, {}, "11 x 10 = 110 cells are more than 100"),
    ({"steps": [4], "seed": [1]}, None, {}, "an axis is one option and its values"),
    ({"seed": [1]}, None, {"colour": 3}, "diffedit has no option 'colour'"),
    ({"seed": [1]}, None, {"method": "instruct_pix2pix"}, "needs a U-Net with 8 input channels"),
    ({"method": ["sdedit"]}, None, {}, "has no option 'method' for an axis"),
])
def test_what_a_grid_refuses(network, picture, counted, x, y, told, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        dm.grid(network, picture, QUERY, x=x, y=y, **told)
    assert counted[0] == 0


def test_what_a_comparison_leaves_out_and_refuses(network, picture):
    sheet = dm.compare(network, picture, QUERY, steps=2, mask_samples=1)
    assert "; steps 2; mask_samples 1; otherwise each method with its own settings of the preset" in sheet.about
    said = sheet.plan.left_out
    assert "needs a U-Net with 8 input channels" in said["instruct-pix2pix"] and "no query" in said["invert"]
    assert "needs a reference" in said["prompt-to-prompt"] and "trains" in said["unitune"]
    assert all(f"{name} ({why})" in sheet.left_out for name, why in said.items())
    assert {cell.label for cell in sheet.cells} == {m.dashed for m in dm.METHODS.values()} - said.keys()
    with pytest.raises(ValueError, match=r"no method is left: instruct-pix2pix \(needs a U-Net"):
        dm.compare(network, picture, QUERY, methods=["instruct-pix2pix"])
    with pytest.raises(ValueError, match="a method is named twice"):
        dm.compare(network, picture, QUERY, methods=["sdedit", "sdedit"])
    with pytest.raises(ValueError, match="colour: none of diffedit has it"):
        dm.compare(network, picture, QUERY, methods=["diffedit"], colour=3)


def test_a_cell_that_fails_says_why_and_the_others_are_made(network, picture):
    told = {"method": "prompt_to_prompt", "align": "swap", "steps": 2}
    sheet = dm.grid(network, picture, "", "a bowl", x={"query": ["a basket", "a wooden table"]}, **told)
    good, failed = sheet.cells
    assert good.edit is not None and failed.edit is None and "a swap needs as many words" in failed.why
    assert failed.why in unescape(sheet.page()) and sheet.rows == good.edit.rows
    with pytest.raises(ValueError, match="no cell could be made: a swap needs as many words"):
        dm.grid(network, picture, "", "a bowl", x={"query": ["a wooden table"]}, **told)


def test_a_method_with_a_fault_of_its_own_fails_in_its_cells_only(network, picture, monkeypatch):
    def faulty(task, options):
        yield dm.Step("look", 1, 1)
        raise {"a": KeyError("a"), "b": ZeroDivisionError("b"), "c": RuntimeError("c")}[task.queries[0]]

    monkeypatch.setattr(dm.METHODS, "_methods", dict(dm.METHODS))
    dm.register(dm.Method("faulty", faulty))
    sheet = dm.compare(network, picture, "a", methods=["faulty", "sdedit"], steps=2)
    assert sheet.cells[0].why == "KeyError: 'a'" and len(sheet.edits) == 1
    with pytest.raises(ValueError, match="no cell could be made: ZeroDivisionError: b"):
        dm.grid(network, picture, x={"query": ["b", "c"]}, method="faulty")


@pytest.mark.filterwarnings("ignore:the prompt is too long")
def test_foreign_files_among_the_kept_cells_are_made_anew(network, picture, counted, tmp_path):
    plan = planned(network, picture, {"query": ["犬" * 90, "\U00020000" * 90]}, None, steps=2)
    dict(make(plan, keep=tmp_path))
    rows = counted[0]
    one, other = sorted(tmp_path.glob("*.pt"))
    torch.save({"seconds": 1.0}, one)
    torch.save([torch.zeros(3)], other)
    dict(make(plan, keep=tmp_path))
    assert counted[0] == 2 * rows
    dict(make(plan, keep=tmp_path))
    assert counted[0] == 2 * rows


def test_a_value_that_stands_there_very_often_is_named_once(network, picture):
    with pytest.raises(ValueError, match="query has a value twice: ab") as refused:
        grid(network, picture, {"query": ["ab" * 500] * 1000})
    assert len(str(refused.value)) < 100


def test_a_true_answer_of_another_size_is_refused(network, picture, counted):
    with pytest.raises(ValueError, match="the true answer has 9 x 9 px, but the picture 20 x 16"):
        grid(network, picture, {"seed": [0]}, truth=Image.new("RGB", (9, 9)))
    assert counted[0] == 0


# ---- what a sheet shows


def test_a_sheet_says_what_is_on_it(network, picture):
    x, y = {"sampler": ["ddim", dm.SAMPLERS["edict"]]}, {"guidance_scale": [1.0, 3.0]}
    sheet = grid(network, picture, x, y, seed=4, truth=picture)
    assert sheet.title == QUERY and sheet.across.labels == ["ddim", "edict"] and sheet.down.labels == ["1.0", "3.0"]
    assert sheet.about.startswith(f'diffedit, model random; reference "{REFERENCE}"; seed 4; ')
    assert "steps 8" in sheet.about and "guidance_scale" not in sheet.about and "sampler" not in sheet.about
    page = unescape(sheet.page())
    for cell in sheet.cells:
        name, scale = re.findall(r"=([^,]+)", cell.label)
        assert f"-o guidance_scale={scale}" in page and f"-o sampler={name}" in page or name == "ddim"
        assert cell.label in page and f"{cell.edit.rows} rows" in page
    assert sheet.image.width > 3 * picture.width and not re.search("(src|href)=.(?!data:|#)", page)
    many = grid(network, picture, {"query": ["pears", "plums"]}, steps=2)
    assert many.title == "query, compared" and many.down is None


def test_masks_are_shown_where_an_axis_is_the_masks(network, picture):
    assert grid(network, picture, {"mask_threshold": [0.1, 0.2]}, steps=2).shows_masks
    assert not grid(network, picture, {"seed": [0, 1]}, steps=2).shows_masks
    thresholds = grid(network, picture, {"mask_threshold": [0.1, 0.2]}, steps=2)
    assert thresholds.image.width > grid(network, picture, {"seed": [0, 1]}, steps=2).image.width


def test_odd_pictures_fit_their_places(network):
    for size in ((90, 9), (9, 90), (300, 200)):
        image = Image.linear_gradient("L").resize(size).convert("RGBA")
        sheet = grid(network, image, {"seed": [0, 1]}, {"guidance_scale": [1.0]}, steps=2, mask_samples=1)
        assert max(sheet.image.size) < 5000 and {edit.image.size for edit in sheet.edits} == {size}


def test_what_edit_takes_of_a_picture_stands_on_an_axis_too(network, picture):
    sheet = grid(network, picture, {"mask_grow": [-4, 0]}, {"composite": [False, True]}, steps=2)
    small, large = sheet.edits[:2]
    assert large.mask.sum() >= small.mask.sum() > 0 and small.settings["mask_grow"] == -4
    outside = np.asarray(sheet.edits[2].mask_image) == 0
    assert np.array_equal(np.asarray(sheet.edits[2].image)[outside], np.asarray(picture)[outside])
    assert "--composite" in sheet.page()


def test_a_method_of_ones_own_is_compared_like_the_others(network, picture, monkeypatch):
    monkeypatch.setattr(dm.METHODS, "_methods", dict(dm.METHODS))
    dm.register(dm.Method("mine", based_on=dm.sdedit))
    sheet = dm.compare(network, picture, QUERY, methods=["mine", "sdedit"], steps=4)
    mine, theirs = sheet.edits
    assert np.array_equal(mine.image, theirs.image) and sheet.across.labels == ["mine", "sdedit"]
    assert dm.grid(network, picture, QUERY, x={"steps": [2, 4]}, method="mine").rows == 2 * (2 + 3)


# ---- the commands


SCENE = ("--model", "random", "-o", "steps=4", "-o", "mask_samples=1")


def test_grid_on_a_scene_is_written_whole_and_goes_on(call_command, tmp_path):
    words = ("grid", "--x", "mask_threshold=0.1, 0.2", "--y", "seed=0,1", *SCENE, "--page", "g.html")
    first = call_command(*words)
    assert first.code == 0 and first.out.startswith("wrote grid.png and g.html\n4 edits, "), first.err
    before = [(tmp_path / name).read_bytes() for name in ("grid.png", "g.html")]
    assert {path.name for path in tmp_path.iterdir()} == {"grid.png", "g.html", "grid.cells"}
    again = call_command(*words)
    assert again.out == first.out and before == [(tmp_path / name).read_bytes() for name in ("grid.png", "g.html")]
    picture = next(tmp_path.glob("grid.cells/mask_threshold=0.1*.png"))
    repeated = call_command("edit", "grid.cells/input.png", "--like", picture, "--out", "r.png")
    assert repeated.code == 0 and np.array_equal(Image.open("r.png"), Image.open(picture))


def test_a_picture_that_lies_among_the_cells_is_left_as_it_is(call_command, tmp_path):
    (tmp_path / "grid.cells").mkdir()
    file = tmp_path / "grid.cells" / "own.jpg"
    Image.effect_noise((20, 16), 90).convert("RGB").save(file, quality=30)
    before = file.read_bytes()
    done = call_command("grid", "grid.cells/own.jpg", "--query", "pears", "--x", "seed=0", *SCENE)
    assert done.code == 0 and file.read_bytes() == before


def test_compare_on_a_scene_knows_its_true_answer_and_instruction(call_command, monkeypatch):
    monkeypatch.setattr(cost, "Estimate", partial(cost.Estimate, least=0, after=0))
    done = call_command("compare", "--change", "fruit=plums", *SCENE, "--methods", "diffedit", "sdedit",
                        "instruct-pix2pix")
    assert done.code == 0 and "2 edits" in done.out and "dB" in done.out
    assert "Left out: instruct-pix2pix (needs a U-Net with 8 input channels)." in done.out
    assert " left: " in done.err        # how long it will take


@pytest.mark.parametrize(("words", "message"), [
    (("grid",), "--x is missing"),
    (("grid", "--x", "steps"), "--x 'steps' has no values"),
    (("grid", "--x", "steps=4", "seed=3"), "--x has one option, not steps and seed"),
    (("grid", "--x", "steps=4,x"), "steps must be a whole number, not 'x'"),
    (("grid", "--x", "steps=4", "-o", "steps=3"), "steps is on an axis"),
    (("grid", "a.png", "--scene", "1", "--x", "steps=4"), "--scene 1 is for drawn scenes"),
    (("compare", "--truth", "a.png"), "--truth 'a.png' is for a picture of your own"),
    (("compare", "--methods", "diffedit", "-o", "sdedit:steps=3"), "none of diffedit has it"),
    (("compare", "--methods", "colour"), "--method 'colour' is not known"),
    (("grid", "a.png", "--x", "seed=1", "--out", "a.png"), "'a.png' would replace 'a.png'"),
])
def test_what_the_commands_refuse_in_a_line(call_command, words, message):
    Image.new("RGB", (20, 16)).save("a.png")
    done = call_command(*words, "--model", "random")
    assert done.code == 1 and done.err.count("\n") == 1 and message in done.err


def test_values_with_commas_are_given_one_by_one(call_command):
    done = call_command("grid", "--x", "query=pears, plums", "query=a basket", "--y", "sampler=ddim,edict:p=0.9",
                        *SCENE, "--page", "g.html")
    assert done.code == 0 and "4 edits" in done.out
    with open("g.html", encoding="utf-8") as page:
        text = unescape(page.read())
    assert "query=pears, plums, sampler=edict:p=0.9" in text and "query=a basket, sampler=ddim" in text
