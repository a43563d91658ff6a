"""Pictures and sliders for notebooks: the walkthrough uses them, and notebooks of your own can.

    show([picture, edit.image], ["input", "result"])        pictures side by side, with captions
    chart("Loss against t: three falling lines.")           the current matplotlib figure, and in words what it shows
    slider(draw, [0.1, 0.2, 0.3], few=[0.1, 0.3], label="ratio")       what draw(ratio) gives, under a slider

Every picture has a text for readers who can't see it. A cell shows the last value in it, so let it end with one of
these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from .report.rendering import data_uri


class Html:
    """A piece of a page, which a notebook shows when it is the last value of a cell."""

    def __init__(self, html: str, text: str):
        self.html, self.text = html, text

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text

    def __add__(self, below: Html) -> Html:
        return Html(f"{self.html}<br>{below.html}", f"{self.text}; {below.text}")


NOTHING = Html("", "")


def show(
    pictures: Sequence[Image.Image], captions: Sequence[str], alts: Sequence[str] | None = None, width: int = 256
) -> Html:
    """Pictures side by side, each `width` px wide with its caption below; on a narrow screen one below the other.

    alts: what each shows, in words; left out, the captions have to say it. Raises ValueError if their numbers differ.
    """
    alts = captions if alts is None else alts
    figures = [
        f'<figure style="display: inline-block; vertical-align: top; margin: 4px; width: {width}px; max-width: 100%">'
        f'<img src="{data_uri(picture)}" alt="{escape(alt)}" width="{width}" style="width: 100%">'
        f'<figcaption style="text-align: center">{escape(caption)}</figcaption></figure>'
        for picture, caption, alt in zip(pictures, captions, alts, strict=True)]
    return Html("".join(figures), "; ".join(captions))


def chart(alt: str) -> Html:
    """The current figure of matplotlib, which is closed, as a picture. alt: what it shows, in words."""
    from matplotlib import pyplot

    canvas = pyplot.gcf().canvas
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    pyplot.close()
    return Html(f'<img src="{data_uri(picture)}" alt="{escape(alt)}" width="{picture.width}" '
                'style="max-width: 100%; height: auto">', alt)


def slider(
    draw: Callable[[Any], Html], values: Sequence[Any], few: Sequence[Any], label: str, beside: Html = NOTHING, *,
    at_once: bool = False, live: bool | None = None,
) -> Any:
    """draw(value) under a slider over `values`; where nobody can move one, what it draws for a `few` of them, in a row.

    The slider begins at the middle one of the few. beside: what always stands beside it. at_once: draw also while the
    slider moves, not only when it is let go. live: is somebody there to move it? Left out, `watched` finds out.
    """
    if not (watched() if live is None else live):
        drawn = [*map(draw, few), beside]
        return Html("".join(each.html for each in drawn), "; ".join(each.text for each in drawn if each.text))
    import ipywidgets

    def shown(value: Any) -> str:
        return draw(value).html + beside.html

    start = few[len(few) // 2]
    below = ipywidgets.HTML(shown(start))
    chosen = ipywidgets.SelectionSlider(options=values, value=start, description=label, continuous_update=at_once)
    chosen.observe(lambda change: setattr(below, "value", shown(change["new"])), "value")
    return ipywidgets.VBox([chosen, below])


def watched() -> bool:
    """Can somebody move a slider? Not without ipywidgets, nor where a cell may not ask for input: as with nbconvert,
    which only runs a notebook."""
    try:
        import ipywidgets  # noqa: F401
        from IPython import get_ipython

        return bool(get_ipython().get_parent()["content"]["allow_stdin"])
    except (ImportError, AttributeError, KeyError):
        return False
