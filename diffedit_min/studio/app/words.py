"""What the page says of methods, masks and edits."""

import re

from torch import Tensor

from ...methods import Edit, Method
from ...methods.help import about as sentence


def about(method: Method) -> str:
    """What a method is, in one sentence, with a link to its paper."""
    return re.sub(r"arXiv:(\d{4}\.\d{5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", sentence(method))


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
