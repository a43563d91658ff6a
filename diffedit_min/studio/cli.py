"""The command `diffedit-min`: the library's functions from a shell. It holds no algorithm.

What can be refused early is refused before any work, and files are written last, whole or not at all. torch is
imported inside the commands only, so that --help and --version answer at once. Exit codes: console.py.
"""

from __future__ import annotations

import json
import math
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from ..core import __version__
from .app.command import serve
from .bench_command import bench
from .check_command import check
from .command_help import Command, ListsCommand
from .comparisons_command import compare, grid
from .console import check_targets, expected, nothing_found, tell, timed, write_report, wrote
from .edit_command import edit
from .options import (
    MODEL_HELP,
    Debug,
    Film,
    Model,
    Options,
    Picture,
    Preset,
    Query,
    Quiet,
    Reference,
    Report,
    Seed,
    Size,
    Strip,
    shared,
)
from .speed_command import speed
from .streams import heed_signals, prepare_streams

if TYPE_CHECKING:
    from ..methods import Asked

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


def show_version(wanted: bool) -> None:
    if wanted:
        print(f"diffedit_min {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    ctx: typer.Context,
    version: Annotated[bool, Option("--version", is_eager=True, callback=show_version, help="Show it.")] = False,
    debug: Debug = False,
) -> None:
    """Edit pictures by text with DiffEdit (arXiv:2210.11427), which finds by itself where to edit. Try the demo."""
    if debug:   # goes before the command's name or after it
        ctx.default_map = {name: {"debug": True} for name in ctx.command.commands}


# ---------------------------------------------------------------- the commands


@app.command(cls=Command)
@shared
def demo(
    out: Annotated[Path, Option(help="The strip of pictures to write.")] = Path("demo.png"),
    seed: Annotated[int, Option(help="Which scene, from 0 up; and the seed of the random noise.")] = 0,
    change: Annotated[str | None, Option(metavar="WHAT=VALUE", help="The edit, for example fruit=pears, "
                                         "container=basket or surface=marble. Left out: another fruit.")] = None,
    query: Annotated[str | None, Option(help="Your own words for that edit. Left out: its full caption.")] = None,
    preset: Preset = "recommended", report: Report = None, strip: Strip = None, film: Film = None,
    option: Options = None,
    quiet: Quiet = False,
) -> None:
    """Edit a drawn scene with the embedded model, and measure the edit against the true answer."""
    from .. import loading
    from ..bench.measures import against_truth
    from ..methods import METHODS, Asked
    from ..pictures import picture, picture_files
    from ..pictures.drawing import overlay
    from ..pictures.drawing import strip as side_by_side
    from ..pictures.metadata import texts
    from ..tiny.scenes import demo_scenes

    check_targets(out, strip, report=report, film=film)
    scene, answer = demo_scenes(seed, change)
    asked = Asked(METHODS["diffedit"], answer.caption if query is None else query, scene.caption, seed, preset=preset,
                  options=METHODS["diffedit"].parsed(option or ()))
    started = time.perf_counter()
    model = loading.load()
    load_seconds = time.perf_counter() - started
    side = math.isqrt(model.native_area)
    image, truth = scene.render(side), answer.render(side)
    edit, seconds = timed(asked, quiet, expected(quiet, asked, model), model, image,
                          keep="trace" if report or strip or film else "result")
    shown = side_by_side(
        [edit.input, picture.heat(edit.mask_map, edit.frame, edit.factor), overlay(edit.input, edit.mask_image),
         edit.image, truth],
        [scene.caption, "difference map", "mask", asked.query, "true answer"])
    picture_files.save(shown, out, texts(edit.settings, shown.size))
    write_report(quiet, edit, model, report, strip, film, truth=truth, again=demo_again(asked, change))
    print(f"input                   {scene.caption}\nquery                   {asked.query}")
    for name, value, what in against_truth(edit, truth):
        print(f"{name:<23} {value} {what}")
    print(f"rows                    {edit.rows} through the U-Net: "
          + ", ".join(f"{label} {rows}" for label, rows in edit.rows_for.items()))
    print(f"seconds                 {load_seconds:.1f} for loading, {seconds:.1f} for the edit")
    wrote(out, report, strip, film)


def demo_again(asked: Asked, change: str | None) -> dict[str, str]:
    """The command that repeats a demo."""
    from .repeat import typed

    words = ["diffedit-min", "demo", "--seed", str(asked.seed), "--query", asked.query, "--preset", asked.preset]
    words += ["--change", change] if change is not None else []
    for name, value in asked.options.items():
        words += ["-o", f"{name}={typed(asked.method.known[name], value)}"]
    return {"As a command": shlex.join(words)}


app.command("edit", cls=Command)(shared(edit))


@app.command("mask", cls=Command)
@shared
def mask_command(
    image: Picture, query: Query, reference: Reference = "", model: Model = "tiny",
    out: Annotated[Path | None, Option(help="The mask, white = edit. Left out: IMAGE's name with -mask.png.")] = None,
    map_out: Annotated[Path | None, Option("--map", help="The map that the mask is cut from, in colours from black (0) "
                                           "to yellow (1). Left out: IMAGE's name with -map.png.")] = None,
    seed: Seed = 0, size: Size = None, preset: Preset = "recommended", option: Options = None, quiet: Quiet = False,
    **how_loaded: Any,
) -> None:
    """Find where DiffEdit would edit, and stop there."""
    from .. import loading
    from ..methods import METHODS, Asked
    from ..pictures import picture, picture_files
    from ..pictures.metadata import texts

    out, map_out = out or Path(f"{Path(image).stem}-mask.png"), map_out or Path(f"{Path(image).stem}-map.png")
    check_targets(out, map_out, reads=[image])
    opened, options = picture_files.open_picture(image), METHODS["diffedit"].parsed(option or ())
    asked = Asked(METHODS["diffedit"], query, reference, seed, size, preset, options).without_levels()
    network = loading.load(model, **how_loaded)
    edit, seconds = timed(asked, quiet, expected(quiet, asked, network), network, opened)
    # `edit --like` of a mask is to edit what it shows: this command's ratio is not one to repeat.
    settings = {name: value for name, value in edit.settings.items() if name != "encoding_ratio"}
    text = texts(settings, edit.input.size)
    picture_files.save(edit.mask_image, out, text)
    picture_files.save(picture.heat(edit.mask_map, edit.frame, edit.factor), map_out, text)
    tell(edit, seconds, network, out, map_out)
    if edit.empty_mask:
        print(nothing_found(edit))


@app.command(cls=Command)
@shared
def invert(
    image: Picture,
    reference: Annotated[str, Option(help="The text under which it is encoded and decoded. Left out: the empty text, "
                                     "under which DiffEdit encodes.")] = "",
    model: Model = "tiny",
    out: Annotated[Path | None, Option(help="The reconstruction. Left out: IMAGE's name with -inverted.png.")] = None,
    size: Size = None, option: Options = None, quiet: Quiet = False, **how_loaded: Any,
) -> None:
    """Encode a picture towards noise and decode it again, without a query: what does that lose?"""
    from .. import loading
    from ..methods import METHODS, Asked
    from ..pictures import picture, picture_files
    from ..pictures.metadata import texts

    out = out or Path(f"{Path(image).stem}-inverted.png")
    check_targets(out, reads=[image])
    opened, options = picture_files.open_picture(image), METHODS["invert"].parsed(option or ())
    asked = Asked(METHODS["invert"], reference=reference, size=size, options=options)
    network = loading.load(model, **how_loaded)
    edit, seconds = timed(asked, quiet, expected(quiet, asked, network), network, opened)
    vae = asked.without_levels()(network, opened, reuse=edit)
    before, after = edit.encoded[0].latent, edit.decoded[0].latent
    picture_files.save(edit.image, out, texts(edit.settings, edit.image.size))
    tell(edit, seconds, network, out)
    print(f"reconstruction against the input: {picture.psnr(edit.image, opened):.2f} dB PSNR")
    print(f"the VAE alone against the input: {picture.psnr(vae.image, opened):.2f} dB PSNR")
    print(f"relative latent error: {((after - before).norm() / before.norm()).item():.3g}")


@app.command("info", cls=Command)
@shared
def info_command(
    name: Annotated[str, Argument(metavar="MODEL|NAME", help=f"{MODEL_HELP} Or the name of a method or "
                                  "a sampler.")] = "tiny",
    verify: Annotated[bool, Option("--verify", help="Read every number, and find damaged ones.")] = False,
    as_json: Annotated[bool, Option("--json", help="As JSON, for other programs.")] = False,
    **source: Any,
) -> None:
    """Describe a model: its files and whether they fit, and which settings hold with it. Or a method or a sampler, by
    its name: what each of its options does."""
    from ..methods import METHODS
    from ..samplers import SAMPLERS
    from . import info

    known = {**SAMPLERS, **METHODS}.get(name.replace("-", "_"))
    if known is not None:
        print("\n".join(info.lines_of(known)))
        return
    record = info.describe(name, verify=verify, **source)
    print(json.dumps(record, indent=2) if as_json else "\n".join(info.lines(record)))


app.command("check", cls=Command)(shared(check))
for name, command in (("grid", grid), ("compare", compare), ("bench", bench), ("speed", speed), ("app", serve)):
    app.command(name, cls=ListsCommand)(shared(command))


def main() -> None:
    """The entry point."""
    prepare_streams()
    heed_signals()
    try:
        app(prog_name="diffedit-min")
    finally:
        try:
            sys.stdout.flush()
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
