"""More clauses of a sampler's contract: what methods count on that stop it and go on, use it for a batch, blend what it
makes, and use one sampler for many edits.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..core.schedule import add_noise, eps_from_x0
from ..core.state import State
from ..samplers import sampler_of
from .clauses import MU, S
from .kit import LEVELS, distance, gaussian_eps
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
    Contract,
    Told,
    contents,
    decoded,
    drawn,
    encoded,
    global_state,
    global_state_kept,
    going_down,
    going_up,
    parts,
    require,
    require_equal,
    require_same_states,
    require_stands,
    same_noise,
    top,
    waves,
)

USE_CLAUSES = Contract()

# ---------------------------------------------------------------- states and rows


@USE_CLAUSES.clause
def a_smaller_ratio_is_a_prefix(sampler: Told) -> None:
    """Encoding along the first levels only gives the first states of an encoding along all of them."""
    far = encoded(sampler, waves(), X0, GRID)
    for k in (1, 4, 5):
        require_same_states(encoded(sampler, waves(), X0, GRID[: k + 1]), far[: k + 1],
                            f"an encoding up to level {k}, and one that goes on")


@USE_CLAUSES.clause
def a_state_holds_all_that_decoding_needs(sampler: Told) -> None:
    """A decoding can be taken up at each of its states, and a copy of a state serves as well as the state itself."""
    whole = decoded(sampler, waves(1), encoded(sampler, waves(), X0, GRID)[-1], GRID)
    for n in (0, 2, 5):
        again = decoded(sampler, waves(1), whole[n].map(torch.clone), GRID)
        require_same_states(again, whole[n:], f"a decoding, and one taken up from a copy of its state {whole[n].index}")


@USE_CLAUSES.clause
def decoding_starts_from_the_latent_alone(sampler: Told) -> None:
    """Decoding knows the noisy latent only, not the picture that this was made from."""
    end, results, pictures, loose = FINE_GRID[-1], [], [], False
    noisy = add_noise(PICTURE, NOISE, end.abar)
    for picture in (PICTURE, PICTURE + 10 * OTHER_PICTURE):      # with its own noise, each gives the same noisy latent
        noise = eps_from_x0(noisy, picture, end.abar)
        pictures.append(add_noise(picture, noise, FINE_GRID[0].abar))
        last = encoded(sampler, lambda x, t, noise=noise: noise.clone(), pictures[-1], FINE_GRID)[-1]
        results.append(decoded(sampler, gaussian_eps(MU, S, LEVELS), last, FINE_GRID)[-1].latent)
        loose = loose or any(index != last.index for index, _ in last.partners)
    moved = ((results[1] - results[0]).norm() / (pictures[1] - pictures[0]).norm()).item()
    allowed = 0.08 if loose else 1e-4       # a partner from the level below knows a little of the picture
    require(moved <= allowed, "two pictures were encoded to the same latent, and decoded with the same network: what "
            f"comes out differs by {moved:.1e} of what the pictures do, and at most {allowed:.0e} is allowed")


@USE_CLAUSES.clause
def rows_do_not_mix(sampler: Told) -> None:
    """A picture gives the same alone as in a batch; states can be cut into rows on the way, and joined again."""
    both = encoded(sampler, waves(), X0, GRID)
    down = decoded(sampler, waves(1), both[-1], GRID)
    ends = []
    for i in range(len(X0)):
        row = slice(i, i + 1)
        alone = encoded(sampler, waves(), X0[row], GRID)
        ends.append(alone[-1])
        cut = decoded(sampler, waves(1), both[-1].map(lambda latent, row=row: latent[row]), GRID)
        for state, batched in zip(alone + cut, both + down, strict=False):
            require_equal(state.latent, batched.latent[row], f"row {i} alone, and in a batch, at level {state.index}",
                          1e-8)
    joined = decoded(sampler, waves(1), State.join(ends), GRID)
    require_equal(joined[-1].latent, down[-1].latent, "rows that were encoded alone and joined, and the batch", 1e-8)


# ---------------------------------------------------------------- the blend


@USE_CLAUSES.clause
def each_new_latent_is_blended_once(sampler: Told) -> None:
    """blend is called once for each level below the start, with its index, from the highest down to 0. (A partner that
    the given state brings along for a lower level isn't new.)"""
    for start in (top(GRID), top(GRID[:4]), *encoded(sampler, same_noise, X0, GRID)[1:]):
        blend = Blending()
        decoded(sampler, same_noise, start, GRID, blend)
        brought = {index for index, _ in start.partners}
        expected = [index for index in range(start.index - 1, -1, -1) if index not in brought]
        seen = [index for index, _ in blend.given]
        require(seen == expected, f"from level {start.index} down blend must be called with {expected}, but it was "
                                  f"called with {seen}")


@USE_CLAUSES.clause
def blend_sees_each_latent_at_its_level(sampler: Told) -> None:
    """What blend is given with an index is as noisy as levels[index]: the step down to it is done, and no other."""
    for levels in (GRID, UNEVEN_GRID):
        blend = Blending()
        decoded(sampler, same_noise, top(levels), levels, blend)
        require(bool(blend.given), "blend was never called")
        for index, latents in blend.given:
            for latent in latents.split(SHAPE[1], dim=1):
                require_stands(latent, index, levels, f"what blend is given with index {index}")


@USE_CLAUSES.clause
def what_blend_returns_is_the_latent(sampler: Told) -> None:
    """A state holds what blend returned for its level, to the last bit: its `latents`, all of them of that level."""
    blend = Blending(lambda latent, index: as_many(drawn(f"stamp {index}"), latent))
    for state in decoded(sampler, same_noise, top(GRID), GRID, blend)[1:]:
        require(state.index in blend.returned, f"blend was not called for state {state.index}")
        require_equal(state.latents, blend.returned[state.index],
                      f"the latents of state {state.index}, and what blend returned for them")


@USE_CLAUSES.clause
def decoding_goes_on_from_what_blend_returned(sampler: Told) -> None:
    """The next latent is made from what blend returned, not from what it was given."""
    blend = Blending(lambda latent, index: as_many(add_noise(OTHER_PICTURE, NOISE, GRID[index].abar), latent))
    decoded(sampler, same_noise, top(GRID), GRID, blend)
    require(bool(blend.given), "blend was never called")
    index, latents = blend.given[-1]
    for latent in latents.split(SHAPE[1], dim=1):
        if not distance(latent, add_noise(OTHER_PICTURE, NOISE, GRID[index].abar)) <= 1e-5:
            _, _, rest = contents(latent, OTHER_PICTURE)
            require(False, f"blend put another picture in at each level, so the latent at level {index} must be "
                           f"of that one and noise, but {rest:.0%} of it is neither")


def as_many(latent: Tensor, like: Tensor) -> Tensor:
    """A latent, for each of those that blend is given together."""
    return latent.repeat(1, like.shape[1] // latent.shape[1], 1, 1)


@USE_CLAUSES.clause
def a_blend_that_changes_nothing_changes_nothing(sampler: Told) -> None:
    """With a blend that returns what it is given, all states are the same as without one, to the last bit."""
    start = encoded(sampler, waves(), X0, GRID)[-1]
    require_same_states(decoded(sampler, waves(1), start, GRID, Blending()), decoded(sampler, waves(1), start, GRID),
                        "decoding with a blend that changes nothing, and without one")


@USE_CLAUSES.clause
def outside_the_mask_the_encoding_returns(sampler: Told) -> None:
    """Blended with its encoding as DiffEdit does, a decoding has the encoding's latents outside the mask, to the last
    bit; if the sampler is `exact` and the network the same, inside it too."""
    up = encoded(sampler, waves(), X0, GRID)
    for width in (0, 2):
        mask = (torch.arange(SHAPE[3]) < width).expand(1, 1, *SHAPE[2:])
        blend = Blending(lambda latent, index, mask=mask: torch.where(mask, latent, up[index].latents))
        for state in decoded(sampler, waves(1), up[-1], GRID, blend):
            require_equal(state.latent[..., width:], up[state.index].latent[..., width:],
                          f"outside a mask of {width} columns the decoding and the encoding, at level {state.index}")
    if getattr(sampler_of(sampler), "exact", False):
        for state in decoded(sampler, waves(), up[-1], GRID, blend):
            require_equal(state.latent, up[state.index].latent,
                          f"with the same network the decoding and the encoding, at level {state.index}", 1e-8)


# ---------------------------------------------------------------- no traces


@USE_CLAUSES.clause
def a_call_depends_on_its_arguments_alone(sampler: Told) -> None:
    """The same call gives the same to the last bit, whatever was called before it and whatever goes on meanwhile."""
    one, other, another_x0 = waves(), waves(1), drawn("another x0")
    up = encoded(sampler, one, X0, GRID)
    down = decoded(sampler, one, up[-1], GRID)
    require(not torch.equal(encoded(sampler, other, X0, GRID)[-1].latent, up[-1].latent),
            "encoding gave the same with another network, as if it remembered the first one's predictions")
    encoded(sampler, other, another_x0, GRID[:6])
    next(going_down(sampler, other, up[-1], GRID))      # a walk that is given up
    require_same_states(decoded(sampler, one, up[-1], GRID), down, "a decoding, and the same one after other calls")
    require_same_states(encoded(sampler, one, X0, GRID), up, "an encoding, and the same one after other calls")
    in_turns = zip(going_up(sampler, one, X0.clone(), GRID), going_up(sampler, other, another_x0, GRID), strict=False)
    require_same_states([state for state, _ in in_turns], up, "an encoding, and the same one in turns with another")


@USE_CLAUSES.clause
def nothing_global_changes(sampler: Told) -> None:
    """The global random numbers (torch's, numpy's, Python's), the default dtype and the gradient mode stay as they
    are."""
    with global_state_kept():
        before = global_state()
        for states in (going_up(sampler, waves(), X0.clone(), GRID), going_down(sampler, waves(), top(GRID), GRID)):
            for state in states:
                changed = [name for name, value in global_state().items() if value != before[name]]
                require(not changed, f"at state {state.index} there had changed: {', '.join(changed)}")


@USE_CLAUSES.clause
def nothing_is_changed_in_place(sampler: Told) -> None:
    """What a sampler is given (x0, a state, levels, predictions, what blend returns) and what it yields stay as they
    are."""
    seen: list[tuple[str, Tensor, Tensor]] = []

    def keep(name: str, tensor: Tensor) -> Tensor:
        seen.append((name, tensor, tensor.clone()))
        return tensor

    def eps_fn(x: Tensor, t: int) -> Tensor:
        return keep(f"a prediction at t = {t}", waves()(x, t))

    def walk(states: Iterator[State], way: str) -> State:
        for state in states:
            for name, tensor in parts(state):
                keep(f"{name}, on the way {way},", tensor)
        require(tuple(levels) == GRID, f"on the way {way} the list of levels was changed to {levels}")
        return state

    x0, levels = keep("x0", X0.clone()), list(GRID)
    last = walk(going_up(sampler, eps_fn, x0, levels), "up")
    walk(going_down(sampler, eps_fn, last, levels), "down")
    blend = Blending(lambda latent, index: keep(f"what blend returned for index {index}", latent.clone()))
    walk(going_down(sampler, eps_fn, last, levels, blend), "down")
    for name, tensor, before in seen:
        require_equal(tensor, before, f"{name} as it was and as it is")


@USE_CLAUSES.clause
def results_can_be_differentiated(sampler: Told) -> None:
    """A result has the gradient with respect to what it was made from; and it has none where nothing asks for one."""
    along, weights, h = drawn("direction"), drawn("weights"), 1e-6
    for name, walk in (
        ("encode", lambda x: encoded(sampler, waves(), x, GRID)[-1].latent),
        ("decode", lambda x: decoded(sampler, waves(), State(7, GRID[7], x), GRID)[-1].latent),
    ):
        start = drawn("x0")
        require(not walk(start).requires_grad and not start.requires_grad,
                f"{name} makes tensors that require gradients, or makes x0 one")
        expected = ((walk(start + h * along) - walk(start - h * along)) * weights).sum().item() / (2 * h)
        result = walk(start.requires_grad_())
        require(result.requires_grad, f"{name}'s result has no gradient: it was made under no_grad(), or detached")
        found = (torch.autograd.grad((result * weights).sum(), start)[0] * along).sum().item()
        require(abs(found - expected) <= 1e-4 * abs(expected),
                f"{name}'s gradient in one direction is {found:.6f}, but moving that way changes the result by "
                f"{expected:.6f}: something was detached, or rounded, on the way")
