"""The embedded model's tokenizer files: CLIP's byte-pair encoding with a vocabulary of a few dozen whole words.

CLIP's tokenizer spells a word in characters and joins pairs in the order that merges.txt lists. Here the list is made
so that every known word ends up as one token; unknown words stay spelled out, in tokens that were never trained.
"""

import json
import os
from pathlib import Path

from . import scenes

LENGTH = 24         # token places of a prompt; Stable Diffusion has 77
START, END = "<|startoftext|>", "<|endoftext|>"

FUNCTION_WORDS = "a an of on in the and with"
# Untrained, for methods that teach the model instructions or a new word.
INSTRUCTION_WORDS = (
    "replace put them it to make into change turn move fill swap for from place set instead picture photo"
)
RARE_WORDS = "sks zwx mmdd beikkpic"


def words() -> list[str]:
    """All whole-word tokens, each once."""
    named = " ".join(value for values in scenes.VALUES.values() for value in values)
    return list(dict.fromkeys(" ".join([FUNCTION_WORDS, named, INSTRUCTION_WORDS, RARE_WORDS]).split()))


def write_tokenizer(folder: Path) -> int:
    """Write vocab.json, merges.txt and the two small files beside them; returns the number of tokens."""
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
        (folder / f"{name}.part").write_text(text, encoding="utf-8")
        os.replace(folder / f"{name}.part", folder / name)
    return len(tokens)


def make_merges(words: list[str]) -> list[tuple[str, str]]:
    """Pairs to join, in order, so that each word becomes one token.

    A later pair never breaks an earlier word: the earliest pair in the list always goes first, and an earlier word's
    own pairs come before.
    """
    merges: list[tuple[str, str]] = []
    for word in words:
        pieces = apply_merges([*word[:-1], word[-1] + "</w>"], merges)
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces = apply_merges(pieces, merges)
    return merges


def apply_merges(pieces: list[str], merges: list[tuple[str, str]]) -> list[str]:
    """Byte-pair encoding: join the pair that stands first in the list, everywhere; again, until none is left."""
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
    """GPT-2's stand-ins for the 256 bytes: printable ones for themselves, the others from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]
