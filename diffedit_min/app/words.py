"""What the page says of methods, masks and edits."""

import re
import sys

from torch import Tensor

from ..methods import Edit, Method


def about(method: Method) -> str:
    """What a method is: the first sentence of its file, if that says it, with a link to its paper."""
    first = " ".join((sys.modules[method.run.__module__].__doc__ or "").partition("\n\n")[0].split())
    sentence = re.split(r"(?<=\.)\s", first)[0]
    return re.sub(r"arXiv:(\d{4}\.\d{5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", sentence)


def rows(count: int) -> str:
    return f"{count} row{'' if count == 1 else 's'}"


def share(mask: Tensor, edit: Edit) -> str:
    """How much of the picture, padding not counted, a mask bool (h, w) covers."""
    return f"The mask covers {edit.frame.share(mask, edit.factor):.1%}."


def summary(edit: Edit, count: int, seconds: float) -> str:
    """How an edit ended: count, the rows that it took."""
    kept = {"mask": "your mask", "mask_map": "the map of the mask", "encoded": "the encoding of an earlier edit"}
    given = [kept[name] for name in edit.settings["given"]]
    lines = [f"Done: {rows(count)} in {seconds:.1f} s{'; with ' + ' and '.join(given) if given else ''}."]
    if edit.empty_mask:
        lines.append("Nothing to change was found: the mask is empty, and the input picture came back.")
    elif edit.mask is not None:
        lines.append(share(edit.mask, edit))
    return " ".join(lines)
