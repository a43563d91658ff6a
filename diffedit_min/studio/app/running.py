"""What uses a model while the page looks on: shown as it goes, stopped when asked, and its end or why there is none."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

import gradio as gr

from ...loading.held import Models
from ...methods import Asked
from ...networks.stable_diffusion import StableDiffusion
from .choosing import Choosing
from .components import Shown
from .layout import Controls
from .results import wipe_of
from .saying import said_of
from .session import Progress, Run, Session, Stopped
from .sessions import Sessions
from .words import bar, line, notes, rows

Steps = Callable[[StableDiffusion, Asked, Run], Generator[Progress, None, Shown]]    # its end is shown last
Found = Callable[[Session, StableDiffusion], Shown]     # what shows a map that was just found
EVERY_SECONDS = 0.1         # a step is shown, at most: a browser that draws each step of a small model can't be clicked


class Running:
    """Runs what is asked for, whichever part of the page asks."""

    def __init__(self, controls: Controls, models: Models, sessions: Sessions, choosing: Choosing) -> None:
        self.controls, self.models, self.sessions, self.choosing = controls, models, sessions, choosing

    def watched(self, session: Session, kind: str, told: Shown, steps: Steps, found_now: Found) -> Iterator[Shown]:
        """A run, shown as it goes; then its end, or why there is none. found_now: what shows a map that was found."""
        c = self.controls
        run = session.runs.get(kind) or Run()         # another answer may have taken it
        started, told_at = time.monotonic(), -math.inf
        yield {c.message: "", c.progress: bar(None, run, 0)}
        try:
            network, found = self.models.get(told[c.model]), session.found
            asked = self.choosing.asked(told, network)
            going = steps(network, asked, run)
            while True:
                try:
                    step, picture = next(going)
                except StopIteration as done:
                    end = done.value
                    break
                if session.found not in (None, found):
                    yield found_now(session, network)            # as soon as it is found
                found, now = session.found, time.monotonic()
                run.moved(step)
                if picture is not None or now > told_at + EVERY_SECONDS:
                    told_at = now
                    yield {c.progress: bar(step, run, now - started),
                           **({} if picture is None else {c.result: wipe_of(session.opened(), picture)})}
        except Stopped:
            yield {c.progress: line(f"Cancelled, with {rows(run.rows)} done.")}
            return
        except Exception as error:
            yield {c.progress: "", c.message: said_of(error)}
            return
        finally:
            session.end(run)
            self.sessions.use(session)
        yield {**end, c.message: notes(run.warnings)}

    def cancel(self, session: Session) -> Any:
        """Ends after the U-Net call in flight; a run that waits in line ends when its turn comes."""
        said = gr.skip() if session.runs else line("Nothing is running.")
        session.stop()
        return said
