"""check_sampler(sampler): does a sampler keep to its contract (core/state.py)? One call, a second or so on a CPU. It is
to samplers what gradcheck is to autograd.

The clauses of the contract stand in clauses.py and clauses_in_use.py, and can be asked one by one too:

    @pytest.mark.parametrize("clause", CLAUSES)
    def test_my_sampler(clause):
        clause(my_sampler)
"""

import traceback
from collections.abc import Callable, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

from ..core.options import Declared, written
from ..core.state import Sampler
from ..samplers import sampler_of
from .clauses import WALK_CLAUSES
from .clauses_in_use import USE_CLAUSES
from .probes import global_state_kept

Clause = Callable[[Any], None]

CLAUSES: list[Clause] = [*WALK_CLAUSES, *USE_CLAUSES]


def check_sampler(sampler: str | Sampler, *, exact: bool | None = None, order: int | None = None) -> None:
    """Raises AssertionError naming each clause of the contract that a sampler breaks, with what was expected and seen.

    sampler: a name ("ddim", "edict:p=0.9"), or an object or module of one's own with `encode` and `decode`. exact: does
    it claim that decoding undoes encoding? order: of convergence, as it claims. None: what its own attributes `exact`
    and `order` say; where it has none, that isn't asked. Raises ValueError for what is no sampler at all.
    """
    known = sampler_of(sampler)
    claims = {name: getattr(known, name, None) if told is None else told
              for name, told in (("exact", exact), ("order", order))}
    check(CLAUSES, SimpleNamespace(encode=known.encode, decode=known.decode, **claims), title_of(sampler))


def title_of(sampler: str | Sampler) -> str:
    """A sampler in a message."""
    if isinstance(sampler, str):
        return sampler
    if isinstance(sampler, ModuleType):
        return sampler.__name__
    return written(sampler) if isinstance(sampler, Declared) else type(sampler).__name__


def check(clauses: Sequence[Clause], subject: Any, title: str) -> None:
    """Asks every clause, and raises one AssertionError for all that are broken."""
    broken: dict[str, list[Clause]] = {}        # by what was seen: one mistake may break several in the same way
    cause = None
    for clause in clauses:
        with global_state_kept():
            try:
                clause(subject)
            except Exception as error:
                broken.setdefault(seen_in(error), []).append(clause)
                if cause is None and not isinstance(error, AssertionError):
                    cause = error       # its traceback leads into the sampler
    if broken:
        count = f"{sum(map(len, broken.values()))} of {len(clauses)} clauses of the contract are broken"
        paragraphs = [paragraph(*same, seen=seen) for seen, same in broken.items()]
        raise AssertionError("\n\n".join([f"{title}: {count}; the first often explains the others", *paragraphs])
                             ) from cause


def seen_in(error: Exception) -> str:
    """What a clause saw; of an exception that isn't the clause's own, also where it was raised."""
    if isinstance(error, AssertionError) and str(error):
        return str(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({last.filename}, line {last.lineno})"


def paragraph(first: Clause, *others: Clause, seen: str) -> str:
    """A clause, what was seen, and which others are broken by the same."""
    lines = [f"{first.__name__}: {' '.join(first.__doc__.split())}", f"    {seen}"]
    lines += [f"    The same breaks {', '.join(other.__name__ for other in others)}."] if others else []
    return "\n".join(lines)
