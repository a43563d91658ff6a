"""What other programs take for instructions in a prompt. Here it is read as plain words, which is said in a warning.

    (basket:1.5)   ((basket))   {basket}   basket::2   (basket)++       weights
    [bowl:basket:0.5]   [bowl|basket]   {bowl|basket}   __fruit__       other words at other steps, or at random
    <lora:name:0.8>   embedding:name   <my-cat>                         files with more weights or more words
    BREAK   AND   --ar 16:9                                             several prompts in one, and settings

Prompt-to-Prompt has weights in prompts too: words.py takes those out before.
"""

import re
import warnings
from collections.abc import Collection, Iterable

SHOWN = 3           # pieces of a text, at most, that a warning names
NUMBER = r"[-+]?\d*\.?\d+"
INSIDE = r"[^()\[\]{}<>]{0,200}"       # a bound, as a text may be long
LETTER = r"[^\W\d_]"                   # must be there: emoticons, times and ratios have none
PIECES = re.compile("|".join((
    rf"\({INSIDE}{LETTER}[^\s()]{{0,200}}\s*:\s*{NUMBER}\s*\)",     # (basket:1.5); not (John 3:16)
    rf"\(\({{1,9}}{INSIDE}{LETTER}{INSIDE}\)\)+",
    rf"\({INSIDE}{LETTER}{INSIDE}\)(?:\++|--+|\d*\.\d+)(?!\w)",      # (basket)++ and (basket)1.2
    rf"\[{INSIDE}{LETTER}{INSIDE}[:|]{INSIDE}\]",
    rf"\{{{INSIDE}{LETTER}{INSIDE}\}}",
    rf"\b\w+\s?::(?:\s?{NUMBER})?",
    r"<\w+:[^<>]+>",
    rf"<{LETTER}[\w-]*>",
    r"\bembedding:\w[\w.-]*",
    rf"\b__{LETTER}[\w-]*__\b",
    r"(?<!\S)--(?:ar|aspect|no|q|s|seed|style|stylize|chaos|niji|v)\b(?:\s[\w:.]+)?",
)))
CAPITALS = re.compile(r"\b(?:BREAK|AND)\b")             # in a text that has small letters too


def foreign(text: str, known: Collection[str] = ()) -> list[str]:
    """The pieces of a text that other programs take for instructions. known: words that are in the tokenizer."""
    found = [piece[0].strip() for piece in PIECES.finditer(text)]
    if any(letter.islower() for letter in CAPITALS.sub("", text)):
        found += CAPITALS.findall(text)
    return [piece for piece in dict.fromkeys(found) if piece not in known]


def warn_of_syntax(texts: Iterable[tuple[str, str]], known: Collection[str] = ()) -> None:
    """Warn, once for each text, of the pieces in it that `foreign` finds. texts: (name, text)."""
    for name, text in dict.fromkeys(texts):
        if pieces := foreign(text, known):
            named = ", ".join(f"{piece!r:.60}" for piece in pieces[:SHOWN]) + (", ..." if pieces[SHOWN:] else "")
            warnings.warn(f"{named} in the {name}: some programs take this for an instruction, here it is read as "
                          "plain words; leave it out if that is not what you mean", stacklevel=3)
