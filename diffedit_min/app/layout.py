"""What is on the page, from top to bottom. What answers to it is in page.py."""

from __future__ import annotations

from abc import ABCMeta
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.data_classes import ImageData

from ..methods import METHODS
from ..methods.typed import dashed
from ..tiny.demo import demo_scenes
from . import canvas
from .shelf import Shelf

SCENES = 6
COLOUR = "rgba({}, {}, {}, {:.2f})".format(*canvas.COLOUR[:3], canvas.COLOUR[3] / 255)
FONTS = ("system-ui", "sans-serif")         # of the reader's own machine: nothing is fetched

# option: label, lowest, highest, step, what it does
SLIDERS = {
    "mask_threshold": ("Threshold", 0, 1, 0.01, "Cells of the map above it are edited. Computes nothing."),
    "mask_noise_ratio": ("Mask noise strength", 0, 1, 0.05, "How noisy the picture is when the map is made."),
    "mask_samples": ("n, noises averaged", 1, 20, 1, "More make a steadier map: 2n rows through the network."),
    "encoding_ratio": ("Encoding ratio", 0, 1, 0.05, "How far towards noise the picture goes; more changes more."),
    "guidance_scale": ("Guidance scale", 0, 40, 0.5, "How much the query counts; 1 is its plain prediction."),
    "steps": ("Steps", 1, 200, 1, "Of the whole timeline. More are finer and slower."),
}
MASK_SLIDERS = ("mask_threshold", "mask_noise_ratio", "mask_samples")

CSS = """
.step h2 { margin: 0; }
#picture img, #result img, #map img { width: 100%; height: 100%; object-fit: contain; }     /* small ones too */
:root { --block-info-text-color: #5b5b63; --slider-color: #c2410c; }
#edit { background: #c2410c; }                                                              /* more contrast */
.or, .min_value, .max_value { color: var(--body-text-color) !important; }
#scenes .grid-wrap { padding-top: 2.2rem; }                                                 /* below its label */
"""


class Component(type(gr.Image)):
    """The metaclass of components made here. Gradio's own would write a file beside this one."""

    def __new__(cls, name: str, bases: tuple[type, ...], attributes: dict[str, Any]) -> type:
        return ABCMeta.__new__(cls, name, bases, attributes)


async def move_file(component: Block, path: str | Path | None) -> str | None:
    """What a person sends must be a file that was uploaded: Gradio would fetch an address."""
    if "://" in str(path):
        raise ValueError("give a picture's file, not its address")
    return await Block.async_move_resource_to_block_cache(component, path)


# Classes, not patched objects, as Gradio makes a person's components anew from time to time. is_template: shown in the
# browser as what they are made from.


class Upload(gr.Image, metaclass=Component):
    """Gives its file's path: `canvas.open_upload` reads that, and says what is wrong with it."""

    is_template = True
    async_move_resource_to_block_cache = move_file

    def preprocess(self, sent: ImageData | None) -> str | None:
        return None if sent is None else sent.path


class Canvas(gr.ImageEditor, metaclass=Component):
    """Takes uploaded files only."""

    is_template = True
    async_move_resource_to_block_cache = move_file


@dataclass
class Controls:
    """The page's components that something answers to or is shown in."""

    session: gr.State
    picture: Upload
    scenes: gr.Gallery
    query: gr.Textbox
    reference: gr.Textbox
    model: gr.Dropdown
    method: gr.Dropdown
    about: gr.Markdown
    mask_part: gr.Column
    find: gr.Button
    canvas: Canvas
    map: gr.Image
    preset: gr.Radio
    seed: gr.Number
    more: gr.Textbox
    edit: gr.Button
    cancel: gr.Button
    progress: gr.Textbox
    result: gr.Image
    save_result: gr.DownloadButton
    save_mask: gr.DownloadButton
    make_report: gr.Button
    save_report: gr.DownloadButton
    sliders: dict[str, gr.Slider] = field(default_factory=dict)     # by option

    def inputs(self) -> set:
        """Those that say what a person wants."""
        return {self.session, self.query, self.reference, self.model, self.method, self.canvas, self.preset, self.seed,
                self.more, *self.sliders.values()}


def lay_out(shelf: Shelf, session: gr.State, limits: str) -> Controls:
    """Put everything on the page that is being made. limits: what uploads are bounded by, in words."""
    made: dict = {"session": session, "sliders": {}}
    gr.Markdown("# DiffEdit\nEdit a picture by text. It finds by itself where to edit, and you can correct it.")
    with gr.Row():
        with gr.Column(min_width=320):
            made |= picture_part(limits)
            made |= words_part(shelf)
        with gr.Column(min_width=320) as mask_part:
            made |= {"mask_part": mask_part} | mask_part_of(made["sliders"])
        with gr.Column(min_width=320):
            made |= edit_part(made["sliders"])
    gr.Markdown("One computation runs at a time; others wait in line. Pictures are deleted after an hour, and when the "
                "page is shut down.")
    return Controls(**made)


def picture_part(limits: str) -> dict:
    gr.Markdown("## 1 Picture", elem_classes="step")
    picture = Upload(label=f"Picture, {limits}", sources=["upload", "clipboard", "webcam"], height=280, format="png",
                     buttons=["fullscreen"], elem_id="picture")
    rendered = [demo_scenes(seed, None)[0].render(128) for seed in range(SCENES)]
    scenes = gr.Gallery(rendered, label="Or a scene", columns=SCENES // 2, height=300, format="png",
                        allow_preview=False, interactive=False, buttons=[], object_fit="cover", elem_id="scenes")
    return {"picture": picture, "scenes": scenes}


def words_part(shelf: Shelf) -> dict:
    gr.Markdown("## 2 Words", elem_classes="step")
    query = gr.Textbox("", label="Query", info="What the edited picture should show.", elem_id="query")
    reference = gr.Textbox("", label="Reference", info="What it shows now: makes a better mask.",
                           elem_id="reference")
    with gr.Row():
        method = gr.Dropdown([(dashed(name), name) for name in METHODS], value="diffedit", label="Method",
                             elem_id="method", min_width=150)
        model = gr.Dropdown(list(shelf.names), value=shelf.names[0], label="Model", allow_custom_value=shelf.any_name,
                            elem_id="model", min_width=150)
    about = gr.Markdown(elem_id="about")
    return {"query": query, "reference": reference, "method": method, "model": model, "about": about}


def mask_part_of(sliders: dict[str, gr.Slider]) -> dict:
    gr.Markdown("## 3 Mask", elem_classes="step")
    find = gr.Button("Find the mask", elem_id="find")
    editor = Canvas(
        label="Mask", type="pil", format="png", sources=(), transforms=(), layers=False, buttons=[], elem_id="canvas",
        canvas_size=(canvas.SIDE, canvas.SIDE), height=430, eraser=gr.Eraser(24),
        brush=gr.Brush(24, colors=[COLOUR], default_color=COLOUR, color_mode="fixed"))
    gr.Markdown("What is coloured is edited. Paint more of it, or erase some; a slider draws it anew.")
    for name in MASK_SLIDERS:
        sliders[name] = slider(name)
    with gr.Accordion("The map that the mask is cut from", open=False):
        shown = gr.Image(label="Map, from black (0) to yellow (1)", interactive=False, format="png", height=260,
                         buttons=[], elem_id="map")
    return {"find": find, "canvas": editor, "map": shown}


def edit_part(sliders: dict[str, gr.Slider]) -> dict:
    gr.Markdown("## 4 Edit", elem_classes="step")
    with gr.Row():
        edit = gr.Button("Edit", variant="primary", elem_id="edit", min_width=100)
        cancel = gr.Button("Cancel", elem_id="cancel", min_width=100)
    progress = gr.Textbox("", label="Progress", interactive=False, lines=2, elem_id="progress")
    result = gr.Image(label="Result", interactive=False, format="png", height=320, buttons=["fullscreen"],
                      elem_id="result")
    small = {"interactive": False, "size": "sm", "min_width": 90}
    with gr.Row():
        save_result = gr.DownloadButton("Save result", elem_id="save-result", **small)
        save_mask = gr.DownloadButton("Save mask", elem_id="save-mask", **small)
    with gr.Row():
        make_report = gr.Button("Make report", elem_id="make-report", **small)
        save_report = gr.DownloadButton("Save report", elem_id="save-report", **small)
    preset = gr.Radio(["paper"], value="paper", label="Preset", info="Sets the sliders.", elem_id="preset")
    for name in SLIDERS:
        if name not in MASK_SLIDERS:
            sliders[name] = slider(name)
    seed = gr.Number(0, label="Seed", info="The same one gives the same result.", precision=0, minimum=0,
                     elem_id="seed")
    with gr.Accordion("More options", open=False):
        more = gr.Textbox("", label="The method's other options", lines=3, placeholder="name=value, one a line",
                          elem_id="more")
    return {"preset": preset, "seed": seed, "more": more, "edit": edit, "cancel": cancel, "progress": progress,
            "result": result, "save_result": save_result, "save_mask": save_mask, "make_report": make_report,
            "save_report": save_report}


def slider(name: str) -> gr.Slider:
    label, low, high, step, info = SLIDERS[name]
    return gr.Slider(low, high, step=step, label=label, info=info, elem_id=name)
