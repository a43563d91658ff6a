"""A checkpoint's card, `diffedit.json`: the options that its authors recommend, by method, or by method and preset; and
the words that it was trained on, by kind, if they are few.

    {"defaults": {"diffedit": {"steps": 25}, "diffedit, fast": {"guidance_scale": 5.0}},
     "vocabulary": {"fruit": ["apples", "pears"], "other words": ["a", "of"]}}

A card is written by those who made the checkpoint. So it sets numbers and rules, but never says which files or models
are used. What an option is, only its method knows: the methods add their check to `CHECKS`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..networks.config import read_json

Defaults = dict[str, dict[str, Any]]

# Each is called with a card's `defaults` and its path, and raises ValueError for what a card may not say.
CHECKS: list[Callable[[Defaults, str], None]] = []


def read_card(path: Path) -> dict[str, Any]:
    """The card in a file, with `defaults` and `vocabulary`.

    Raises ValueError, in one line that names the file, the key and the value.
    """
    card = read_json(path)
    if unknown := sorted(card.keys() - {"defaults", "vocabulary"}):
        raise ValueError(f"{path}: {unknown[0]!r} is not known; a card holds only 'defaults' and 'vocabulary'")
    defaults, vocabulary = card.get("defaults", {}), card.get("vocabulary", {})
    by_method = defaults if isinstance(defaults, dict) else {}
    for key, values in {"vocabulary": vocabulary, "defaults": defaults, **by_method}.items():
        if not isinstance(values, dict):
            raise ValueError(f"{path}: {key!r} must be an object of names and values, not {values!r:.60}")
    for kind, words in vocabulary.items():
        if not isinstance(words, list) or not all(isinstance(word, str) and word.strip() for word in words):
            raise ValueError(f"{path}: {kind!r} must be a list of words, not {words!r:.60}")
    for check in CHECKS:
        check(defaults, str(path))
    return {"defaults": defaults, "vocabulary": vocabulary}
