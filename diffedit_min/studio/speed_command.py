"""`diffedit-min speed`. torch is imported inside the functions only, so that --help answers at once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from .console import MODEL_HELP, Debug, Options, Quiet, one_line_errors

if TYPE_CHECKING:
    from ..bench.speed.plan import Plan

PARTS_HELP = """unet: one call; operations: its time by kind of operation; vae; edit: a whole edit, and what it would
cost at a larger size; memory: an edit's peak; compile: the U-Net with torch.compile. Left out: unet operations vae
edit."""


def speed(
    model: Annotated[str, Option(help="sd15-shape, sd21-shape or sdxl-shape (full size, random weights), or a model: "
                                 + MODEL_HELP)] = "tiny",
    size: Annotated[list[int] | None, Option(help="Pixels along each side of the picture. Left out: the model's own. "
                                             "Whole edits run at 256 at most, and are composed for more.")] = None,
    rows: Annotated[list[int] | None, Option(min=1, help="Of a U-Net call. Left out: 1 2 4 8.")] = None,
    dtype: Annotated[list[str] | None, Option(help="float32, bfloat16, float16 or float64. Left out: float32.")] = None,
    parts: Annotated[list[str] | None, Option(help=PARTS_HELP)] = None,
    preset: Annotated[list[str] | None, Option(help="Of the edit, paper or fast; each is measured. Left out: "
                                              "paper.")] = None,
    against: Annotated[str | None, Option(help="Another program that takes turns with this one: diffusers, from a "
                                          "checkout (tests/against_diffusers.py), or the path of such a file.")] = None,
    repeats: Annotated[int, Option(min=1, help="Rounds, of which the medians are shown.")] = 5,
    threads: Annotated[int | None, Option(min=1, help="Left out: torch's choice.")] = None,
    out: Annotated[Path, Option(help="The folder to write to; a run that was stopped there goes on.")] =
        Path("runs/speed"),
    option: Options = None, quiet: Quiet = False, debug: Debug = False,
) -> None:
    """Measure an edit and its networks against this machine's own ceilings, on the CPU: tables with ratios."""
    with one_line_errors(debug):
        import torch

        from ..bench.speed import rival
        from ..bench.speed.plan import PARTS, Plan
        from ..loading import DTYPES
        from ..methods.paper import diffedit

        for name in preset or ():
            diffedit.preset(name)       # refuses one that it hasn't
        settings = {
            "sizes": size, "rows": rows, "presets": preset,
            "dtypes": known(dtype, DTYPES, "--dtype"), "parts": known(parts, tuple(PARTS), "--parts"),
        }
        plan = Plan(model, out, options=diffedit.parsed(option or ()), repeats=repeats,
                    against=None if against is None else rival.find(against),
                    **{name: tuple(dict.fromkeys(values)) for name, values in settings.items() if values})
        if plan.against:
            rival.load(plan.against)        # refuses, before any work, what isn't installed
        before = torch.get_num_threads()
        torch.set_num_threads(threads or before)
        try:
            run(plan, quiet)
        finally:
            torch.set_num_threads(before)


def known(values: Sequence[str] | None, names: Sequence[str], option: str) -> Sequence[str] | None:
    """The values, if each is known."""
    for value in values or ():
        if value not in names:
            raise ValueError(f"{option} {value!r} is not known; known are {', '.join(names)}")
    return values


def run(plan: Plan, quiet: bool) -> None:
    """Measure what is missing, then show the tables."""
    from ..bench.run import begin
    from ..bench.speed.plan import work

    begin(plan)
    tell: Callable[[str], None] = (lambda _: None) if quiet else lambda line: print(line, file=sys.stderr, flush=True)
    try:
        work(plan, tell)
    except KeyboardInterrupt:
        print(f"stopped: what is done is in {plan.out}, and the same command goes on from there", file=sys.stderr)
        raise
    print((plan.out / "table.md").read_text())
    print(f"wrote {plan.out / 'table.md'}, {plan.out / 'table.csv'}")
