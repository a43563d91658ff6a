"""Errors are said in the page, in a line that stays."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from functools import wraps
from typing import Any

from ..console import describe
from .words import problem


def said_of(error: Exception) -> str:
    """What the page says of an error. On the server's stderr a traceback is left of one that was not foreseen."""
    if not isinstance(error, ValueError):
        traceback.print_exception(error, file=sys.stderr)
    return problem(describe(error))


def saying(answer: Callable[..., dict]) -> Callable[..., dict]:
    """A method of a part of the page, whose errors are said in the page."""
    @wraps(answer)
    def answers(self: Any, *told: Any, **more: Any) -> dict:
        try:
            return answer(self, *told, **more)
        except Exception as error:
            return {self.controls.message: said_of(error)}

    return answers
