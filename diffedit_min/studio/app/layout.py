"""What is on the page, from top to bottom. What answers to it is in page.py."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import gradio as gr
from gradio.components import Component

from ...core.options import Option
from ...loading.held import Models
from ...methods import METHODS
from ...methods.call import RECOMMENDED
from ...tiny.scenes import demo_scenes
from ..report.glossary import TERMS
from ..report.rendering import formula, indexed
from .around import put_controls
from .components import Upload
from .controls import Key, looks, narrowing, of_all_methods, to_control
from .painting import HINT, Canvas

SCENES = 6
FONTS = ("system-ui", "sans-serif")         # of the reader's own machine: nothing is fetched

THRESHOLD = "mask_threshold"                # the option that cuts a mask from a map, and computes nothing
FIRST = (THRESHOLD, "mask_noise_ratio", "mask_samples", "encoding_ratio", "guidance_scale", "steps")
# The options that are always seen; the others, whatever methods there are, lie in an accordion.
STRIP = {"columns": SCENES, "format": "png", "allow_preview": False, "interactive": False, "buttons": [],
         "object_fit": "cover"}             # of galleries to choose from
OF_MASK = ("map", "mask")                   # the stages of options that belong to the mask

CSS = Path(__file__).with_name("page.css").read_text(encoding="utf-8")


class Controls:
    """The page's components that something answers to or is shown in: put on the page that is being made."""

    def __init__(self, models: Models, session: gr.State, limits: str) -> None:
        """limits: what uploads are bounded by, in words."""
        self.session = session
        declared = of_all_methods()
        of_mask = {key: option for key, option in declared.items() if option.stage in OF_MASK}
        of_edit = {key: option for key, option in declared.items() if key not in of_mask}
        self.of_mask = set(of_mask)                     # those of `options` that lie in the mask's part
        self.options: dict[Key, Component] = {}
        self.key = gr.Textbox(label="Key", visible=False)
        gr.HTML("<h1>DiffEdit</h1><p>Edit a picture by text. It finds by itself where to edit, and you can correct "
                "it.</p>", elem_id="title")
        self.words_part()
        self.known_words = gr.HTML(elem_id="known-words")
        self.message = gr.HTML(elem_id="message", js_on_load="window.say = text => props.value = text;")
        self.progress = gr.HTML(elem_id="progress")
        self.chain = gr.HTML(elem_id="chain")
        with gr.Row(equal_height=False, elem_id="parts"):
            with gr.Column(min_width=320):
                self.picture_part(limits)
                self.method_part(models, of_edit)
            with gr.Column(min_width=320) as self.mask_part:
                self.fill_mask_part(of_mask)
            with gr.Column(min_width=320, elem_id="result-part"):
                self.result_part()
        self.narrowing = narrowing(declared)

    def foot(self) -> None:
        """What stands below all other parts."""
        with gr.Accordion("Words and symbols", open=False, elem_id="glossary"):
            terms = "".join(f"<dt>{formula(term.shown)}</dt><dd>{indexed(term.sentence)}</dd>" for term in TERMS)
            gr.HTML(f"<dl>{terms}</dl>")
        gr.Markdown("One computation runs at a time; others wait in line. Pictures are deleted after an hour, and when "
                    "the page is shut down.")

    def inputs(self) -> set:
        """Those that say what a person wants."""
        return {self.session, self.query, self.reference, self.model, self.method, self.canvas, self.preset, self.seed,
                *self.options.values(), *self.around.values()}

    def words_part(self) -> None:
        with gr.Row(elem_id="words", equal_height=True):
            self.query = gr.Textbox(elem_id="query", label="Query", scale=4, min_width=300)
            self.reference = gr.Textbox(elem_id="reference", label="Reference", scale=4, min_width=300)
            with gr.Column(scale=1, min_width=150, elem_id="bar"):
                self.edit = gr.Button("Edit", variant="primary", elem_id="edit", min_width=80)
                self.cancel = gr.Button("Cancel", elem_id="cancel", min_width=80, size="sm")

    def picture_part(self, limits: str) -> None:
        gr.Markdown("## Picture")
        scenes = [demo_scenes(seed, None)[0] for seed in range(SCENES)]
        rendered = [(scene.render(128), scene.caption) for scene in scenes]
        self.scenes = gr.Gallery(rendered, label="Scenes to try", **STRIP, elem_id="scenes")
        self.picture = Upload(label=f"Or your own picture, {limits}", sources=["upload", "clipboard", "webcam"],
                              height=230, format="png", buttons=["download", "fullscreen"], elem_id="picture")

    def method_part(self, models: Models, options: dict[Key, Option]) -> None:
        gr.Markdown("## Method")
        with gr.Row():
            self.method = gr.Dropdown([(m.dashed, m.name) for m in METHODS.values()], value="diffedit", label="Method",
                                      elem_id="method", min_width=150)
            self.model = gr.Dropdown(list(models.names), value=models.names[0], label="Model", elem_id="model",
                                     min_width=150, allow_custom_value=models.any_name)
        self.about = gr.Markdown(elem_id="about")
        self.preset = gr.Radio([RECOMMENDED], value=RECOMMENDED, label="Preset", elem_id="preset",
                               info="Sets the options. paper: the paper's own, whatever the model's card recommends.")
        self.put(first(options), options)
        self.seed = gr.Number(0, label="Seed", info="The same one gives the same result.", elem_id="seed")
        with gr.Accordion("More options", open=False, elem_id="more"):
            self.put(options, options)
        self.settings = gr.File(label="Drop a result here to have its settings", file_types=["image"], height=140,
                                elem_id="settings")

    def fill_mask_part(self, options: dict[Key, Option]) -> None:
        gr.Markdown("## Mask")
        self.find = gr.Button("Find the mask", elem_id="find")
        with gr.Column() as self.painting:
            self.canvas = Canvas(elem_id="canvas")
            gr.Markdown(HINT)
        self.put(first(options), options)
        with gr.Accordion("More of the mask", open=False) as self.more_of_mask:
            self.put(options, options)
        with gr.Accordion("Around the mask", open=False, elem_id="around") as self.around_part:
            self.around = put_controls()

    def result_part(self) -> None:
        gr.Markdown("## Result")
        self.result = gr.HTML(elem_id="result")
        small = {"interactive": False, "size": "sm", "min_width": 90}
        with gr.Row():
            self.open_report = gr.Button("Open the report", elem_id="open-report", **small)
            self.save_report = gr.DownloadButton("Save the report", elem_id="save-report", **small)
        with gr.Row():
            self.save_result = gr.DownloadButton("Save the result", elem_id="save-result", **small)
            self.save_mask = gr.DownloadButton("Save the mask", elem_id="save-mask", **small)
        self.last = gr.Gallery(label="Last results: click one to have it back", visible=False, **STRIP, elem_id="last")
        with gr.Row():
            self.copy_command = gr.Button("Copy as command", elem_id="copy-command", **small)
            self.copy_python = gr.Button("Copy as Python", elem_id="copy-python", **small)
        with gr.Accordion("What makes this result again", open=False, visible=False, elem_id="repeat") as self.repeat:
            self.as_command = gr.Textbox(label="As a command", lines=2, interactive=False, elem_id="as-command")
            self.as_python = gr.Textbox(label="In Python", lines=6, interactive=False, elem_id="as-python")
            self.save_input = gr.DownloadButton("Save the input", elem_id="save-input", size="sm")

    def put(self, keys: Iterable[Key], options: dict[Key, Option]) -> None:
        """Controls for those options that have none yet. What they are to show is set when a method is known."""
        for key in keys:
            if key not in self.options:
                name, kind = key
                again = f"-{kind.__name__.lower()}" if any(other == name for other, _ in self.options) else ""
                self.options[key] = kind(**looks(options[key], to_control(options[key], options[key].default)),
                                         elem_id=f"option-{name.replace(':', '-')}{again}")


def first(options: Iterable[Key]) -> list[Key]:
    """Those of `FIRST`, in its order."""
    return sorted((key for key in options if key[0] in FIRST), key=lambda key: FIRST.index(key[0]))
