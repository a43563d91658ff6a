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
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .streams import Terminated

if TYPE_CHECKING:
    from ..core.task import Step
    from ..methods import Edit
    from ..methods.cost import Cost
    from ..networks.stable_diffusion import StableDiffusion


def check_known(values: Sequence[str], known: Collection[str], option: str) -> None:
    """Refuse values of an option that are not among those known."""
    for value in values:
        if value not in known:
            raise ValueError(f"{option} {value!r} is not known; known are {', '.join(known)}")


def check_targets(
    *pictures: Path | None, report: Path | None = None, film: Path | None = None,
    reads: Sequence[str | os.PathLike | None] = (),
) -> None:
    """Refuse, before any work, files that couldn't be written after it, or that would replace one that is read.

    reads: the files that this command reads. None anywhere: that one is not asked for.
    """
    from ..pictures.picture_files import ANIMATIONS, check_target
    from ..pictures.writing import identity

    asked = [path for path in pictures if path is not None]
    for path in asked:
        check_target(path)
    for path, suffixes in ((report, (".html", ".htm")), (film, ANIMATIONS)):
        if path is not None:
            check_target(path, suffixes)
            asked.append(path)
    places, read = [identity(path) for path in asked], {identity(path): path for path in reads if path is not None}
    for path, place in zip(asked, places, strict=True):
        if places.count(place) > 1:
            raise ValueError(f"{str(path)!r} can't hold two results: give each a file of its own")
        if place in read:
            raise ValueError(f"{str(path)!r} would replace {str(read[place])!r}, which is read: give another path")


# ---- a run, and what is said of it


def timed(run: Callable[..., Any], quiet: bool, cost: Cost | None, *arguments: Any, **options: Any
          ) -> tuple[Any, float]:
    """Run a method with a progress bar: what it returns, and the seconds it took. cost: see `progress`."""
    started = time.perf_counter()
    with progress(quiet, cost) as on_step:
        made = run(*arguments, on_step=on_step, **options)
    return made, time.perf_counter() - started


def expected(quiet: bool, *asked: Any, **given: bool) -> Cost | None:
    """The cost of an edit (what is asked, the model, and what is given: see `cost_of`), if a bar will show it."""
    from ..methods.cost import cost_of

    return None if quiet or not sys.stderr.isatty() else cost_of(*asked, **given)


BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {unit}s [{elapsed}, {remaining} left]"


@contextmanager
def progress(quiet: bool, cost: Cost | None = None) -> Iterator[Callable[[Step], None]]:
    """An `on_step` that moves one bar on stderr, if that is a terminal; else it says once there, of a run that is
    long, how long it will take. The bar ends with this context.

    cost: of the run, whose rows the bar counts. None: it counts the steps of one stage after the other.
    """
    from tqdm import tqdm

    from ..methods.cost import Estimate, Progress, in_words

    where = Progress(cost) if cost else None
    with tqdm(desc=where.doing if where else "getting ready", total=cost.rows if cost else None,
              unit="row" if cost else "step", disable=quiet or None, bar_format=BAR, mininterval=0, miniters=1) as bar:
        def on_step(step: Step) -> None:
            if where:
                where.moved(step)
                bar.set_description_str(where.doing, refresh=False)
                bar.update(where.rows - bar.n)
                return
            if bar.desc != in_words(step.stage):
                bar.reset(step.total)
                bar.set_description_str(in_words(step.stage), refresh=False)
            bar.update(step.index - bar.n)

        if bar.disable:         # it has no numbers then
            estimate = Estimate(cost.rows if cost else 0, partial(print, file=sys.stderr))

            def measured(step: Step) -> None:
                if where:
                    where.moved(step)
                    estimate.measured(where.rows)

            yield measured
            return
        yield on_step
        bar.total = bar.n       # where nothing to change was found, there are fewer
        bar.set_description_str("done")


def write_report(
    quiet: bool, edit: Edit, model: StableDiffusion, page: Path | None, strip: Path | None, film: Path | None,
    **more: Any,
) -> None:
    """The page, the strip and the film of an edit's steps, with a progress bar, if they are asked for.

    more: what `report.write` takes besides.
    """
    from . import report

    if page or strip:
        with progress(quiet) as on_step:
            report.write(edit, model, page, strip, on_step=on_step, **more)
    if film:
        from .film import film as filmed

        with progress(quiet) as on_step:
            filmed(edit, model, on_step).save(film)


def shown(path: str | Path | None) -> str:
    """A path in one line: quoted if its name has line ends or other characters that don't show."""
    return str(path) if str(path).isprintable() else repr(str(path))


def wrote(*paths: str | Path | None) -> None:
    """Say which files were written. None: that one was not asked for."""
    *first, last = [shown(path) for path in paths if path]
    print(f"wrote {', '.join(first)}{' and ' if first else ''}{last}")


def tell(edit: Edit, seconds: float, model: StableDiffusion, *paths: Path | None) -> None:
    """What was written, what it cost in which dtype, and how much of the picture (padding not counted) the mask covers.
    """
    options = edit.method.known.values()
    saved = [getattr(edit.options, option.name) for option in options if option.file and option.stage == "cost"]
    wrote(*paths, *saved)       # a file that no result depends on is one that the method writes
    covered = f"; the mask covers {edit.covered}" if edit.covered else ""
    kind = str(model.dtype).removeprefix("torch.")
    back = f" and {edit.backward_rows} back" if edit.backward_rows else ""
    print(f"{edit.rows} rows through the U-Net{back} in {seconds:.1f} s, {kind} on {model.device}{covered}")
    if edit.shrunk:
        print(f"{edit.shrunk}; with --size SIDE it is about SIDE × SIDE px, and `edit --crop` edits a part of the "
              "picture, which is shrunk less")


def nothing_found(edit: Edit) -> str:
    """What is said of an edit that found nothing to change: why, and the way out."""
    said, threshold = "nothing to change was found", getattr(edit.options, "mask_threshold", None)
    if edit.mask_map is None or threshold is None:
        return f"{said}: the mask is empty"
    highest = edit.mask_map.max().item()
    if not highest:
        return f"{said}: the model sees no difference between query and reference, so say it in other words"
    if highest > threshold:     # the command has shrunk the mask
        return f"{said}: nothing is left of the mask; shrink it less"
    return (f"{said}: the map of differences reaches {highest:.2g}, which is not above mask_threshold {threshold:g}; "
            f"try a lower one, for example -o mask_threshold={highest / 2:.2g}")


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
