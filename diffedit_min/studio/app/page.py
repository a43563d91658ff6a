"""What the page does when a person does something.

Each answer takes the controls' values and says what is shown next; nothing is kept but in the person's `Session`.
What a ValueError says is said in the page, in its own words.
"""

from __future__ import annotations

import html
import math
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
from gradio.utils import get_upload_folder
from PIL import Image
from starlette.middleware import Middleware

from ...loading.held import Models
from ...methods import METHODS, Asked, Edit
from ...networks.stable_diffusion import StableDiffusion
from ...pictures import metadata
from ...pictures.picture import heat
from ...pictures.picture_files import save
from ...tiny.scenes import demo_scenes
from ..console import describe
from . import canvas
from .components import Page
from .controls import Kept, from_control, looks, offered, to_control
from .guard import Guard
from .layout import CSS, FIRST, FONTS, SCENES, THRESHOLD, Controls
from .session import Progress, Run, Session, Stopped, same_map
from .words import about, rows, share, summary

Shown = dict[Any, Any]      # component -> its new value, or a gr.update
Steps = Callable[[StableDiffusion, Asked, Run], Generator[Progress, None, Shown]]    # its end is shown last
SESSIONS = 200              # are kept; a further one replaces the one that wasn't used for the longest time
PICTURES = 10               # of the largest size: the pictures of all sessions together have at most their pixels
EVERY_SECONDS = 0.1         # a step is shown, at most: a browser that draws each step of a small model can't be clicked


def make_page(models: Models, megabytes: float, megapixels: float) -> gr.Blocks:
    """The page, ready to be served. Files go to Gradio's temporary folder (GRADIO_TEMP_DIR)."""
    with Page(title="DiffEdit", analytics_enabled=False, fill_width=True) as page:
        limits = f"to {megabytes:g} MB, {megapixels:g} megapixels"
        controls = Controls(models, gr.State(Session()), gr.State(Kept()), limits)
        Answers(controls, models, int(megapixels * 1e6)).connect(page)
    page.queue(max_size=50, api_open=False)
    return page


def launch(page: gr.Blocks, host: str, port: int | None, megabytes: float, names: Iterable[str] = (), *,
           root_path: str = "", share: bool = False) -> str:
    """Serve the page, in threads of its own, until it is closed: its address. Nothing is asked of any other server.

    names: of hosts, besides this machine's own, under which the page may be asked for.
    """
    look = {"theme": gr.themes.Default(font=FONTS, font_mono=("ui-monospace", "monospace")), "css": CSS}
    size, names = int(megabytes * 2**20), {name.lower() for name in names}
    guard = Middleware(Guard, names=names, folder=Path(get_upload_folder()), file_bytes=size)
    try:
        _, local, public = page.launch(
            server_name=host, server_port=port, share=share, max_file_size=size, quiet=True,
            prevent_thread_lock=True, inbrowser=False, ssr_mode=False, run_history=False, footer_links=[],
            enable_monitoring=False, root_path=root_path.rstrip("/"), app_kwargs={"middleware": [guard]},
            state_session_capacity=SESSIONS, **look)
    except OSError as error:
        raise ValueError(f"can't listen at {host}, port {port or 'from 7860 up'}: {error}") from None
    if public:
        names.add(urlsplit(public).hostname)
    return public or local


class Answers:
    """The answers, as methods: each is connected to what asks for it in `connect`."""

    def __init__(self, controls: Controls, models: Models, pixels: int) -> None:
        self.controls, self.models, self.pixels = controls, models, pixels
        self.opened: list[Session] = []     # those with a picture, the last one last
        self.one_at_a_time = Lock()

    def connect(self, page: gr.Blocks) -> None:
        """Only one answer that uses a model runs at a time, whoever asked; the others don't wait for those."""
        c = self.controls
        free = {"concurrency_limit": None, "api_visibility": "private", "show_progress": "hidden"}
        at_once = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
        model = {"concurrency_limit": 1, "concurrency_id": "model", "api_visibility": "private",
                 "show_progress_on": c.progress}
        opened = [c.session, c.picture, c.canvas, c.map, c.query, c.reference, *self.after_edit()]
        chosen = {c.session, c.kept, c.model, c.method, c.preset, *c.options.values()}
        tuned = [c.session, c.kept, c.method, c.about, c.query, c.reference, c.mask_part, c.find, c.painting,
                 c.more_of_mask, c.map_part, c.preset, c.canvas, *c.options.values()]
        threshold, makes_a_map = c.options[THRESHOLD, gr.Slider], []
        for control in [c.options[key] for key in c.of_mask if key[0] != THRESHOLD]:
            typed = isinstance(control, gr.Textbox | gr.Number)
            makes_a_map.append(control.submit if typed else control.input)

        page.load(self.tune, chosen, tuned, **model)
        # Each waits for the one before: what the controls hold is compared with what that one gave them.
        gr.on([c.model.change, c.method.change, c.preset.change], self.tune, chosen, tuned, trigger_mode="always_last",
              **model)
        gr.on([c.picture.upload, c.picture.clear], self.open, {c.session, c.picture}, opened, **free)
        c.scenes.select(self.take_scene, [c.session], opened, **free)
        threshold.input(self.cut, {c.session, c.method, threshold}, [c.canvas, c.progress], trigger_mode="always_last",
                        **free)
        gr.on(makes_a_map, lambda session: session.begin("find"), [c.session], None, **at_once).then(
            self.find_again, c.inputs(), [c.canvas, c.map, c.progress], trigger_mode="always_last", **model)
        c.find.click(lambda session: session.begin("find"), [c.session], None, **at_once).then(
            self.find, c.inputs(), [c.canvas, c.map, c.progress], **model)
        gr.on([c.edit.click, c.query.submit, c.reference.submit], lambda session: session.begin("edit"), [c.session],
              None, **at_once).then(self.edit, c.inputs(), [c.canvas, c.map, *self.after_edit()], **model)
        # Said by the browser itself: from here it could come after the "Cancelled" of a run that ends at once.
        c.cancel.click(None, None, c.progress, js="() => 'Cancelling'", api_visibility="private")
        c.cancel.click(self.cancel, [c.session], c.progress, **at_once)
        c.make_report.click(self.report, [c.session], [c.save_report, c.progress], **model)

    def after_edit(self) -> list:
        """What shows an edit's end."""
        c = self.controls
        return [c.progress, c.result, c.save_result, c.save_mask, c.make_report, c.save_report]

    # ---- the picture

    def open(self, told: Shown) -> Shown:
        c, session = self.controls, told[self.controls.session]
        path = told[c.picture]
        try:
            self.show(session, None if path is None else canvas.open_upload(path, self.pixels))
        except ValueError as error:
            self.show(session, None)
            gr.Warning(html.escape(describe(error)))
            return {**self.fresh(session), c.picture: None, c.progress: f"Error: {describe(error)}"}
        return self.fresh(session)

    def take_scene(self, session: Session, chosen: gr.SelectData) -> Shown:
        c = self.controls
        if chosen.index not in range(SCENES):
            raise gr.Error("there is no such scene", print_exception=False)
        scene, answer = demo_scenes(int(chosen.index), None)
        self.show(session, scene.render(math.isqrt(self.models.get(self.models.names[0]).native_area)))
        return {**self.fresh(session), c.picture: session.picture, c.reference: scene.caption, c.query: answer.caption}

    def show(self, session: Session, picture: Image.Image | None) -> None:
        """Begin a session anew. While the pictures of all have too many pixels together, the oldest is forgotten."""
        with self.one_at_a_time:
            session.open(picture)
            others = [other for other in self.opened if other is not session]
            self.opened = [other for other in (*others, session) if other.picture is not None]
            while sum(math.prod(other.picture.size) for other in self.opened) > PICTURES * self.pixels:
                self.opened.pop(0).open(None)

    def fresh(self, session: Session) -> Shown:
        """The page with a new picture, or none."""
        c, off, picture = self.controls, gr.update(interactive=False), session.picture
        said = "No picture." if picture is None else f"A picture of {picture.width} x {picture.height} pixels."
        return {c.session: session, c.canvas: self.canvas_of(session),
                c.map: None, c.progress: said, c.result: None, c.save_result: off, c.save_mask: off, c.make_report: off,
                c.save_report: off}

    def canvas_of(self, session: Session) -> Shown:
        """The canvas with the session's picture, and nothing painted on it."""
        return gr.update(**canvas.begun(*session.fitted()) if session.picture and session.cells else canvas.empty())

    # ---- model, method and preset

    def tune(self, told: Shown) -> Shown:
        """The controls that this method has, with the values that hold for it with this model."""
        c, kept = self.controls, told[self.controls.kept]
        with errors():
            model = self.models.get(told[c.model])
            fitting = [m for m in METHODS.values() if m.channels == model.unet.config.in_channels]
            method = next((m for m in fitting if m.name == told[c.method]), fitting[0])
            preset = told[c.preset] if told[c.preset] in method.preset_names else method.preset_names[0]
            settings = method.settings(model, {}, preset)
        kept.notice({key: told[control] for key, control in c.options.items()}, told[c.preset])
        kept.preset = preset
        session, cells = told[c.session], (model.multiple, model.native_area, model.factor)
        fits, session.cells = session.cells == cells, cells
        options, uses = offered(method), method.uses
        of_mask = {name for name, kind in c.of_mask & options.keys()}
        updates = {c.options[key]: gr.update(visible=True, **looks(option, kept.give(option, value)))
                   for key, option in options.items() if key in c.options
                   for value in [getattr(settings, option.name)]}
        return {
            c.session: session,
            c.kept: kept,
            c.canvas: gr.skip() if fits else self.canvas_of(session),
            c.method: gr.update(choices=[(m.dashed, m.name) for m in fitting], value=method.name),
            c.about: about(method),
            c.query: gr.update(visible=method.takes_query),
            c.reference: gr.update(visible="reference" in uses),
            c.mask_part: gr.update(visible=bool(of_mask) or "mask" in uses),
            c.find: gr.update(visible="mask_map" in uses),
            c.painting: gr.update(visible="mask" in uses),
            c.more_of_mask: gr.update(visible=not of_mask <= set(FIRST)),
            c.map_part: gr.update(visible="mask_map" in uses),
            c.preset: gr.update(choices=method.preset_names, value=preset),
            **{control: updates.get(control, gr.update(visible=False)) for control in c.options.values()},
        }

    def asked(self, told: Shown, model: StableDiffusion) -> Asked:
        """What the controls say. Raises ValueError for what can't be meant."""
        c, method = self.controls, METHODS[told[self.controls.method]]
        if told[c.seed] is None:
            raise ValueError("the seed is empty: give a whole number")
        settings = method.settings(model, {}, told[c.preset])
        options = {option.name: from_control(option, told[c.options[key]])
                   for key, option in offered(method).items() if key in c.options
                   and told[c.options[key]] != to_control(option, getattr(settings, option.name))}
        return Asked(method, told[c.query] or "", told[c.reference] or "", int(told[c.seed]), preset=told[c.preset],
                     options=options)

    # ---- the mask

    def find(self, told: Shown) -> Iterator[Shown]:
        """The map, and the mask that it gives at the threshold."""
        c, session = self.controls, told[self.controls.session]

        def steps(model: StableDiffusion, asked: Asked, run: Run) -> Generator[Progress, None, Shown]:
            before = session.earlier()
            found = yield from session.find(model, asked, run)
            kept = run.rows == 0 and any(same_map(found, edit) for edit in before)
            said = "the map is the one that was kept" if kept else "a new map"
            return {**self.mask_of(session), c.progress: f"Mask: {rows(run.rows)}, {said}.{share(found.mask, found)}"}

        yield from self.watched(session, "find", told, steps)

    def find_again(self, told: Shown) -> Iterator[Shown]:
        """The same when one of its options was changed, if there was a map before."""
        c = self.controls
        if told[c.session].found is not None and "mask_map" in METHODS[told[c.method]].uses:
            yield from self.find(told)

    def cut(self, told: Shown) -> Shown:
        """The mask at another threshold."""
        c, session = self.controls, told[self.controls.session]
        if "mask_map" not in METHODS[told[c.method]].uses:      # it has a threshold, but nothing to draw it on
            return {c.progress: gr.skip()}
        mask = session.cut(told[c.options[THRESHOLD, gr.Slider]])
        if mask is None:
            return {c.progress: "There is no map yet: find the mask first."}
        return {c.canvas: canvas.text_of(mask, session.found.frame, session.found.factor),
                c.progress: f"Threshold: 0 rows, from the map that was kept.{share(mask, session.found)}"}

    def mask_of(self, session: Session) -> Shown:
        """The map that was found, and the canvas with its mask."""
        c, found = self.controls, session.found
        frame = canvas.at_most(found.frame)
        return {c.canvas: canvas.text_of(found.mask, found.frame, found.factor),
                c.map: None if found.mask_map is None else heat(found.mask_map, frame, found.factor)}

    # ---- the edit

    def edit(self, told: Shown) -> Iterator[Shown]:
        """The edit, with the mask as it lies on the canvas."""
        c, session = self.controls, told[self.controls.session]

        def steps(model: StableDiffusion, asked: Asked, run: Run) -> Generator[Progress, None, Shown]:
            started, painted = time.perf_counter(), None
            if "mask" in asked.method.uses:
                painted = session.painted(told[c.canvas], model)
            edit = yield from session.run(model, asked, run, painted)
            return {**self.files(edit), c.progress: summary(edit, run.rows, time.perf_counter() - started)}

        yield from self.watched(session, "edit", told, steps)

    def watched(self, session: Session, kind: str, told: Shown, steps: Steps) -> Iterator[Shown]:
        """A run, shown as it goes; then its end, or why there is none."""
        c = self.controls
        run = session.runs.get(kind) or Run()         # another answer may have taken it
        told_at = -math.inf
        try:
            network, found = self.models.get(told[c.model]), session.found
            going = steps(network, self.asked(told, network), run)
            while True:
                try:
                    step, picture = next(going)
                except StopIteration as done:
                    end = done.value
                    break
                if session.found not in (None, found):
                    yield self.mask_of(session)         # as soon as it is found
                found = session.found
                if picture is not None or time.monotonic() > told_at + EVERY_SECONDS:
                    told_at = time.monotonic()
                    said = f"{step.stage}: step {step.index} of {step.total}; {rows(run.rows)} done"
                    yield {c.progress: said, **({} if picture is None else {c.result: picture})}
        except Stopped:
            yield {c.progress: f"Cancelled, with {rows(run.rows)} done."}
            return
        except Exception as error:
            yield {c.progress: f"Error: {describe(error)}"}
            raise in_page(error) from None
        finally:
            session.end(run)
        for text in run.warnings:
            gr.Warning(html.escape(text))
        yield end

    def cancel(self, session: Session) -> Any:
        """Ends after the U-Net call in flight; a run that waits in line ends when its turn comes."""
        said = gr.skip() if session.runs else "Nothing is running."
        session.stop()
        return said

    # ---- files

    def files(self, edit: Edit) -> Shown:
        """The result with its settings, and the mask, to download; a report is made when it is asked for."""
        c, folder = self.controls, new_folder()
        text = metadata.texts(edit.settings, edit.image.size)
        save(edit.image, folder / "result.png", text)
        shown = {c.result: folder / "result.png",
                 c.save_result: gr.update(value=folder / "result.png", interactive=True),
                 c.save_mask: gr.update(interactive=False), c.save_report: gr.update(interactive=False),
                 c.make_report: gr.update(interactive=True)}
        if edit.mask is not None:
            save(edit.mask_image, folder / "mask.png", text)
            shown[c.save_mask] = gr.update(value=folder / "mask.png", interactive=True)
        return shown

    def report(self, session: Session) -> Shown:
        """The report of the last edit, to download."""
        from .. import report

        c, path = self.controls, new_folder() / "report.html"
        with errors():
            if session.edit is None:
                raise ValueError("there is no edit yet to report on")
            report.write(session.edit, self.models.get(session.edit.settings["model"]), path)
        return {c.save_report: gr.update(value=path, interactive=True), c.progress: "The report is ready to download."}


# ---------------------------------------------------------------- errors and files


def in_page(error: Exception) -> gr.Error:
    """What the page is to say of an error. On the server's stderr a traceback is left of one that was not foreseen."""
    return gr.Error(html.escape(describe(error)), print_exception=not isinstance(error, ValueError))


@contextmanager
def errors() -> Iterator[None]:
    """Errors inside are said in the page."""
    try:
        yield
    except Exception as error:
        raise in_page(error) from error


def new_folder() -> Path:
    """A folder for files to download, which go when others of Gradio's do. Its name can't be guessed."""
    return Path(tempfile.mkdtemp(dir=get_upload_folder()))
