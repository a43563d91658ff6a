"""`diffedit-min grid` and `diffedit-min compare`: edits of one picture side by side, as a sheet and as a page.

Finished cells are kept in a folder beside the sheet, so that a run that was stopped goes on with the same command.
torch is imported inside the functions only, so that --help answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from .console import check_targets, progress, wrote
from .options import LOADING, MODEL_HELP, Options, Preset, Quiet, Reference, Seed, Size

if TYPE_CHECKING:
    from PIL import Image

    from .comparisons.plan import Plan

Picture = Annotated[str | None, Argument(metavar="IMAGE", show_default=False, help="The picture: a file that Pillow "
                    "can read, of any size. Left out: a drawn scene, --scene.")]
Query = Annotated[str | None, Option(help="What the edited picture should show. Left out, with a scene: its answer's "
                                     "caption.")]
Scene = Annotated[int | None, Option(min=0, help="The drawn scene of this number, whose true answer is known, as in "
                                     "`demo`.")]
Change = Annotated[str | None, Option(metavar="WHAT=VALUE", help="What changes in the scene, for example fruit=pears "
                                      "or surface=marble. Left out: another fruit.")]
Truth = Annotated[str | None, Option(metavar="FILE", help="The true answer, a picture, if you have it.")]
Mask = Annotated[str | None, Option(metavar="FILE", help="A mask of your own for all edits: white = edit.")]
Page = Annotated[Path | None, Option("--page", help="A page, .html, in which a click shows an edit large, with its "
                 "settings and the command that repeats it.")]
AXIS = ("query, reference, seed, size and preset can stand here too. Where commas may be a part of the value, give it "
        "again: --{0} query=\"a dog\" --{0} query=\"a cat\".")


def grid(
    image: Picture = None,
    query: Query = None, reference: Reference = "",
    x: Annotated[list[str] | None, Option("--x", metavar="NAME=VALUE,VALUE...", help="The option of the columns and "
                 f"its values. {AXIS.format('x')}")] = None,
    y: Annotated[list[str] | None, Option("--y", metavar="NAME=VALUE,VALUE...", help="The option of the rows.")] = None,
    method: Annotated[str, Option(help="One of those that `info` lists.")] = "diffedit",
    scene: Scene = None, change: Change = None, truth: Truth = None, mask: Mask = None,
    model: Annotated[str | None, Option(help=f"{MODEL_HELP} Left out: the embedded one that fits the method.")] = None,
    out: Annotated[Path, Option(help="The sheet: .png, .jpg or .webp.")] = Path("grid.png"), page: Page = None,
    seed: Seed = 0, size: Size = None, preset: Preset = "recommended", option: Options = None, quiet: Quiet = False,
    **how_loaded: Any,
) -> None:
    """Two options against each other on one picture, as a labelled sheet; encodings and maps are made once.
    """
    from ..methods import find_method
    from .comparisons.plan import axis_of, plan_grid

    if not x:
        raise ValueError("--x is missing: give an option and its values, for example --x encoding_ratio=0.5,0.7,0.9")
    found = find_method(method)
    axes = axis_of(found, x, "--x"), axis_of(found, y, "--y") if y else None
    given = Given.of(image, scene, change, truth, out, "" if "query" in [axis.name for axis in axes if axis] else query)
    told = {"method": method, "query": query, "reference": reference, "seed": seed, "size": size, "preset": preset,
            "option": option, "mask": mask}
    check_targets(out, report=page, reads=[image, truth, mask])
    models, source = loaded([model or found.embedded_model], how_loaded)
    plan = plan_grid(models[0], given.picture, given.name, given.words(told, found.needs_instruction), *axes,
                     given.truth)
    make_sheet(plan, source, given, out, page, quiet)


def compare(
    image: Picture = None,
    query: Query = None, reference: Reference = "",
    instruction: Annotated[str, Option(help="In place of the query, for methods that are told what to do.")] = "",
    methods: Annotated[list[str] | None, Option(help="Left out: all, but those that train; yours of --plugin "
                                                "too.")] = None,
    scene: Scene = None, change: Change = None, truth: Truth = None, mask: Mask = None,
    model: Annotated[list[str] | None, Option(help=f"{MODEL_HELP} Several can be given: each method takes the first "
                     "that it works with. Left out: the embedded ones.")] = None,
    out: Annotated[Path, Option(help="The sheet: .png, .jpg or .webp.")] = Path("compare.png"), page: Page = None,
    seed: Seed = 0, size: Size = None, preset: Preset = "recommended",
    option: Annotated[list[str] | None, Option("-o", "--option", metavar="[METHOD:]NAME=VALUE", help="An option of a "
                      "method, or of all that have it.")] = None,
    quiet: Quiet = False, **how_loaded: Any,
) -> None:
    """Methods on one picture, as a labelled sheet with what each costs. Those that can't run here are named there.
    """
    from .comparisons.plan import plan_comparison

    given = Given.of(image, scene, change, truth, out, query)
    told = {"query": query, "reference": reference, "seed": seed, "size": size, "preset": preset, "option": option,
            "mask": mask}
    check_targets(out, report=page, reads=[image, truth, mask])
    models, source = loaded(model or ["tiny", "tiny-instruct"], how_loaded)
    plan = plan_comparison(models, given.picture, given.name, given.words(told), methods or None,
                           instruction or given.instruction, given.truth)
    make_sheet(plan, source, given, out, page, quiet)


# ---------------------------------------------------------------- the picture and its words


@dataclass(frozen=True)
class Given:
    """The picture of all edits, from a file or drawn, and what is known of it."""

    picture: Image.Image
    name: str                       # its file; a scene's is written into the folder of cells
    cells: Path                     # that folder
    truth: Image.Image | None
    query: str = ""                 # of a scene; "" for a file
    reference: str = ""
    instruction: str = ""

    @classmethod
    def of(
        cls, image: str | None, scene: int | None, change: str | None, truth: str | None, out: Path, query: str | None
    ) -> Given:
        """query: if a person says it. Then the true answer to a scene is the one that it means, or that of `change`."""
        from ..pictures.picture_files import open_picture, open_upright
        from ..tiny.instructions import instruction
        from ..tiny.scene import VALUES
        from ..tiny.scenes import demo_scenes, meant

        cells = out.with_suffix(".cells")
        if image is not None:
            for name, value in (("--scene", scene), ("--change", change)):
                if value is not None:
                    raise ValueError(f"{name} {value} is for drawn scenes: leave it out, or {image!r}")
            return cls(open_upright(image), image, cells, None if truth is None else open_picture(truth))
        if truth is not None:
            raise ValueError(f"--truth {truth!r} is for a picture of your own: a scene's true answer is known")
        before, after = demo_scenes(scene or 0, change)
        answer = after if query is None or change is not None else meant(before, query)
        differ = [kind for kind in VALUES if answer is not None and getattr(before, kind) != getattr(answer, kind)]
        said = instruction(differ[0], before, answer) if len(differ) == 1 else ""
        return cls(before.render(), str(cells / "input.png"), cells, answer and answer.render(), after.caption,
                   before.caption, said)

    def words(self, told: dict[str, Any], instructed: bool = False) -> dict[str, Any]:
        """What was told, with the scene's own words where nothing was."""
        query = self.instruction if instructed else self.query
        return {**told, "query": query if told["query"] is None else told["query"],
                "reference": told["reference"] or self.reference}


def loaded(names: Sequence[str], how_loaded: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """The models, and where their files come from besides their names."""
    from ..loading.held import Models

    models = Models(tuple(names), **{name: how_loaded[name] for name in LOADING})
    return [models.get(name) for name in names], models.source


# ---------------------------------------------------------------- the run


def make_sheet(
    plan: Plan, source: dict[str, Any], given: Given, out: Path, page: Path | None, quiet: bool
) -> None:
    """Make the cells that are not there yet, then the sheet."""
    from ..pictures.picture_files import save
    from ..pictures.writing import make_folder
    from .comparisons import Cell, finished
    from .comparisons.making import cost_of_all, named

    make_folder(given.cells)
    if given.query:         # a scene, not a file of somebody's own that lies there
        save(given.picture, given.name)
    done: list[Cell] = []
    try:
        with progress(quiet, None if quiet else cost_of_all(plan)) as on_step:
            sheet = finished(plan, given.cells, done.append, source,
                             lambda place, step: on_step(named(plan, place, step)))
    except KeyboardInterrupt:
        print(f"stopped: {len(done)} of {len(plan.cells)} edits are done, and the same command goes on from there",
              file=sys.stderr)
        raise
    sheet.save(out, page)
    wrote(out, page)
    print(f"{sheet.cost}\nThe edits are in {given.cells}/, with those of earlier runs: delete it when you need them no "
          "more.")
    if sheet.left_out:
        print(sheet.left_out)
    for cell in sheet.cells:
        if cell.why:
            print(f"failed: {cell.label}: {cell.why}", file=sys.stderr)
