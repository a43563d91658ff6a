"""`diffedit-min edit`: one picture or many, by the words of a command line, a table or an earlier result.

torch is imported inside the functions only, so that --help answers at once.
"""

from __future__ import annotations

import sys
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from .console import check_targets, describe, expected, nothing_found, shown, tell, timed, write_report
from .options import (
    LOADING,
    MODEL_HELP,
    Composite,
    Crop,
    Film,
    MaskFeather,
    MaskGrow,
    Options,
    Preset,
    Quiet,
    Reference,
    Report,
    Seed,
    Size,
    Strip,
)

if TYPE_CHECKING:
    from ..core.task import Step
    from ..networks.stable_diffusion import StableDiffusion
    from .jobs.job import Job

FOLDER = Path("edits")      # not the current one: there *.png would take the results for pictures the next time


def edit(
    ctx: typer.Context,
    images: Annotated[list[str] | None, Argument(metavar="IMAGE", show_default=False, help="The picture: a PNG, "
                      "JPEG, WebP, TIFF, ... of any size; or several. prompt-to-prompt can do without: it makes one of "
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
    seed: Seed = 0, size: Size = None, preset: Preset = "recommended", option: Options = None,
    mask: Annotated[str | None, Option(help="A mask of your own, a picture of any size: white = edit.")] = None,
    mask_grow: MaskGrow = 0, composite: Composite = False, mask_feather: MaskFeather = 0, crop: Crop = None,
    like: Annotated[str | None, Option(metavar="PICTURE", help="A result to repeat: its settings hold where the "
                                       "command line says nothing.")] = None,
    jobs: Annotated[Path | None, Option(metavar="TABLE.csv", help="Many edits, one a line: columns image, query, "
                                        "reference, seed, mask, out, steps and so on. The command line holds where a "
                                        "cell is empty. What is done already is skipped.")] = None,
    batch: Annotated[int, Option(min=1, max=1000, help="Of many pictures, how many are edited at once.")] = 4,
    overwrite: Annotated[bool, Option("--overwrite", help="Of many pictures, replace those made with other settings.")]
        = False,
    report: Report = None, strip: Strip = None, film: Film = None,
    quiet: Quiet = False, **how_loaded: Any,
) -> None:
    """Edit a picture: --query says what it should show. Or many, with one model: give several, or a table."""
    given = {**ctx.params, **locals()}      # in ctx.params an older typer leaves paths as texts
    if query is None and like is None and jobs is None:
        ctx.fail("Missing option '--query'.")
    if jobs is None and len(images or ()) < 2:
        edit_one(all_told(ctx, given))
        return
    for name, path in (("--source-out", source_out), ("--report", report), ("--strip", strip), ("--film", film)):
        if path is not None:
            raise ValueError(f"{name} {str(path)!r} is for one picture: leave it out")
    edit_many(all_told(ctx, given))


def all_told(ctx: typer.Context, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """What holds, by the options' names: what was typed, over what --like says, over the options' defaults.

    given: the values of all options, typed or not.
    """
    from .jobs.like import over, told_by

    if given["like"] is None:
        return given
    typed = {name: given[name] for name in ctx.params if ctx.get_parameter_source(name).name == "COMMANDLINE"}
    return {**given, **over(told_by(given["like"]), typed)}


def load(told: Mapping[str, Any], jobs: list[Job]) -> tuple[StableDiffusion, dict[str, Any]]:
    """The model; and for the settings where its files come from besides its name, and what is in them."""
    from ..bench.store import hash_of
    from ..loading.held import Models

    methods = [job.asked.method for job in jobs]
    names = {told["model"] or method.embedded_model: method.dashed for method in methods}
    if len(names) > 1:
        raise ValueError(f"{' and '.join(names.values())} have no embedded model in common: give a table for each")
    models = Models(**{name: told[name] for name in LOADING})
    model = models.get(*names)
    weights = hash_of(model)
    if told.get("weights") not in (None, weights):
        warnings.warn(f"{model.name!r} has other weights today than those that made {told['like']!r}: the result will "
                      "differ", stacklevel=2)
    return model, {**models.source, "weights": weights}


def edit_one(told: Mapping[str, Any]) -> None:
    """One picture; its result replaces an earlier one."""
    from ..pictures.metadata import texts
    from ..pictures.picture_files import save
    from .jobs.editing import edit_jobs, open_job
    from .jobs.job import job_of
    from .repeat import both

    picture = told["images"][0] if told["images"] else None
    source_out, report, strip, film = (told[name] for name in ("source_out", "report", "strip", "film"))
    job = job_of(told, picture, told["out"] or Path(f"{Path(picture or 'generated').stem}-edit.png"))
    if source_out and not job.asked.method.remakes:
        raise ValueError(f"{job.asked.method.dashed} has no source branch: leave out --source-out {str(source_out)!r}")
    check_targets(job.out, source_out, strip, report=report, film=film, reads=[job.image, job.mask, told["like"]])
    opened = open_job(job)
    network, source = load(told, [job])
    cost = expected(told["quiet"], job.asked, network, mask=job.gives_mask, picture=job.image is not None)
    [(edit, image)], seconds = timed(edit_jobs, told["quiet"], cost, network, source, [opened],
                                     keep="trace" if report or strip or film else "result")
    save(image, job.out, texts(edit.settings, image.size))
    if source_out:
        save(edit.source, source_out, texts(edit.settings, edit.source.size))
    again = both(edit.settings, job.image, network, job.mask)
    write_report(told["quiet"], edit, network, report, strip, film, again=again)
    tell(edit, seconds, network, job.out, source_out, report, strip, film)
    if edit.empty_mask:
        print(f"{nothing_found(edit)} (the input picture came back)")


def edit_many(told: Mapping[str, Any]) -> None:
    """Several pictures, or a table of them: a line for each, a bar on stderr if that is a terminal, and a summary."""
    from tqdm import tqdm

    from ..methods.cost import Estimate, in_words
    from ..pictures.writing import NotWritten
    from .jobs.run import Rows, batches, done_before, run

    jobs = jobs_of(told)
    network, source = load(told, jobs)
    done = done_before(jobs, network, source, told["overwrite"])
    check_places(told["out"] or FOLDER, jobs)
    started, made, rows, failed = time.perf_counter(), 0, 0, []
    with tqdm(total=len(jobs) - len(done), unit="picture", disable=told["quiet"] or None) as bar:
        rows_left = Rows(batches(jobs, done, told["batch"]), network)
        estimate = Estimate(rows_left.total, lambda line: told["quiet"] or bar.write(line, file=sys.stderr))

        def on_step(step: Step, together: Sequence[Job]) -> None:
            bar.set_postfix_str(f"{in_words(step.stage)} {step.index}/{step.total}")
            estimate.measured(rows_left.after(step, together))

        try:
            for job, result in run(jobs, network, source, done, told["batch"], on_step):
                bar.update()
                if isinstance(result, Exception):
                    if told["debug"]:
                        traceback.print_exception(result)
                    line = f"line {job.line}, " if job.line else ""
                    failed.append(f"failed: {line}{shown(job.image)}: {describe(result)}")
                    continue
                made, rows = made + 1, rows + result.rows
                unchanged = f": {nothing_found(result)}" if result.empty_mask else ""
                shrunk = f" ({result.shrunk})" if result.shrunk else ""
                bar.write(f"wrote {shown(job.out)}{unchanged}{shrunk}", file=sys.stdout)
        except (KeyboardInterrupt, NotWritten):
            bar.close()
            print(f"stopped: {len(done) + made} of {len(jobs)} pictures are done, and the same command goes on from "
                  "there", file=sys.stderr)
            raise
    print(f"{made} edited, {len(done)} done before, {len(failed)} failed; {rows:,} rows through the U-Net in "
          f"{time.perf_counter() - started:.1f} s, {str(network.dtype).removeprefix('torch.')} on {network.device}")
    for line in failed:
        print(line, file=sys.stderr)
    if failed:
        raise ValueError(f"{len(failed)} of {len(jobs)} pictures failed: the same command tries them again")


def jobs_of(told: Mapping[str, Any]) -> list[Job]:
    """The jobs of several pictures or of a table, checked."""
    from ..pictures.picture_files import check_readable
    from .jobs.job import job_of
    from .jobs.run import check
    from .jobs.table import read_table

    images, table, folder = told["images"] or [], told["jobs"], told["out"] or FOLDER
    if table and images:
        raise ValueError(f"--jobs {str(table)!r} names its pictures itself: leave out {images[0]!r}")
    for image in images:
        check_readable(image)
    jobs = read_table(table, told, folder) if table else [
        job_of(told, image, folder / f"{Path(image).stem}-edit.png") for image in images]
    check(jobs, folder, told["like"])
    return jobs


def check_places(folder: Path, jobs: list[Job]) -> None:
    """Refuse results that can't be written where they are to go; the folder is made, if any goes there."""
    from ..pictures.writing import make_folder

    if any(job.out.parent == folder for job in jobs):
        make_folder(folder)
    for job in jobs:
        check_targets(job.out)
