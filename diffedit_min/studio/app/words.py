"""What the page says of methods, masks and edits."""

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from textwrap import shorten

from torch import Tensor

from ...core.task import Step
from ...methods import Edit, Method
from ...methods.cost import about as about_time
from ...methods.cost import in_words
from ...methods.help import about as sentence
from ...tiny.scene import VALUES, with_article
from .session import Run

LONGEST = 300       # characters of a warning


def about(method: Method) -> str:
    """What a method is, in one sentence, with a link to its paper."""
    return re.sub(r"arXiv:(\d{4}\.\d{5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", sentence(method))


def of_query(method: Method) -> dict[str, str]:
    """The label of the field for the query, and what is to be written there."""
    if method.needs_instruction:
        return {"label": "Instruction", "info": "What to do with the picture, for example: put them in a basket"}
    return {"label": "Query", "info": "What the edited picture should show."}


def of_reference(method: Method) -> dict[str, str]:
    """The label of the field for the reference, and what is to be written there."""
    better = " It makes the mask better." if "mask_map" in method.uses else ""
    return {"label": "Reference", "info": f"What the picture shows now.{better}"}


def rows(count: int) -> str:
    return f"{count} row{'' if count == 1 else 's'}"


def share(mask: Tensor | None, edit: Edit) -> str:
    """How much of the picture, padding not counted, a mask bool (h, w) covers."""
    return "" if mask is None else f" The mask covers {edit.frame.share(mask, edit.factor):.1%}."


def summary(edit: Edit, count: int, seconds: float) -> str:
    """How an edit ended: count, the rows that it took with those of its map, if that was made first."""
    uses, made = edit.method.uses, edit.rows_for
    kept = {"your mask": "mask" in edit.settings["given"],
            "the map that was kept": "mask_map" in uses and edit.mask_map is not None
                                     and "mask" not in made and count == edit.rows,
            "the encoding of an earlier edit": "encoded" in uses and len(edit.encoded) > 1 and "encode" not in made}
    with_ = " and ".join(what for what, is_so in kept.items() if is_so)
    shrunk = f" It was {edit.shrunk}." if edit.shrunk else ""
    line = f"Done: {rows(count)} in {seconds:.1f} s{'; with ' if with_ else ''}{with_}."
    if edit.empty_mask:
        return f"{line} Nothing to change was found: the mask is empty, and the input picture came back."
    return line + share(edit.mask, edit) + shrunk


# ---- lines of the page, as HTML


def line(text: str) -> str:
    """How far things are, in words."""
    return f'<div role="status" class="said">{html.escape(text)}</div>'


def bar(step: Step | None, run: Run, seconds: float) -> str:
    """How far a run is: one bar for all of it, and the time that is left, if its cost is known."""
    said = "waits, or begins" if step is None else f"{in_words(step.stage)}: step {step.index} of {step.total}"
    part, expected = "", run.expected
    if expected and run.rows:
        done, total = expected.rows, expected.cost.rows
        part = f'value="{done}" max="{total}"'
        said += f"; {done} of {total} rows; {about_time(seconds / run.rows * (total - done))} left"
    return f'<progress aria-label="Progress" {part}></progress><div class="said">{html.escape(said)}</div>'


def problem(text: str) -> str:
    """Why something could not be done. It stays until something else is begun."""
    return f'<div role="alert" class="problem">{html.escape(text)}</div>'


def notes(texts: Iterable[str]) -> str:
    """Warnings, each of them once, and none longer than some lines."""
    short = dict.fromkeys(shorten(text, LONGEST, placeholder=" ...") for text in texts)
    said = "".join(f"<li>{html.escape(text)}</li>" for text in short)
    return f'<ul role="status" class="notes">{said}</ul>' if said else ""


def known_words(words: Mapping[str, Sequence[str]]) -> str:
    """The words that a model knows, if these are few, to click: page.js puts one in place of another of its kind."""
    if not words:
        return ""
    groups = ""
    for kind in [kind for kind in VALUES if kind in words]:
        said = [phrase if kind == "fruit" else with_article(phrase) for phrase in words[kind]]
        buttons = "".join(f'<button type="button">{html.escape(phrase)}</button>' for phrase in said)
        groups += f'<span class="kind" onclick="takeWord(event)"><b>{html.escape(kind)}</b> {buttons}</span>'
    others = ", ".join(phrase for kind, phrases in words.items() if kind not in VALUES for phrase in phrases)
    return f'<div>The model knows few words; click one: {groups} <span>and {html.escape(others)}</span></div>'
