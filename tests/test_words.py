"""pytest tests/test_words.py: which token is which word, and which token of one prompt corresponds to which of another.

The tokenizer is the random model's: it knows the words of the tiny model's scenes and spells out all others.
"""

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import diffedit_min as dm
from diffedit_min.methods.words import Prompt, align, changed_words, parse_weights, refine, swap

quick = settings(deadline=None, database=None, derandomize=True, max_examples=25)

TOKENIZER = dm.load("random", device="cpu").tokenizer
L = TOKENIZER.model_max_length
TOKENS = {"a": 1, "bowl": 1, "of": 1, "on": 1, "sand": 1, "pears": 1, "red": 2, "frog": 2, "cat": 3, "lamp": 4}
known = st.lists(st.sampled_from(sorted(TOKENS)), min_size=1, max_size=5).map(" ".join)


def prompt(text):
    return Prompt(text, TOKENIZER)


def refused(text, call, *arguments):
    with pytest.raises(ValueError) as error:
        call(*arguments)
    assert str(error.value) == text


# ---------------------------------------------------------------- weights typed in the prompt


@pytest.mark.parametrize(("typed", "plain", "weights"), [
    ("a bowl of pears", "a bowl of pears", {}),
    ("a bowl of (red apples:2)", "a bowl of red apples", {"red apples": 2.0}),
    ("a (bowl:-1.5) of (pears: 0.5)", "a bowl of pears", {"bowl": -1.5, "pears": 0.5}),
    ("a ( wooden bowl :+3 ), empty", "a wooden bowl, empty", {"wooden bowl": 3.0}),
    ("(pears:.25)", "pears", {"pears": 0.25}),
    ("a (bowl) of pears: two", "a (bowl) of pears: two", {}),
    ("a (bowl:much) of pears", "a (bowl:much) of pears", {}),
    ("", "", {}),
    # Not a weight: a time, a verse, a scale, and what is out of all proportion.
    ("a clock at (3:30), (John 3:16), (map 1:10)", "a clock at (3:30), (John 3:16), (map 1:10)", {}),
    ("(open until 6:30)", "(open until 6:30)", {}),
    ("a (bowl:30) of (pears:20)", "a (bowl:30) of pears", {"pears": 20.0}),
    ("a (4k:1.2) (bowl 3d:2)", "a 4k bowl 3d", {"4k": 1.2, "bowl 3d": 2.0}),
])
def test_weights_are_read_and_taken_out(typed, plain, weights):
    assert parse_weights(typed) == (plain, weights)
    assert parse_weights(plain) == (plain, {})


# ---------------------------------------------------------------- places


def test_a_words_places_are_its_tokens():
    own = prompt("a red lamp, on SAND")
    assert own.words == ["a", "red", "lamp,", "on", "sand"]
    assert own.positions == [range(1, 2), range(2, 4), range(4, 9), range(9, 10), range(10, 11)]
    assert (own.end, own.length) == (11, L)


@pytest.mark.parametrize(("word", "count"), TOKENS.items())
def test_the_words_of_these_tests_have_so_many_tokens(word, count):
    assert len(prompt(word).positions[0]) == count


@given(st.text(alphabet="abz BO é'.,!(1-\t", max_size=14))
@quick
def test_places_are_those_of_the_text_model(text):
    """Tokenized word by word, a prompt is what the text model sees: start, ids, end."""
    start, *ids, end = TOKENIZER(text).input_ids
    assert [start, end] == [TOKENIZER.bos_token_id, TOKENIZER.eos_token_id]
    if len(ids) > L - 2:
        refused(f"the prompt {text!r} is too long to edit by words: {len(ids)} tokens, with room for {L - 2}",
                prompt, text)
        return
    own = prompt(text)
    assert own.ids == ids and own.end == len(ids) + 1
    assert [place for word in own.positions for place in word] == list(range(1, own.end))


def test_the_longest_prompt_and_one_token_more():
    assert prompt(" ".join(["a"] * (L - 2))).end == L - 1
    text = " ".join(["a"] * (L - 1))
    refused(f"the prompt {text!r} is too long to edit by words: 23 tokens, with room for 22", prompt, text)


@pytest.mark.parametrize(("phrase", "places"), [
    ("bowl", [2]),
    ("BOWL", [2]),
    ("Red", [4, 5]),
    ("of red", [3, 4, 5]),
    ("pears", [6, 7, 11, 12]),              # twice, with the punctuation that hangs on it
    ("pears!", [6, 7, 11, 12]),
    ("  red   PEARS ", [4, 5, 6, 7]),
    ("(on sand)", [8, 9, 10]),
])
def test_words_are_found(phrase, places):
    # a 1, bowl 2, of 3, red 4-5, pears, 6-7, on 8, sand. 9-10, Pears! 11-12
    assert prompt("a bowl of red pears, on sand. Pears!").find(phrase) == places


@pytest.mark.parametrize("phrase", ["lion", "pears bowl", "bowl pears", "pear", "ears", "", "  ",
                                    "a bowl of red pears again"])
def test_a_phrase_that_is_not_there(phrase):
    refused(f"{phrase!r} is not in the prompt 'a bowl of red pears'", prompt("a bowl of red pears").find, phrase)


# ---------------------------------------------------------------- swap


def block(text):
    """By hand: (first place, number of places) of each word, and the end token's place."""
    spans, first = [], 1
    for word in text.split():
        spans.append((first, TOKENS[word]))
        first += TOKENS[word]
    return spans, first


@given(st.lists(st.tuples(*[st.sampled_from(sorted(TOKENS))] * 2), min_size=1, max_size=5))
@quick
def test_a_swap_is_word_for_word(pairs):
    """Words of as many tokens token by token; otherwise each new token gets its share of the sum over the old ones."""
    source, target = (" ".join(words) for words in zip(*pairs, strict=True))
    expected = torch.zeros(L, L, dtype=torch.float64)
    for (i, m), (j, n) in zip(block(source)[0], block(target)[0], strict=True):
        for old in range(m):
            for new in range(n):
                expected[i + old, j + new] = float(old == new) if m == n else 1 / n
    table = swap(prompt(source), prompt(target))
    assert torch.allclose(table, expected, rtol=0, atol=1e-7)
    kept = table.sum(dim=1)[1 : block(source)[1]]
    assert torch.allclose(kept, torch.ones_like(kept), atol=1e-12), "no attention is lost"


def test_a_swap_needs_as_many_words():
    pair = prompt("a bowl of pears"), prompt("a red bowl of pears")
    message = ("a swap needs as many words: 'a bowl of pears' has 4, 'a red bowl of pears' has 5; "
               "align=refine takes any")
    refused(message, swap, *pair)
    refused(message, align, *pair, "swap")


# ---------------------------------------------------------------- refinement


def longest_common(a, b):
    """Brute force: the most elements of a, in order, that can be found in b, in order."""
    def within(chosen):
        rest = iter(b)
        return all(any(element == other for other in rest) for element in chosen)

    return next(size for size in range(len(a), -1, -1) if any(within(some) for some in combinations(a, size)))


@given(known, known)
@quick
def test_refinement_is_a_longest_common_subsequence(first, second):
    source, target = prompt(first), prompt(second)
    table = refine(source, target)
    pairs = table.nonzero().tolist()
    assert set(table.unique().tolist()) <= {0.0, 1.0}
    assert all(source.ids[i - 1] == target.ids[j - 1] for i, j in pairs)
    assert all(i < k and j < m for (i, j), (k, m) in zip(pairs, pairs[1:], strict=False)), "in order, one to one"
    assert len(pairs) == longest_common(source.ids, target.ids)


def test_what_refinement_adds_is_new():
    table, shared = align(prompt("a bowl of pears"), prompt("a red bowl of lamp pears"), "refine")
    # a 1, red 2-3, bowl 4, of 5, lamp 6-9, pears 10, end 11
    assert shared.tolist() == [float(j not in (2, 3, 6, 7, 8, 9)) for j in range(L)]
    assert [(i, j) for i, j in table.nonzero().tolist() if 0 < j < 11] == [(1, 1), (2, 4), (3, 5), (4, 10)]


# ---------------------------------------------------------------- both


@given(known)
@quick
def test_equal_prompts_correspond_token_by_token(text):
    for how in ("auto", "swap", "refine"):
        table, shared = align(prompt(text), prompt(text), how)
        assert torch.equal(table, torch.eye(L, dtype=table.dtype)) and torch.equal(shared, torch.ones_like(shared))


@given(known, known, st.sampled_from(["auto", "refine"]))
@quick
def test_start_end_and_padding_correspond(first, second, how):
    """The end token to the end token, what follows in step with it, and beyond the last place to the last."""
    source, target = prompt(first), prompt(second)
    table, shared = align(source, target, how)
    expected = torch.zeros(L, L, dtype=torch.float64)
    expected[0, 0] = 1
    old = block(first)[1]
    for new in range(block(second)[1], L):
        expected[min(old, L - 1), new] = 1
        old += 1
    edges = [0, *range(block(second)[1], L)]
    assert torch.equal(table[:, edges], expected[:, edges])
    assert all(shared[edges] == 1) and torch.equal(shared, (table != 0).any(dim=0).float())


@pytest.mark.parametrize(("query", "how"), [("a bowl of lamp", "swap"), ("a red bowl of pears", "refine")])
def test_auto_swaps_where_there_are_as_many_words(query, how):
    source, target = prompt("a bowl of pears"), prompt(query)
    chosen, asked = align(source, target, "auto"), align(source, target, how)
    assert all(torch.equal(a, b) for a, b in zip(chosen, asked, strict=True))


def test_swap_and_refinement_differ():
    pair = prompt("a bowl of pears"), prompt("a bowl of lamp")
    assert align(*pair, "swap")[1].all() and not align(*pair, "refine")[1].all()


@pytest.mark.parametrize(("source", "target", "only_source", "only_target"), [
    ("a bowl of pears", "a bowl of red", [4], [4, 5]),
    ("a bowl of pears", "a red bowl of pears", [], [2, 3]),
    ("a bowl of pears", "Pears, of a BOWL!", [], []),
    ("lamp on sand", "cat on lamp", [6], [1, 2, 3]),
    ("red red", "cat", [1, 2, 3, 4], [1, 2, 3]),
])
def test_changed_words_are_those_of_one_prompt_only(source, target, only_source, only_target):
    assert changed_words(prompt(source), prompt(target)) == (only_source, only_target)
