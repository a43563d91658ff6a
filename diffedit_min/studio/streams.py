"""What the system hands to a command: its standard streams, and signals that end it. torch is not imported here."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP came: what is unfinished is cleaned up, as at Ctrl-C."""

    exit_code = 128 + signal.SIGTERM


class Output(io.FileIO):
    """A standard stream that goes to a file or into a pipe.

    A reader that closes the pipe has seen enough, as in `diffedit-min edit *.png | head -1`: the work goes on in
    silence. What can't be written for another reason, a full disk for example, is a ValueError, but not on stderr.
    """

    def write(self, data: bytes) -> int:
        try:
            return super().write(data)
        except OSError as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            if self.fileno() == 1 and not isinstance(error, BrokenPipeError):
                raise ValueError(f"the standard output can't be written ({error.strerror})") from None
            return len(data)


def prepare_streams() -> None:
    """Make the streams safe to print to, whatever they are: closed, full, a broken pipe, of a narrow encoding."""
    while (free := os.open(os.devnull, os.O_RDWR)) <= 2:    # a closed one's number would go to the next file opened
        pass
    os.close(free)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
            continue
        stream.reconfigure(errors="backslashreplace")       # a name that can't be shown must not end in an error
        if stream is getattr(sys, f"__{name}__") and not stream.isatty():
            stream.flush()
            raw = io.BufferedWriter(Output(stream.fileno(), "w", closefd=False))
            setattr(sys, name, io.TextIOWrapper(raw, stream.encoding, stream.errors, line_buffering=name == "stderr"))


def heed_signals() -> None:
    """End at SIGTERM and SIGHUP as at Ctrl-C; a second one ends at once. What is ignored (nohup) stays so."""
    def stop(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        return
    for number in filter(None, (signal.SIGTERM, getattr(signal, "SIGHUP", None))):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, stop)
