"""The mask as a component of the page, to be painted on. What it holds is canvas.py's to say; canvas.js draws it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from . import canvas
from .components import Meta

HINT = """What is coloured is edited: pink was found, orange is painted. What you paint or erase stays when a slider
changes what is found; "Back to the found mask" takes it away."""

TEMPLATE = """
<div class="mask empty">
  <p class="none">The picture, with its mask, comes here.</p>
  <div class="frame">
    <img alt="The picture that is edited">
    <canvas tabindex="0" role="application" aria-label="Mask. Arrow keys move the brush; hold the space bar to use it;
      Ctrl+Z: undo."></canvas>
    <div class="brush"></div>
  </div>
  <div class="tools">
    <button type="button" data-own="1" aria-pressed="true">Paint</button>
    <button type="button" data-own="2" aria-pressed="false">Erase</button>
    <label>Brush <input type="range" min="1" max="3" value="1"> <output>1</output> cells</label>
    <button type="button" data-do="undo">Undo</button>
    <button type="button" data-do="found">Back to the found mask</button>
    <button type="button" data-do="clear">Clear</button>
    <button type="button" data-do="invert">Invert</button>
  </div>
  <p class="says" aria-live="polite"></p>
</div>
"""
CSS = """
.frame { position: relative; overflow: hidden; margin: 0 auto; border-radius: 4px; }
.frame img { width: 100%; height: 100%; margin: 0; }
canvas { position: absolute; left: 0; top: 0; image-rendering: pixelated; touch-action: pinch-zoom; cursor: crosshair; }
.brush { position: absolute; pointer-events: none; outline: 2px solid #fff; box-shadow: 0 0 0 3px #000; display: none; }
canvas:hover + .brush, canvas:focus-visible + .brush { display: block; }
.tools { display: flex; flex-wrap: wrap; gap: .4rem; align-items: center; margin-top: .5rem; }
.tools button { padding: .25rem .6rem; border: 1px solid var(--border-color-primary); border-radius: 4px;
  color: var(--button-secondary-text-color); background: var(--button-secondary-background-fill); }
.tools button[aria-pressed=true] { outline: 2px solid #eb0078; }
.tools button:disabled { opacity: .5; cursor: default; }
.tools label { display: flex; gap: .3rem; align-items: center; }
.tools input { width: 6rem; accent-color: #eb0078; }
.says { margin: .3rem 0 0; min-height: 1.5em; font-size: .9em; }
.empty .frame, .empty .tools, .mask:not(.empty) .none { display: none; }
"""


class Canvas(gr.HTML, metaclass=Meta):
    """A picture under its mask, to paint on. It is shown what canvas.py's `begun`, `empty` and `text_of` make."""

    is_template = True

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """As Gradio makes it again, with what it was made with."""
        super().__init__(*arguments, **{
            "label": "Mask", "html_template": TEMPLATE, "css_template": CSS, "apply_default_css": False,
            "js_on_load": Path(__file__).with_name("canvas.js").read_text("utf-8"), **canvas.empty(), **options})

    def preprocess(self, payload: Any) -> str:
        return canvas.checked(payload)
