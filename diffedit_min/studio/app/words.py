"""What the page says of methods, masks and edits."""

import html
import re
from collections.abc import Iterable

from torch import Tensor

from ...methods import Edit, Method
from ...methods.help import about as sentence


def about(method: Method) -> str:
    """What a method is, in one sentence, with a link to its paper."""
    return re.sub(r"arXiv:(\d{4}\.\d{5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", sentence(method))


def of_query(method: Method) -> dict[str, str]:
    """The label of the field for the query, and what is to be written there."""
    if method.needs_instruction:
        return {"label": "Instruction", "info": "What to do with the picture, for example: put them in a basket"}
    return {"label": "Query", "info": "What the edited picture should show."}


def of_reference(method: Method) -> dict[str, str]:
    """The same for the reference."""
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
    line = f"Done: {rows(count)} in {seconds:.1f} s{'; with ' if with_ else ''}{with_}."
    if edit.empty_mask:
        return f"{line} Nothing to change was found: the mask is empty, and the input picture came back."
    return line + share(edit.mask, edit)


# ---- lines of the page, as HTML


def line(text: str) -> str:
    """How far things are, in words."""
    return f'<div role="status">{html.escape(text)}</div>'


def bar(text: str, done: int, total: int | None, seconds: float) -> str:
    """The same of what is under way, with a bar, and the time that is left if the total of its rows is known."""
    if not total or not done:
        return f'<progress aria-label="Progress"></progress><div>{html.escape(text)}</div>'
    done = min(done, total)
    left = seconds / done * (total - done)
    text = f"{text}; {done} of {rows(total)}, about {left:.0f} s left"
    return (f'<progress aria-label="Progress" value="{done}" max="{total}"></progress>'
            f"<div>{html.escape(text)}</div>")


def problem(text: str) -> str:
    """Why something could not be done. It stays until something else is begun."""
    return f'<div role="alert" class="problem">{html.escape(text)}</div>'


def notes(texts: Iterable[str]) -> str:
    """Warnings, each of them once."""
    said = "".join(f"<li>{html.escape(text)}</li>" for text in dict.fromkeys(texts))
    return f'<ul role="status" class="notes">{said}</ul>' if said else ""
