"""Run: python -m pytest tests/test_datasets.py

The benchmark's datasets, read from small folders in the formats that they are published in, whole and damaged.
"""

import functools
import itertools
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diffedit_min.bench.datasets import DATASETS, coco, imagen, imagenet, lists, pairs, pie
from diffedit_min.bench.datasets.item import Dataset, Item, Location

quick = settings(deadline=None, database=None, derandomize=True, max_examples=60)

QUERIES = ''',path,source,source_id,target,target_id,is_test
3741,n02091032/ILSVRC2012_val_00042240.JPEG,Italian greyhound,171,Afghan hound,160,False
3646,n02088364/ILSVRC2012_val_00048167.JPEG,beagle,162,Afghan hound,160,True
44,n01440764/ILSVRC2012_val_00045866.JPEG,tench,0,"sturgeon, or ""beluga""",394,True
'''
CAPTIONS = [(11, 101, "A man rides a red horse on the beach."), (12, 102, "Two dogs sleep."),
            (13, 102, "a man rides a brown horse on the beach\n"), (14, 103, "A plate of food"),
            (15, 103, "The man  rides a red horse on a beach")]
BISON = [  # bison_id, caption_id, true_image_id, the candidates
    (0, 11, 101, (101, 102)),       # to "a man rides a brown horse on the beach": 1 of 8 words
    (7, 11, 101, (103, 101)),       # to "The man rides a red horse on a beach": 2 of 8
    (8, 12, 102, (101, 102)),       # to "A man rides ...": all 8 words
]
MAPPING = {
    "000000000000": {
        "image_path": "0_random_140/000000000000.jpg",
        "original_prompt": "a slanted mountain bicycle  on the road", "editing_instruction": "Make the frame rusty",
        "editing_prompt": "a slanted [rusty] mountain bicycle on the road", "editing_type_id": "0",
        "blended_word": "bicycle bicycle", "mask": [1026, 3, 262000, 144]},
    "122000000003": {
        "image_path": "1_change_object_80/2_natural/2_human/122000000003.jpg", "original_prompt": "",
        "editing_prompt": "[a cat]", "editing_instruction": "", "editing_type_id": "1", "blended_word": "", "mask": []},
}
PAIRS = """image,reference,query,mask,answer,instruction,id,group
a.png,"a bowl, full","a bowl, empty",mask.png,answer.png,empty it,my bowl!,things
sub/b.jpg,,a cat,,,,,
"""


def put(path: Path, colour: object = "red", size: tuple[int, int] = (6, 4), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)
    return path


def wrote(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())     # no translation of line ends
    return path


def make_imagenet(folder: Path) -> Location:
    for name in re.findall(r"n\d+/.*JPEG", QUERIES):
        put(folder / "val" / name)
    return Location(wrote(folder / "queries.csv", QUERIES), folder / "val")


def make_coco(folder: Path) -> Location:
    for image in (101, 102, 103):
        put(folder / "val2014" / f"COCO_val2014_{image:012}.jpg")
    annotations = [{"image_id": image, "id": key, "caption": text} for key, image, text in CAPTIONS]
    wrote(folder / "annotations/captions_val2014.json", json.dumps({"info": {}, "annotations": annotations}))
    entries = [{"bison_id": name, "caption_id": caption, "true_image_id": true,
                "image_candidates": [{"image_id": image, "image_filename": f"COCO_val2014_{image:012}.jpg"}
                                     for image in both]} for name, caption, true, both in BISON]
    info = {"source": "coco", "split": "val2014"}
    return Location(wrote(folder / "bison.json", json.dumps({"info": info, "data": entries})), folder / "val2014")


def make_pie(folder: Path) -> Location:
    for entry in MAPPING.values():
        put(folder / "annotation_images" / entry["image_path"], size=(512, 512))
    return Location(wrote(folder / "mapping_file.json", json.dumps(MAPPING)), folder / "annotation_images")


def make_pairs(folder: Path) -> Location:
    put(folder / "a.png")
    put(folder / "answer.png", "blue")
    put(folder / "mask.png", 255, mode="L")
    put(folder / "sub/b.jpg")
    return Location(wrote(folder / "pairs.csv", PAIRS))


MAKERS = {"imagenet": make_imagenet, "coco": make_coco, "pie": make_pie, "pairs": make_pairs}


@pytest.fixture
def at(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """The files of the dataset that the test's parameter `name` says."""
    return MAKERS[request.node.callspec.params["name"]](tmp_path)


def fields(item: Item) -> dict[str, object]:
    """What an item says, and which of its pictures there are."""
    words = {key: getattr(item, key) for key in ("id", "query", "reference", "instruction", "group", "seed", "truth")}
    return words | {key: getattr(item, key) is not None for key in ("image", "mask", "answer")}


def expected(**known: object) -> dict[str, object]:
    return {"reference": "", "instruction": "", "group": "", "truth": None, "image": True, "mask": False,
            "answer": False, **known}


def one_line(message: str) -> str:
    assert "\n" not in message and "Traceback" not in message
    return message


def refusal(name: str, at: Location) -> str:
    """The one line that reading ends in."""
    with pytest.raises(ValueError) as error:
        DATASETS[name](at)
    return one_line(str(error.value))


# ---------------------------------------------------------------- whole


def test_the_datasets_by_their_names():
    assert list(DATASETS) == ["scenes", "imagenet", "coco", "imagen", "pie", "pairs"]
    assert DATASETS["scenes"](Location()).name == "scenes"


@pytest.mark.parametrize("name", MAKERS)
def test_what_every_dataset_is(name, at, monkeypatch):
    monkeypatch.setattr(Image, "open", None)        # nothing is opened before it is needed
    dataset = DATASETS[name](at)
    monkeypatch.undo()
    assert isinstance(dataset, Dataset) and dataset.name == name and dataset.items and "\n" not in dataset.about
    for item in dataset.items:
        assert re.fullmatch(r"[A-Za-z0-9._-]+", item.id) and item.query
        image = item.image()
        assert (image.mode, image.size) == ("RGB", (512, 512) if name == "pie" else (6, 4))
        assert item.mask is None or item.mask().size == image.size
        assert item.answer is None or (item.answer().mode, item.answer().size) == ("RGB", image.size)


def test_imagenet(tmp_path):
    at = make_imagenet(tmp_path)
    dataset = imagenet.read(at)
    assert [fields(item) for item in dataset.items] == [
        expected(id="0002", query="Afghan hound", group="160", seed=2),
        expected(id="0003", query='sturgeon, or "beluga"', group="394", seed=3)]
    assert dataset.about == "ImageNet by queries.csv, test split: 2 of 3 queries"
    assert dataset.metrics == ("lpips", "csfid", "clipscore") and dataset.panels == (("lpips", "csfid"),)
    dev = imagenet.read(replace(at, split="dev"))
    assert [fields(item) for item in dev.items] == [expected(id="0001", query="Afghan hound", group="160", seed=1)]


def test_imagenets_pictures_may_lie_in_one_folder_and_its_list_come_from_a_spreadsheet(tmp_path):
    at = make_imagenet(tmp_path)
    wrote(at.data, QUERIES.replace("True", "TRUE").replace("False", "FALSE"))
    for path in list(at.images.glob("n*/*")):
        path.rename(at.images / path.name)
    assert len(imagenet.read(at).items) == 2


def test_coco(tmp_path):
    dataset = coco.read(make_coco(tmp_path))
    query = "A man rides a red horse on the beach."
    near = [expected(id="0", query=query, reference="a man rides a brown horse on the beach", seed=0),
            expected(id="7", query=query, reference="The man rides a red horse on a beach", seed=1)]
    assert [fields(item) for item in dataset.items] == near
    assert dataset.about == ("COCO val2014 by bison.json, filtered: 2 of 3 queries, whose texts differ by at most 25% "
                             "of their words")
    assert dataset.metrics == ("clipscore", "fid", "lpips")
    assert dataset.panels == (("clipscore", "lpips"), ("clipscore", "fid"))
    far = expected(id="8", query="Two dogs sleep.", reference="A man rides a red horse on the beach.", seed=2)
    every = coco.read(replace(make_coco(tmp_path), split="all"))
    assert [fields(item) for item in every.items] == [*near, far]
    assert every.about == "COCO val2014 by bison.json, all: 3 of 3 queries"


def test_coco_edits_the_picture_that_the_caption_contradicts(tmp_path):
    at = make_coco(tmp_path)
    put(at.images / "COCO_val2014_000000000102.jpg", "blue")
    assert coco.read(at).items[0].image().getpixel((3, 2))[2] > 200


def test_cocos_captions_may_lie_beside_bisons(tmp_path):
    at = make_coco(tmp_path)
    (tmp_path / "annotations/captions_val2014.json").rename(tmp_path / "captions_val2014.json")
    assert len(coco.read(at).items) == 2
    (tmp_path / "captions_val2014.json").rename(tmp_path / "captions_val2017.json")
    assert refusal("coco", at) == (
        f"there is no {str(tmp_path / 'captions_val2014.json')!r} and no "
        f"{str(tmp_path / 'annotations/captions_val2014.json')!r}: put COCO's captions in one of the two (the 2014 "
        "train/val annotations of cocodataset.org)")


def test_imagen(tmp_path):
    source = put(tmp_path / "one.png")
    for number, words in enumerate(itertools.product(imagen.STYLES, *imagen.ELEMENTS.values())):
        name = "{} {} {} and {} {} {}".format(*words).lower().replace(" ", "-")
        path = tmp_path / "imagen" / f"{name}.{'jpg' if number == 5 else 'png'}"
        path.parent.mkdir(exist_ok=True)
        path.hardlink_to(source)
    dataset = imagen.read(Location(images=tmp_path / "imagen"))
    assert dataset.about == "Imagen's pictures of 360 prompts, one element changed by the fixed rule"
    assert dataset.metrics == ("fid", "clipscore", "lpips")
    assert dataset.panels == (("clipscore", "lpips"), ("clipscore", "fid"))
    panda = "A photo of a fuzzy panda wearing a cowboy hat and red shirt playing a guitar "
    assert [fields(item) for item in dataset.items[:2]] == [
        expected(id="001", reference=f"{panda}in a garden.", group="animal", seed=1,
                 query=f"{panda}in a garden.".replace("fuzzy panda", "British Shorthair cat")),
        expected(id="002", reference=f"{panda}on a beach.", group="accessory", seed=2,
                 query=f"{panda}on a beach.".replace("wearing a cowboy hat", "wearing a sunglasses"))]
    fourth = dataset.items[3]
    assert fourth.group == "activity" and fourth.query == fourth.reference.replace("riding a bike", "playing a guitar")
    assert dataset.items[-1].id == "360" and len({item.reference for item in dataset.items}) == 360
    pattern = re.compile("(An? .* of a) (.*) (wearing .*) and (.*) (playing.*|riding.*|skate[a-z]*) ((?:in|on) .*)")
    counts = Counter()
    for item in dataset.items:
        before, after = (pattern.fullmatch(text).groups() for text in (item.reference, item.query))
        changed, = [i for i in range(6) if before[i] != after[i]]
        counts[("style", *imagen.ELEMENTS)[changed], item.group] += 1
    assert counts == {(element, element): 72 for element in imagen.ELEMENTS}
    (tmp_path / "imagen" / f"{panda.lower().replace(' ', '-')}in-a-garden.png").unlink()
    assert "1 of 360 pictures are missing" in refusal("imagen", Location(images=tmp_path / "imagen"))


def test_pie(tmp_path):
    at = make_pie(tmp_path)
    dataset = pie.read(at)
    first = expected(id="000000000000", query="a slanted rusty mountain bicycle on the road", seed=1234,
                     reference="a slanted mountain bicycle on the road", instruction="Make the frame rusty",
                     group="0 random", mask=True)
    second = expected(id="122000000003", query="a cat", seed=1234, group="1 change object", mask=True)
    assert [fields(item) for item in dataset.items] == [first, second]
    assert dataset.about == "PIE-Bench by mapping_file.json: 2 of 2 edits"
    assert dataset.metrics == ("pie_structure", "pie_pictures", "pie_lpips", "pie_clip")
    assert dataset.panels == (("clip_whole", "structure"), ("clip_edited", "psnr_unedited"))
    inside = np.zeros((510, 510), np.uint8)
    inside[1, 1:4] = 255        # 1026 is the third pixel of the third row
    mask, empty = (np.asarray(item.mask()) for item in dataset.items)
    assert np.array_equal(mask[1:-1, 1:-1], inside) and not empty[1:-1, 1:-1].any()
    for edge in (mask[0], mask[-1], mask[:, 0], mask[:, -1], empty[0], empty[-1], empty[:, 0], empty[:, -1]):
        assert (edge == 255).all()
    for split, kept in {"0": first, "random": first, "0 random": first, "1": second, "change object": second}.items():
        part = pie.read(replace(at, split=split))
        assert [fields(item) for item in part.items] == [kept]
        assert part.about == f"PIE-Bench by mapping_file.json: 1 of 2 edits, those of type {kept['group']}"
    assert refusal("pie", replace(at, split="9")) == (
        f"{str(at.data)!r} has no edits of type 9 change style: give a list that has some")


def test_a_types_pictures_are_enough_for_it(tmp_path):
    at = make_pie(tmp_path)
    (at.images / MAPPING["000000000000"]["image_path"]).unlink()
    assert len(pie.read(replace(at, split="1")).items) == 1


PAIRS_READ = [
    expected(id="my-bowl", query="a bowl, empty", reference="a bowl, full", instruction="empty it", group="things",
             seed=1, mask=True, answer=True),
    expected(id="0002", query="a cat", seed=2)]


def test_pairs(tmp_path):
    dataset = pairs.read(make_pairs(tmp_path))
    assert [fields(item) for item in dataset.items] == PAIRS_READ
    assert dataset.about == "pairs.csv: 2 edits" and dataset.metrics == ("pictures", "answers", "clipscore", "lpips")
    assert dataset.panels == (("clipscore", "lpips"), ("changed", "clipscore"))
    assert dataset.items[0].image().getpixel((0, 0)) == (255, 0, 0)
    assert dataset.items[0].answer().getpixel((0, 0)) == (0, 0, 255)
    assert dataset.items[0].mask().convert("L").getextrema() == (255, 255)


def test_pairs_in_jsonl(tmp_path):
    make_pairs(tmp_path)
    rows = [{"image": "a.png", "reference": "a bowl, full", "query": "a bowl,\nempty", "mask": "mask.png",
             "answer": "answer.png", "instruction": "empty it", "id": "my bowl!", "group": "things"},
            {"query": "a cat", "image": "sub/b.jpg", "reference": "", "group": None}, {
             "query": "a cat\u2028 ", "image": str(tmp_path / "a.png"), "reference": "", "id": 5, "group": 7}]
    at = Location(wrote(tmp_path / "pairs.jsonl", "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)))
    numbered = expected(id="5", query="a cat", group="7", seed=3)
    assert [fields(item) for item in pairs.read(at).items] == [*PAIRS_READ, numbered]


def test_pairs_with_three_columns(tmp_path):
    at = make_pairs(tmp_path)
    wrote(at.data, "query,image,reference\na cat,a.png,a dog\n")
    assert [fields(item) for item in pairs.read(at).items] == [
        expected(id="0001", query="a cat", reference="a dog", seed=1)]


@pytest.mark.parametrize("name", ["pairs", "coco"], ids=["CSV", "JSON"])
def test_a_byte_order_mark_and_other_line_ends(name, at):
    whole = [fields(item) for item in DATASETS[name](at).items]
    at.data.write_bytes(b"\xef\xbb\xbf" + at.data.read_bytes().replace(b"\n", b"\r\n") + b"\r\n\r\n")
    assert [fields(item) for item in DATASETS[name](at).items] == whole


# ---------------------------------------------------------------- their pictures


def test_a_transparent_picture_is_white_and_a_transparent_mask_black(tmp_path):
    put(tmp_path / "a.png", (9, 9, 9, 0), mode="RGBA")
    data = wrote(tmp_path / "pairs.csv", "image,reference,query,mask\na.png,,a cat,a.png\n")
    item, = pairs.read(Location(data)).items
    assert item.image().getpixel((2, 2)) == (255, 255, 255) and not np.asarray(item.mask()).any()


def test_a_picture_cut_short_costs_its_item_only(tmp_path):
    at = make_pairs(tmp_path)
    for path in tmp_path.rglob("*.png"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    broken, whole = pairs.read(at).items
    for opens in (broken.image, broken.mask, broken.answer):
        with pytest.raises(ValueError) as error:
            opens()
        assert re.search("is cut short, damaged or unusual|is not a picture", one_line(str(error.value)))
    assert whole.image().size == (6, 4)


@pytest.mark.parametrize("column", ["mask", "answer"])
def test_a_mask_or_an_answer_of_another_size(tmp_path, column):
    at = make_pairs(tmp_path)
    path = put(tmp_path / f"{column}.png", size=(4, 6))
    item = pairs.read(at).items[0]
    with pytest.raises(ValueError) as error:
        getattr(item, column)()
    assert str(error.value) == (f"{column} {str(path)!r} is 4 x 6 pixels, and its image 6 x 4: make them equally large")


def test_pie_masks_fit_their_pictures_only(tmp_path):
    at = make_pie(tmp_path)
    put(at.images / MAPPING["000000000000"]["image_path"], size=(512, 511))
    with pytest.raises(ValueError) as error:
        pie.read(at).items[0].mask()
    assert str(error.value) == (f"{str(at.data)!r}, entry '000000000000': mask is 512 x 512 pixels, and its image "
                                "512 x 511: make them equally large")


# ---------------------------------------------------------------- damage


QUOTE, FILE, SAY = "mend its commas, and quote texts that have some", "is it the right file?", \
    "say what the edited picture is to show"
OWN = "first: give each item an id of its own"
DAMAGE = [      # dataset, a text in its list and what takes its place, the message after the list's name
    ("imagenet", ",target_id", ",target id", ", line 1 lacks target_id; it has 'path, source, source_id, target, "
                                             "target id, is_test'"),
    ("imagenet", "source_id", "path", ", line 1 has 'path' twice: leave one out"),
    ("imagenet", "beagle,", "", f", line 3 has 6 cells, and the header 7: {QUOTE}"),
    ("imagenet", "beagle", "beagle, dog", f", line 3 has 8 cells, and the header 7: {QUOTE}"),
    ("imagenet", '"sturgeon', '"sturgeon"!', ", line 4 is not CSV (',' expected after '\"'): mend its quotes and "
                                             "commas"),
    ("imagenet", "160,True", "160,yes", ", line 3: is_test is 'yes', neither True nor False"),
    ("imagenet", "160,False", "1000,False", ", line 2: target_id is '1000', not a class's number from 0 to 999"),
    ("imagenet", "Afghan hound,160,True", " ,160,True", f", line 3: target is empty: {SAY}"),
    ("imagenet", "n02088364/ILSVRC2012_val_00048167.JPEG", "", ", line 3: path is empty: give the picture's"),
    ("imagenet", "True", "False", " has no edits of the test split: give a list that has some"),
    ("coco", '"data"', '"date"', f" has no 'data'; it has 'info, date': {FILE}"),
    ("coco", '"bison_id": 7', '"bison_id": true', f", entry 1: bison_id is True, not a whole number: {FILE}"),
    ("coco", '"bison_id": 7', '"bison_id": 0', f": 1 ids stand for more than one item, '0' {OWN}"),
    ("coco", '"true_image_id": 101', '"true_image_id": 9', ", entry 0: of two candidates one has to be the true 9, and "
                                                           f"they are [101, 102]: {FILE}"),
    ("coco", '"bison_id": 0, "caption_id": 11', '"bison_id": 0, "caption_id": 99', ", entry 0: its caption 99 is not "
     "in {captions}: is that of val2014, and whole?"),
    ("coco", '"image_id": 102', '"image_id": 999', ", entry 0: its picture 999 is not in {captions}: is that of "
                                                   "val2014, and whole?"),
    ("pie", '"editing_prompt": "[a cat]"', '"editing_prompt": "[]"', ", entry '122000000003': editing_prompt is empty: "
     f"{SAY}"),
    ("pie", '"editing_type_id": "1"', '"editing_type_id": "10"', ", entry '122000000003': editing_type_id is '10', not "
     f"from 0 to 9: {FILE}"),
    ("pie", '"mask": []', '"mask": "0 4"', f", entry '122000000003': mask is '0 4', not a list: {FILE}"),
    ("pie", '"122000000003"', '"000000000000"', ", from line 1 on: an object has the key '000000000000' twice: leave "
                                                "one out"),
    ("pie", '"122000000003"', '".000000000000"', f": 1 ids stand for more than one item, '000000000000' {OWN}"),
    ("pie", '"122000000003": {', '"122000000003": [], "4": {', f", entry '122000000003' is [], not an object: {FILE}"),
    ("pie", '"[a cat]"', '"a \\ud83d"', ", entry '122000000003': editing_prompt has half a character (a lone "
                                        "surrogate), 'a \\ud83d': write it anew"),
    ("pairs", "answer,", "anser,", ", line 1 has 'anser', which is not known; known are image, reference, query, mask, "
                                   "answer, instruction, id, group"),
    ("pairs", "sub/b.jpg", "", ", line 3: image is empty: give the picture's file"),
    ("pairs", "my bowl!", "0002", f": 1 ids stand for more than one item, '0002' {OWN}"),
    ("pairs", "my bowl!", "...", ", line 2: id: '...' gives no id: it needs a letter or a digit of ASCII"),
    ("pairs", PAIRS[PAIRS.index("\n"):], "\n", " has no edits: give a list that has some"),
]


@pytest.mark.parametrize(("name", "old", "new", "message"), DAMAGE)
def test_a_damaged_list(name, at, old, new, message):
    text = at.data.read_text()
    assert old in text
    wrote(at.data, text.replace(old, new, 1 if name == "coco" else -1))
    captions = repr(str(at.data.parent / "annotations/captions_val2014.json"))
    assert refusal(name, at) == repr(str(at.data)) + message.replace("{captions}", captions)


@pytest.mark.parametrize(("row", "message"), [
    ('{"image": "a.png", "query": "x"', ", line 3, column 32 is not JSON (Expecting ',' delimiter): is the file "
                                        "whole?"),
    ("[1]", f", line 3 is [1], not an object: {FILE}"),
    ('{"image": "a.png", "query": "x"}', ", line 3 lacks reference; it has 'image, query'"),
    ('{"image": "a.png", "query": null, "reference": ""}', f", line 3: query is empty: {SAY}"),
    ('{"image": "a.png", "query": "x", "reference": "", "id": true}', f", line 3: id is True, not a text: {FILE}"),
    ("[" * 100_000, ", from line 3 on is nested too deeply: is it the right file?"),
])
def test_a_damaged_line_of_jsonl(tmp_path, row, message):
    put(tmp_path / "a.png")
    data = wrote(tmp_path / "pairs.jsonl", f'{{"image": "a.png", "query": "x", "reference": ""}}\n\n{row}\n')
    assert refusal("pairs", Location(data)) == repr(str(data)) + message


def test_pairs_of_another_suffix(tmp_path):
    data = wrote(tmp_path / "pairs.txt", PAIRS)
    assert refusal("pairs", Location(data)) == f"--data {str(data)!r} ends in '.txt': give a list in .csv or .jsonl"


@pytest.mark.parametrize("name", ["imagenet", "coco"], ids=["CSV", "JSON"])
@pytest.mark.parametrize(("damage", "message"), [
    (b"\xef\xbb\xbf \r\n\r\n", " is empty: give a list of edits"),
    (b"ok\nna\xefve\n", ", line 2 is not UTF-8: save the file in that encoding"),
    (None, " can't be read (Is a directory): give the path of a file that can"),
])
def test_a_file_that_is_no_text(name, at, damage, message):
    at.data.unlink()
    at.data.mkdir() if damage is None else at.data.write_bytes(damage)
    assert refusal(name, at) == repr(str(at.data)) + message


@pytest.mark.parametrize(("text", "message"), [
    ('{"a":\n oops}', ", line 2, column 2 is not JSON (Expecting value): is the file whole?"),
    ("[]", f" is [], not an object: {FILE}"),
])
def test_json_that_is_no_list_of_edits(tmp_path, text, message):
    at = make_pie(tmp_path)
    assert refusal("pie", replace(at, data=wrote(at.data, text))) == repr(str(at.data)) + message


@pytest.mark.parametrize(("old", "new", "message"), [
    ('"annotations"', '"annotation"', f" has no 'annotations'; it has 'info, annotation': {FILE}"),
    ('"caption": "Two dogs sleep."', '"caption": null', f", annotation 1: caption is None, not a text: {FILE}"),
])
def test_damaged_captions(tmp_path, old, new, message):
    at, path = make_coco(tmp_path), tmp_path / "annotations/captions_val2014.json"
    wrote(path, path.read_text().replace(old, new))
    assert refusal("coco", at) == repr(str(path)) + message


@pytest.mark.parametrize(("name", "gone", "count"), [
    ("imagenet", "val/n02088364/ILSVRC2012_val_00048167.JPEG", "1 of 2"),
    ("coco", "val2014/COCO_val2014_000000000103.jpg", "1 of 2"),
    ("pie", "annotation_images/0_random_140/000000000000.jpg", "1 of 2"), ("pairs", "mask.png", "1 of 4"),
])
def test_a_missing_picture(name, at, gone, count):
    folder, path = at.images or at.data.parent, at.data.parent / gone
    path.unlink()
    assert refusal(name, at) == (f"{count} pictures are missing under {str(folder)!r}, {str(path)!r} first: "
                                 "complete the folder or take them out of the list")


@pytest.mark.parametrize("value", ["sub", "no\0file", "n" * 5000, "https://example.org/a.png"])
def test_a_picture_that_is_no_file(tmp_path, value):
    at = make_pairs(tmp_path)
    wrote(at.data, PAIRS.replace("a.png,", f"{value},", 1))
    told = refusal("pairs", at)
    assert "1 of 4 pictures are missing" in told or "\0" in value and "line 2 is not CSV" in told   # Python 3.10's csv


OBTAIN = {
    "imagenet": ("FlexIT's dataset/queries.csv (from github.com/facebookresearch/SemanticImageTranslation)",
                 "the folder with ImageNet's validation pictures (ILSVRC2012, from image-net.org with an account)"),
    "coco": ("BISON's bison_annotations.cocoval2014.json (hexiang-hu.github.io/bison)",
             "the folder with COCO's val2014 pictures (cocodataset.org)"),
    "pie": ("PIE-Bench's mapping_file.json (its authors send it to who asks: github.com/cure-lab/PnPInversion)",
            "PIE-Bench's folder annotation_images (its authors send it to who asks: github.com/cure-lab/PnPInversion)"),
    "pairs": ("a .csv or .jsonl file with image, reference, query (yours)", None),
}


@pytest.mark.parametrize("name", MAKERS)
def test_what_is_missing_and_how_to_obtain_it(name, at):
    data, images = OBTAIN[name]
    nowhere = at.data.parent / "nowhere"
    assert refusal(name, replace(at, data=None)) == f"--data is missing: give {data}"
    assert refusal(name, replace(at, data=nowhere)) == f"--data {str(nowhere)!r} does not exist: give {data}"
    if images is None:
        assert refusal(name, replace(at, images=nowhere)) == (
            f"--images {str(nowhere)!r} means nothing to pairs: leave it out, the list says where pictures are")
        return
    assert refusal(name, replace(at, images=None)) == f"--images is missing: give {images}"
    assert refusal(name, replace(at, images=nowhere)) == f"--images {str(nowhere)!r} does not exist: give {images}"
    assert refusal(name, replace(at, images=at.data)) == (
        f"--images {str(at.data)!r} is not a folder: give {images}")


@pytest.mark.parametrize(("name", "message"), [
    ("imagenet", "--split 'val' is not known; imagenet has test and dev"),
    ("coco", "--split 'val' is not known; coco has filtered and all"),
    ("pie", "--split 'val' is not known; pie has 0 random, 1 change object, 2 add object, 3 delete object, 4 change "
            "content, 5 change pose, 6 change color, 7 change material, 8 change background, 9 change style"),
    ("pairs", "--split 'val' means nothing to pairs: leave it out, the list is all there is"),
])
def test_an_unknown_split(name, at, message):
    assert refusal(name, replace(at, split="val")) == message


# ---------------------------------------------------------------- run-length masks


@st.composite
def masks(draw):
    height, width = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    bits = draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    return np.array(bits).reshape(height, width)


def encode(mask: np.ndarray) -> list[int]:
    """Start and length of each run of True, row by row."""
    text = "".join("x" if pixel else "." for pixel in mask.flatten())
    return [number for run in re.finditer("x+", text) for number in (run.start(), len(run[0]))]


@quick
@given(mask=masks(), order=st.randoms(use_true_random=False))
def test_run_length_masks_come_back(mask, order):
    runs = encode(mask)
    assert np.array_equal(pie.decode(runs, *mask.shape[::-1], "here"), mask)
    shuffled = [runs[i : i + 2] for i in range(0, len(runs), 2)]
    order.shuffle(shuffled)
    assert np.array_equal(pie.decode(sum(shuffled, []), *mask.shape[::-1], "here"), mask)


@quick
@given(runs=st.lists(st.integers(-2, 14), max_size=8))
def test_a_mask_is_decoded_as_it_says_or_refused(runs):
    """By sets of pixels: a list is good if its runs are within 3 x 4 pixels and disjoint."""
    each = list(zip(runs[::2], runs[1::2], strict=False))
    pixels = [pixel for start, length in each for pixel in range(start, start + length)]
    within = min(runs, default=0) >= 0 and all(start + length <= 12 for start, length in each)
    if len(runs) % 2 == 0 and within and len(set(pixels)) == len(pixels):
        assert pie.decode(runs, 4, 3, "here").flatten().nonzero()[0].tolist() == sorted(pixels)
    else:
        with pytest.raises(ValueError, match="^here"):
            pie.decode(runs, 4, 3, "here")


@pytest.mark.parametrize(("runs", "message"), [
    ([0, 1, 2], "has 3 numbers, which are no pairs of start and length"),
    ([262143, 2], ": the run of 2 pixels from 262143 on ends after the picture's last of 262144"),
    ([-1, 5], ": the run of 5 pixels from -1 on is no run"), ([5, 1.0], ": the run of 1.0 pixels from 5 on is no run"),
    ([5, True], ": the run of True pixels from 5 on is no run"),
    ([7, 2, 5, 3], ": the run of 3 pixels from 5 on overlaps another"),
])
def test_a_damaged_mask_costs_its_item_only(tmp_path, runs, message):
    at = make_pie(tmp_path)
    damaged = {**MAPPING, "000000000000": {**MAPPING["000000000000"], "mask": runs}}
    first, second = pie.read(replace(at, data=wrote(at.data, json.dumps(damaged)))).items
    with pytest.raises(ValueError) as error:
        first.mask()
    where = f"{str(at.data)!r}, entry '000000000000': mask{' ' if message.startswith('has') else ''}"
    assert one_line(str(error.value)) == f"{where}{message}: obtain the file again"
    assert second.mask().size == first.image().size


# ---------------------------------------------------------------- differences in words


sentences = st.lists(st.sampled_from("abc"), max_size=6)


@functools.cache
def by_definition(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    """The fewest edits, of all ways to do without the first word of either or both."""
    if not a or not b:
        return len(a) + len(b)
    return min(by_definition(a[1:], b) + 1, by_definition(a, b[1:]) + 1, by_definition(a[1:], b[1:]) + (a[0] != b[0]))


@quick
@given(a=sentences, b=sentences, c=sentences)
def test_edit_distance(a, b, c):
    distance = coco.edit_distance(a, b)
    assert distance == by_definition(tuple(a), tuple(b)) == coco.edit_distance(b, a)
    assert (distance == 0) == (a == b) and coco.edit_distance(a, a) == 0
    assert abs(len(a) - len(b)) <= distance <= max(len(a), len(b))
    assert distance <= coco.edit_distance(a, c) + coco.edit_distance(c, b)
    assert 0 <= coco.difference(a, b) <= 1 and coco.difference(a, b) == coco.difference(b, a)


@pytest.mark.parametrize(("a", "b", "edits", "share"), [
    ("", "", 0, 0), ("a cat", "", 2, 1), ("a cat on a mat", "A cat, on a mat.", 0, 0), ("a red cat", "a cat", 1, 1 / 3),
    ("a cat and a dog", "a dog and a cat", 2, 2 / 5), ("one's cat", "ones cat", 1, 1 / 2), ("a - cat", "a cat", 0, 0),
])
def test_differences_of_texts(a, b, edits, share):
    a, b = coco.words(a), coco.words(b)
    assert coco.edit_distance(a, b) == edits and coco.difference(a, b) == share


def test_a_quarter_of_the_words_is_kept_and_more_is_not(tmp_path):
    at, path = make_coco(tmp_path), tmp_path / "annotations/captions_val2014.json"
    whole = path.read_text()
    for text, kept in (("a man rides a blue horse on a beach", {"0", "7"}),
                       ("one man rides a blue horse on a beach", {"7"})):
        wrote(path, whole.replace("a man rides a brown horse on the beach", text))
        assert {item.id for item in coco.read(at).items} == kept


def test_the_first_of_the_nearest_captions():
    assert coco.nearest("a b c", ["x", "a b", "a b d", "A b C!", "a b c"]) == (0, "A b C!")
    assert coco.nearest("a b c", ["a b", "a b d"]) == (1 / 3, "a b")


# ---------------------------------------------------------------- lists


def test_a_column_without_a_name_is_left_out_and_a_row_that_says_nothing_too(tmp_path):
    data = wrote(tmp_path / "a.csv", ',a,"b ",\n0, x ,"y\nz",\n\n,,,\n')
    assert lists.read_csv(data, ["a"], ["b"]) == lists.read_csv(data, ["a", "b"]) == [(3, {"a": "x", "b": "y\nz"})]


def test_columns_may_be_written_with_capitals_and_dashes(tmp_path):
    assert lists.read_csv(wrote(tmp_path / "a.csv", "Mask-Grow,\n2,\n"), ["mask_grow"]) == [(2, {"mask_grow": "2"})]


def test_long_values_are_shortened():
    assert lists.brief("a" * 99) == "'" + "a" * 56 + "..." and len(lists.brief(list(range(99)))) == 60
