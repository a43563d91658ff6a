"""check_sampler(sampler): does a sampler keep to its contract? One call, a second or so, for any object with encode and
decode. It is to samplers what gradcheck is to autograd. The clauses of the contract are in clauses.py.
"""

import traceback
from collections.abc import Callable, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

from ..core.options import Declared, written
from ..core.state import Sampler
from ..samplers import sampler_of
from .clauses import CLAUSES


def check_sampler(sampler: str | Sampler, *, exact: bool | None = None, order: int | None = None) -> None:
    """Raises AssertionError naming each clause of the contract that a sampler breaks, with what was expected and seen.

    sampler: a name ("ddim", "edict:p=0.9"), or an object or module of one's own with `encode` and `decode`. exact,
    order: what it claims (decoding undoes encoding; the order of convergence); None: its own attributes `exact` and
    `order`, and if it has none, that isn't asked. Raises ValueError for what is no sampler at all.
    """
    known = sampler_of(sampler)
    claims = {name: getattr(known, name, None) if told is None else told
              for name, told in (("exact", exact), ("order", order))}
    check(CLAUSES, SimpleNamespace(encode=known.encode, decode=known.decode, **claims), title_of(sampler))


def check(clauses: Sequence[Callable[[Any], None]], subject: Any, title: str) -> None:
    """Asks every clause, and raises one AssertionError for all that are broken."""
    broken: dict[str, list[Callable[[Any], None]]] = {}     # by what was seen: one mistake breaks several in the same way
    cause = None
    for clause in clauses:
        try:
            clause(subject)
        except Exception as error:
            cause = cause or (None if isinstance(error, AssertionError) else error)
            broken.setdefault(seen_in(error), []).append(clause)
    if broken:
        count = f"{sum(map(len, broken.values()))} of {len(clauses)} clauses of the contract are broken"
        raise AssertionError("\n\n".join([f"{title}: {count}; the first often explains the others",
                                          *(told(*same, seen=seen) for seen, same in broken.items())])) from cause


def told(first: Callable[[Any], None], *others: Callable[[Any], None], seen: str) -> str:
    """A clause, what was seen, and which others are broken by the same."""
    lines = [f"{first.__name__}: {' '.join(first.__doc__.split())}", f"    {seen}"]
    lines += [f"    The same breaks {', '.join(other.__name__ for other in others)}."] if others else []
    return "\n".join(lines)


def seen_in(error: Exception) -> str:
    """What a clause saw; of another exception than its own, also where it came from."""
    if isinstance(error, AssertionError) and str(error):
        return str(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({last.filename}, line {last.lineno})"


def title_of(sampler: str | Sampler) -> str:
    """A sampler in a message."""
    if isinstance(sampler, str):
        return sampler
    if isinstance(sampler, ModuleType):
        return sampler.__name__
    return written(sampler) if isinstance(sampler, Declared) else type(sampler).__name__
