"""The contract of a sampler (core/state.py), clause by clause. Each is a function of the sampler, and its docstring says
what must hold; it raises an AssertionError that shows what was expected and what was seen.

    @pytest.mark.parametrize("clause", CLAUSES)
    def test_my_sampler(clause):
        clause(my_sampler)
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.schedule import add_noise, eps_from_x0
from ..core.state import Sampler, State
from ..samplers import sampler_of
from .kit import LEVELS, Order, distance, gaussian_eps, gaussian_solution, order_of_convergence
from .probes import (
    FINE_GRID,
    GRID,
    NOISE,
    OTHER_PICTURE,
    PICTURE,
    SHAPE,
    UNEVEN_GRID,
    X0,
    Blending,
    Watched,
    contents,
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
    require_stands,
    same_noise,
    states_of,
    time_of,
    top,
    waves,
)

Told = str | Sampler        # a sampler or its name

# ---------------------------------------------------------------- the states


def encode_gives_a_state_for_each_level(sampler: Told) -> None:
    """encode yields one State for each level, with its index and level: levels[0] first, levels[-1] last."""
    for levels in (GRID, UNEVEN_GRID, GRID[:2], GRID[:1]):
        require_levels(encoded(sampler, same_noise, X0, levels), range(len(levels)), levels)


def decode_gives_a_state_for_each_level(sampler: Told) -> None:
    """decode yields one State for each level, with its index and level: from the given state's down to levels[0]."""
    for levels, start in ((GRID, 7), (GRID, 4), (GRID, 1), (GRID, 0), (UNEVEN_GRID, 7)):
        state = State(start, levels[start], X0.clone())
        require_levels(decoded(sampler, same_noise, state, levels), range(start, -1, -1), levels)
    for state in encoded(sampler, same_noise, X0, GRID):
        require_levels(decoded(sampler, same_noise, state, GRID), range(state.index, -1, -1), GRID)


def encoding_begins_with_x0_itself(sampler: Told) -> None:
    """The first state of an encoding holds x0 itself."""
    for levels in (GRID[:1], GRID):
        first, *_ = encoded(sampler, same_noise, X0, levels)
        require_equal(first.latent, X0, "the first state's latent, against x0")


def decoding_begins_with_the_given_state(sampler: Told) -> None:
    """The first state of a decoding is the given one, with its partners and its memory."""
    for state in (top(GRID), *encoded(sampler, same_noise, X0, GRID)):
        require_same_states(decoded(sampler, same_noise, state, GRID)[:1], [state], "the first state, against the given")


def states_come_one_by_one(sampler: Told) -> None:
    """encode and decode are generators: a state is there before the network is asked for all the others."""
    for name, walk in (("encode", lambda eps_fn: sampler_of(sampler).encode(eps_fn, X0.clone(), GRID)),
                       ("decode", lambda eps_fn: sampler_of(sampler).decode(eps_fn, top(GRID), GRID))):
        watched = Watched(same_noise)
        states = walk(watched)
        require(isinstance(states, Iterator), f"{name} must return a generator, not a {type(states).__name__}")
        next(states)
        before = len(watched.asked)
        list(states_of(name, states, len(GRID)))
        require(before == 0 or before < len(watched.asked),
                f"{name} asked the network all of its {before} times before it yielded its first state")


def tensors_keep_their_form(sampler: Told) -> None:
    """All tensors of all states are finite, of x0's shape, and of its dtype or a finer one."""
    for dtype in (torch.float64, torch.float32):
        x0, start = X0.to(dtype), top(GRID).map(lambda latent: latent.to(dtype))
        for state in encoded(sampler, same_noise, x0, GRID) + decoded(sampler, same_noise, start, GRID):
            for name, tensor in parts(state):
                require(tensor.shape == SHAPE, f"{name}: expected shape {SHAPE}, got {tuple(tensor.shape)}")
                require(torch.promote_types(tensor.dtype, dtype) == tensor.dtype,
                        f"{name}: x0 is {dtype}, but it is {tensor.dtype}")
                require(bool(tensor.isfinite().all()), f"{name} isn't finite")


def float64_stays_float64(sampler: Told) -> None:
    """Nothing is rounded to float32 on the way: in float64, what has an exact solution comes out exactly."""
    for states in (encoded(sampler, same_noise, X0, GRID), decoded(sampler, same_noise, top(GRID), GRID)):
        for state in states:
            away = distance(state.latent, add_noise(PICTURE, NOISE, GRID[state.index].abar))
            require(not 1e-11 < away < 1e-4,        # what is further away is another clause's matter
                    f"the latent of state {state.index} is {away:.0e} of its size away from the exact solution; float64 "
                    f"allows 1e-15, float32 1e-7")


def the_network_is_asked_properly(sampler: Told) -> None:
    """The network is asked as eps_fn(x, t): x of x0's shape and dtype, t an int from 0 to T - 1."""

    def strict(x: Tensor, t: int) -> Tensor:
        require(isinstance(x, Tensor) and x.shape == SHAPE and x.dtype == X0.dtype,
                f"x must be a tensor of shape {SHAPE} in {X0.dtype} like x0, not "
                f"{f'{tuple(x.shape)} in {x.dtype}' if isinstance(x, Tensor) else repr(x)}")
        require(isinstance(t, int) and not isinstance(t, bool) and 0 <= t < LEVELS.T,
                f"t must be an int from 0 to {LEVELS.T - 1}, not {t!r}")
        return same_noise(x, t)

    for levels in (GRID, UNEVEN_GRID):
        encoded(sampler, strict, X0, levels)
        decoded(sampler, strict, top(levels), levels)


# ---------------------------------------------------------------- levels and times, where NOISE is always predicted


def encoding_stands_at_its_levels(sampler: Told) -> None:
    """Each latent of an encoding, the partners' too, stands at the level that its state names for it."""
    for levels in (GRID, UNEVEN_GRID):
        stand_at_their_levels(encoded(sampler, same_noise, add_noise(PICTURE, NOISE, levels[0].abar), levels), levels)


def decoding_stands_at_its_levels(sampler: Told) -> None:
    """Each latent of a decoding, the partners' too, stands at the level that its state names, wherever it started."""
    for levels in (GRID, UNEVEN_GRID):
        for index in (7, 4):
            stand_at_their_levels(decoded(sampler, same_noise, top(levels[: index + 1]), levels), levels)


def a_level_without_noise_is_a_level(sampler: Told) -> None:
    """levels[0] may be without any noise, abar = 1: an encoding starts there and a decoding arrives there."""
    levels = (type(GRID[0])(0, 1.0), *GRID[1:])
    stand_at_their_levels(encoded(sampler, same_noise, PICTURE, levels), levels)
    stand_at_their_levels(decoded(sampler, same_noise, top(levels), levels), levels)


def stand_at_their_levels(states: list[State], levels: tuple) -> None:
    for state in states:
        require_stands(state.latent, state.index, levels, f"the latent of state {state.index}")
        for index, partner in state.partners:
            require_stands(partner, index, levels, f"the partner at level {index} of state {state.index}")


def encoding_asks_within_its_step(sampler: Told) -> None:
    """Encoding tells the network the t of the level left, of the one reached, or one between, and asks about a latent
    that stands there."""
    for levels in (GRID, UNEVEN_GRID):
        watched = Watched(same_noise)
        states = going_up(sampler, watched, add_noise(PICTURE, NOISE, levels[0].abar), levels)
        for state, asked in watched.between(states):
            if asked and state.index > 0:
                low, high, seen = levels[state.index - 1].t, levels[state.index].t, stood(asked)
                require(all(low <= t <= high for _, t in asked), f"from t = {low} up to t = {high} it asked about {seen}")
                times = [time_of(x) for x, _ in asked]
                require(any(at is not None and low - 1 <= at <= high + 1 for at in times),
                        f"from t = {low} up to t = {high} it asked about {seen}")


def decoding_asks_at_the_time_of_its_latent(sampler: Told) -> None:
    """Decoding asks, in each step, about some latent with the t of the level at which that stands, and never with a t
    outside the step."""
    for levels in (GRID, UNEVEN_GRID):
        watched = Watched(same_noise)
        for state, asked in watched.between(going_down(sampler, watched, top(levels), levels)):
            if asked and state.index < len(levels) - 1:
                low, high = levels[state.index].t, levels[state.index + 1].t
                require(all(low <= t <= high for _, t in asked) and any(time_of(x) == t for x, t in asked),
                        f"from t = {high} down to t = {low} it asked about {stood(asked)}")


def stood(asked: list[tuple[Tensor, int]]) -> str:
    """What was asked, in words."""
    found = [(time_of(x), t) for x, t in asked]
    return ", and about ".join(f"a latent that stands {'at no level' if at is None else f'near t = {at}'}, with t = {t}"
                               for at, t in found)


# ---------------------------------------------------------------- the solution, on Gaussian data


def encoding_follows_the_ode(sampler: Told) -> None:
    """Encoding comes near the exact solution of Eq. (3) where that is known, on Gaussian data."""
    eps_fn, start = gaussian_eps(1.0, 0.7, LEVELS), drawn("x0")
    last = encoded(sampler, eps_fn, start, FINE_GRID)[-1]
    exact = gaussian_solution(start, 1.0, 0.7, FINE_GRID[0].abar, FINE_GRID[-1].abar)
    require_equal(last.latent, exact, f"after {len(FINE_GRID) - 1} steps up, against the exact solution", within=NEAR)


def decoding_follows_the_ode(sampler: Told) -> None:
    """Decoding comes near the exact solution of Eq. (3) where that is known, on Gaussian data."""
    eps_fn, start = gaussian_eps(1.0, 0.7, LEVELS), drawn("x0")
    last = decoded(sampler, eps_fn, State(len(FINE_GRID) - 1, FINE_GRID[-1], start), FINE_GRID)[-1]
    exact = gaussian_solution(start, 1.0, 0.7, FINE_GRID[-1].abar, FINE_GRID[0].abar)
    require_equal(last.latent, exact, f"after {len(FINE_GRID) - 1} steps down, against the exact solution", within=NEAR)


NEAR = 0.1      # the worst right one, DDIM, has 0.05; most wrong ones have 0.5


def it_converges_with_its_order(sampler: Told) -> None:
    """With more steps the error falls as the sampler's `order` says, in both directions; asked if it has one."""
    claimed = getattr(sampler_of(sampler), "order", None)
    if claimed is None:
        return
    seen: dict[str, list[Order]] = {}
    for grid in ("lambda", "leading"):      # two-step samplers show their order only on the first
        try:
            seen[grid] = [order_of_convergence(sampler, (20, 40), direction=direction, mu=2.0, s=3.0, grid=grid)
                          for direction in ("encode", "decode")]
        except (IndexError, ValueError):    # one that brings a schedule along knows no other
            continue
        if min(seen[grid]) >= claimed - 0.3:
            return
    require(False, f"order {claimed} is claimed, but seen are " + "; ".join(
        f"on the {grid} grid {up!r} up and {down!r} down" for grid, (up, down) in seen.items()))


def decoding_undoes_encoding(sampler: Told) -> None:
    """Decoding undoes encoding up to rounding, after any number of steps; asked if the sampler is `exact`."""
    if not getattr(sampler_of(sampler), "exact", False):
        return
    levels = LEVELS.levels(20)
    for k in (1, 2, 3, 8, 15):
        up = encoded(sampler, waves(), X0, levels[: k + 1])
        down = decoded(sampler, waves(), up[-1], levels[: k + 1])
        require_equal(down[-1].latent, X0, f"{k} steps up and down again, against x0", within=1e-8)


# ---------------------------------------------------------------- what a state stands for


def a_smaller_ratio_is_a_prefix(sampler: Told) -> None:
    """Encoding along the first levels gives the first states of an encoding along all of them."""
    far = encoded(sampler, waves(), X0, GRID)
    for k in (1, 4, 5):
        require_same_states(encoded(sampler, waves(), X0, GRID[: k + 1]), far[: k + 1], f"up to level {k} of 7 only")


def a_state_holds_all_that_decoding_needs(sampler: Told) -> None:
    """A decoding can be taken up at each of its states, and a copy of a state serves as well as the state itself."""
    last = encoded(sampler, waves(), X0, GRID)[-1]
    whole = decoded(sampler, waves(1), last, GRID)
    for index in (0, 2, 5):
        require_same_states(decoded(sampler, waves(1), whole[index].map(torch.clone), GRID), whole[index:],
                            f"decoding taken up from a copy of its state at level {whole[index].index}")


def decoding_starts_from_the_latent_alone(sampler: Told) -> None:
    """Decoding knows the noisy latent, not the picture that it was made from."""
    end, eps_fn = FINE_GRID[-1], gaussian_eps(1.0, 0.7, LEVELS)
    noisy, results, clean, loose = add_noise(PICTURE, NOISE, end.abar), [], [], False
    for picture in (PICTURE, PICTURE + 10 * OTHER_PICTURE):      # another picture and its noise make the same latent
        noise = eps_from_x0(noisy, picture, end.abar)
        clean.append(add_noise(picture, noise, FINE_GRID[0].abar))
        last = encoded(sampler, lambda x, t, noise=noise: noise.clone(), clean[-1], FINE_GRID)[-1]
        loose = loose or any(index != last.index for index, _ in last.partners)
        results.append(decoded(sampler, eps_fn, last, FINE_GRID)[-1].latent)
    moved = ((results[1] - results[0]).norm() / (clean[1] - clean[0]).norm()).item()
    allowed = 0.08 if loose else 1e-4       # a partner from the level below knows a little of the picture
    require(moved <= allowed, f"two pictures were encoded to the same latent, and decoded under the same network: the "
                              f"results differ by {moved:.1e} of what the pictures do (at most {allowed:.0e} is allowed)")


def rows_do_not_mix(sampler: Told) -> None:
    """A picture gives the same alone as in a batch; rows can be cut out of states, and joined again, on the way."""
    both = encoded(sampler, waves(), X0, GRID)
    down = decoded(sampler, waves(1), both[-1], GRID)
    rows = [slice(row, row + 1) for row in range(len(X0))]
    alone = [encoded(sampler, waves(), X0[row], GRID) for row in rows]
    for row, states in zip(rows, alone, strict=True):
        for state, batched in zip(states, both, strict=False):
            require_equal(state.latent, batched.latent[row], f"row {row.start} alone at level {state.index}", 1e-8)
        for state, batched in zip(decoded(sampler, waves(1), states[-1], GRID), down, strict=False):
            require_equal(state.latent, batched.latent[row], f"row {row.start} alone, down at {state.index}", 1e-8)
    joined = decoded(sampler, waves(1), State.join([states[-1] for states in alone]), GRID)
    require_equal(joined[-1].latent, down[-1].latent, "the rows encoded alone, joined and decoded", 1e-8)


# ---------------------------------------------------------------- the blend


def each_new_latent_is_blended_once(sampler: Told) -> None:
    """blend(latent, index) is called once for each level below the start, from the highest to index 0, if blend is given.

    A latent that the given state brings along, as a partner at a lower level, isn't new.
    """
    for start in (top(GRID), top(GRID[:4]), *encoded(sampler, same_noise, X0, GRID)[1:]):
        blending = Blending()
        decoded(sampler, same_noise, start, GRID, blending)
        brought = {index for index, _ in start.partners}
        expected = [index for index in range(start.index - 1, -1, -1) if index not in brought]
        seen = [index for index, _ in blending.given]
        require(seen == expected, f"decoding from level {start.index}, blend was expected at the indices {expected}, but "
                                  f"called at {seen}")


def blend_sees_each_latent_at_its_level(sampler: Told) -> None:
    """What blend is given with an index stands at levels[index]: the step is taken, and none too many."""
    for levels in (GRID, UNEVEN_GRID):
        blending = Blending()
        decoded(sampler, same_noise, top(levels), levels, blending)
        require(bool(blending.given), "blend was never called")
        for index, latents in blending.given:
            for latent in latents.split(SHAPE[1], dim=1):
                require_stands(latent, index, levels, f"what blend is given with index {index}")


def what_blend_returns_is_the_latent(sampler: Told) -> None:
    """A state holds what blend returned for its level, to the last bit: `State.latents`, so all latents of that level."""
    blending = Blending(lambda latent, index: drawn(f"stamp {index}").repeat(1, latent.shape[1] // SHAPE[1], 1, 1))
    states = decoded(sampler, same_noise, top(GRID), GRID, blending)
    require(bool(blending.returned), "blend was never called")
    for state in states[1:]:
        require(state.index in blending.returned, f"state {state.index} was not blended")
        require_equal(state.latents, blending.returned[state.index],
                      f"the latents of state {state.index}, against what blend returned for them")


def decoding_goes_on_from_what_blend_returned(sampler: Told) -> None:
    """The next latent is made from what blend returned, not from what it was given."""
    def other(latent: Tensor, index: int) -> Tensor:
        there = add_noise(OTHER_PICTURE, NOISE, GRID[index].abar)
        return there.repeat(1, latent.shape[1] // SHAPE[1], 1, 1)

    blending = Blending(other)
    decoded(sampler, same_noise, top(GRID), GRID, blending)
    require(bool(blending.given), "blend was never called")
    index, latents = blending.given[-1]
    for latent in latents.split(SHAPE[1], dim=1):
        kept = contents(latent)[2]
        require(distance(latent, add_noise(OTHER_PICTURE, NOISE, GRID[index].abar)) <= 1e-5,
                f"blend put another picture in at every level, but the latent made last, at level {index}, is not of "
                f"that one{': it is still of the first' if kept < 0.01 else ''}")


def a_blend_that_changes_nothing_changes_nothing(sampler: Told) -> None:
    """With a blend that returns what it is given, all states are the same to the last bit as without one."""
    start = encoded(sampler, waves(), X0, GRID)[-1]
    require_same_states(decoded(sampler, waves(1), start, GRID, Blending()), decoded(sampler, waves(1), start, GRID),
                        "decoding with blend = the identity, against decoding without")


def outside_the_mask_the_encoding_returns(sampler: Told) -> None:
    """Blended with its encoding, as DiffEdit does, a decoding under another network has the encoding's latents outside
    the mask, to the last bit; inside it has too, under the same network, if the sampler is `exact`."""
    up = encoded(sampler, waves(), X0, GRID)
    inside = torch.zeros(1, 1, *SHAPE[2:], dtype=torch.bool)
    for width in (0, 2):
        inside[..., :width] = True
        blending = Blending(lambda latent, index: torch.where(inside, latent, up[index].latents))
        for state in decoded(sampler, waves(1), up[-1], GRID, blending):
            require_equal(state.latent[..., width:], up[state.index].latent[..., width:],
                          f"outside a mask of {width} columns at level {state.index}")
    if getattr(sampler_of(sampler), "exact", False):
        for state in decoded(sampler, waves(), up[-1], GRID, blending):
            require_equal(state.latent, up[state.index].latent, f"under the same network at level {state.index}", 1e-8)


# ---------------------------------------------------------------- no traces


def a_call_depends_on_its_arguments_alone(sampler: Told) -> None:
    """The same call gives the same to the last bit, whatever was called before or goes on meanwhile."""
    one, other, y0 = waves(), waves(1), drawn("another x0")
    up = encoded(sampler, one, X0, GRID)
    down = decoded(sampler, one, up[-1], GRID)
    require(not torch.equal(encoded(sampler, other, X0, GRID)[-1].latent, up[-1].latent),
            "encoding gave the same under another network: it remembers something of the first")
    encoded(sampler, other, y0, GRID[:6])
    next(going_down(sampler, other, up[-1], GRID))                              # abandoned
    require_same_states(decoded(sampler, one, up[-1], GRID), down, "the same state decoded again after other calls")
    require_same_states(encoded(sampler, one, X0, GRID), up, "the same x0 encoded again after other calls")
    pairs = zip(sampler_of(sampler).encode(one, X0.clone(), GRID), sampler_of(sampler).encode(other, y0, GRID), strict=False)
    require_same_states([state for state, _ in islice(pairs, len(GRID))], up, "two encodings in turns, the first of them")


def nothing_global_changes(sampler: Told) -> None:
    """The global random numbers (torch's, numpy's, Python's), the default dtype and the gradient mode stay as they are."""
    with global_state_restored():
        before = global_state()
        for states in (going_up(sampler, waves(), X0.clone(), GRID), going_down(sampler, waves(), top(GRID), GRID)):
            for state in states:
                changed = [name for name, value in global_state().items() if value != before[name]]
                require(not changed, f"at state {state.index} there had changed: {', '.join(changed)}")


def global_state() -> dict[str, Any]:
    """By name, in what can be compared."""
    return {"torch's random state": torch.get_rng_state().tolist(), "numpy's random state": repr(np.random.get_state()),
            "Python's random state": random.getstate(), "torch's default dtype": torch.get_default_dtype(),
            "whether gradients are recorded": torch.is_grad_enabled()}


@contextmanager
def global_state_restored() -> Iterator[None]:
    """Some state in which seeding would show, and the one from before afterwards."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate(), torch.get_default_dtype()
    grad = torch.is_grad_enabled()
    try:
        torch.manual_seed(20_221)
        np.random.seed(20_221)
        random.seed(20_221)
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
        torch.set_default_dtype(states[3])
        torch.set_grad_enabled(grad)


def nothing_is_changed_in_place(sampler: Told) -> None:
    """What a sampler was given (x0, a state, the levels, predictions, blended latents) and what it yielded stay as they
    were."""
    seen: list[tuple[str, Tensor, Tensor]] = []

    def keep(name: str, tensor: Tensor) -> Tensor:
        seen.append((name, tensor, tensor.clone()))
        return tensor

    def eps_fn(x: Tensor, t: int) -> Tensor:
        return keep(f"a prediction at t = {t}", waves()(x, t))

    def walk(states: Iterator[State], way: str) -> State:
        for state in states:
            for name, tensor in parts(state):
                keep(f"{name}, {way},", tensor)
        require(tuple(levels) == GRID, f"on the way {way}, the list of levels was changed: {levels}")
        return state

    x0, levels = keep("x0", X0.clone()), list(GRID)
    last = walk(going_up(sampler, eps_fn, x0, levels), "up")
    walk(going_down(sampler, eps_fn, last, levels), "down")
    blending = Blending(lambda latent, index: keep(f"what blend returned for index {index}", latent.clone()))
    walk(going_down(sampler, eps_fn, last, levels, blending), "down")
    for name, tensor, before in seen:
        require_equal(tensor, before, f"{name} was changed in place")


def results_can_be_differentiated(sampler: Told) -> None:
    """A result has the gradient of what it was made from, and needs none where nothing asks for it."""
    for name, walk in (
        ("encode", lambda x: encoded(sampler, waves(), x, GRID)[-1].latent),
        ("decode", lambda x: decoded(sampler, waves(), State(7, GRID[7], x), GRID)[-1].latent),
    ):
        start, along, weights, h = X0.clone(), drawn("direction"), drawn("weights"), 1e-6
        plain = walk(start)
        require(not plain.requires_grad and not start.requires_grad, f"{name} makes tensors that require gradients")
        expected = ((walk(start + h * along) - walk(start - h * along)) * weights).sum().item() / (2 * h)
        result = walk(start.requires_grad_())
        require(result.requires_grad, f"{name}'s result has no gradient: it was made under torch.no_grad() or detached")
        gradient, = torch.autograd.grad((result * weights).sum(), start)
        found = (gradient * along).sum().item()
        require(abs(found - expected) <= 1e-4 * abs(expected),
                f"{name}'s gradient in some direction is {found:.6f}, but the result moves by {expected:.6f}: "
                f"something was detached, or rounded, on the way")


CLAUSES: list[Callable[[Told], None]] = [
    encode_gives_a_state_for_each_level,
    decode_gives_a_state_for_each_level,
    encoding_begins_with_x0_itself,
    decoding_begins_with_the_given_state,
    states_come_one_by_one,
    tensors_keep_their_form,
    float64_stays_float64,
    the_network_is_asked_properly,
    encoding_stands_at_its_levels,
    decoding_stands_at_its_levels,
    a_level_without_noise_is_a_level,
    encoding_asks_within_its_step,
    decoding_asks_at_the_time_of_its_latent,
    encoding_follows_the_ode,
    decoding_follows_the_ode,
    it_converges_with_its_order,
    decoding_undoes_encoding,
    a_smaller_ratio_is_a_prefix,
    a_state_holds_all_that_decoding_needs,
    decoding_starts_from_the_latent_alone,
    rows_do_not_mix,
    each_new_latent_is_blended_once,
    blend_sees_each_latent_at_its_level,
    what_blend_returns_is_the_latent,
    decoding_goes_on_from_what_blend_returned,
    a_blend_that_changes_nothing_changes_nothing,
    outside_the_mask_the_encoding_returns,
    a_call_depends_on_its_arguments_alone,
    nothing_global_changes,
    nothing_is_changed_in_place,
    results_can_be_differentiated,
]
