"""`diffedit-min app`. gradio and torch are imported inside the function only, so that --help answers at once."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from typer import Option

from ..options import MODEL_HELP
from ..streams import Terminated
from .files import KEPT_SECONDS, delete_old, own_folder
from .guard import is_own

LOCAL = ("127.0.0.1", "localhost", "::1")


def serve(
    model: Annotated[list[str] | None, Option(help=f"{MODEL_HELP} Can be repeated: the page offers those that it is "
                                              "started with. Left out: tiny and tiny-instruct.")] = None,
    any_model: Annotated[bool, Option("--any-model", help="Let the page load any name or path that is typed into "
                                      "it. Only for people who may read this machine's files.")] = False,
    host: Annotated[str, Option(help="The address to listen at. 0.0.0.0: all of this machine's, for others "
                                "too.")] = "127.0.0.1",
    port: Annotated[int | None, Option(min=1, max=65535, help="Left out: the first free port from 7860.")] = None,
    share: Annotated[bool, Option("--share", help="Also make a public link, through Gradio's servers.")] = False,
    root_path: Annotated[str, Option(help="Where a proxy shows the page, if not at the top: /edit, or "
                                     "https://example.org/edit.")] = "",
    allow_host: Annotated[list[str] | None, Option(help="A name of this machine or of a proxy under which the page may "
                                                   "be asked for, besides its own. Can be repeated.")] = None,
    max_megabytes: Annotated[float, Option(help="The largest file of a picture, in megabytes.")] = 20,
    max_megapixels: Annotated[float, Option(help="The largest picture, in millions of pixels.")] = 40,
    **how_loaded: Any,
) -> None:
    """Edit in a browser: a page on this machine. Needs the extra "app"."""
    for option, number in (("--max-megabytes", max_megabytes), ("--max-megapixels", max_megapixels)):
        if not number > 0:
            raise ValueError(f"{option} must be above 0, not {number:g}")
    if root_path and not root_path.startswith(("/", "http://", "https://")):
        raise ValueError(f"--root-path must start with / or https://, not be {root_path!r}")
    if importlib.util.find_spec("gradio") is None:
        raise ValueError('the page needs gradio: pip install "diffedit-min[app]"')
    names = {*(allow_host or ()), urlsplit(root_path).hostname or "", "" if is_own(host) else host} - {""}
    with own_folder() as folder:
        os.environ["GRADIO_TEMP_DIR"] = str(folder)     # all that is uploaded or made; read when gradio makes a page
        from ...loading.held import Models
        from .page import launch, make_page

        models = Models(model or ("tiny", "tiny-instruct"), any_name=any_model, **how_loaded)
        for name in models.names:
            models.get(name)
        page = make_page(models, max_megabytes, max_megapixels)
        address = launch(page, host, port, max_megabytes, names, root_path=root_path, share=share)
        if host not in LOCAL:
            print(f"warning: listening at {host}: everyone who can reach this machine can use the page",
                  file=sys.stderr)
        print(f"the page is at {address} until Ctrl-C", flush=True)      # a pipe would keep it back
        try:
            wait(folder, page.forget)
        finally:
            page.close()


def wait(folder: Path, forget: Callable[[], None]) -> None:
    """Until Ctrl-C. Meanwhile old sessions are forgotten, and files are deleted when they are old, but not those that
    the page was made with.
    """
    made = set(folder.rglob("*"))
    try:
        while True:
            time.sleep(60)
            forget()
            delete_old(folder, KEPT_SECONDS, made)
    except KeyboardInterrupt as stopped:
        if isinstance(stopped, Terminated):
            raise
