"""The page's part for comparisons: two options against each other, or methods side by side, on the page's picture.

The sheet grows while its cells are made. At the end it is the sheet's own page, in which a click shows a cell large.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Generator, Iterator
from typing import Any

import gradio as gr

from ...core.task import Step
from ...methods import METHODS, Asked
from ...networks.stable_diffusion import StableDiffusion
from ...samplers import files_named_by
from ..comparisons import Sheet, whole
from ..comparisons.making import cost_of_all, make, named
from ..comparisons.plan import Axis, Plan, axis_of, option_of, plan_comparison, plan_grid
from ..report.rendering import data_uri
from .components import Shown
from .controls import of_all_methods
from .layout import Controls
from .results import new_folder
from .running import Running
from .session import Progress, Run, Session, advance
from .words import line

Planned = Callable[[StableDiffusion, Asked, Session, Shown], Plan]
MOST = 25                                                   # cells that a visitor may ask for at once
WORDS = ("query", "reference", "seed", "preset")            # may stand on an axis, besides options
FIRST = (("encoding_ratio", "0.5, 0.7, 0.9"), ("mask_threshold", "0.3, 0.5, 0.7"))      # what the axes are at first
CHOSEN = ("diffedit", "sdedit", "encode_decode", "prompt_to_prompt")     # methods, at first


class Comparing:
    """Its components, which are put at the end of the page that is being made, and their answers."""

    def __init__(self, controls: Controls, running: Running) -> None:
        self.controls, self.running = controls, running
        options = sorted({option.name for option in of_all_methods().values() if ":" not in option.name})
        with gr.Accordion("Compare: two options against each other, or methods", open=False, elem_id="compare"):
            gr.Markdown("With the picture, words and settings above. Encodings and maps are made once. Values with "
                        "commas between them; texts, one a line.")
            with gr.Row():
                self.axes = [self.axis(where, [*WORDS, *options], *first)
                             for where, first in zip(("across", "down"), FIRST, strict=True)]
                self.make_grid = gr.Button("Make the grid", elem_id="make-grid", min_width=120)
            with gr.Row(elem_id="compare-methods"):
                self.methods = {method.name: gr.Checkbox(method.name in CHOSEN, label=method.dashed, min_width=150,
                                                         elem_id=f"compare-{method.name}")
                                for method in METHODS.values() if method.takes_query}
                self.make_comparison = gr.Button("Compare the methods", elem_id="make-comparison", min_width=120)
            self.sheet = gr.HTML(elem_id="sheet")
            small = {"interactive": False, "size": "sm", "min_width": 90}
            with gr.Row():
                self.cancel = gr.Button("Cancel", elem_id="cancel-sheet", size="sm", min_width=90)
                self.save_sheet = gr.DownloadButton("Save the sheet", elem_id="save-sheet", **small)
                self.save_page = gr.DownloadButton("Save its page", elem_id="save-page", **small)

    def axis(self, where: str, names: list[str], name: str, values: str) -> tuple[gr.Dropdown, gr.Textbox]:
        return (gr.Dropdown(names, value=name, label=f"Option {where}", elem_id=f"axis-{where}", min_width=150),
                gr.Textbox(values, label=f"Its values {where}", elem_id=f"values-{where}", min_width=150))

    def connect(self, at_once: dict[str, Any], model: dict[str, Any]) -> None:
        """at_once and model: how events are run that need no line, and that use a model."""
        c = self.controls
        told = {*c.inputs(), *(part for axis in self.axes for part in axis), *self.methods.values()}
        shown = [c.progress, c.message, self.sheet, self.save_sheet, self.save_page]
        for button, answer in ((self.make_grid, self.grid), (self.make_comparison, self.comparison)):
            button.click(lambda session: session.begin("compare"), [c.session], None, **at_once).then(
                answer, told, shown, **model)
        self.cancel.click(self.running.cancel, [c.session], c.progress, **at_once)

    # ---- what is asked for

    def grid(self, told: Shown) -> Iterator[Shown]:
        def planned(model: StableDiffusion, asked: Asked, session: Session, told: Shown) -> Plan:
            axes = [self.axis_told(asked, told[name], told[values]) for name, values in self.axes]
            free = {name: value for name, value in asked.options.items() if name not in [axis.name for axis in axes]}
            return plan_grid(model, session.opened(), session.name, told_of(asked, free), *axes,
                             session.truth(asked.query))

        yield from self.made(told, planned)

    def axis_told(self, asked: Asked, name: str, values: str) -> Axis:
        lines = [text for text in (values or "").splitlines() if text.strip()] or [""]
        axis = axis_of(asked.method, [f"{name}={text}" for text in lines], "an axis")
        if any(files_named_by(option_of(asked.method, name), value) for value in axis.values):
            raise ValueError(f"{name} names a file, which can't be chosen from the page")
        return axis

    def comparison(self, told: Shown) -> Iterator[Shown]:
        def planned(model: StableDiffusion, asked: Asked, session: Session, told: Shown) -> Plan:
            names = [name for name, box in self.methods.items() if told[box]]
            if not names:
                raise ValueError("no method is chosen: choose one or more")
            instructed, words = asked.method.needs_instruction, session.words
            # A scene's words have an instruction that means the same.
            other = words.get(not instructed, "") if asked.query == words.get(instructed) else ""
            query, instruction = (other, asked.query) if instructed else (asked.query, other)
            others = {METHODS[name].channels for name in names} - {model.unet.config.in_channels}
            models = [model, *(map(self.running.models.get, self.running.models.names) if others else ())]
            return plan_comparison(models, session.opened(), session.name, {**told_of(asked, {}), "query": query},
                                   names, instruction, session.truth(query))

        yield from self.made(told, planned)

    # ---- the sheet

    def made(self, told: Shown, planned: Planned) -> Iterator[Shown]:
        """The sheet as it grows, and at the end its page and its files."""
        session, growing = told[self.controls.session], {}

        def steps(model: StableDiffusion, asked: Asked, run: Run) -> Generator[Progress, None, Shown]:
            plan = planned(model, asked, session, told)
            if len(plan.cells) > MOST:
                raise ValueError(f"{len(plan.cells)} cells are more than {MOST}: give fewer values, or use the command")
            run.expects(cost_of_all(plan))
            cells = [None] * len(plan.cells)
            going = make(plan, on_step=lambda place, step: run.moved(named(plan, place, step)))
            for done, place in enumerate(plan.order, start=1):
                _, cells[place] = advance(going, plan.cells[place].model.unet, run)
                growing["sheet"] = Sheet(plan, tuple(cells))
                yield Step("edit", done, len(cells)), None
            return self.finished(whole(plan, cells))

        for shown in self.running.watched(session, "compare", told, steps, lambda *_: {}):
            sheet = growing.pop("sheet", None)
            yield shown if sheet is None or self.sheet in shown else {**shown, self.sheet: picture_of(sheet)}

    def finished(self, sheet: Sheet) -> Shown:
        folder = new_folder()
        sheet.save(folder / "sheet.png", folder / "sheet.html")
        files = ((self.save_sheet, "sheet.png"), (self.save_page, "sheet.html"))
        frame = (f'<iframe title="The sheet: a click shows an edit large" sandbox="allow-scripts" '
                 f'srcdoc="{html.escape(sheet.page())}"></iframe>')
        return {self.sheet: frame, self.controls.progress: line(sheet.cost),
                **{button: gr.update(value=folder / name, interactive=True) for button, name in files}}


def told_of(asked: Asked, options: dict[str, Any]) -> Shown:
    """What is the same in all cells, as `job_of` takes it."""
    return {"method": asked.method.name, "options": options, **{name: getattr(asked, name) for name in WORDS}}


def picture_of(sheet: Sheet) -> str:
    return f'<img src="{data_uri(sheet.image)}" alt="The sheet so far">'
