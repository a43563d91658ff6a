"""Files written whole or not at all, also where several programs write at once.

A new file is written under another name in the same folder (a dot, eight digits, `.part`), and replaces the old one
when it is complete. The process that writes it holds a lock of the system on it. So two writers of one file take turns.
The lock ends with the process: if a process was killed, its unfinished file has no lock, and the next writer overwrites
it.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:     # Windows
    fcntl = None
    import msvcrt

FAR = 2**40             # a byte behind the end of every file: Windows locks bytes, and nobody can read a locked one
NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)     # a link under a name that can be guessed may lead anywhere
Version = tuple[int, ...] | None


class NotWritten(OSError, ValueError):
    """A file couldn't be written: the disk is full, the place is gone, or another program has it. One line."""


@contextmanager
def replacing(path: str | os.PathLike, over: Version | bool = True) -> Iterator[BinaryIO]:
    """A new file: it replaces the one at `path` when the block ends, and is deleted if the block raises.

    over: the only file that may be replaced, as `version_of` returned it earlier (None: there was none). True: any.
    Raises NotWritten, which names the path, if the system can't write it, or if another file is there by now.
    """
    beside = part_of(path)
    try:
        with opened_alone(beside) as file:
            try:
                yield file
                file.flush()
                if over is not True and version_of(path) != over:
                    raise NotWritten(f"{os.fspath(path)!r} was written by another program meanwhile: wait for its end, "
                                     "or choose another place")
                if fcntl is None:
                    file.close()        # Windows can't rename or delete an open file
                os.replace(beside, path)
            except BaseException:       # Ctrl-C too
                if fcntl is None:
                    file.close()
                beside.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise error if isinstance(error, NotWritten) else not_written(path, error) from error


def not_written(path: str | os.PathLike, error: OSError) -> NotWritten:
    """What to raise where the system can't write to a path."""
    return NotWritten(f"{os.fspath(path)!r} can't be written ({reason(error)}): make room there, or choose another "
                      "place")


def make_folder(path: Path) -> None:
    """The folder and those that it is in, unless they are there. Raises NotWritten."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:      # ValueError: a null byte
        raise NotWritten(f"the folder {str(path)!r} can't be made ({reason(error)}): choose another") from None


def reason(error: Exception) -> str:
    """An error's message in one line."""
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__


def version_of(path: str | os.PathLike) -> Version:
    """What tells the file that is there now from one that replaces it; None if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def identity(path: str | os.PathLike) -> tuple:
    """Equal for paths that lead to one file, by any spelling or link; also if it isn't there yet."""
    try:
        found = os.stat(path)
        return found.st_dev, found.st_ino
    except (OSError, ValueError):
        with suppress(FileNotFoundError):       # the current folder may be gone
            path = os.path.realpath(path)
        return (os.path.normcase(path),)


# ---------------------------------------------------------------- unfinished files


def part_of(path: str | os.PathLike) -> Path:
    """The unfinished file for `path`, whatever the length of its name."""
    path = Path(path)
    return path.with_name(f".{zlib.crc32(os.fsencode(path.name)):08x}.part")


def clear_leftovers(paths: Iterable[str | os.PathLike]) -> None:
    """Delete the unfinished files for these paths that killed processes have left."""
    for part in map(part_of, paths):
        with suppress(OSError), open(part, "r+b", opener=without_truncating) as file:
            if lock(file, wait=False):
                part.unlink()


def opened_alone(path: Path) -> BinaryIO:
    """An empty file to write to, which no one else is writing: it waits for them."""
    while True:
        file = open(path, "wb", opener=without_truncating)      # it may still be another's
        try:
            if not lock(file):
                raise OSError(f"another program has been writing {str(path)!r} for long")
            with suppress(FileNotFoundError):       # the one that had it has finished: the name is free again
                if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                    file.truncate(0)
                    return file
        except BaseException:
            file.close()
            raise
        file.close()


def without_truncating(path: str, flags: int) -> int:
    return os.open(path, flags & ~os.O_TRUNC | NOFOLLOW, 0o666)


def lock(file: BinaryIO, wait: bool = True) -> bool:
    """Take a file until it is closed or the process ends. False: another has it, and didn't let go."""
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        before = file.tell()
        file.seek(FAR)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        finally:
            file.seek(before)
    except OSError as error:
        # Some file systems of networks know no locks (ENOLCK, ENOTSUP, ...): then it is as without.
        return fcntl is not None and not isinstance(error, BlockingIOError)
    return True
