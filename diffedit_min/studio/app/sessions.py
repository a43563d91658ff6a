"""The sessions of all people: found again after a reload, and bounded together."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from secrets import token_hex
from threading import Lock

from PIL import Image

from ...methods import Edit
from .files import KEPT_SECONDS
from .session import Session

KEPT = 200          # sessions at most; a further one replaces the one that wasn't used for the longest time
PICTURES = 10       # of the largest size: all that sessions hold takes at most as many bytes as so many pictures
KEY = re.compile(r"[0-9a-f]{32}")       # what a browser names its session by: random, and known to nobody else


class Sessions:
    """Those with a picture, by the key that their browser keeps; the one that was used last is the last.

    pixels: of the largest picture.
    """

    def __init__(self, pixels: int) -> None:
        self.pixels = pixels
        self.held: dict[str, tuple[Session, float]] = {}        # with the time of their last use
        self.one_at_a_time = Lock()

    def find(self, key: str | None) -> Session:
        """The session that a browser had before the page was loaded anew, or a new one."""
        self.forget()
        key = key if KEY.fullmatch(key or "") else ""
        return self.held[key][0] if key in self.held else Session(key=key)

    def open(self, session: Session, picture: Image.Image | None) -> None:
        """Begin a session anew."""
        with self.one_at_a_time:
            session.open(picture)
        self.use(session)

    def use(self, session: Session) -> None:
        """Note that a session was used. While all hold too much together, the oldest are forgotten."""
        self.forget()
        with self.one_at_a_time:
            session.key = session.key or token_hex(16)
            self.held.pop(session.key, None)
            if session.picture is not None:
                self.held[session.key] = session, time.monotonic()
            while len(self.held) > KEPT or self.bytes() > 3 * PICTURES * self.pixels:
                key, (oldest, _) = next(iter(self.held.items()))
                if oldest is session and len(session.results) > 1:      # the last one there is: a part of it goes
                    session.results.pop()
                    continue
                if oldest is session:
                    break
                del self.held[key]
                oldest.open(None)

    def forget(self) -> None:
        """Those that were not used for as long as files are kept."""
        with self.one_at_a_time:
            for key, (session, used) in list(self.held.items()):
                if used < time.monotonic() - KEPT_SECONDS:
                    del self.held[key]
                    session.open(None)

    def bytes(self) -> int:
        """What all sessions hold."""
        return sum(size for session, _ in self.held.values() for size in sizes(session))


def sizes(session: Session) -> Iterator[int]:
    """Bytes of a session's pictures, latents and chains of pictures, each counted once."""
    edits = [edit for edit in (session.found, session.edit, *session.encoded) if edit is not None]
    edits += [result.edit for result in session.results]
    pictures = {id(picture): picture for picture in (session.picture, *(edit.image for edit in edits),
                                                          *(result.image for result in session.results))}
    yield from (3 * picture.width * picture.height for picture in pictures.values() if picture is not None)
    yield from (len(result.chain) for result in session.results)
    latents = {id(latent): latent for edit in edits for latent in latents_of(edit)}
    yield from (latent.nbytes for latent in latents.values())


def latents_of(edit: Edit) -> Iterator:
    """The tensors of an edit that take memory."""
    yield from edit.trace.values()
    yield from (state.latent for states in (edit.encoded, edit.decoded) for state in states)
