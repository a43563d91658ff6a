"""`diffedit-min speed`. torch is imported inside the functions only, so that --help answers at once."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

from typer import Option

from .console import check_known
from .options import MODEL_HELP, Options, Quiet

PARTS_HELP = """unet: one call; operations: its time by kind of operation; vae; edit: a whole edit, and what it would
cost at a larger size; memory: an edit's peak; compile: the U-Net with torch.compile. Left out: unet operations vae
edit."""


def speed(
    model: Annotated[str, Option(help="sd15-shape, sd21-shape or sdxl-shape (full size, random weights), or a model: "
                                 + MODEL_HELP)] = "tiny",
    size: Annotated[list[int] | None, Option(help="Pixels along each side of the picture. Left out: the model's own. "
                                             "Whole edits run at 256 at most, and are composed for more.")] = None,
    rows: Annotated[list[int] | None, Option(min=1, max=1024, help="Rows of a U-Net call. Left out: 1 2 4 8.")] = None,
    dtype: Annotated[list[str] | None, Option(help="float32, bfloat16, float16 or float64. Left out: float32.")] = None,
    device: Annotated[str, Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    parts: Annotated[list[str] | None, Option(help=PARTS_HELP)] = None,
    preset: Annotated[list[str] | None, Option(help="Of the edit, recommended, paper or fast; each is measured. "
                                              "Left out: recommended.")] = None,
    against: Annotated[str | None, Option(help="Another program that takes turns with this one: diffusers, from a "
                                          "checkout (tests/against_diffusers.py), or the path of such a file.")] = None,
    repeats: Annotated[int, Option(min=1, max=1000, help="How often each is measured; the medians are shown.")] = 5,
    threads: Annotated[int | None, Option(min=1, max=1024, help="Threads of torch. Left out: its own choice.")] = None,
    out: Annotated[Path, Option(help="The folder that table.md and table.csv are written to, over older ones.")] =
        Path("runs/speed"),
    option: Options = None, quiet: Quiet = False,
) -> None:
    """Measure an edit and its networks against this machine's own ceilings: tables with ratios."""
    import torch

    from ..bench.programs import Plan, load_rival, rival_file
    from ..bench.speed import PARTS, measure
    from ..loading import DTYPES, usable_device
    from ..methods.paper import diffedit

    for name in preset or ():
        diffedit.preset(name)       # refuses one that it hasn't
    if against is not None:
        against = str(rival_file(against))
        load_rival(Path(against))   # refuses, before any work, what isn't installed
    check_known(dtype or (), DTYPES, "--dtype")
    check_known(parts or (), PARTS, "--parts")
    settings = {"sizes": size, "rows": rows, "presets": preset, "dtypes": dtype, "parts": parts}
    plan = Plan(model, options=diffedit.parsed(option or ()), device=str(usable_device(device)), repeats=repeats,
                against=against, **{name: tuple(dict.fromkeys(values)) for name, values in settings.items() if values})
    tell: Callable[[str], None] = (lambda _: None) if quiet else partial(print, file=sys.stderr, flush=True)
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        measure(plan, out, tell)
    except KeyboardInterrupt:
        print(f"stopped: what is done is in {out}", file=sys.stderr)
        raise
    finally:
        torch.set_num_threads(before)
    print((out / "table.md").read_text(encoding="utf-8"))
    print(f"wrote {out / 'table.md'}, {out / 'table.csv'}")
