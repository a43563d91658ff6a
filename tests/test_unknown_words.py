"""pytest tests/test_unknown_words.py: what is said of words that a model with a small vocabulary doesn't know."""

import dataclasses
import json
import warnings

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

import diffedit_min as dm
from diffedit_min.loading import EMBEDDED
from diffedit_min.methods.unknown_words import unknown_words
from diffedit_min.tiny import train, train_instruct
from diffedit_min.tiny.vocabulary import INSTRUCTION_WORDS, RARE_WORDS, write_card
from diffedit_min.tiny.vocabulary import words as whole_tokens

FEW = {"steps": 2, "mask_samples": 1}


@pytest.fixture(scope="module")
def tiny():
    return dm.load("tiny", device="cpu")


@pytest.fixture(scope="module")
def small(model, tiny):
    """Random weights, with the embedded model's words."""
    return dataclasses.replace(model, words=tiny.words)


def said(method, model, *words, pictures=None, **options):
    """What a call warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        method(model, pictures or Image.new("RGB", (32, 32), "red"), *words, **options)
    return [str(warning.message) for warning in caught]


# ---- what is known


@pytest.mark.parametrize(("name", "texts"), [("tiny", train.captions), ("tiny-instruct", train_instruct.texts)])
def test_the_cards_words_are_those_of_the_training(tmp_path, name, texts):
    card = json.loads((EMBEDDED[name] / "diffedit.json").read_text())
    (tmp_path / "diffedit.json").write_text(json.dumps({"defaults": {"sdedit": {"steps": 3}}}))
    write_card(tmp_path, texts())
    written = json.loads((tmp_path / "diffedit.json").read_text())
    assert written == {"defaults": {"sdedit": {"steps": 3}}, "vocabulary": card["vocabulary"]}
    known = set(dm.load(name, device="cpu").vocabulary)
    assert known == {word for text in texts() for word in text.split()} <= set(whole_tokens())
    assert not known & set(RARE_WORDS.split())
    assert known.isdisjoint(INSTRUCTION_WORDS.split()) is (name == "tiny")


def test_other_models_do_not_say_what_they_know(model):
    assert model.vocabulary == () and unknown_words(model, "a zyx of paers") == {}
    assert said(dm.diffedit, model, "a zyx of paers", **FEW) == []


@pytest.mark.parametrize(("text", "unknown"), [
    ("a bowl of paers, please", {"paers": ["pears"], "please": []}),
    ("A Bowl of APPLES, on a (wooden) table!", {}),
    ("a pear; lemon, tables", {"pear": ["pears"], "lemon": ["lemons"], "tables": ["table"]}),
    ("a cat and a Cat on sand", {"cat": [], "and": []}),
    ("a (bukket:1.5) of (pears:0.5)", {"bukket": ["bucket"]}),
    ("sks zwx beikkpic replace them", dict.fromkeys(("sks", "zwx", "beikkpic", "replace", "them"), [])),
    ("the bowl's 3 pears-apples", {"the": [], "bowl's": ["bowl"]}),
    ("苹果 \N{PEAR} 12 _", {"苹果": []}), ("", {}), ("\n ,", {}),
])
def test_unknown_words_and_near_ones(tiny, text, unknown):
    assert unknown_words(tiny, text) == unknown


@settings(max_examples=60, deadline=None)
@given(st.text())
@example("İ ŉ ﬁ a\u0301 \ud800 '’' a’a")
def test_any_text(tiny, text):
    found = unknown_words(tiny, text)
    assert not found.keys() & set(tiny.vocabulary) and all(word in text.lower() for word in found)
    assert {word for near in found.values() for word in near} <= set(tiny.vocabulary)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_known_words_never_warn(tiny, data):
    words = data.draw(st.lists(st.sampled_from(tiny.vocabulary)))
    cased = [data.draw(st.sampled_from([word, word.upper(), word.capitalize()])) for word in words]
    between = st.sampled_from([" ", ", ", ".", "-", "\n", ":1.5) (", "!?", " 3 "])
    text = "".join(word + data.draw(between) for word in cased)
    assert unknown_words(tiny, text) == {}


# ---- what a call says


def test_one_warning_for_a_call_of_many_pictures(small):
    pictures = [Image.new("RGB", (32, 32), colour) for colour in ("red", "green", "blue")]
    queries = ["a bowl of paers", "a cat", "A BOWL of pears"]
    message, = said(dm.diffedit, small, queries, "a bukket of paers", pictures=pictures, negative_prompt="Dogs", **FEW)
    assert message == ("the model doesn't know the words 'paers' (did you mean 'pears'?), 'cat', 'bukket' "
                       f"(did you mean 'bucket'?), 'dogs'; it knows {', '.join(small.vocabulary)}")
    assert said(dm.diffedit, small, "A bowl of Pears.", "a bucket", **FEW) == []


def test_a_very_long_list_is_cut(small):
    message, = said(dm.sdedit, small, "b c d e f g", steps=2)
    assert "the words 'b', 'c', 'd', 'e', 'f', ...; it knows" in message


def test_weights_in_a_prompt_are_no_words(small):
    words = ("a bowl of (pears:1.5)", "a bowl of apples")
    assert said(dm.prompt_to_prompt, small, *words, steps=2) == []
    message, = said(dm.prompt_to_prompt, small, "a bowl of (paers:1.5)", words[1], steps=2)
    assert message.startswith("the model doesn't know the word 'paers' (did you mean 'pears'?); it knows a, apples,")


@pytest.mark.slow
def test_instructions():
    model, picture = dm.load("tiny-instruct", device="cpu"), Image.new("RGB", (64, 64), "red")
    assert said(dm.instruct_pix2pix, model, "Put them in a basket", pictures=picture, steps=1) == []
    message, = said(dm.instruct_pix2pix, model, "put them in a baskte", pictures=picture, steps=1)
    assert "the word 'baskte' (did you mean 'basket'?)" in message
