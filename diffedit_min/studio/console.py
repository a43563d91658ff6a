"""What the commands share besides options: progress, what is said of a run, and errors in one line.

Exit codes: 0 done; 2 the command line can't be parsed; 130 Ctrl-C; 143 SIGTERM or SIGHUP; 1 anything else, with one
line `error: ...` on stderr. torch is not imported here.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
import typer.core

from .streams import Terminated

if TYPE_CHECKING:
    from ..core.task import Step
    from ..methods import Edit
    from ..networks.stable_diffusion import StableDiffusion


def check_known(values: Sequence[str], known: Collection[str], option: str) -> None:
    """Refuse values of an option that are not among those known."""
    for value in values:
        if value not in known:
            raise ValueError(f"{option} {value!r} is not known; known are {', '.join(known)}")


def check_targets(
    *pictures: Path | None, report: Path | None = None, reads: Sequence[str | os.PathLike | None] = ()
) -> None:
    """Refuse, before any work, files that couldn't be written after it, or that would replace one that is read.

    reads: the files that this command reads. None anywhere: that one is not asked for.
    """
    from ..pictures.picture_files import check_target
    from ..pictures.writing import identity

    asked = [path for path in pictures if path is not None]
    for path in asked:
        check_target(path)
    if report is not None:
        check_target(report, (".html", ".htm"))
        asked.append(report)
    places, read = [identity(path) for path in asked], {identity(path): path for path in reads if path is not None}
    for path, place in zip(asked, places, strict=True):
        if places.count(place) > 1:
            raise ValueError(f"{str(path)!r} can't hold two results: give each a file of its own")
        if place in read:
            raise ValueError(f"{str(path)!r} would replace {str(read[place])!r}, which is read: give another path")


# ---- a run, and what is said of it


def timed(run: Callable[..., Any], quiet: bool, *arguments: Any, **options: Any) -> tuple[Any, float]:
    """Run a method with progress bars: what it returns, and the seconds it took."""
    started = time.perf_counter()
    with progress(quiet) as on_step:
        made = run(*arguments, on_step=on_step, **options)
    return made, time.perf_counter() - started


@contextmanager
def progress(quiet: bool) -> Iterator[Callable[[Step], None]]:
    """An `on_step` that shows a bar a stage on stderr, if that is a terminal."""
    from tqdm import tqdm

    bars: dict[str, tqdm] = {}

    def on_step(step: Step) -> None:
        if step.stage not in bars:
            bars[step.stage] = tqdm(desc=step.stage, total=step.total, disable=quiet or None)
        bars[step.stage].update(step.index - bars[step.stage].n)

    try:
        yield on_step
    finally:
        for bar in bars.values():
            bar.close()


def write_report(quiet: bool, edit: Edit, model: StableDiffusion, *asked: Any) -> None:
    """The page and the strip of an edit's steps, with a progress bar, if they are asked for."""
    from . import report

    with progress(quiet) as on_step:
        report.write(edit, model, *asked, on_step=on_step)


def shown(path: str | Path | None) -> str:
    """A path in one line: quoted if its name has line ends or other characters that don't show."""
    return str(path) if str(path).isprintable() else repr(str(path))


def wrote(*paths: str | Path | None) -> None:
    """Say which files were written. None: that one was not asked for."""
    print(f"wrote {' and '.join(shown(path) for path in paths if path)}")


def tell(edit: Edit, seconds: float, model: StableDiffusion, *paths: Path | None) -> None:
    """What was written, what it cost in which dtype, and how much of the picture (padding not counted) the mask covers.
    """
    wrote(*paths)
    covered = ""
    if edit.mask is not None:
        covered = f"; the mask covers {edit.frame.share(edit.mask, edit.factor):.1%}"
    kind = str(model.dtype).removeprefix("torch.")
    back = f" and {edit.backward_rows} back" if edit.backward_rows else ""
    print(f"{edit.rows} rows through the U-Net{back} in {seconds:.1f} s, {kind} on {model.device}{covered}")
    if edit.shrunk:
        print(f"{edit.shrunk}; with --size SIDE it is about SIDE × SIDE px, and `edit --crop` edits a part of the "
              "picture, which is shrunk less")


# ---- errors


@contextmanager
def one_line_errors(debug: bool) -> Iterator[None]:
    """Turn what is raised inside into one line on stderr and an exit code; a warning into one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)     # between libraries, not for the user
            warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
            yield
    except KeyboardInterrupt as stopped:
        ended = isinstance(stopped, Terminated)
        print("terminated" if ended else "interrupted", file=sys.stderr)
        raise typer.Exit(stopped.exit_code if ended else 130) from None
    except Exception as error:
        if hasattr(error, "exit_code"):     # typer's own: it says and ends it itself
            raise
        if debug:
            traceback.print_exc()
        print(f"error: {describe(error)}", file=sys.stderr)
        raise typer.Exit(1) from None


def describe(error: Exception) -> str:
    """One line. A ValueError says by itself what is wrong and what to do; anything else was not foreseen."""
    line = next(iter(str(error).splitlines()), "")
    if isinstance(error, ValueError) and line:
        return line
    return f"{type(error).__name__}{': ' if line else ''}{line} (--debug shows where)"


class ListsCommand(typer.core.TyperCommand):
    """A command whose options that can be repeated also take several values after one name: --ratios 0.4 0.6 0.8."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        lists = {name for option in self.params if getattr(option, "multiple", False) for name in option.opts}
        spread, current = [], None
        for i, word in enumerate(args):
            if word.startswith("-"):
                current = word if word in lists else None
            elif current and args[i - 1] != current:
                spread.append(current)
            spread.append(word)
        return super().parse_args(ctx, spread)
