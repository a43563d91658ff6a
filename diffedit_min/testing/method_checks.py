"""check_method(method): does a method keep to its contract (core/task.py)? One call, seconds on a CPU. It is to methods
what gradcheck is to autograd.

The clauses of the contract stand in method_clauses.py and method_clauses_in_use.py, and can be asked one by one too:

    @pytest.mark.parametrize("clause", METHOD_CLAUSES)
    def test_my_method(clause):
        clause(Trial.of(my_method))
"""

from collections.abc import Sequence
from typing import Any

from ..methods.method import Method
from ..networks.stable_diffusion import StableDiffusion
from .checks import check
from .method_clauses import RUN_CLAUSES
from .method_clauses_in_use import METHOD_USE_CLAUSES
from .method_trial import QUERIES, Trial

METHOD_CLAUSES = [*RUN_CLAUSES, *METHOD_USE_CLAUSES]


def check_method(
    method: str | Method, model: StableDiffusion | None = None, queries: Sequence[str] = QUERIES, **options: Any
) -> None:
    """Raises AssertionError naming each clause of the contract that a method breaks, with what was expected and seen.

    method: a name ("sdedit"), or a `dm.Method` of one's own. model: by default tiny random weights in float64: they
    make no picture, but show a wrong index, sign or seed. queries: two, if the method reads them in a way of its own.
    options: to run the method with, for example few iterations, since it runs about a hundred times. Raises ValueError
    for what is no method, or no option of it.
    """
    trial = Trial.of(method, model, queries, **options)
    trial.method.made(options)      # refuses what it doesn't know, before any clause can be blamed for it
    check(METHOD_CLAUSES, trial, trial.method.name)
