"""What is on the page, from top to bottom. What answers to it is in page.py."""

from __future__ import annotations

from collections.abc import Iterable

import gradio as gr
from gradio.components import Component

from ...core.options import Option
from ...loading.held import Models
from ...methods import METHODS
from ...methods.call import RECOMMENDED
from ...tiny.scenes import demo_scenes
from .components import Upload
from .controls import Key, looks, of_all_methods, to_control
from .painting import HINT, Canvas

SCENES = 6
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


class Controls:
    """The page's components that something answers to or is shown in: put on the page that is being made."""

    def __init__(self, models: Models, session: gr.State, kept: gr.State, limits: str) -> None:
        """kept: what a person has set options to. limits: what uploads are bounded by, in words."""
        self.session, self.kept = session, kept
        declared = of_all_methods()
        of_mask = {key: option for key, option in declared.items() if option.stage in OF_MASK}
        self.of_mask = set(of_mask)                     # those of `options` that lie in the mask's part
        self.options: dict[Key, Component] = {}
        gr.Markdown("# DiffEdit\nEdit a picture by text. It finds by itself where to edit, and you can correct it.")
        with gr.Row():
            with gr.Column(min_width=320):
                self.picture_part(limits)
                self.words_part(models)
            with gr.Column(min_width=320) as self.mask_part:
                self.fill_mask_part(of_mask)
            with gr.Column(min_width=320):
                self.edit_part({key: option for key, option in declared.items() if key not in of_mask})
        gr.Markdown("One computation runs at a time; others wait in line. Pictures are deleted after an hour, and when "
                    "the page is shut down.")

    def inputs(self) -> set:
        """Those that say what a person wants."""
        return {self.session, self.query, self.reference, self.model, self.method, self.canvas, self.preset, self.seed,
                *self.options.values()}

    def picture_part(self, limits: str) -> None:
        gr.Markdown("## 1 Picture", elem_classes="step")
        self.picture = Upload(label=f"Picture, {limits}", sources=["upload", "clipboard", "webcam"], height=280,
                              format="png", buttons=["fullscreen"], elem_id="picture")
        rendered = [demo_scenes(seed, None)[0].render(128) for seed in range(SCENES)]
        self.scenes = gr.Gallery(rendered, label="Or a scene", columns=SCENES // 2, height=300, format="png",
                                 allow_preview=False, interactive=False, buttons=[], object_fit="cover",
                                 elem_id="scenes")

    def words_part(self, models: Models) -> None:
        gr.Markdown("## 2 Words", elem_classes="step")
        self.query = gr.Textbox("", label="Query", info="What the edited picture should show.", elem_id="query")
        self.reference = gr.Textbox("", label="Reference", info="What it shows now: makes a better mask.",
                                    elem_id="reference")
        with gr.Row():
            self.method = gr.Dropdown([(m.dashed, m.name) for m in METHODS.values()], value="diffedit", label="Method",
                                      elem_id="method", min_width=150)
            self.model = gr.Dropdown(list(models.names), value=models.names[0], label="Model", elem_id="model",
                                     min_width=150, allow_custom_value=models.any_name)
        self.about = gr.Markdown(elem_id="about")

    def fill_mask_part(self, options: dict[Key, Option]) -> None:
        gr.Markdown("## 3 Mask", elem_classes="step")
        self.find = gr.Button("Find the mask", elem_id="find")
        with gr.Column() as self.painting:
            self.canvas = Canvas(elem_id="canvas")
            gr.Markdown(HINT)
        self.put(first(options), options)
        with gr.Accordion("More of the mask", open=False) as self.more_of_mask:
            self.put(options, options)
        with gr.Accordion("The map that the mask is cut from", open=False) as self.map_part:
            self.map = gr.Image(label="Map, from black (0) to yellow (1)", interactive=False, format="png", height=260,
                                buttons=[], elem_id="map")

    def edit_part(self, options: dict[Key, Option]) -> None:
        gr.Markdown("## 4 Edit", elem_classes="step")
        with gr.Row():
            self.edit = gr.Button("Edit", variant="primary", elem_id="edit", min_width=100)
            self.cancel = gr.Button("Cancel", elem_id="cancel", min_width=100)
        self.progress = gr.Textbox("", label="Progress", interactive=False, lines=2, elem_id="progress")
        self.result = gr.Image(label="Result", interactive=False, format="png", height=320, buttons=["fullscreen"],
                               elem_id="result")
        small = {"interactive": False, "size": "sm", "min_width": 90}
        with gr.Row():
            self.save_result = gr.DownloadButton("Save result", elem_id="save-result", **small)
            self.save_mask = gr.DownloadButton("Save mask", elem_id="save-mask", **small)
        with gr.Row():
            self.make_report = gr.Button("Make report", elem_id="make-report", **small)
            self.save_report = gr.DownloadButton("Save report", elem_id="save-report", **small)
        self.preset = gr.Radio([RECOMMENDED], value=RECOMMENDED, label="Preset", info="Sets the options.",
                               elem_id="preset")
        self.put(first(options), options)
        self.seed = gr.Number(0, label="Seed", info="The same one gives the same result.", precision=0, minimum=0,
                              elem_id="seed")
        with gr.Accordion("More options", open=False, elem_id="more"):
            self.put(options, options)

    def put(self, keys: Iterable[Key], options: dict[Key, Option]) -> None:
        """Controls for those options that have none yet. What they are to show is set when a method is known."""
        for key in keys:
            if key not in self.options:
                name, kind = key
                again = f"-{kind.__name__.lower()}" if any(other == name for other, _ in self.options) else ""
                self.options[key] = kind(**looks(options[key], to_control(options[key], options[key].default)),
                                         elem_id=f"option-{name}{again}")


def first(options: Iterable[Key]) -> list[Key]:
    """Those of `FIRST`, in its order."""
    return sorted((key for key in options if key[0] in FIRST), key=lambda key: FIRST.index(key[0]))
