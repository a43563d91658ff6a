"""Words of a text that the model was not trained on, for models that say which ones they know (`model.vocabulary`).

The tokenizer cuts an unknown word into pieces that mean nothing to such a model, so an edit may change anything at all.
"""

import difflib
import re
import warnings
from collections.abc import Iterable

from ..networks.stable_diffusion import StableDiffusion

WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")     # letters; numbers and punctuation are no words
NEAR, LEAST_LETTERS = 0.75, 4    # difflib's ratio from which a word is near; shorter words ("and") are near to any
SHOWN, LISTED = 5, 60           # unknown words, and known ones, that a warning names, at most


def unknown_words(model: StableDiffusion, text: str) -> dict[str, list[str]]:
    """Each word of the text that the model doesn't know -> the known words that are spelt nearly so, the nearest first.

    Capitals count as small letters, as for the tokenizer. {} for a model that doesn't say which words it knows.
    """
    known = model.vocabulary
    words = dict.fromkeys(WORD.findall(text.lower())) if known else ()
    return {word: difflib.get_close_matches(word, known, cutoff=NEAR) if len(word) >= LEAST_LETTERS else []
            for word in words if word not in known}


def warn_of_unknown_words(texts: Iterable[tuple[str, str]], model: StableDiffusion) -> None:
    """Warn, once for all texts, of the words in them that the model doesn't know. texts: (name, text)."""
    unknown = unknown_words(model, "\n".join(text for _, text in texts))
    if unknown:
        named = [f"{word!r:.40}" + (f" (did you mean {near[0]!r}?)" if near else "") for word, near in unknown.items()]
        words, known = "word" if len(named) == 1 else "words", model.vocabulary
        warnings.warn(f"the model doesn't know the {words} {listed(named, SHOWN)}; it knows {listed(known, LISTED)}",
                      stacklevel=3)


def listed(words: Iterable[str], most: int) -> str:
    """The first words, with commas between them."""
    words = list(words)
    return ", ".join(words[:most]) + (", ..." if words[most:] else "")
