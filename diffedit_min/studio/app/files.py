"""Where the server keeps files: in a temporary folder of its own, which goes when the server ends, however that is."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:         # Windows: what a killed server left has to be deleted by hand there
    fcntl = None

PREFIX = "diffedit-min-page-"
KEPT_SECONDS = 3600         # how long files of pictures stay
ENDING = ("SIGTERM", "SIGHUP")


@contextmanager
def own_folder() -> Iterator[Path]:
    """A new folder, deleted when the block ends, by SIGTERM or SIGHUP too; and first those that killed servers left.

    A server that lives holds a lock on its folder, which the system takes away when its process ends.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*") if fcntl else ():
        with suppress(OSError), locked(left):
            shutil.rmtree(left, ignore_errors=True)
    with ended_by_signals(), tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as folder:
        with locked(folder) if fcntl else nullcontext():
            yield Path(folder)


@contextmanager
def locked(folder: str | os.PathLike) -> Iterator[None]:
    """OSError if another process holds the lock, or if this is no folder of one's own."""
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(held)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """`ENDING` raise SystemExit in the block, so that what it holds is given back. Those that are ignored stay so."""
    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    numbers = [getattr(signal, name) for name in ENDING if hasattr(signal, name)]
    before = {number: signal.signal(number, end) for number in numbers if signal.getsignal(number) != signal.SIG_IGN}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def delete_old(folder: Path, seconds: float, but: Collection[Path] = ()) -> None:
    """Delete the files in a folder that lie there for so long, and what folders are empty then."""
    for path in sorted(folder.rglob("*"), reverse=True):        # what is in a folder before the folder
        with suppress(OSError):
            old = path not in but and path.lstat().st_ctime < time.time() - seconds
            if old and path.is_dir():
                path.rmdir()        # OSError if it is not empty
            elif old:
                path.unlink()
