"""`diffedit-min edit`: one picture or many, by the words of a command line, a table or an earlier result.

torch is imported inside the functions only, so that --help answers at once.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from .console import (
    MODEL_HELP,
    Config,
    Debug,
    Device,
    DType,
    Options,
    Prediction,
    Preset,
    Quiet,
    Reference,
    Report,
    Revision,
    Seed,
    Size,
    Strip,
    check_report,
    check_targets,
    describe,
    one_line_errors,
    tell,
    timed,
    write_report,
)

if TYPE_CHECKING:
    from ..networks.stable_diffusion import StableDiffusion
    from .jobs.job import Job

FOLDER = Path("edits")      # not the current one: there *.png would take the results for pictures the next time


def edit(
    ctx: typer.Context,
    images: Annotated[list[str] | None, Argument(metavar="IMAGE", show_default=False, help="The picture: a file "
                      "that Pillow can read, of any size; or several. prompt-to-prompt can do without: it makes one of "
                      "the reference.")] = None,
    query: Annotated[str | None, Option(help="What the edited picture should show; for instruct-pix2pix, what to do. "
                                        "Only --like and --jobs can stand for it.")] = None,
    reference: Reference = "",
    method: Annotated[str, Option(help="One of those that `info` lists.")] = "diffedit",
    model: Annotated[str | None, Option(help=f"{MODEL_HELP} Left out: the embedded one that fits the method.")] = None,
    out: Annotated[Path | None, Option(help="The result, which holds its settings too: .png, .jpg or .webp. Left out: "
                                       "IMAGE's name with -edit.png, in the current folder. Of several pictures: the "
                                       f"folder for such files. Left out: {FOLDER}.")] = None,
    source_out: Annotated[Path | None, Option(help="The input too, or its --crop, as methods with two branches make "
                                              "it anew.")] = None,
    seed: Seed = 0, size: Size = None, preset: Preset = "paper", option: Options = None,
    mask: Annotated[str | None, Option(help="A mask of your own, a picture of any size: white = edit.")] = None,
    mask_grow: Annotated[int, Option(metavar="PX", help="Grow the mask, given or found, by so many of the picture's "
                                     "pixels; negative: shrink it.")] = 0,
    composite: Annotated[bool, Option("--composite/--no-composite", help="Put the input's own pixels back outside the "
                                      "mask, bit for bit (in a .png). Methods that find no mask need --mask.")] = False,
    mask_feather: Annotated[int, Option(metavar="PX", help="Soften the seam of --composite over so many pixels inside "
                                        "the mask.")] = 0,
    crop: Annotated[str | None, Option(metavar="LEFT,TOP,WIDTH,HEIGHT", help="Edit this part of the picture alone, "
                                       "at its full resolution, and put it back; or mask: the part around --mask."
                                       )] = None,
    like: Annotated[str | None, Option(metavar="PICTURE", help="A result to repeat: its settings hold where the "
                                       "command line says nothing.")] = None,
    jobs: Annotated[Path | None, Option(metavar="TABLE.csv", help="Many edits, one a line: columns image, query, "
                                        "reference, seed, mask, out, steps and so on. The command line holds where a "
                                        "cell is empty. What is done already is skipped.")] = None,
    batch: Annotated[int, Option(min=1, help="Of many pictures, how many are edited at once.")] = 4,
    overwrite: Annotated[bool, Option("--overwrite", help="Of many pictures, replace those made with other settings.")]
        = False,
    report: Report = None, strip: Strip = None,
    device: Device = "auto", dtype: DType = "auto", prediction_type: Prediction = None, config: Config = None,
    revision: Revision = None, quiet: Quiet = False, debug: Debug = False,
) -> None:
    """Edit a picture: --query says what it should show. Or many, with one model: give several, or a table."""
    if query is None and like is None and jobs is None:
        ctx.fail("Missing option '--query'.")
    with one_line_errors(debug):
        if jobs is not None or len(images or ()) > 1:
            for name, path in (("--source-out", source_out), ("--report", report), ("--strip", strip)):
                if path is not None:
                    raise ValueError(f"{name} {str(path)!r} is for one picture: leave it out")
            edit_many(images or [], jobs, all_told(ctx), out or FOLDER, batch, overwrite, quiet, debug)
        else:
            edit_one(images[0] if images else None, all_told(ctx), out, source_out, report, strip, quiet)


def all_told(ctx: typer.Context) -> dict[str, Any]:
    """What holds, by the options' names: what was typed, over what --like says, over the options' defaults."""
    from .jobs.like import over, told_by

    if ctx.params["like"] is None:
        return ctx.params
    typed = {name: value for name, value in ctx.params.items() if ctx.get_parameter_source(name).name == "COMMANDLINE"}
    return {**ctx.params, **over(told_by(ctx.params["like"]), typed)}


def load(told: Mapping[str, Any], jobs: list[Job]) -> tuple[StableDiffusion, dict[str, Any]]:
    """The model, and where its files come from besides its name."""
    from ..loading.held import Models

    names = {told["model"] or job.asked.method.embedded_model: job.asked.method.dashed for job in jobs}
    if len(names) > 1:
        raise ValueError(f"{' and '.join(names.values())} have no embedded model in common: give a table for each")
    models = Models(**{name: told[name] for name in ("device", "dtype", "prediction_type", "config", "revision")})
    return models.get(*names), models.source


def edit_one(
    image: str | None, told: Mapping[str, Any], out: Path | None, source_out: Path | None, report: Path | None,
    strip: Path | None, quiet: bool,
) -> None:
    """One picture; it goes over an earlier result."""
    from ..pictures.metadata import texts
    from ..pictures.picture_files import save
    from .jobs.editing import edit_jobs, open_job
    from .jobs.job import job_of

    job = job_of(told, image, out or Path(f"{Path(image or 'generated').stem}-edit.png"))
    if source_out and not job.asked.method.remakes:
        raise ValueError(f"{job.asked.method.dashed} has no source branch: leave out --source-out {str(source_out)!r}")
    check_targets(job.out, *filter(None, [source_out, strip]))
    keep = check_report(report, strip)
    opened = open_job(job)
    network, where = load(told, [job])
    [made], seconds = timed(edit_jobs, quiet, network, where, [opened], keep=keep)
    save(made.image, job.out, texts(made.edit.settings, made.image.size))
    if source_out:
        save(made.edit.source, source_out, texts(made.edit.settings, made.edit.source.size))
    write_report(quiet, made.edit, network, report, strip)
    tell(made.edit, seconds, network, job.out, *filter(None, [source_out, report, strip]))
    if made.edit.empty_mask:
        print("nothing to change was found: the mask is empty, and the input picture came back")


def edit_many(
    images: list[str], table: Path | None, told: Mapping[str, Any], folder: Path, batch: int, overwrite: bool,
    quiet: bool, debug: bool,
) -> None:
    """Several pictures, or a table of them; then a summary."""
    from ..pictures.picture_files import check_readable
    from .jobs.job import job_of
    from .jobs.run import check, done_before
    from .jobs.table import read_table

    if table and images:
        raise ValueError(f"--jobs {str(table)!r} names its pictures itself: leave out {images[0]!r}")
    for image in images:
        check_readable(image)
    jobs = read_table(table, told, folder) if table else [
        job_of(told, image, folder / f"{Path(image).stem}-edit.png") for image in images]
    check(jobs, folder)
    network, where = load(told, jobs)
    done = done_before(jobs, network, where, overwrite)
    make_folder(folder, jobs)
    started, tally = time.perf_counter(), Tally()
    try:
        watch(tally, jobs, network, where, done, batch, quiet, debug)
    except KeyboardInterrupt:
        print(f"stopped: {len(done) + tally.made} of {len(jobs)} pictures are done, and the same command goes on from "
              "there", file=sys.stderr)
        raise
    failed = len(tally.failed)
    print(f"{tally.made} edited, {len(done)} done before, {failed} failed; {tally.rows:,} rows through the U-Net in "
          f"{time.perf_counter() - started:.1f} s, {str(network.dtype).removeprefix('torch.')} on {network.device}")
    for line in tally.failed:
        print(line, file=sys.stderr)
    if failed:
        raise ValueError(f"{failed} of {len(jobs)} pictures failed: the same command tries them again")


@dataclass
class Tally:
    """What became of the pictures so far. (Not the results themselves: there may be thousands.)"""

    made: int = 0
    rows: int = 0
    failed: list[str] = field(default_factory=list)     # a line each


def watch(
    tally: Tally, jobs: list[Job], network: StableDiffusion, where: Mapping[str, Any], done: set[Job], batch: int,
    quiet: bool, debug: bool,
) -> None:
    """Run the jobs and count them, with a bar on stderr, if that is a terminal, and a line for each picture written."""
    from tqdm import tqdm

    from .jobs.editing import Made
    from .jobs.run import run

    with tqdm(total=len(jobs) - len(done), unit="picture", disable=quiet or None) as bar:
        def on_step(step: Any) -> None:
            bar.set_postfix_str(f"{step.stage} {step.index}/{step.total}")

        for result in run(jobs, network, where, done, batch, on_step):
            bar.update()
            if isinstance(result, Made):
                tally.made, tally.rows = tally.made + 1, tally.rows + result.edit.rows
                unchanged = ": nothing to change was found" if result.edit.empty_mask else ""
                bar.write(f"wrote {result.job.out}{unchanged}", file=sys.stdout)
                continue
            if debug:
                traceback.print_exception(result.error)
            line = f"line {result.job.line}, " if result.job.line else ""
            tally.failed.append(f"failed: {line}{result.job.image}: {describe(result.error)}")


def make_folder(folder: Path, jobs: list[Job]) -> None:
    """The folder for results, if any goes there; refused where it can't be written to."""
    if any(job.out.parent == folder for job in jobs):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"the folder {str(folder)!r} can't be made ({error.strerror}): choose another") from None
    for job in jobs:
        check_targets(job.out)
