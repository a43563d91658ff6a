"""`diffedit-min check`. torch is imported inside the function only, so that --help answers at once."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from .console import check_targets, shown
from .options import MODEL_HELP, Quiet


def check(
    model: Annotated[str, Argument(help=MODEL_HELP)] = "tiny",
    quick: Annotated[bool, Option("--quick", help="Without an edit, which takes most of the time.")] = False,
    as_json: Annotated[bool, Option("--json", help="As JSON, for other programs.")] = False,
    out: Annotated[Path | None, Option(help="Also write the pictures in a row: .png, .jpg or .webp.")] = None,
    quiet: Quiet = False, **how_loaded: Any,
) -> None:
    """Check that a checkpoint does here what it should: the first thing to run with real weights. A minute on a GPU.
    """
    check_targets(out)
    from ..bench.check import check as run
    from ..pictures import picture_files

    tell = (lambda _: None) if quiet else partial(print, file=sys.stderr, flush=True)
    found = run(model, quick=quick, tell=tell, **how_loaded)
    if out is not None and found.pictures:
        picture_files.save(found.strip, out)
    print(json.dumps(found.record(), indent=2) if as_json else found)
    if out is not None and found.pictures:
        print(f"wrote {shown(out)}", file=sys.stderr if as_json else sys.stdout)
    if found.wrong:
        raise ValueError(f"{len(found.wrong)} of {len(found.lines)} lines are not as expected: "
                         + ", ".join(line.what for line in found.wrong))
