"""The command `diffedit-min`: the library's functions from a shell. It holds no algorithm.

What can be refused early is refused before any work, and files are written last, whole or not at all. torch is
imported inside the commands only, so that --help and --version answer at once. Exit codes: console.py.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from .. import __version__
from .app.command import serve
from .bench_command import bench
from .console import (
    MODEL_HELP,
    Config,
    Debug,
    Device,
    DType,
    ListsCommand,
    Model,
    Options,
    Picture,
    Prediction,
    Preset,
    Query,
    Quiet,
    Reference,
    Report,
    Revision,
    Seed,
    Size,
    Strip,
    check_report,
    check_targets,
    one_line_errors,
    source,
    tell,
    timed,
    with_plugins,
    write_report,
)
from .edit_command import edit
from .speed_command import speed

if TYPE_CHECKING:
    from PIL import Image

    from ..methods import Method

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


@app.command()
@with_plugins
def demo(
    out: Annotated[Path, Option(help="The strip of pictures to write.")] = Path("demo.png"),
    seed: Annotated[int, Option(help="Of the scene, from 0 up, and of the random noise.")] = 0,
    change: Annotated[str | None, Option(metavar="WHAT=VALUE", help="The edit, for example fruit=pears, "
                                         "container=basket or surface=marble. Left out: another fruit.")] = None,
    query: Annotated[str | None, Option(help="Your own words for that edit. Left out: its full caption.")] = None,
    preset: Preset = "paper", report: Report = None, strip: Strip = None,
    option: Options = None, quiet: Quiet = False, debug: Debug = False,
) -> None:
    """Edit a drawn scene with the embedded model, and measure the edit against the true answer."""
    with one_line_errors(debug):
        from .. import loading
        from ..methods import METHODS
        from ..pictures import picture_files
        from ..pictures.metadata import texts
        from ..tiny.scenes import demo_scenes
        from .demo import demo_measures, demo_strip

        check_targets(out, *filter(None, [strip]))
        keep = check_report(report, strip)
        METHODS["diffedit"].preset(preset)     # refuses one that isn't known
        options = METHODS["diffedit"].parsed(option or ())
        scene, answer = demo_scenes(seed, change)
        started = time.perf_counter()
        model = loading.load()
        load_seconds = time.perf_counter() - started
        side = math.isqrt(model.native_area)
        image, truth = scene.render(side), answer.render(side)
        query = answer.caption if query is None else query
        edit, seconds = timed(METHODS["diffedit"], quiet, model, image, query, scene.caption, seed=seed, preset=preset,
                              keep=keep, **options)
        shown = demo_strip(edit, truth)
        picture_files.save(shown, out, texts(edit.settings, shown.size))
        write_report(quiet, edit, model, report, strip, truth)
        print(f"input      {scene.caption}\nquery      {query}")
        print("\n".join(demo_measures(edit, truth)))
        print(f"seconds    {load_seconds:.1f} for loading, {seconds:.1f} for the edit")
        print(f"wrote {' and '.join(map(str, filter(None, [out, report, strip])))}")


app.command("edit")(with_plugins(edit))


@app.command("mask")
@with_plugins
def mask_command(
    image: Picture, query: Query, reference: Reference = "", model: Model = "tiny",
    out: Annotated[Path | None, Option(help="The mask, white = edit. Left out: IMAGE's name with -mask.png.")] = None,
    map_out: Annotated[Path | None, Option("--map", help="The map that the mask is cut from, in colours from black (0) "
                                           "to yellow (1). Left out: IMAGE's name with -map.png.")] = None,
    seed: Seed = 0, size: Size = None, device: Device = "auto", dtype: DType = "auto",
    prediction_type: Prediction = None, config: Config = None, revision: Revision = None, preset: Preset = "paper",
    option: Options = None, quiet: Quiet = False, debug: Debug = False,
) -> None:
    """Find where DiffEdit would edit, and stop there."""
    with one_line_errors(debug):
        from .. import loading
        from ..methods import METHODS
        from ..pictures import picture, picture_files
        from ..pictures.metadata import texts

        out, map_out = out or Path(f"{Path(image).stem}-mask.png"), map_out or Path(f"{Path(image).stem}-map.png")
        opened, options = prepare(image, METHODS["diffedit"], option, out, map_out, preset=preset)
        options["encoding_ratio"] = 0.0     # step 1 only: steps 2 and 3 have no level to go to
        network = loading.load(model, device=device, dtype=dtype, **source(prediction_type, config, revision))
        edit, seconds = timed(METHODS["diffedit"], quiet, network, opened, query, reference, seed=seed, size=size,
                              preset=preset, **options)
        # `edit --like` of a mask is to edit what it shows: this command's ratio is not one to repeat.
        settings = {name: value for name, value in edit.settings.items() if name != "encoding_ratio"}
        text = texts(settings, edit.input.size)
        picture_files.save(edit.mask_image, out, text)
        picture_files.save(picture.heat(edit.mask_map, edit.frame, edit.factor), map_out, text)
        tell(edit, seconds, network, out, map_out)
        if edit.empty_mask:
            print("nothing to change was found: the mask is empty")


@app.command()
@with_plugins
def invert(
    image: Picture, reference: Reference = "", model: Model = "tiny",
    out: Annotated[Path | None, Option(help="The reconstruction. Left out: IMAGE's name with -inverted.png.")] = None,
    size: Size = None, device: Device = "auto", dtype: DType = "auto",
    prediction_type: Prediction = None, config: Config = None, revision: Revision = None, option: Options = None,
    quiet: Quiet = False, debug: Debug = False,
) -> None:
    """Encode a picture towards noise and decode it again, without a query: what does that lose?"""
    with one_line_errors(debug):
        from .. import loading
        from ..methods import METHODS
        from ..pictures import picture, picture_files
        from ..pictures.metadata import texts

        out = out or Path(f"{Path(image).stem}-inverted.png")
        opened, options = prepare(image, METHODS["invert"], option, out)
        network = loading.load(model, device=device, dtype=dtype, **source(prediction_type, config, revision))
        edit, seconds = timed(METHODS["invert"], quiet, network, opened, reference=reference, size=size, **options)
        options["encoding_ratio"] = 0.0     # no level: what the VAE makes of the picture
        vae = METHODS["invert"](network, opened, size=size, reuse=edit, **options)
        before, after = edit.encoded[0].latent, edit.decoded[0].latent
        picture_files.save(edit.image, out, texts(edit.settings, edit.image.size))
        tell(edit, seconds, network, out)
        print(f"reconstruction against the input: {picture.psnr(edit.image, opened):.2f} dB PSNR")
        print(f"the VAE alone against the input: {picture.psnr(vae.image, opened):.2f} dB PSNR")
        print(f"relative latent error: {((after - before).norm() / before.norm()).item():.3g}")


@app.command("info")
@with_plugins
def info_command(
    name: Annotated[str, Argument(metavar="MODEL|NAME", help=f"{MODEL_HELP} Or the name of a method or "
                                  "a sampler.")] = "tiny",
    verify: Annotated[bool, Option("--verify", help="Read every number, and find damaged ones.")] = False,
    as_json: Annotated[bool, Option("--json", help="For machines.")] = False,
    prediction_type: Prediction = None, config: Config = None, revision: Revision = None, debug: Debug = False,
) -> None:
    """What a model is, its files and whether they fit, and which settings hold with it; or what a method's options do.
    """
    with one_line_errors(debug):
        from ..methods import METHODS
        from ..samplers import SAMPLERS
        from . import info

        for known, lines in ((METHODS, info.method_lines), (SAMPLERS, info.sampler_lines)):
            if name.replace("-", "_") in known:
                print("\n".join(lines(known[name.replace("-", "_")])))
                return
        record = info.describe(name, verify=verify, **source(prediction_type, config, revision))
        print(json.dumps(record, indent=2) if as_json else "\n".join(info.lines(record)))


app.command("bench", cls=ListsCommand)(with_plugins(bench))
app.command("speed", cls=ListsCommand)(with_plugins(speed))
app.command("app", cls=ListsCommand)(with_plugins(serve))


# ---------------------------------------------------------------- what a person typed


def prepare(
    image: str, method: Method, option: list[str] | None, *targets: Path, preset: str = "paper"
) -> tuple[Image.Image, dict[str, Any]]:
    """The picture and the options; refuses what it can before a model is loaded."""
    from ..pictures.picture_files import open_picture

    check_targets(*targets)
    method.preset(preset)       # refuses one that isn't known
    return open_picture(image), method.parsed(option or ())


def main() -> None:
    """The entry point."""
    for stream in (sys.stdout, sys.stderr):     # a name that the terminal can't show must not end in an error
        stream.reconfigure(errors="backslashreplace")
    app(prog_name="diffedit-min")
