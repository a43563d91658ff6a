"""Run: python -m pytest tests/test_syntax.py

What other programs take for instructions in a prompt is named in a warning, and ordinary texts are not.
"""

import warnings
from copy import deepcopy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import diffedit_min as dm
from diffedit_min.methods.syntax import foreign

quick = settings(deadline=None, database=None, derandomize=True, max_examples=100)


@pytest.mark.parametrize(("text", "pieces"), [
    ("a (basket:1.5) of fruits", ["(basket:1.5)"]),
    ("a (red, shiny basket:-1) of (fruits: .5)", ["(red, shiny basket:-1)", "(fruits: .5)"]),
    ("a photo, (1girl:1.2), (4k:1.1)", ["(1girl:1.2)", "(4k:1.1)"]),
    ("a ((very)) red car", ["((very))"]),
    ("a (red basket)++ of (fruits)1.3", ["(red basket)++", "(fruits)1.3"]),
    ("a {red} car, a {{blue}} one", ["{red}", "{blue}"]),
    ("a {red|blue} car", ["{red|blue}"]),
    ("a [bowl:basket:0.5] of fruits", ["[bowl:basket:0.5]"]),
    ("a [cow|horse] on grass", ["[cow|horse]"]),
    ("a basket::2 of fruits", ["basket::2"]),
    ("hot:: dog", ["hot::"]),
    ("a basket <lora:add_detail:0.8>", ["<lora:add_detail:0.8>"]),
    ("a photo of <my-cat>", ["<my-cat>"]),
    ("a photo, embedding:EasyNegative", ["embedding:EasyNegative"]),
    ("a __colour__ car", ["__colour__"]),
    ("a red car --ar 16:9 --no trees", ["--ar 16:9", "--no trees"]),
    ("a basket BREAK a bowl", ["BREAK"]),
    ("a basket AND a bowl", ["AND"]),
])
def test_instructions_of_other_programs_are_found(text, pieces):
    assert foreign(text) == pieces


@pytest.mark.parametrize("text", [
    "a (very) red car", "a car (red) and a bowl (blue, round)", "a man (left) - and a dog", "a cat (see note 3)",
    "a clock at (3:30)", "a sign (John 3:16)", "a picture in (16:9)", "a sign: 50% off (today only!)", "at 3:30 pm",
    "a cat :) and a dog :-(", "(: a smile (^_^) >_< <3", "¯\\_(ツ)_/¯", "I <3 NY", "5 > 3 < 4", "a [square] sign",
    "[1]",
    "{}", "A CAT AND A DOG", "a C++ book", "a cat -- and a dog", "a self--portrait", "f(x) = 2.5", "a snake_case word",
    "", "eine Schüssel (grün)", "a cat | a dog", "rock & roll", "AND",
])
def test_ordinary_texts_are_not(text):
    assert foreign(text) == []


@quick
@given(text=st.text(alphabet=st.sampled_from("aB3 .,:;'\"!?-()é")), word=st.sampled_from(["basket", "red bowl"]),
       weight=st.floats(-9, 9).map(lambda weight: f"{weight:.2f}"))
def test_a_weight_is_found_in_any_text(text, word, weight):
    assert any(f"({word}:{weight})" in piece for piece in foreign(f"{text} ({word}:{weight}), {text}"))


@pytest.mark.parametrize("piece", ["(", "((", "[a", "{a", "<a", "(a", "a ", "a", "_", "__a", "--", "(a:", ":", "a::"])
def test_no_text_takes_long(piece):
    foreign(piece * (10_000 // len(piece)))     # a bad pattern would take hours


# ---------------------------------------------------------------- where it is said


def said(*arguments, method="diffedit", **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dm.METHODS[method](*arguments, steps=2, **options)
    return [str(warning.message) for warning in caught]


SAYS = ("some programs take this for an instruction, here it is read as plain words; leave it out if that is not what "
        "you mean")


def test_every_text_of_a_call_is_looked_at_once(model):
    picture = Image.new("RGB", (16, 16), "red")
    several = said(model, [picture] * 3, ["a (basket:1.5)", "a (basket:1.5)", "a (very) red car"], "a bowl BREAK sand",
                   negative_prompt="((ugly))", mask_samples=1)
    assert several == [f"'(basket:1.5)' in the query: {SAYS}", f"'BREAK' in the reference: {SAYS}",
                       f"'((ugly))' in the negative_prompt: {SAYS}"]


def test_many_pieces_of_one_text_are_one_warning(model):
    [text] = said(model, Image.new("RGB", (16, 16)), "(a:1) (b:2) (c:3) (d:4)", method="sdedit")
    assert text == f"'(a:1)', '(b:2)', '(c:3)', ... in the query: {SAYS}"


def test_prompt_to_prompt_has_weights_of_its_own_in_the_query(model):
    def call(query, reference="a bowl at (3:30)"):
        return said(model, Image.new("RGB", (16, 16)), query, reference, method="prompt_to_prompt")

    assert call("a (bowl:2) at (3:30)") == []
    assert call("a (bowl:2) at BREAK") == [f"'BREAK' in the query: {SAYS}"]
    assert call("a (bowl:200) at") == [f"'(bowl:200)' in the query: {SAYS}"]
    assert call("a bowl at", "a (bowl:2) at") == [f"'(bowl:2)' in the reference: {SAYS}"]


def test_a_word_that_the_tokenizer_was_given_is_none(model):
    taught = deepcopy(model)
    taught.tokenizer.add_tokens(["<my-cat>"])
    taught.text_encoder.resize_token_embeddings(len(taught.tokenizer))
    picture, text = Image.new("RGB", (16, 16)), "a <my-cat> and a <dog>"
    told = {"mask_samples": 1, "steps": 2}
    with pytest.warns(UserWarning, match="^'<dog>' in the query"):
        dm.diffedit(taught, picture, text, **told)
    with pytest.warns(UserWarning, match="^'<my-cat>', '<dog>' in the query"):
        dm.diffedit(model, picture, text, **told)
