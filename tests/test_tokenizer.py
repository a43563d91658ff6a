"""Run with `python -m pytest tests/test_tokenizer.py` from the repository's root; takes about 20 seconds.

Checks that tokenizers are read from every layout that programs save, with the same ids as in the library's own reading;
and that damaged ones and those of other kinds are refused in one line, before native code sees them.
"""

import json
import random
import shutil
from pathlib import Path

import pytest
from test_text import CONFIGS, published
from transformers import CLIPTokenizer

from diffedit_min.loading import TINY
from diffedit_min.networks.text import tokenize
from diffedit_min.networks.tokenizer import make_tokenizer

WORDS = ["", "a bowl of apples on sand", "A BOWL  of\tPears!", "!", "a <|startoftext|> b <|endoftext|> c <|ENDOFTEXT|>",
         "<cat-toy> on sand", "x<cat-toy>y <CAT-TOY>", "naïve 一碗 🍎 'll don't 12", "\u202e\x00\x85 \xa0", "bowl" * 30]
PUBLISHED = ["sd14/tokenizer", "sd21-base/tokenizer", "sdxl-base/tokenizer_2"]


def texts() -> list[str]:
    choose = random.Random(0)
    letters = [*range(32, 127), *range(160, 0x300), 0x4E00, 0x1F600]
    return WORDS + ["".join(map(chr, choose.choices(letters, k=choose.randrange(1, 40)))) for _ in range(100)]


def assert_as_the_library(ours: CLIPTokenizer, theirs: CLIPTokenizer) -> None:
    ours_ids, their_ids = tokenize(ours, texts()), tokenize(theirs, texts())
    assert ours_ids.tolist() == their_ids.tolist()
    assert [ours.decode(row) for row in ours_ids] == [theirs.decode(row) for row in their_ids]
    for role in ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id"):
        assert getattr(ours, role) == getattr(theirs, role)


@pytest.fixture
def folder(tmp_path) -> Path:
    """The embedded model's tokenizer, to change."""
    return Path(shutil.copytree(TINY / "tokenizer", tmp_path / "tokenizer"))


def change(path: Path, **entries: object) -> None:
    before = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**before, **entries}))


def saved_today(folder: Path, *added: str) -> Path:
    """The folder as today's transformers saves it, in tokenizer.json alone, with some tokens added."""
    tokenizer, new = CLIPTokenizer.from_pretrained(folder), folder.with_name("today")
    tokenizer.add_tokens(list(added))
    tokenizer.save_pretrained(new)
    assert {file.name for file in new.iterdir()} == {"tokenizer.json", "tokenizer_config.json"}
    return new


# ---------------------------------------------------------------- layouts


def test_two_tables(folder):
    assert_as_the_library(make_tokenizer(folder), CLIPTokenizer.from_pretrained(folder))


@pytest.mark.parametrize("added", [[], ["<cat-toy>"], ["<cat-toy>", "zorg", "Zorg"]], ids=len)
def test_tokenizer_json_as_it_is_saved_today(folder, added):
    today = saved_today(folder, *added)
    assert_as_the_library(make_tokenizer(today), CLIPTokenizer.from_pretrained(today))
    assert [make_tokenizer(today).convert_tokens_to_ids(token) for token in added] == [655, 656, 657][: len(added)]
    (today / "tokenizer_config.json").unlink()
    assert tokenize(make_tokenizer(today, 700, 24), texts()).tolist() == tokenize(
        CLIPTokenizer.from_pretrained(folder.with_name("today"), model_max_length=24), texts()).tolist()


@published
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_tokenizers_in_both_layouts(name, tmp_path):
    theirs = CLIPTokenizer.from_pretrained(CONFIGS / name)
    assert_as_the_library(make_tokenizer(CONFIGS / name, 49408, 77), theirs)
    theirs.add_tokens(["<cat-toy>"])
    theirs.save_pretrained(tmp_path / "today")
    assert_as_the_library(make_tokenizer(tmp_path / "today", 49409, 77), theirs)


@pytest.mark.parametrize("layout", ["added_tokens.json", "added_tokens_decoder"])
def test_added_tokens_as_they_were_saved_before(folder, layout):
    if layout == "added_tokens.json":
        change(folder / layout, **{"<cat-toy>": 655, "zorg": 656})
    else:
        flags = {"lstrip": False, "rstrip": True, "normalized": False, "single_word": False, "special": False}
        change(folder / "tokenizer_config.json", added_tokens_decoder={
            "655": {"content": "<cat-toy>", **flags}, "656": {"content": "zorg", **flags}})
    tokenizer = make_tokenizer(folder, 657, 24)
    assert tokenizer("a <cat-toy> zorg").input_ids[2:4] == [655, 656]
    assert_as_the_library(tokenizer, CLIPTokenizer.from_pretrained(folder))


@pytest.mark.parametrize("remove", [
    ["tokenizer_config.json"], ["special_tokens_map.json"], ["tokenizer_config.json", "special_tokens_map.json"]])
def test_only_the_tables_are_needed(folder, remove):
    expected = tokenize(make_tokenizer(folder), texts())
    for file in remove:
        (folder / file).unlink()
    assert tokenize(make_tokenizer(folder, 655, 24), texts()).tolist() == expected.tolist()


def test_the_padding_that_the_files_name(folder):
    change(folder / "special_tokens_map.json", pad_token="!")       # as SD 2.x, whose other file names another one
    assert tokenize(make_tokenizer(folder), ["a"])[0].tolist() == [653, 320, 654] + [0] * 21
    change(folder / "special_tokens_map.json", pad_token=None)
    assert make_tokenizer(folder).pad_token_id == 654


@pytest.mark.parametrize("longest", [10**30, 2**53, 1e30, 1, 0, -5, "24", None, [24], True, 25])
def test_the_length_is_the_text_encoder_s_where_the_folder_names_no_shorter_one(folder, longest):
    change(folder / "tokenizer_config.json", model_max_length=longest)
    assert tokenize(make_tokenizer(folder, 655, 24), ["a", "apples " * 40]).shape == (2, 24)
    change(folder / "tokenizer_config.json", model_max_length=20)
    assert tokenize(make_tokenizer(folder, 655, 24), ["a"]).shape == (1, 20)


# ---------------------------------------------------------------- both layouts at once


def test_the_same_tables_twice(folder):
    today = saved_today(folder, "<cat-toy>")
    for file in ("vocab.json", "merges.txt", "special_tokens_map.json"):
        shutil.copy(folder / file, today)
    theirs = CLIPTokenizer.from_pretrained(folder)
    theirs.add_tokens(["<cat-toy>"])
    assert_as_the_library(make_tokenizer(today), theirs)


@pytest.mark.parametrize("table", ["vocab", "merges"])
def test_different_tables_are_refused(folder, table):
    today = saved_today(folder)
    for file in ("vocab.json", "merges.txt"):
        shutil.copy(folder / file, today)
    model = json.loads((today / "tokenizer.json").read_text())["model"]
    if table == "vocab":
        model["vocab"] |= {"bowl</w>": model["vocab"]["apples</w>"], "apples</w>": model["vocab"]["bowl</w>"]}
    else:
        model["merges"].reverse()
    change(today / "tokenizer.json", model=model)
    assert "hold another vocabulary than tokenizer.json: remove the wrong ones" in refusal(today)


# ---------------------------------------------------------------- refused


def refusal(folder: Path, known: int | None = None) -> str:
    with pytest.raises(ValueError) as error:
        make_tokenizer(folder, known, 24)
    message = str(error.value)
    assert "\n" not in message and message.startswith(str(folder)) and len(message) < len(str(folder)) + 350
    return message


@pytest.mark.parametrize("kind", ["T5Tokenizer", "LlamaTokenizerFast", "GPT2Tokenizer", "XLMRobertaTokenizer", 5, []])
def test_tokenizers_of_other_classes_are_refused_by_name(folder, kind):
    change(folder / "tokenizer_config.json", tokenizer_class=kind)
    assert f"its tokenizer_class is {kind!r}, and only CLIP's can be used" in refusal(folder)


@pytest.mark.parametrize("model", [
    {"type": "Unigram", "vocab": [["a", -1.0]]}, {"type": "WordPiece", "vocab": {"a": 0}}, {"type": "BPE", "vocab": {}},
    {"type": "BPE", "end_of_word_suffix": "", "vocab": {"a": 0}, "merges": []}, [], None, "BPE",
])
def test_a_tokenizer_json_of_another_kind(folder, model):
    today = saved_today(folder)
    change(today / "tokenizer.json", model=model)
    assert "tokenizer.json is of another kind; CLIP's is BPE with '</w>'" in refusal(today)


@pytest.mark.parametrize(("file", "entries", "message"), [
    ("vocab.json", {"bowl</w>": 2**31}, "the id of its token 'bowl</w>' is 2147483648"),
    ("vocab.json", {"bowl</w>": -1}, "the id of its token 'bowl</w>' is -1"),
    ("vocab.json", {"bowl</w>": "5"}, "the id of its token 'bowl</w>' is '5'"),
    ("vocab.json", {"bowl</w>": 1.5}, "the id of its token 'bowl</w>' is 1.5"),
    ("vocab.json", {"bowl</w>": None}, "the id of its token 'bowl</w>' is None"),
    ("vocab.json", {"bowl</w>": 540}, "its tokens 'bowl</w>' and 'apples</w>' have the same id 540"),
    ("vocab.json", {"x" * 1001: 655}, "is of 1001 letters"), ("vocab.json", {"": 655}, "its token '' is of 0 letters"),
    ("added_tokens.json", {"<a>": 540}, "its tokens 'apples</w>' and '<a>' have the same id 540"),
    ("added_tokens.json", {"<a>": [1]}, "the id of its token '<a>' is [1]"),
    ("special_tokens_map.json", {"eos_token": "</s>"}, "its eos_token '</s>' is not one of its tokens"),
    ("special_tokens_map.json", {"eos_token": ["</s>"]}, "its eos_token is ['</s>'] instead of a text"),
    ("special_tokens_map.json", {"pad_token": {"content": "!", "lstrip": "no"}}, "lstrip of its token '!' is 'no'"),
    ("tokenizer_config.json", {"added_tokens_decoder": [1]}, "added_tokens_decoder in tokenizer_config.json is not"),
    ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "<a>"}}}, "the id of its token '<a>' is 'x'"),
    ("tokenizer_config.json", {"added_tokens_decoder": {"655": 3}}, "its added token is 3 instead of a text"),
])
def test_entries_that_can_not_be(folder, file, entries, message):
    change(folder / file, **entries)
    assert message in refusal(folder)


@pytest.mark.parametrize("merge", ["a", "a b c", "zz yy", "q zzz", "\xff\xfe x"])
def test_merges_that_can_not_be(folder, merge):
    (folder / "merges.txt").write_text((folder / "merges.txt").read_text() + merge + "\n")
    assert f"its merge {merge!r} is" in refusal(folder).replace(repr(merge.split(" ")), repr(merge))


def test_the_same_token_with_two_ids(folder):
    change(folder / "added_tokens.json", **{"<a>": 655})
    change(folder / "tokenizer_config.json", added_tokens_decoder={"656": {"content": "<a>"}})
    assert "added_tokens.json gives the token '<a>' the id 655, and another file 656" in refusal(folder)


@pytest.mark.parametrize("file", ["vocab.json", "added_tokens.json", "tokenizer_config.json"])
def test_ids_beyond_the_text_encoder_s_are_refused(folder, file):
    entries = {"<new>": 700} if "config" not in file else {"added_tokens_decoder": {"700": {"content": "<new>"}}}
    change(folder / file, **entries)
    assert refusal(folder, 655).endswith(
        "has the token '<new>' with id 700, but the text encoder knows 655 tokens, from 0: the tokenizer belongs to "
        "another model")
    assert make_tokenizer(folder, 701, 24).convert_tokens_to_ids("<new>") == 700


def test_a_tokenizer_of_a_smaller_model_is_told(folder):
    with pytest.warns(UserWarning, match="has 655 tokens, but the text encoder knows 49408: it seems"):
        make_tokenizer(folder, 49408, 77)


def test_a_tokenizer_without_some_letters_is_told(folder):
    vocabulary = json.loads((folder / "vocab.json").read_text())
    del vocabulary["Q</w>"], vocabulary["ÿ"]
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    with pytest.warns(UserWarning, match="lacks tokens for 2 of the 256 bytes"):
        make_tokenizer(folder)


def test_no_tables_and_tables_beyond_reason(folder):
    (folder / "vocab.json").unlink()
    assert "it has neither vocab.json and merges.txt nor tokenizer.json" in refusal(folder)
    with open(folder / "tokenizer.json", "wb") as file:
        file.truncate(2**26 + 1)        # takes no space on the disk
    assert "it has 67,108,865 bytes; expected at most 67,108,864" in refusal(folder)
