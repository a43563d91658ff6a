"""CLIP's tokenizer from a checkpoint's folder, in each of the ways in which programs have saved it.

    vocab.json, merges.txt      token -> id; pairs of tokens that become one token, the first ones first
    tokenizer.json              both in one file, beside much that is the same for all of CLIP's tokenizers
    tokenizer_config.json, special_tokens_map.json, added_tokens.json
                                the tokens that mark start, end and padding; tokens that were added to CLIP's

Only these entries are read. All are checked before the library's native code gets them, since damaged ones can end the
whole process there. transformers is imported only when a tokenizer is made, because that takes seconds.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import read_json, read_text

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

CLASSES = ("CLIPTokenizer", "CLIPTokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")
ROLES = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>",
         "pad_token": "<|endoftext|>"}
# What pads a text, where the files don't say it: CLIP's own programs (quick_gelu) and OpenCLIP (gelu) differ.
PADDING = {"quick_gelu": "<|endoftext|>", "gelu": "!"}
FLAGS = ("single_word", "lstrip", "rstrip", "normalized")       # of an added token: how it is found in a text
WORD_END = "</w>"
MOST_TOKENS, LONGEST_TOKEN = 2**20, 1000
LEAST_KNOWN = 0.9           # the part of the text encoder's tokens that a tokenizer of its own has, at least

Vocabulary = dict[str, int]
Merges = list[tuple[str, str]]


def make_tokenizer(folder: Path, known: int | None = None, places: int | None = None,
                   padding: str = ROLES["pad_token"]) -> CLIPTokenizer:
    """The tokenizer in a folder.

    known: the number of tokens that the text encoder knows. places: the length of the texts that it takes; a shorter
    `model_max_length` in the folder holds too, and any other is ignored. padding: the padding token, if the files don't
    say it.
    Raises ValueError, in one line that names the folder, if it is damaged or of another kind.
    """
    from tokenizers import AddedToken
    from transformers import CLIPTokenizer

    not_one = f"{folder} is not a tokenizer of CLIP's kind"
    try:
        config = optional(folder / "tokenizer_config.json")
        if (kind := config.get("tokenizer_class")) not in (None, *CLASSES):
            raise ValueError(f"its tokenizer_class is {kind!r:.60}, and only CLIP's can be used")
        fast = optional(folder / "tokenizer.json")
        vocabulary, merges = tables(folder, fast)
        added = added_tokens(folder, config, fast)
        roles = roles_of(folder, config, padding)
        vocabulary |= {token: entry["id"] for token, entry in added.items()}
        check_ids(vocabulary)
        for role, (token, _) in roles.items():
            if token not in vocabulary:
                raise ValueError(f"its {role} {token!r:.60} is not one of its tokens")
    except ValueError as error:
        raise ValueError(f"{not_one} ({error}): copy it again") from None
    check_known(folder, vocabulary, known)
    warn_of_lost_tokens(folder, vocabulary.keys() - added.keys() - {content for content, _ in roles.values()}, merges)
    longest = config.get("model_max_length")
    if not (type(longest) is int and 2 < longest <= (places or MOST_TOKENS)):
        longest = places or 77

    def token(content: str, flags: Mapping[str, bool], special: bool) -> AddedToken:
        own = {flag: value for flag, value in added.get(content, {}).items() if flag in FLAGS}
        return AddedToken(content, special=special, **(own or flags))

    marks = {role: token(content, flags, special=True) for role, (content, flags) in roles.items()}
    try:
        tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=longest, **marks)
        tokenizer.add_tokens([token(content, {}, special=False) for content in added
                              if all(content != mark.content for mark in marks.values())])
    except Exception as error:      # its native code raises plain Exceptions
        raise ValueError(f"{not_one} ({' '.join(str(error).split())}): copy it again") from None
    return tokenizer


# ---------------------------------------------------------------- the two tables


def tables(folder: Path, fast: Mapping[str, Any]) -> tuple[Vocabulary, Merges]:
    """The vocabulary and the merges; if they are there twice, they must be the same. Raises ValueError."""
    found = []
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        lines = read_text(folder / "merges.txt").split("\n")
        pairs = [line.rstrip("\r").split(" ") for line in lines if line.strip() and not line.startswith("#version")]
        found.append((read_json(folder / "vocab.json"), pairs))
    if fast:
        model = fast.get("model")
        if not isinstance(model, dict) or model.get("type", "BPE") != "BPE" or (
                model.get("end_of_word_suffix") != WORD_END):
            raise ValueError(f"tokenizer.json is of another kind; CLIP's is BPE with {WORD_END!r}")
        pairs = model.get("merges")
        if not isinstance(pairs, list):
            raise ValueError("tokenizer.json has no list of merges")
        found.append((model.get("vocab"), [pair.split(" ") if isinstance(pair, str) else pair for pair in pairs]))
    checked = [checked_tables(*each) for each in found]
    if not checked:
        raise ValueError("it has neither vocab.json and merges.txt nor tokenizer.json")
    if checked[0] != checked[-1]:
        raise ValueError("vocab.json and merges.txt hold another vocabulary than tokenizer.json: remove the wrong ones")
    return checked[0]


def checked_tables(vocabulary: Any, pairs: list[Any]) -> tuple[Vocabulary, Merges]:
    """The tables themselves, if they are of the right kinds and each merge is of known tokens. Raises ValueError."""
    if not isinstance(vocabulary, dict):
        raise ValueError(f"its vocabulary is {vocabulary!r:.60} instead of an object of tokens and ids")
    check_ids(vocabulary)
    merges = []
    for pair in pairs:
        if not (isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(part, str) for part in pair)):
            raise ValueError(f"its merge {pair!r:.60} is not two tokens")
        for part in (*pair, "".join(pair)):
            if part not in vocabulary:
                raise ValueError(f"its merge {' '.join(pair)!r:.60} is of tokens that are not in the vocabulary")
        merges.append(tuple(pair))
    return dict(vocabulary), merges


def check_ids(vocabulary: Mapping[str, Any]) -> None:
    """Raise ValueError unless the ids are whole numbers, one for each token."""
    if not 0 < len(vocabulary) <= MOST_TOKENS:
        raise ValueError(f"it has {len(vocabulary):,} tokens")
    seen: dict[int, str] = {}
    for token, number in vocabulary.items():
        if not 0 < len(token) <= LONGEST_TOKEN:
            raise ValueError(f"its token {token!r:.60} is of {len(token)} letters")
        if not (type(number) is int and 0 <= number < MOST_TOKENS):
            raise ValueError(f"the id of its token {token!r:.60} is {number!r:.60}")
        if number in seen:
            raise ValueError(f"its tokens {seen[number]!r:.60} and {token!r:.60} have the same id {number}")
        seen[number] = token


def check_known(folder: Path, vocabulary: Vocabulary, known: int | None) -> None:
    """Raise ValueError for tokens that the text encoder doesn't know; warn if it knows far more."""
    from tokenizers.pre_tokenizers import ByteLevel

    other = "the tokenizer belongs to another model"
    last = max(vocabulary, key=vocabulary.__getitem__)
    if known is not None and vocabulary[last] >= known:
        raise ValueError(f"{folder} has the token {last!r:.60} with id {vocabulary[last]}, but the text encoder knows "
                         f"{known} tokens, from 0: {other}")
    if known is not None and len(vocabulary) < LEAST_KNOWN * known:
        warnings.warn(f"{folder} has {len(vocabulary)} tokens, but the text encoder knows {known}: it seems that "
                      f"{other}, and that every text means something else", stacklevel=2)
    if lacking := [letter for letter in ByteLevel.alphabet() if not {letter, letter + WORD_END} <= vocabulary.keys()]:
        warnings.warn(f"{folder} lacks tokens for {len(lacking)} of the 256 bytes: letters that are made of them can't "
                      "be told apart", stacklevel=2)


def warn_of_lost_tokens(folder: Path, tokens: Collection[str], merges: Merges) -> None:
    """Warn of tokens of several letters that no merge makes: then texts fall into smaller tokens than in training."""
    made = {"".join(pair) for pair in merges}
    lost = sorted(token for token in tokens if len(token.removesuffix(WORD_END)) > 1 and token not in made)
    if len(lost) > len(tokens) / 100:      # fewer may have been added by hand
        warnings.warn(f"{folder} has {len(lost)} tokens that no merge makes, among them {lost[0]!r:.60}: the list of "
                      "merges seems to be cut off, so copy it again", stacklevel=3)


# ---------------------------------------------------------------- start, end, padding; added tokens


def roles_of(folder: Path, config: Mapping[str, Any], padding: str) -> dict[str, tuple[str, dict[str, bool]]]:
    """The tokens that mark start, end, unknown bytes and padding, each with its flags. Raises ValueError.

    As in transformers, special_tokens_map.json goes before tokenizer_config.json, unless that one lists added tokens.
    """
    files = [config] if "added_tokens_decoder" in config else [optional(folder / "special_tokens_map.json"), config]
    roles = {}
    for role, default in (ROLES | {"pad_token": padding}).items():
        entry = next((file[role] for file in files if file.get(role) is not None), default)
        roles[role] = content_of(entry, role), flags_of(entry)
    return roles


def added_tokens(folder: Path, config: Mapping[str, Any], fast: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Each added token -> its "id" and flags. A token may be in several files, but with the same id. Raises ValueError.
    """
    added: dict[str, dict[str, Any]] = {}
    for where, content, number, flags in listed(folder, config, fast):
        if added.setdefault(content, {"id": number, **flags})["id"] != number:
            raise ValueError(f"{where} gives the token {content!r:.60} the id {number!r:.60}, and another file "
                             f"{added[content]['id']!r:.60}")
    return added


def listed(
    folder: Path, config: Mapping[str, Any], fast: Mapping[str, Any]
) -> Iterator[tuple[str, str, Any, dict[str, bool]]]:
    """Where an added token is listed, the token, its id and its flags. Raises ValueError for entries of another kind.
    """
    entries = fast.get("added_tokens") or []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError("added_tokens in tokenizer.json is not a list of tokens")
    for entry in entries:
        yield "tokenizer.json", content_of(entry, "added token"), entry.get("id"), flags_of(entry)
    by_id = config.get("added_tokens_decoder") or {}
    if not isinstance(by_id, dict):
        raise ValueError("added_tokens_decoder in tokenizer_config.json is not an object of ids and tokens")
    for number, entry in by_id.items():
        number = int(number) if number.isdecimal() and len(number) < 8 else number
        yield "tokenizer_config.json", content_of(entry, "added token"), number, flags_of(entry)
    for content, number in optional(folder / "added_tokens.json").items():
        yield "added_tokens.json", content, number, {}


def content_of(value: Any, role: str) -> str:
    """The token itself, which may be in an object with its flags. Raises ValueError."""
    content = value.get("content") if isinstance(value, dict) else value
    if not isinstance(content, str) or not content:
        raise ValueError(f"its {role} is {value!r:.60} instead of a text")
    return content


def flags_of(entry: Any) -> dict[str, bool]:
    """The flags in an added token's entry. Raises ValueError."""
    flags = {flag: entry[flag] for flag in FLAGS if isinstance(entry, dict) and flag in entry}
    for flag, value in flags.items():
        if type(value) is not bool:
            raise ValueError(f"{flag} of its token {entry['content']!r:.60} is {value!r:.60} instead of true or false")
    return flags


def optional(path: Path) -> dict[str, Any]:
    """The JSON object in a file; {} if the file isn't there. Raises ValueError."""
    return read_json(path) if path.is_file() else {}
