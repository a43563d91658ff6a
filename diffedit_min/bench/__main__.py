"""`python -m diffedit_min.bench`: the command `diffedit-min bench`, for torchrun."""

import typer

from ..console import ListsCommand, with_plugins
from .command import bench

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
app.command(cls=ListsCommand)(with_plugins(bench))

if __name__ == "__main__":
    app(prog_name="python -m diffedit_min.bench")
