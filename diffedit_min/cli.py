"""The command `diffedit-min`: the library's functions from a shell. It holds no algorithm.

What can be refused early is refused before any work, and files are written last, whole or not at all. torch is
imported inside the commands only, so that --help and --version answer at once. Exit codes: console.py.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from . import __version__
from .app.command import serve
from .bench.command import bench
from .bench.speed.command import speed
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
    Revision,
    Seed,
    Size,
    one_line_errors,
    source,
)
from .typed import dashed, embedded_model, find_method, parse_options

if TYPE_CHECKING:
    from PIL import Image

    from .methods import Edit, Method, Step
    from .model.stable_diffusion import StableDiffusion

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
def demo(
    out: Annotated[Path, Option(help="The strip of pictures to write.")] = Path("demo.png"),
    seed: Annotated[int, Option(help="Of the scene, from 0 up, and of the random noise.")] = 0,
    change: Annotated[str | None, Option(metavar="WHAT=VALUE", help="The edit, for example fruit=pears, "
                                         "container=basket or surface=marble. Left out: another fruit.")] = None,
    query: Annotated[str | None, Option(help="Your own words for that edit. Left out: its full caption.")] = None,
    preset: Preset = "paper",
    option: Options = None, quiet: Quiet = False, debug: Debug = False,
) -> None:
    """Edit a drawn scene with the embedded model, and measure the edit against the true answer."""
    with one_line_errors(debug):
        from . import loading, methods, picture
        from .tiny.demo import demo_measures, demo_scenes, demo_strip

        check_targets(out)
        methods.diffedit.preset(preset)     # refuses one that isn't known
        options = parse_options(methods.diffedit, option)
        scene, answer = demo_scenes(seed, change)
        started = time.perf_counter()
        model = loading.load()
        load_seconds = time.perf_counter() - started
        side = math.isqrt(model.native_area)
        image, truth = scene.render(side), answer.render(side)
        query = answer.caption if query is None else query
        edit, seconds = timed(methods.diffedit, quiet, model, image, query, scene.caption, seed=seed, preset=preset,
                              **options)
        picture.save(demo_strip(edit, truth), out, record(edit))
        print(f"input      {scene.caption}\nquery      {query}")
        print("\n".join(demo_measures(edit, truth)))
        print(f"seconds    {load_seconds:.1f} for loading, {seconds:.1f} for the edit\nwrote {out}")


@app.command("edit")
def edit_command(
    query: Annotated[str, Option(help="What the edited picture should show; for instruct-pix2pix, what to do.")],
    image: Annotated[str | None, Argument(metavar="IMAGE", show_default=False, help="The picture: a file that Pillow "
                     "can read, of any size. prompt-to-prompt can do without: it makes one of the reference.")] = None,
    reference: Reference = "",
    model: Annotated[str | None, Option(help=f"{MODEL_HELP} Left out: the embedded one that fits the method.")] = None,
    method: Annotated[str, Option(help="One of those that `info` lists.")] = "diffedit",
    out: Annotated[Path | None, Option(help="The result: .png, which holds its settings too, .jpg or .webp. "
                                       "Left out: IMAGE's name with -edit.png, in the current folder.")] = None,
    source_out: Annotated[Path | None, Option(help="The input too, as methods with two branches make it anew.")] = None,
    seed: Seed = 0, size: Size = None,
    mask: Annotated[str | None, Option(help="A mask of your own, a picture: white = edit.")] = None,
    device: Device = "auto", dtype: DType = "auto",
    prediction_type: Prediction = None, config: Config = None, revision: Revision = None,
    preset: Preset = "paper", option: Options = None, quiet: Quiet = False, debug: Debug = False,
) -> None:
    """Edit a picture: --query says what it should show."""
    with one_line_errors(debug):
        from . import loading, picture

        chosen = find_method(method)
        out = out or Path(f"{Path(image or 'generated').stem}-edit.png")
        if source_out and not chosen.remakes:
            raise ValueError(f"{dashed(chosen.name)} has no source branch: leave out --source-out {str(source_out)!r}")
        opened, options = prepare(image, chosen, option, out, *filter(None, [source_out]), preset=preset)
        given = None if mask is None else picture.open_mask(mask)
        network = loading.load(model or embedded_model(chosen), device=device, dtype=dtype,
                               **source(prediction_type, config, revision))
        edit, seconds = timed(chosen, quiet, network, opened, query, reference, seed=seed, size=size,
                              mask=given, preset=preset, **options)
        picture.save(edit.image, out, record(edit))
        if source_out:
            picture.save(edit.source, source_out, record(edit))
        tell(edit, seconds, network, out, *filter(None, [source_out]))
        if edit.empty_mask:
            print("nothing to change was found: the mask is empty, and the input picture came back")


@app.command("mask")
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
        from . import loading, methods, picture

        out, map_out = out or Path(f"{Path(image).stem}-mask.png"), map_out or Path(f"{Path(image).stem}-map.png")
        opened, options = prepare(image, methods.diffedit, option, out, map_out, preset=preset)
        options["encoding_ratio"] = 0.0     # step 1 only: steps 2 and 3 have no level to go to
        network = loading.load(model, device=device, dtype=dtype, **source(prediction_type, config, revision))
        edit, seconds = timed(methods.diffedit, quiet, network, opened, query, reference, seed=seed, size=size,
                              preset=preset, **options)
        picture.save(edit.mask_image, out, record(edit))
        picture.save(picture.heat(edit.mask_map, edit.frame, edit.factor), map_out, record(edit))
        tell(edit, seconds, network, out, map_out)
        if edit.empty_mask:
            print("nothing to change was found: the mask is empty")


@app.command()
def invert(
    image: Picture, reference: Reference = "", model: Model = "tiny",
    out: Annotated[Path | None, Option(help="The reconstruction. Left out: IMAGE's name with -inverted.png.")] = None,
    size: Size = None, device: Device = "auto", dtype: DType = "auto",
    prediction_type: Prediction = None, config: Config = None, revision: Revision = None, option: Options = None,
    quiet: Quiet = False, debug: Debug = False,
) -> None:
    """Encode a picture towards noise and decode it again, without a query: what does that lose?"""
    with one_line_errors(debug):
        from . import loading, methods, picture

        out = out or Path(f"{Path(image).stem}-inverted.png")
        opened, options = prepare(image, methods.invert, option, out)
        network = loading.load(model, device=device, dtype=dtype, **source(prediction_type, config, revision))
        edit, seconds = timed(methods.invert, quiet, network, opened, reference=reference, size=size, **options)
        options["encoding_ratio"] = 0.0     # no level: what the VAE makes of the picture
        vae = methods.invert(network, opened, size=size, encoded=edit.encoded, **options)
        before, after = edit.encoded[0].latent, edit.decoded[0].latent
        picture.save(edit.image, out, record(edit))
        tell(edit, seconds, network, out)
        print(f"reconstruction against the input: {picture.psnr(edit.image, opened):.2f} dB PSNR")
        print(f"the VAE alone against the input: {picture.psnr(vae.image, opened):.2f} dB PSNR")
        print(f"relative latent error: {((after - before).norm() / before.norm()).item():.3g}")


@app.command("info")
def info_command(
    model: Annotated[str, Argument(metavar="MODEL", help=MODEL_HELP)] = "tiny",
    verify: Annotated[bool, Option("--verify", help="Read every number, and find damaged ones.")] = False,
    as_json: Annotated[bool, Option("--json", help="For machines.")] = False,
    prediction_type: Prediction = None, config: Config = None, revision: Revision = None, debug: Debug = False,
) -> None:
    """What a model is, its files and whether they fit, which settings hold with it, and the methods' options."""
    with one_line_errors(debug):
        from . import info

        record = info.describe(model, verify=verify, **source(prediction_type, config, revision))
        print(json.dumps(record, indent=2) if as_json else "\n".join(info.lines(record)))


app.command("bench", cls=ListsCommand)(bench)
app.command("speed", cls=ListsCommand)(speed)
app.command("app", cls=ListsCommand)(serve)


# ---------------------------------------------------------------- what a person typed


def prepare(
    image: str | None, method: Method, option: list[str] | None, *targets: Path, preset: str = "paper"
) -> tuple[Image.Image | None, dict[str, Any]]:
    """The picture, if there is one, and the options; refuses what it can before a model is loaded."""
    from .picture import open_picture

    check_targets(*targets)
    method.preset(preset)       # refuses one that isn't known
    if image is None and not method.generates:
        raise ValueError(f"{dashed(method.name)} needs a picture to edit: give its file, IMAGE")
    return None if image is None else open_picture(image), parse_options(method, option)


def check_targets(*paths: Path) -> None:
    """Refuse, before any work, a file that couldn't be written after it."""
    from .picture import check_target

    for path in paths:
        check_target(path)
    if len({path.resolve() for path in paths}) < len(paths):
        raise ValueError(f"{str(paths[0])!r} can't hold two results: give each a file of its own")


# ---------------------------------------------------------------- a run, and what is said of it


def timed(method: Method, quiet: bool, *arguments: Any, **options: Any) -> tuple[Edit, float]:
    """Run a method with progress bars: its Edit, and the seconds it took."""
    started = time.perf_counter()
    with progress(quiet) as on_step:
        edit = method(*arguments, on_step=on_step, **options)
    return edit, time.perf_counter() - started


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


def record(edit: Edit) -> dict[str, str]:
    """The text that a PNG carries: everything that the result depends on."""
    return {"diffedit": json.dumps(edit.settings)}


def tell(edit: Edit, seconds: float, model: StableDiffusion, *paths: Path) -> None:
    """What was written, what it cost in which dtype, and how much of the picture (padding not counted) the mask covers.
    """
    print(f"wrote {' and '.join(map(str, paths))}")
    covered = ""
    if edit.mask is not None:
        covered = f"; the mask covers {edit.mask.cpu()[edit.frame.valid(edit.factor)].float().mean().item():.1%}"
    kind = str(model.dtype).removeprefix("torch.")
    back = f" and {edit.backward_rows} back" if edit.backward_rows else ""
    print(f"{edit.rows} rows through the U-Net{back} in {seconds:.1f} s, {kind} on {model.device}{covered}")


def main() -> None:
    """The entry point."""
    for stream in (sys.stdout, sys.stderr):     # a name that the terminal can't show must not end in an error
        stream.reconfigure(errors="backslashreplace")
    app(prog_name="diffedit-min")
