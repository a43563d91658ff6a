"""What is on the page, from top to bottom. What answers to it is in page.py."""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.components import Component
from gradio.data_classes import ImageData

from ...core.options import Option
from ...loading.held import Models
from ...methods import METHODS
from ...tiny.scenes import demo_scenes
from . import canvas
from .controls import Key, looks, of_all_methods, to_control

SCENES = 6
COLOUR = "rgba({}, {}, {}, {:.2f})".format(*canvas.COLOUR[:3], canvas.COLOUR[3] / 255)
FONTS = ("system-ui", "sans-serif")         # of the reader's own machine: nothing is fetched

THRESHOLD = "mask_threshold"                # the option that cuts a mask from a map, and computes nothing
FIRST = (THRESHOLD, "mask_noise_ratio", "mask_samples", "encoding_ratio", "guidance_scale", "steps")
# The options that are always seen; the others, whatever methods there are, lie in an accordion.
OF_MASK = ("map", "mask")                   # the stages of options that belong to the mask

CSS = """
.step h2 { margin: 0; }
#picture img, #result img, #map img { width: 100%; height: 100%; object-fit: contain; }     /* small ones too */
:root { --block-info-text-color: #5b5b63; --slider-color: #c2410c; }
#edit { background: #c2410c; }                                                              /* more contrast */
.or, .min_value, .max_value { color: var(--body-text-color) !important; }
#scenes .grid-wrap { padding-top: 2.2rem; }                                                 /* below its label */
"""


class Meta(type(gr.Image)):
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


class Upload(gr.Image, metaclass=Meta):
    """Gives its file's path: `canvas.open_upload` reads that, and says what is wrong with it."""

    is_template = True
    async_move_resource_to_block_cache = move_file

    def preprocess(self, sent: ImageData | None) -> str | None:
        return None if sent is None else sent.path


class Canvas(gr.ImageEditor, metaclass=Meta):
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
    painting: gr.Column
    map_part: gr.Accordion
    canvas: Canvas
    map: gr.Image
    preset: gr.Radio
    seed: gr.Number
    more_of_mask: gr.Accordion
    edit: gr.Button
    cancel: gr.Button
    progress: gr.Textbox
    result: gr.Image
    save_result: gr.DownloadButton
    save_mask: gr.DownloadButton
    make_report: gr.Button
    save_report: gr.DownloadButton
    kept: gr.State                          # what a person has set options to
    options: dict[Key, Component]
    of_mask: set[Key]                       # those of `options` that lie in the mask's part

    def inputs(self) -> set:
        """Those that say what a person wants."""
        return {self.session, self.query, self.reference, self.model, self.method, self.canvas, self.preset, self.seed,
                *self.options.values()}


def lay_out(models: Models, session: gr.State, kept: gr.State, limits: str) -> Controls:
    """Put everything on the page that is being made. limits: what uploads are bounded by, in words."""
    options = of_all_methods()
    of_mask = {key: option for key, option in options.items() if option.stage in OF_MASK}
    made: dict = {"session": session, "kept": kept, "options": {}, "of_mask": set(of_mask)}
    gr.Markdown("# DiffEdit\nEdit a picture by text. It finds by itself where to edit, and you can correct it.")
    with gr.Row():
        with gr.Column(min_width=320):
            made |= picture_part(limits)
            made |= words_part(models)
        with gr.Column(min_width=320) as mask_part:
            made |= {"mask_part": mask_part} | mask_part_of(of_mask, made["options"])
        with gr.Column(min_width=320):
            made |= edit_part({key: options[key] for key in options if key not in of_mask}, made["options"])
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


def words_part(models: Models) -> dict:
    gr.Markdown("## 2 Words", elem_classes="step")
    query = gr.Textbox("", label="Query", info="What the edited picture should show.", elem_id="query")
    reference = gr.Textbox("", label="Reference", info="What it shows now: makes a better mask.",
                           elem_id="reference")
    with gr.Row():
        method = gr.Dropdown([(m.dashed, m.name) for m in METHODS.values()], value="diffedit", label="Method",
                             elem_id="method", min_width=150)
        model = gr.Dropdown(list(models.names), value=models.names[0], label="Model", elem_id="model", min_width=150,
                            allow_custom_value=models.any_name)
    about = gr.Markdown(elem_id="about")
    return {"query": query, "reference": reference, "method": method, "model": model, "about": about}


def mask_part_of(options: dict[Key, Option], made: dict[Key, Component]) -> dict:
    gr.Markdown("## 3 Mask", elem_classes="step")
    find = gr.Button("Find the mask", elem_id="find")
    with gr.Column() as painting:
        editor = Canvas(
            label="Mask", type="pil", format="png", sources=(), transforms=(), layers=False, buttons=[],
            elem_id="canvas", canvas_size=(canvas.SIDE, canvas.SIDE), height=430, eraser=gr.Eraser(24),
            brush=gr.Brush(24, colors=[COLOUR], default_color=COLOUR, color_mode="fixed"))
        gr.Markdown("What is coloured is edited. Paint more of it, or erase some; a slider draws it anew.")
    put(first(options), options, made)
    with gr.Accordion("More of the mask", open=False) as more:
        put(options, options, made)
    with gr.Accordion("The map that the mask is cut from", open=False) as map_part:
        picture = gr.Image(label="Map, from black (0) to yellow (1)", interactive=False, format="png", height=260,
                           buttons=[], elem_id="map")
    return {"find": find, "painting": painting, "canvas": editor, "more_of_mask": more, "map_part": map_part,
            "map": picture}


def edit_part(options: dict[Key, Option], made: dict[Key, Component]) -> dict:
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
    preset = gr.Radio(["paper"], value="paper", label="Preset", info="Sets the options.", elem_id="preset")
    put(first(options), options, made)
    seed = gr.Number(0, label="Seed", info="The same one gives the same result.", precision=0, minimum=0,
                     elem_id="seed")
    with gr.Accordion("More options", open=False, elem_id="more"):
        put(options, options, made)
    return {"preset": preset, "seed": seed, "edit": edit, "cancel": cancel, "progress": progress, "result": result,
            "save_result": save_result, "save_mask": save_mask, "make_report": make_report, "save_report": save_report}


def first(options: Iterable[Key]) -> list[Key]:
    """Those of `FIRST`, in its order."""
    return sorted((key for key in options if key[0] in FIRST), key=lambda key: FIRST.index(key[0]))


def put(keys: Iterable[Key], options: dict[Key, Option], made: dict[Key, Component]) -> None:
    """Controls for those options that have none yet. What they are to show is set when a method is known."""
    for key in keys:
        if key not in made:
            name, kind = key
            again = f"-{kind.__name__.lower()}" if any(other == name for other, _ in made) else ""
            made[key] = kind(**looks(options[key], to_control(options[key], options[key].default)),
                             elem_id=f"option-{name}{again}")
