"""Where the server keeps files: in a temporary folder of its own, which is deleted when the server ends.

torch is not imported with this file.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX, LOCK = "diffedit-min-page-", ".lock"        # the folder's name begins so; the file in it that is locked
KEPT_SECONDS = 3600         # how long files of pictures stay


@contextmanager
def own_folder() -> Iterator[Path]:
    """A new folder, deleted when the block ends; and first those that killed servers left.

    A server that lives holds a lock in its folder, which the system takes away when its process ends.
    """
    from ...pictures.writing import lock

    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError), open(left / LOCK, "r+b") as file:
            if lock(file, wait=False):
                shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with open(folder / LOCK, "wb") as file:
            lock(file)
            yield folder


def delete_old(folder: Path, seconds: float, but: Collection[Path] = ()) -> None:
    """Delete the files in a folder that lie there for so long, and what folders are empty then."""
    for path in sorted(folder.rglob("*"), reverse=True):        # what is in a folder before the folder
        with suppress(OSError):
            old = path not in but and path.lstat().st_ctime < time.time() - seconds
            if old and path.is_dir():
                path.rmdir()        # OSError if it is not empty
            elif old:
                path.unlink()
