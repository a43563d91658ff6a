"""The contract of a sampler (core/state.py), clause by clause; first, what one walk up or down gives.

Each clause is a function of the sampler, its docstring says what must hold, and it raises an AssertionError that shows
what was expected and what was seen. What is asked of a sampler in use follows in clauses_in_use.py.
"""

from collections.abc import Iterator
from contextlib import suppress

import torch
from torch import Tensor

from ..core.schedule import Level, add_noise
from ..core.state import State
from ..samplers import sampler_of
from .kit import LEVELS, Order, distance, gaussian_eps, gaussian_solution, order_of_convergence
from .probes import (
    FINE_GRID,
    GRID,
    NOISE,
    PICTURE,
    SHAPE,
    UNEVEN_GRID,
    X0,
    Contract,
    Told,
    Watched,
    decoded,
    drawn,
    encoded,
    going_down,
    going_up,
    parts,
    require,
    require_equal,
    require_levels,
    require_same_states,
    require_states_stand,
    same_noise,
    states_of,
    time_of,
    top,
    waves,
)

WALK_CLAUSES = Contract()

# ---------------------------------------------------------------- the states


@WALK_CLAUSES.clause
def encode_gives_a_state_for_each_level(sampler: Told) -> None:
    """encode yields one State for each level, with its index and its level: levels[0] first, levels[-1] last."""
    for levels in (GRID, UNEVEN_GRID, GRID[:2], GRID[:1]):
        require_levels(encoded(sampler, same_noise, X0, levels), range(len(levels)), levels)


@WALK_CLAUSES.clause
def decode_gives_a_state_for_each_level(sampler: Told) -> None:
    """decode yields one State for each level, with its index and its level: from the given state's to levels[0]."""
    for levels, index in ((GRID, 7), (GRID, 4), (GRID, 1), (GRID, 0), (UNEVEN_GRID, 7)):
        start = State(index, levels[index], X0.clone())
        require_levels(decoded(sampler, same_noise, start, levels), range(index, -1, -1), levels)
    for start in encoded(sampler, same_noise, X0, GRID):
        require_levels(decoded(sampler, same_noise, start, GRID), range(start.index, -1, -1), GRID)


@WALK_CLAUSES.clause
def encoding_begins_with_x0_itself(sampler: Told) -> None:
    """The first state of an encoding holds x0 itself."""
    for levels in (GRID, GRID[:1]):
        require_equal(encoded(sampler, same_noise, X0, levels)[0].latent, X0, "the first state's latent and x0")


@WALK_CLAUSES.clause
def decoding_begins_with_the_given_state(sampler: Told) -> None:
    """The first state of a decoding is the given one, with its partners and its memory."""
    for start in (top(GRID), *encoded(sampler, same_noise, X0, GRID)):
        first = decoded(sampler, same_noise, start, GRID)[:1]
        require_same_states(first, [start], "the first state and the given one")


@WALK_CLAUSES.clause
def states_come_one_by_one(sampler: Told) -> None:
    """encode and decode are generators: the first state comes before the network was asked for all the others."""
    def up(eps_fn):
        return sampler_of(sampler).encode(eps_fn, X0.clone(), GRID)

    def down(eps_fn):
        return sampler_of(sampler).decode(eps_fn, top(GRID), GRID)

    for name, walk in (("encode", up), ("decode", down)):
        network = Watched(same_noise)
        states = walk(network)
        require(isinstance(states, Iterator), f"{name} must return a generator, not a {type(states).__name__}")
        next(states)
        before = len(network.asked)
        list(states_of(name, states, len(GRID)))
        require(before == 0 or before < len(network.asked),
                f"{name} asked the network {before} times before its first state, and never after it")


@WALK_CLAUSES.clause
def tensors_keep_their_form(sampler: Told) -> None:
    """All tensors of all states are finite, of x0's shape, and of x0's dtype or a finer one."""
    for dtype in (torch.float64, torch.float32):
        start = State(7, GRID[7], top(GRID).latent.to(dtype))
        for state in encoded(sampler, waves(), X0.to(dtype), GRID) + decoded(sampler, waves(), start, GRID):
            for name, tensor in parts(state):
                require(tensor.shape == SHAPE, f"{name}: the shape must be {SHAPE}, not {tuple(tensor.shape)}")
                require(torch.promote_types(tensor.dtype, dtype) == tensor.dtype,
                        f"{name} is in {tensor.dtype}, but x0 is in {dtype}")
                require(bool(tensor.isfinite().all()), f"{name} is not finite")


@WALK_CLAUSES.clause
def float64_stays_float64(sampler: Told) -> None:
    """Nothing is rounded to float32 on the way: in float64, an answer that is known exactly comes out exactly."""
    for states in (encoded(sampler, same_noise, X0, GRID), decoded(sampler, same_noise, top(GRID), GRID)):
        for state in states:
            away = distance(state.latent, add_noise(PICTURE, NOISE, GRID[state.index].abar))
            require(not 1e-11 < away < 1e-4,        # what is further away is another clause's matter
                    f"the latent of state {state.index} differs by {away:.0e} of its size from the exact one; rounding "
                    f"to float64 makes 1e-15, rounding to float32 makes 1e-7")


@WALK_CLAUSES.clause
def the_network_is_asked_properly(sampler: Told) -> None:
    """The network is asked as eps_fn(x, t), with x of x0's shape and dtype, and t an int from 0 to T - 1."""

    def strict(x: Tensor, t: int) -> Tensor:
        seen = f"of shape {tuple(x.shape)} in {x.dtype}" if isinstance(x, Tensor) else repr(x)
        require(isinstance(x, Tensor) and x.shape == SHAPE and x.dtype == X0.dtype,
                f"x must be a tensor of shape {SHAPE} in {X0.dtype}, as x0 is, but it is {seen}")
        require(isinstance(t, int) and not isinstance(t, bool) and 0 <= t < LEVELS.T,
                f"t must be an int from 0 to {LEVELS.T - 1}, but it is {t!r}")
        return same_noise(x, t)

    for levels in (GRID, UNEVEN_GRID):
        encoded(sampler, strict, X0, levels)
        decoded(sampler, strict, top(levels), levels)


# ---------------------------------------------------------------- levels and times


@WALK_CLAUSES.clause
def encoding_stands_at_its_levels(sampler: Told) -> None:
    """Each latent of an encoding, partners included, has as much noise in it as its own level says."""
    for levels in (GRID, UNEVEN_GRID):
        require_states_stand(encoded(sampler, same_noise, X0, levels), levels)


@WALK_CLAUSES.clause
def decoding_stands_at_its_levels(sampler: Told) -> None:
    """Each latent of a decoding, partners included, has as much noise in it as its own level says."""
    for levels in (GRID, UNEVEN_GRID):
        for start in (top(levels), top(levels[:5])):
            require_states_stand(decoded(sampler, same_noise, start, levels), levels)


@WALK_CLAUSES.clause
def a_level_without_noise_is_a_level(sampler: Told) -> None:
    """levels[0] may be free of noise, abar = 1: an encoding can start there, and a decoding can end there."""
    levels = (Level(0, 1.0), *GRID[1:])
    require_states_stand(encoded(sampler, same_noise, PICTURE, levels), levels)
    require_states_stand(decoded(sampler, same_noise, top(levels), levels), levels)


@WALK_CLAUSES.clause
def encoding_asks_within_its_step(sampler: Told) -> None:
    """Encoding tells the network the t of the level that a step comes from, of the one that it goes to, or one between
    them; and it asks about a latent that stands there."""
    for levels in (GRID, UNEVEN_GRID):
        network = Watched(same_noise)
        for state, asked in network.between(going_up(sampler, network, X0.clone(), levels)):
            if asked and state.index > 0:
                low, high = levels[state.index - 1].t, levels[state.index].t
                times = [t for x, _ in asked if (t := time_of(x)) is not None]
                require(all(low <= t <= high for _, t in asked) and any(low <= t <= high for t in times),
                        f"from t = {low} up to t = {high} it asked about {in_words(asked)}")


@WALK_CLAUSES.clause
def decoding_asks_at_the_time_of_its_latent(sampler: Told) -> None:
    """Decoding asks, in each step, about some latent with the t of the level where that stands; and it tells the
    network no t outside the step."""
    for levels in (GRID, UNEVEN_GRID):
        network = Watched(same_noise)
        for state, asked in network.between(going_down(sampler, network, top(levels), levels)):
            if asked and state.index < len(levels) - 1:
                low, high = levels[state.index].t, levels[state.index + 1].t
                require(all(low <= t <= high for _, t in asked) and any(time_of(x) == t for x, t in asked),
                        f"from t = {high} down to t = {low} it asked about {in_words(asked)}")


def in_words(asked: list[tuple[Tensor, int]]) -> str:
    """What the network was asked."""
    found = [(time_of(x), t) for x, t in asked]
    return ", and about ".join(f"a latent that stands {'at no level' if at is None else f'near t = {at}'}, with t = {t}"
                               for at, t in found)


# ---------------------------------------------------------------- the solution

# On Gaussian data it is known. (Not N(0, 1), where it stands still and a wrong step looks right.)
MU, S = 1.0, 0.7
NEAR = 0.1      # DDIM is 0.04 away


@WALK_CLAUSES.clause
def encoding_follows_the_ode(sampler: Told) -> None:
    """Encoding comes near the solution of Eq. (3) where that is known."""
    start, low, high = drawn("x0"), FINE_GRID[0], FINE_GRID[-1]
    found = encoded(sampler, gaussian_eps(MU, S, LEVELS), start, FINE_GRID)[-1].latent
    require_equal(found, gaussian_solution(start, MU, S, low.abar, high.abar),
                  f"what {len(FINE_GRID) - 1} steps up give, and the solution", NEAR)


@WALK_CLAUSES.clause
def decoding_follows_the_ode(sampler: Told) -> None:
    """Decoding comes near the solution of Eq. (3) where that is known."""
    start, low, high = drawn("xT"), FINE_GRID[0], FINE_GRID[-1]
    found = decoded(sampler, gaussian_eps(MU, S, LEVELS), State(len(FINE_GRID) - 1, high, start), FINE_GRID)[-1].latent
    require_equal(found, gaussian_solution(start, MU, S, high.abar, low.abar),
                  f"what {len(FINE_GRID) - 1} steps down give, and the solution", NEAR)


@WALK_CLAUSES.clause
def it_converges_with_its_order(sampler: Told) -> None:
    """If the sampler has an `order`: with more steps the error falls as that says, or faster, in both directions."""
    claimed = getattr(sampler_of(sampler), "order", None)
    if claimed is None:
        return

    def orders(grid: str) -> list[Order]:
        return [order_of_convergence(sampler, (25, 50), direction=direction, mu=2.0, s=3.0, grid=grid)
                for direction in ("encode", "decode")]

    seen = {"leading": orders("leading")}
    if min(seen["leading"]) < claimed - 0.3:        # samplers of two steps show their order only where steps are even
        with suppress(IndexError):                  # of one with a schedule of its own, which has no such times
            seen["lambda"] = orders("lambda")
    require(any(min(pair) >= claimed - 0.3 for pair in seen.values()),
            f"its order is said to be {claimed}, but seen is "
            + "; ".join(f"on the {grid} grid {up!r} up, {down!r} down" for grid, (up, down) in seen.items()))


@WALK_CLAUSES.clause
def decoding_undoes_encoding(sampler: Told) -> None:
    """If the sampler is `exact`: decoding undoes encoding up to rounding, whatever the number of steps."""
    if not getattr(sampler_of(sampler), "exact", False):
        return
    for N, k in ((20, 1), (20, 2), (20, 3), (20, 15), (50, 40)):
        levels = LEVELS.levels(N)[: k + 1]
        last = encoded(sampler, waves(), X0, levels)[-1]
        require_equal(decoded(sampler, waves(), last, levels)[-1].latent, X0,
                      f"what {k} steps up and {k} down give, and x0", 1e-8)
