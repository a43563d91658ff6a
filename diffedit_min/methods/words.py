"""Which tokens belong to which word, and which words of two prompts correspond: for methods that edit single words.

Token positions: 0 is the start token; then come each word's tokens in order, the end token, and padding. There are L.
"""

import re
from typing import Any

import torch
from torch import Tensor

WEIGHTED = re.compile(r"\(([^():]+):\s*([-+]?\d*\.?\d+)\s*\)")
LARGEST_WEIGHT = 20     # a larger number is none, and neither is one after a number: (3:30), (John 3:16), (scale 1:10)


def parse_weights(prompt: str) -> tuple[str, dict[str, float]]:
    """"a bowl of (red apples:2)" -> ("a bowl of red apples", {"red apples": 2.0})."""
    weights: dict[str, float] = {}

    def plain(match: re.Match[str]) -> str:
        phrase, weight = match[1].strip(), float(match[2])
        if not any(map(str.isalpha, phrase.split(" ")[-1])) or abs(weight) > LARGEST_WEIGHT:
            return match[0]
        weights[phrase] = weight
        return phrase

    return WEIGHTED.sub(plain, prompt), weights


def without_weights(prompt: str) -> str:
    """The prompt without the weights in it."""
    return parse_weights(prompt)[0]


class Prompt:
    """A prompt's words, and the token positions of each."""

    def __init__(self, text: str, tokenizer: Any):
        self.text, self.words, self.ids = text, text.lower().split(), []
        self.positions: list[range] = []    # of each word
        for word in self.words:
            tokens = tokenizer(word, add_special_tokens=False).input_ids
            self.positions.append(range(1 + len(self.ids), 1 + len(self.ids) + len(tokens)))
            self.ids += tokens
        self.end = 1 + len(self.ids)        # the position of the end token
        self.length = tokenizer.model_max_length
        if self.end >= self.length:
            raise ValueError(f"the prompt {text!r} is too long to edit by words: {len(self.ids)} tokens, "
                             f"with room for {self.length - 2}")

    def find(self, phrase: str) -> list[int]:
        """`positions_of` the phrase. Raises ValueError if it isn't in the prompt."""
        found = self.positions_of(phrase)
        if not found:
            raise ValueError(f"{phrase!r} is not in the prompt {self.text!r}")
        return found

    def positions_of(self, phrase: str) -> list[int]:
        """The token positions of a phrase of one or more words, at all places where it occurs."""
        wanted, own = [bare(word) for word in phrase.lower().split()], [bare(word) for word in self.words]
        return [position for first in range(len(own) - len(wanted) + 1) if own[first : first + len(wanted)] == wanted
                for word in range(first, first + len(wanted)) for position in self.positions[word]]


def bare(word: str) -> str:
    """A word without the punctuation around it."""
    return word.strip(".,;:!?\"'()")


def align(source: Prompt, target: Prompt, how: str) -> tuple[Tensor, Tensor]:
    """Which source token each target token corresponds to: (table (L, L), shared (L,)).

    table[i, j] is the part of source token i's attention that target token j takes over. shared[j] is 1 if target token
    j takes over any, and 0 if it is new. how: "swap", "refine", or "auto", which is swap if both prompts have the same
    number of words, and refine otherwise.
    """
    if how == "swap" or (how == "auto" and len(source.words) == len(target.words)):
        table = swap(source, target)
    else:
        table = refine(source, target)
    table[0, 0] = 1
    for j in range(target.end, target.length):      # the end token and the padding
        table[min(j - target.end + source.end, source.length - 1), j] = 1
    return table, (table.sum(dim=0) > 0).to(table)


def swap(source: Prompt, target: Prompt) -> Tensor:
    """Each word corresponds to the one at its place in the other prompt; attention is divided evenly among its tokens.

    Raises ValueError if the prompts don't have the same number of words.
    """
    if len(source.words) != len(target.words):
        raise ValueError(f"a swap needs as many words: {source.text!r} has {len(source.words)}, {target.text!r} has "
                         f"{len(target.words)}; align=refine takes any")
    table = torch.zeros(source.length, target.length, dtype=torch.float64)
    for old, new in zip(source.positions, target.positions, strict=True):
        if len(old) == len(new):
            table[list(old), list(new)] = 1
        else:
            table[old.start : old.stop, new.start : new.stop] = 1 / len(new)
    return table


def refine(source: Prompt, target: Prompt) -> Tensor:
    """The tokens of the longest common subsequence correspond; all other target tokens are new."""
    a, b = source.ids, target.ids
    longest = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]       # [i][j]: its length for a[i:] and b[j:]
    for i in reversed(range(len(a))):
        for j in reversed(range(len(b))):
            longest[i][j] = 1 + longest[i + 1][j + 1] if a[i] == b[j] else max(longest[i + 1][j], longest[i][j + 1])
    table, i, j = torch.zeros(source.length, target.length, dtype=torch.float64), 0, 0
    while i < len(a) and j < len(b):
        if a[i] == b[j]:
            table[1 + i, 1 + j] = 1
            i, j = i + 1, j + 1
        elif longest[i + 1][j] >= longest[i][j + 1]:
            i += 1
        else:
            j += 1
    return table


def changed_words(source: Prompt, target: Prompt) -> tuple[list[int], list[int]]:
    """The token positions of words that only one of the two prompts has: (in the source, in the target)."""
    def only(prompt: Prompt, other: Prompt) -> list[int]:
        known = {bare(word) for word in other.words}
        return [position for word, positions in zip(prompt.words, prompt.positions, strict=True)
                if bare(word) not in known for position in positions]

    return only(source, target), only(target, source)
