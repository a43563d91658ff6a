"""Gradio's components, with a way of their own to read what a browser sends."""

from __future__ import annotations

import html
from abc import ABCMeta
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr
from gradio.blocks import BlockFunction
from gradio.data_classes import ImageData

from ..console import describe

Shown = dict[Any, Any]      # what an answer shows: component -> its new value, or a gr.update; or what controls hold


class Meta(type(gr.Image)):
    """The metaclass of components made here. Gradio's own would write a file beside this one."""

    def __new__(cls, name: str, bases: tuple[type, ...], attributes: dict[str, Any]) -> type:
        return ABCMeta.__new__(cls, name, bases, attributes)


# Classes, not patched objects, as Gradio makes a person's components anew from time to time. is_template: shown in the
# browser as what they are made from.


class Upload(gr.Image, metaclass=Meta):
    """Gives its file's path: `canvas.open_upload` reads that, and says what is wrong with it."""

    is_template = True

    def preprocess(self, sent: ImageData | None) -> str | None:
        return None if sent is None else sent.path


class Slider(gr.Slider, metaclass=Meta):
    """Gives any number: the option's own check says, in its words, what is wrong with one that was typed."""

    is_template = True

    def preprocess(self, sent: float) -> float:
        if type(sent) not in (int, float):
            raise ValueError(f"{self.label} must be a number, not {str(sent)[:40]!r}")
        return sent


class Page(gr.Blocks):
    """Says in a line, without a traceback, that what was sent is not what a browser sends from here."""

    forget: Callable[[], None]      # the sessions that were not used for long; to be called now and then

    async def preprocess_data(self, block_fn: BlockFunction, inputs: list[Any], *rest: Any, **options: Any) -> list:
        try:
            if any("://" in str(path) for path in paths_in(inputs)):
                raise ValueError("give a picture's file, not its address")      # Gradio would fetch it
            held = await super().preprocess_data(block_fn, inputs, *rest, **options)
            if any(isinstance(value, list) for value in held):
                raise ValueError("a control here holds one value, not a list")
            return held
        except Exception as error:
            error = error.__cause__ or error        # which Gradio wraps
            said = error.message if isinstance(error, gr.Error) else describe(error)
            raise gr.Error(html.escape(said), print_exception=False) from None


def paths_in(sent: Any) -> Iterator[Any]:
    """Where files are to be found, according to what was sent from a browser."""
    if isinstance(sent, dict):
        yield sent.get("path")
        sent = list(sent.values())
    for part in sent if isinstance(sent, list) else ():
        yield from paths_in(part)
