"""The embedded model's tokenizer files: CLIP's byte-pair encoding with a vocabulary of a few dozen whole words.

CLIP's tokenizer splits a word into characters and joins pairs of pieces in the order in which merges.txt lists them.
Here the list is made so that each known word becomes one token. Other words stay split into several tokens, which were
never trained.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from . import scenes

LENGTH = 24         # the number of tokens of a prompt, after padding; Stable Diffusion has 77
START, END = "<|startoftext|>", "<|endoftext|>"

FUNCTION_WORDS = "a an of on in the and with"
# The captions don't have these words; they are for methods that teach the model instructions or a new word.
INSTRUCTION_WORDS = (
    "replace put them it to make into change turn move fill swap for from place set instead picture photo"
)
RARE_WORDS = "sks zwx mmdd beikkpic"


def words() -> list[str]:
    """All words that become one token, each once."""
    named = " ".join(value for values in scenes.VALUES.values() for value in values)
    return list(dict.fromkeys(" ".join([FUNCTION_WORDS, named, INSTRUCTION_WORDS, RARE_WORDS]).split()))


def trained_words(texts: Iterable[str]) -> dict[str, list[str]]:
    """By kind, what a model knows that was trained on these texts: the values of attributes, and their other words."""
    seen = {word for text in texts for word in text.split()}
    kinds = {kind: [value for value in values if seen.issuperset(value.split())]
             for kind, values in scenes.VALUES.items()}
    named = {word for values in kinds.values() for value in values for word in value.split()}
    return {**kinds, "other words": sorted(seen - named)}


def write_card(folder: Path, texts: Iterable[str]) -> None:
    """Write the words of the texts into the folder's card; the settings that it recommends stay, if there are any."""
    path = folder / "diffedit.json"
    card = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**card, "vocabulary": trained_words(texts)}, indent=2) + "\n")


def write_tokenizer(folder: Path) -> int:
    """Write vocab.json, merges.txt and the tokenizer's two small files; returns the number of tokens."""
    merges = make_merges(words())
    alphabet = sorted(byte_characters())
    tokens = [*alphabet, *(c + "</w>" for c in alphabet), *("".join(pair) for pair in merges), START, END]
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": LENGTH, "do_lower_case": True, **special}
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {
        "vocab.json": json.dumps({token: i for i, token in enumerate(tokens)}, ensure_ascii=False),
        "merges.txt": "\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)]) + "\n",
        "tokenizer_config.json": json.dumps(config, indent=2),
        "special_tokens_map.json": json.dumps(special, indent=2),
    }.items():
        (folder / name).write_text(text, encoding="utf-8")
    return len(tokens)


def make_merges(words: list[str]) -> list[tuple[str, str]]:
    """The pairs to join, in order, so that each word becomes one token.

    A pair that is added for a later word never changes an earlier word: pairs are joined in the order of the list, and
    those of the earlier word stand before it.
    """
    merges: list[tuple[str, str]] = []
    for word in words:
        pieces = apply_merges([*word[:-1], word[-1] + "</w>"], merges)
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces = apply_merges(pieces, merges)
    return merges


def apply_merges(pieces: list[str], merges: list[tuple[str, str]]) -> list[str]:
    """Byte-pair encoding: join the pair that is first in the list wherever it occurs; repeat until no pair is left."""
    rank = {pair: i for i, pair in enumerate(merges)}
    while True:
        pairs = [pair for pair in zip(pieces, pieces[1:], strict=False) if pair in rank]
        if not pairs:
            return pieces
        best, joined = min(pairs, key=rank.__getitem__), []
        for piece in pieces:
            if joined and (joined[-1], piece) == best:
                joined[-1] += piece
            else:
                joined.append(piece)
        pieces = joined


def byte_characters() -> list[str]:
    """GPT-2's characters for the 256 bytes: a printable byte is itself, the others are U+0100 and following."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]
