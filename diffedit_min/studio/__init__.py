"""For people: the command `diffedit-min`, its jobs, the report and the page. No algorithm is here."""

from . import report

__all__ = ["report"]
