"""The page, ready to be served, and which of its parts answers to what.

Each answer takes the controls' values and says what is shown next; nothing is kept but in the person's `Session`.
What a ValueError says is said in the page, in its own words.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

import gradio as gr
from gradio.utils import get_upload_folder
from starlette.middleware import Middleware

from ...loading.held import Models
from ..wipe import CSS as WIPE
from .choosing import Choosing
from .comparisons import Comparing
from .components import Page
from .editing import Editing
from .guard import Guard
from .layout import CSS, FONTS, Controls
from .masking import Masking
from .opening import Opening
from .results import Results
from .running import Running
from .session import Session
from .sessions import KEPT, Sessions

# A random name that the browser keeps for as long as this tab is there: the session is found again by it.
KEY = """() => sessionStorage.diffedit ??= Array.from(crypto.getRandomValues(new Uint8Array(16)),
                                                     byte => byte.toString(16).padStart(2, "0")).join("")"""


def make_page(models: Models, megabytes: float, megapixels: float) -> Page:
    """The page, ready to be served. Files go to Gradio's temporary folder (GRADIO_TEMP_DIR)."""
    with Page(title="DiffEdit", analytics_enabled=False, fill_width=True) as page:
        limits = f"to {megabytes:g} MB, {megapixels:g} megapixels"
        controls = Controls(models, gr.State(Session()), limits)
        answers = Answers(controls, models, int(megapixels * 1e6))
        answers.connect(page)
    page.forget = answers.sessions.forget
    page.queue(max_size=50, api_open=False)
    return page


def launch(page: gr.Blocks, host: str, port: int | None, megabytes: float, names: Iterable[str] = (), *,
           root_path: str = "", share: bool = False) -> str:
    """Serve the page, in threads of its own, until it is closed: its address. Nothing is asked of any other server.

    names: of hosts, besides this machine's own, under which the page may be asked for.
    """
    look = {"theme": gr.themes.Default(font=FONTS, font_mono=("ui-monospace", "monospace")), "css": CSS + WIPE}
    size, names = int(megabytes * 2**20), {name.lower() for name in names}
    script = Path(__file__).with_name("page.js").read_text("utf-8")
    look["head"] = f"<script>const MEGABYTES = {megabytes:g};\n{script}</script>"
    guard = Middleware(Guard, names=names, folder=Path(get_upload_folder()), file_bytes=size)
    try:
        _, local, public = page.launch(
            server_name=host, server_port=port, share=share, max_file_size=size, quiet=True,
            prevent_thread_lock=True, inbrowser=False, ssr_mode=False, run_history=False, footer_links=[],
            enable_monitoring=False, root_path=root_path.rstrip("/"), app_kwargs={"middleware": [guard]},
            state_session_capacity=KEPT, **look)
    except OSError as error:
        raise ValueError(f"can't listen at {host}, port {port or 'from 7860 up'}: {error}") from None
    if public:
        names.add(urlsplit(public).hostname)
    return public or local


class Answers:
    """All that answers on the page, part by part."""

    def __init__(self, controls: Controls, models: Models, pixels: int) -> None:
        """pixels: of the largest picture."""
        self.controls, self.sessions = controls, Sessions(pixels)
        self.choosing, self.results = Choosing(controls, models), Results(controls, models)
        self.opening = Opening(controls, models, self.sessions, self.choosing, self.results)
        self.running = Running(controls, models, self.sessions, self.choosing)
        self.masking = Masking(controls, self.running)
        self.editing = Editing(controls, self.running, self.masking, self.results)

    def connect(self, page: gr.Blocks) -> None:
        """Only one answer that uses a model runs at a time, whoever asked; the others don't wait for those."""
        c = self.controls
        quiet = {"api_visibility": "private", "show_progress": "hidden"}
        free, at_once = {"concurrency_limit": None, **quiet}, {"queue": False, **quiet}
        model = {"concurrency_limit": 1, "concurrency_id": "model", **quiet}
        done = [c.progress, c.message, c.chain, c.result, c.save_result, c.save_mask, c.save_report, c.open_report,
                c.last, c.copy_command, c.copy_python, c.repeat, c.as_command, c.as_python, c.save_input]
        opened = [c.session, c.picture, c.canvas, c.query, c.reference, *done]
        chosen = {c.session, c.model, c.method, c.preset, c.query, *c.options.values()}
        tuned = [c.session, c.model, c.method, c.about, c.known_words, c.chain, c.query, c.reference, c.mask_part,
                 c.find, c.painting, c.more_of_mask, c.around_part, c.preset, c.message, c.canvas, *c.options.values(),
                 *c.around.values()]

        page.load(None, None, c.key, js=KEY, **quiet).then(
            self.opening.begin, {c.key, *chosen}, [*{*opened, *tuned, c.seed}], **model)
        # Each waits for the one before: what the controls hold is compared with what that one gave them.
        gr.on([c.method.input, c.preset.input], self.choosing.tune, chosen, tuned, trigger_mode="always_last", **model)
        c.model.input(self.choosing.tune_to_model, chosen, tuned, trigger_mode="always_last", **model)
        gr.on([control.input for key, control in c.options.items() if key in c.narrowing], self.choosing.narrow,
              {c.method, *c.options.values()}, list(c.options.values()), **free)
        gr.on([c.picture.upload, c.picture.clear], self.opening.open, {c.session, c.picture, c.method}, opened, **free)
        c.last.select(self.opening.recall, [c.session], [*{*opened, *tuned, c.seed}], **model)
        c.settings.upload(self.opening.take_settings, {c.session, c.settings, c.model}, [*tuned, c.settings, c.seed],
                          **model)
        c.scenes.select(self.opening.take_scene, [c.session, c.method], opened, **free)
        self.masking.connect(free, at_once, model)
        Comparing(c, self.running).connect(at_once, model)
        c.foot()
        gr.on([c.edit.click, c.query.submit, c.reference.submit], lambda session: session.begin("edit"), [c.session],
              None, **at_once).then(self.editing.edit, c.inputs(), [c.canvas, *done], **model)
        # Said by the browser itself: from here it could come after the "Cancelled" of a run that ends at once.
        c.cancel.click(None, None, c.progress, js="() => '<div class=said>Cancelling</div>'", api_visibility="private")
        c.cancel.click(self.running.cancel, [c.session], c.progress, **at_once)
        c.open_report.click(self.results.report, [c.session], [c.save_report, c.progress, c.message],
                            js="(...told) => { openTab(); return told; }", **model).then(
            None, [c.save_report], None, js="file => showReport(file)", **quiet)
        for button, text in ((c.copy_command, c.as_command), (c.copy_python, c.as_python)):
            button.click(None, [text], None, js="text => copyText(text)", **quiet)
