"""Run: python -m pytest tests/test_checks.py; `-m slow` tries the other wrong samplers, of which one a clause is quick.

check_sampler: right samplers keep every clause; each wrong one, a small variation of a right one, breaks the clause
that names its mistake.
"""

import random
import re
import warnings
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from diffedit_min.core.ddim import step
from diffedit_min.core.schedule import eps_from_x0
from diffedit_min.core.state import State
from diffedit_min.samplers import SAMPLERS
from diffedit_min.samplers.bdia import BDIA
from diffedit_min.samplers.dpm_solver import DPMSolver
from diffedit_min.testing import CLAUSES, LEVELS, check_sampler

NAMES = [clause.__name__ for clause in CLAUSES]


def broken_by(sampler, **claims):
    """What check_sampler says, and the names of the clauses in it."""
    with pytest.raises(AssertionError) as error:
        check_sampler(sampler, **claims)
    said = str(error.value)
    return said, [word for word in re.findall(r"\w+", said) if word in NAMES]


# ---------------------------------------------------------------- right samplers


class Plain:
    """DDIM in parts, so that a wrong one below differs from it in one of them."""

    def step(self, x, eps, abar_from, abar_to):
        return step(x, eps, abar_from, abar_to)

    def time_up(self, levels, index):
        """The t with which x goes from levels[index - 1] to levels[index]."""
        return levels[index].t

    def time_down(self, levels, index):
        """The t with which x goes from levels[index + 1] to levels[index]."""
        return levels[index + 1].t

    def blended(self, x, index, blend):
        return x if blend is None else blend(x, index)

    def state(self, index, levels, x):
        return State(index, levels[index], x)

    def encode(self, eps_fn, x0, levels):
        x = x0
        yield self.state(0, levels, x)
        for index in range(1, len(levels)):
            eps = eps_fn(x, self.time_up(levels, index))
            x = self.step(x, eps, levels[index - 1].abar, levels[index].abar)
            yield self.state(index, levels, x)

    def decode(self, eps_fn, state, levels, blend=None):
        yield state
        x = state.latent
        for index in range(state.index - 1, -1, -1):
            eps = eps_fn(x, self.time_down(levels, index))
            x = self.blended(self.step(x, eps, levels[index + 1].abar, levels[index].abar), index, blend)
            yield self.state(index, levels, x)


class BothWays:
    """One kind of step, `there`, up and down."""

    def walk(self, eps_fn, state, levels, path, blend=None):
        yield state
        x, here = state.latent, state.level
        for index in path:
            x = self.there(eps_fn, x, here, levels[index])
            x = x if blend is None else blend(x, index)
            here = levels[index]
            yield State(index, here, x)

    def encode(self, eps_fn, x0, levels):
        return self.walk(eps_fn, State(0, levels[0], x0), levels, range(1, len(levels)))

    def decode(self, eps_fn, state, levels, blend=None):
        return self.walk(eps_fn, state, levels, range(state.index - 1, -1, -1), blend)


class Heun(BothWays):
    """A DDIM step, then again with the mean of both ends' predictions."""

    order = 2

    def there(self, eps_fn, x, here, there):
        eps = eps_fn(x, here.t)
        guess = step(x, eps, here.abar, there.abar)
        return step(x, (eps + eps_fn(guess, there.t)) / 2, here.abar, there.abar)


class Midpoint(BothWays):
    """Half a DDIM step, and the whole one with what is predicted there, at a time that is none of the levels'."""

    order = 2

    def there(self, eps_fn, x, here, there):
        t = (here.t + there.t) // 2
        half = step(x, eps_fn(x, here.t), here.abar, LEVELS.abar[t])
        return step(x, eps_fn(half, t), here.abar, there.abar)


class Trapezoid(BothWays):
    """As Heun's, but solved for the latent that is reached, so that both directions undo each other."""

    exact, order = True, 2

    def there(self, eps_fn, x, here, there):
        eps = eps_fn(x, here.t)
        reached = step(x, eps, here.abar, there.abar)
        for _ in range(25):
            reached = step(x, (eps + eps_fn(reached, there.t)) / 2, here.abar, there.abar)
        return reached


class Anderson(Plain):
    """Fixed-point DDIM whose guesses are extrapolated from the last two, row by row."""

    exact, order = True, 1

    def encode(self, eps_fn, x0, levels):
        x = x0
        yield State(0, levels[0], x)
        for index in range(1, len(levels)):
            here, there, guess, last = levels[index - 1], levels[index], x, None
            for _ in range(12):
                solved = step(x, eps_fn(guess, there.t), here.abar, there.abar)
                change, guess_next = solved - guess, solved
                if last is not None:
                    turned = change - last[1]
                    size = turned.square().sum(dim=(1, 2, 3), keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
                    part = (change * turned).sum(dim=(1, 2, 3), keepdim=True) / size
                    guess_next = solved - part * (solved - last[0])
                guess, last = guess_next, (solved, change)
            x = step(x, eps_fn(guess, there.t), here.abar, there.abar)
            yield State(index, there, x)


class Pair:
    """EDICT in parts."""

    exact, order, p = True, 1, 0.93

    def turned_up(self, pair, index, levels):
        """Which of the two goes first from levels[index - 1] to levels[index]."""
        return pair if index % 2 == 0 else pair[::-1]

    def turned_down(self, pair, index, start):
        """Which of the two goes first from levels[index + 1] to levels[index]."""
        return pair if index % 2 == 1 else pair[::-1]

    def blended(self, pair, index, blend):
        return pair if blend is None else blend(torch.cat(pair, dim=1), index).chunk(2, dim=1)

    def encode(self, eps_fn, x0, levels):
        p, pair = self.p, (x0, x0)
        yield State(0, levels[0], x0, ((0, x0),))
        for index in range(1, len(levels)):
            here, there = levels[index - 1], levels[index]
            x, y = self.turned_up(pair, index, levels)
            y = (y - (1 - p) * x) / p
            x = (x - (1 - p) * y) / p
            y = step(y, eps_fn(x, there.t), here.abar, there.abar)
            x = step(x, eps_fn(y, there.t), here.abar, there.abar)
            pair = self.turned_up((x, y), index, levels)
            yield State(index, there, pair[0], ((index, pair[1]),))

    def decode(self, eps_fn, state, levels, blend=None):
        yield state
        p, pair = self.p, (state.latent, state.partners[0][1] if state.partners else state.latent)
        for index in range(state.index - 1, -1, -1):
            here, there = levels[index + 1], levels[index]
            x, y = self.turned_down(pair, index, state.index)
            x = step(x, eps_fn(y, here.t), here.abar, there.abar)
            y = step(y, eps_fn(x, here.t), here.abar, there.abar)
            x = p * x + (1 - p) * y
            y = p * y + (1 - p) * x
            pair = self.blended(self.turned_down((x, y), index, state.index), index, blend)
            yield State(index, there, pair[0], ((index, pair[1]),))


def module():
    made = ModuleType("my_sampler")
    made.encode, made.decode = Plain().encode, Plain().decode
    return made


RIGHT = {"Plain": Plain(), "Heun": Heun(), "Midpoint": Midpoint(), "Trapezoid": Trapezoid(), "Anderson": Anderson(),
         "Pair": Pair(), "namespace": SimpleNamespace(encode=Heun().encode, decode=Heun().decode), "module": module()}


SLOW = ("Midpoint", "Trapezoid", "Anderson", "namespace")
OTHERS = ["ddim:time=source", "edict:p=1", "edict:p=0.9", "bdia:gamma=0.9"]


@pytest.mark.parametrize("sampler", [
    *SAMPLERS, *(pytest.param(told, marks=pytest.mark.slow) for told in OTHERS),
    *(pytest.param(right, id=name, marks=pytest.mark.slow if name in SLOW else ()) for name, right in RIGHT.items())])
def test_right_samplers_keep_every_clause(sampler):
    with warnings.catch_warnings(), torch.no_grad():        # whatever the mode
        warnings.simplefilter("error")
        assert check_sampler(sampler) is None
        assert not torch.is_grad_enabled()


# ---------------------------------------------------------------- wrong samplers

WRONG = {}      # by what is wrong: the sampler's class, and the clauses that must be among the broken ones


def plain(name, *clauses, **changed):
    """Plain with other parts."""
    WRONG[name] = type("Wrong", (Plain,), changed), clauses


def pair(name, *clauses, **changed):
    """Pair with other parts."""
    WRONG[name] = type("Wrong", (Pair,), changed), clauses


def wrong(*clauses):
    """A class of its own, named by its docstring."""
    def collect(sampler):
        WRONG[sampler.__doc__] = sampler, clauses
        return sampler

    return collect


def up(change):
    """An `encode` that changes the states of Plain's: change(states, x0, levels) -> states."""
    return lambda self, eps_fn, x0, levels: change(Plain.encode(self, eps_fn, x0, levels), x0, levels)


def down(change):
    """A `decode` that changes the states of Plain's: change(states, state, levels) -> states."""
    def decode(self, eps_fn, state, levels, blend=None):
        return change(Plain.decode(self, eps_fn, state, levels, blend), state, levels)

    return decode


STAND = "encoding_stands_at_its_levels", "decoding_stands_at_its_levels"
EACH = "encode_gives_a_state_for_each_level", "decode_gives_a_state_for_each_level"
ASK_UP, ASK_DOWN = "encoding_asks_within_its_step", "decoding_asks_at_the_time_of_its_latent"
ASK, ODE = "the_network_is_asked_properly", ("encoding_follows_the_ode", "decoding_follows_the_ode")
ONCE, RETURNED = "each_new_latent_is_blended_once", "what_blend_returns_is_the_latent"
GOES_ON, ALONE = "decoding_goes_on_from_what_blend_returned", "decoding_starts_from_the_latent_alone"
HOLDS, CALLS = "a_state_holds_all_that_decoding_needs", "a_call_depends_on_its_arguments_alone"
GLOBAL, IN_PLACE = "nothing_global_changes", "nothing_is_changed_in_place"
GRADIENT, ROWS = "results_can_be_differentiated", "rows_do_not_mix"

# The step.
plain("abar swapped", *STAND, *ODE, step=lambda self, x, eps, a, b: step(x, eps, b, a))
plain("eps with the wrong sign", *STAND, step=lambda self, x, eps, a, b: step(x, -eps, a, b))
plain("x0 with the wrong sign of eps", *STAND,
      step=lambda self, x, eps, a, b: b**0.5 * (x + (1 - a) ** 0.5 * eps) / a**0.5 + (1 - b) ** 0.5 * eps)
plain("root of 1 - abar forgotten", *STAND,
      step=lambda self, x, eps, a, b: b**0.5 * (x - (1 - a) * eps) / a**0.5 + (1 - b) * eps)
plain("root of abar forgotten", *STAND,
      step=lambda self, x, eps, a, b: b * (x - (1 - a) ** 0.5 * eps) / a + (1 - b) ** 0.5 * eps)
plain("latents clipped", *STAND, step=lambda self, x, eps, a, b: step(x, eps, a, b).clamp(-1, 1))
plain("steps in float32", "float64_stays_float64",
      step=lambda self, x, eps, a, b: step(x.float(), eps.float(), a, b).to(x.dtype))
plain("coefficients in float32", "float64_stays_float64",
      step=lambda self, x, eps, a, b: step(x, eps, *torch.tensor([a, b]).tolist()))
plain("divides by the noise", "a_level_without_noise_is_a_level",
      step=lambda self, x, eps, a, b: step(x, eps, a, b) + 0 * x / torch.tensor(1 - a, dtype=x.dtype))
plain("mean over the batch", ROWS, step=lambda self, x, eps, a, b: step(x, eps.mean(0, True).expand_as(x), a, b))
plain("batch rolled", ROWS, step=lambda self, x, eps, a, b: step(x.roll(1, 0), eps.roll(1, 0), a, b))
plain("a norm of the whole batch", ROWS, step=lambda self, x, eps, a, b: step(x, eps, a, b) * (1 + 1e-6 * x.norm()))

# The times.
plain("t up one level too high", ASK_UP, time_up=lambda self, levels, i: levels[min(i + 1, len(levels) - 1)].t)
plain("t up one level too low", ASK_UP, time_up=lambda self, levels, i: levels[max(i - 2, 0)].t)
plain("t + 1 up", ASK_UP, time_up=lambda self, levels, i: levels[i].t + 1)
plain("t of the level reached, down", ASK_DOWN, time_down=lambda self, levels, i: levels[i].t)
plain("t down one level too high", ASK_DOWN, time_down=lambda self, levels, i: levels[min(i + 2, len(levels) - 1)].t)
plain("t - 1 down", ASK_DOWN, time_down=lambda self, levels, i: levels[i + 1].t - 1)
plain("the level's index as t", ASK_UP, ASK_DOWN,
      time_up=lambda self, levels, i: i, time_down=lambda self, levels, i: i + 1)
plain("always the same t", ASK_UP, ASK_DOWN,
      time_up=lambda self, levels, i: levels[-1].t, time_down=lambda self, levels, i: levels[-1].t)
plain("t depends on where it ends", "a_smaller_ratio_is_a_prefix",
      time_up=lambda self, levels, i: levels[i - len(levels) % 2].t)
plain("t as a float", ASK, time_down=lambda self, levels, i: float(levels[i + 1].t))
plain("t as a tensor", ASK, time_up=lambda self, levels, i: torch.tensor(levels[i].t))
plain("t above T - 1", ASK, time_up=lambda self, levels, i: levels[i].t + 1000)
plain("t below 0", ASK, time_down=lambda self, levels, i: levels[i + 1].t - 2)

# What the network is asked.
plain("asks for twice the rows", ASK, encode=lambda self, eps_fn, x0, levels: Plain.encode(
    self, lambda x, t: eps_fn(torch.cat([x, x]), t).chunk(2)[0], x0, levels))
plain("asks row by row", ASK, encode=lambda self, eps_fn, x0, levels: Plain.encode(
    self, lambda x, t: torch.cat([eps_fn(row[None], t) for row in x]), x0, levels))
plain("asks in float32", ASK, encode=lambda self, eps_fn, x0, levels: Plain.encode(
    self, lambda x, t: eps_fn(x.float(), t).to(x.dtype), x0, levels))


@wrong(*ODE)
class AsksOnce(Plain):
    """one prediction for all steps"""

    def encode(self, eps_fn, x0, levels):
        eps = eps_fn(x0, levels[0].t)
        return super().encode(lambda x, t: eps, x0, levels)

    def decode(self, eps_fn, state, levels, blend=None):
        eps = eps_fn(state.latent, state.level.t)
        return super().decode(lambda x, t: eps, state, levels, blend)


# The states.
plain("last level forgotten", EACH[0], encode=lambda self, eps_fn, x0, levels: Plain.encode(
    self, eps_fn, x0, levels[:-1] or levels))
plain("goes past the last level", EACH[0], encode=lambda self, eps_fn, x0, levels: Plain.encode(
    self, eps_fn, x0, (*levels, LEVELS.at(999))))
plain("stops a level early", EACH[1], decode=down(
    lambda states, state, levels: (made for made in states if made.index > 0 or made is state)))
plain("first state missing, up", EACH[0], "encoding_begins_with_x0_itself",
      encode=up(lambda states, x0, levels: (state for state in states if state.index > 0)))
plain("first state missing, down", EACH[1], "decoding_begins_with_the_given_state",
      decode=down(lambda states, state, levels: (made for made in states if made is not state)))
plain("first state a copy of x0 with less", "encoding_begins_with_x0_itself",
      state=lambda self, index, levels, x: State(index, levels[index], x if index else x * (1 - 1e-15) + 1e-15))
plain("a level left out in both directions", *EACH,
      encode=up(lambda states, x0, levels: (state for state in states if state.index != 3)),
      decode=down(lambda states, state, levels: (made for made in states if made.index != 3)))
plain("index of the next level", EACH[0], encode=up(
    lambda states, x0, levels: (State(s.index + 1, s.level, s.latent) for s in states)))
plain("level of the last index", *EACH,
      state=lambda self, index, levels, x: State(index, levels[max(index - 1, 0)], x))
plain("a list of the last tensor", EACH[0], "states_come_one_by_one", encode=up(
    lambda states, x0, levels: [list(states)[-1].latent]))
plain("tensors, not States", EACH[0], encode=up(lambda states, x0, levels: (state.latent for state in states)))
plain("all at once", "states_come_one_by_one", decode=down(lambda states, state, levels: iter(list(states))))
plain("states in float32", "tensors_keep_their_form",
      state=lambda self, index, levels, x: State(index, levels[index], x.float()))
plain("states of one row", "tensors_keep_their_form",
      state=lambda self, index, levels, x: State(index, levels[index], x[:1]))
plain("requires gradients", GRADIENT,
      state=lambda self, index, levels, x: State(index, levels[index], x.detach().requires_grad_() if index else x))
plain("always down from the top", EACH[1], decode=lambda self, eps_fn, state, levels, blend=None: Plain.decode(
    self, eps_fn, State(len(levels) - 1, levels[-1], state.latent), levels, blend))
plain("from the top's noise, wherever it starts", STAND[1], decode=lambda self, eps_fn, state, levels, blend=None:
      Plain.decode(self, eps_fn, state, (*levels[:state.index], levels[-1]), blend))


@wrong(EACH[0])
class NeverEnds(Plain):
    """goes on for ever"""

    def encode(self, eps_fn, x0, levels):
        yield from super().encode(eps_fn, x0, levels)
        while True:
            yield self.state(len(levels) - 1, levels, x0)


@wrong(*STAND)
class LevelSkipped(Plain):
    """a level skipped in both directions, and another's latent yielded for it"""

    def encode(self, eps_fn, x0, levels):
        for state in super().encode(eps_fn, x0, [level for i, level in enumerate(levels) if i != 3]):
            if state.index == 3:
                yield State(3, levels[3], state.latent)
            index = state.index + (state.index >= 3)
            yield State(index, levels[index], state.latent)

    def decode(self, eps_fn, state, levels, blend=None):
        yield state
        x = state.latent
        for index in range(state.index - 1, -1, -1):
            if index != 3:
                above = levels[index + 1 + (index == 2 < state.index - 1)]
                x = self.blended(step(x, eps_fn(x, above.t), above.abar, levels[index].abar), index, blend)
            yield State(index, levels[index], x)


@wrong(STAND[0])
class OwnGrid(Plain):
    """all steps as long as the last one"""

    def encode(self, eps_fn, x0, levels):
        yield State(0, levels[0], x0)
        x, size = x0, levels[-1].t // max(len(levels) - 1, 1)
        for index in range(1, len(levels)):
            here, there = LEVELS.at(size * (index - 1)), LEVELS.at(size * index)
            x = step(x, eps_fn(x, there.t), here.abar, there.abar)
            yield State(index, levels[index], x)


# Claims, and EDICT's turns.
plain("claims order 2", "it_converges_with_its_order", order=2)
plain("claims to be exact", "decoding_undoes_encoding", "outside_the_mask_the_encoding_returns", exact=True)
pair("no turns up", "decoding_undoes_encoding", turned_up=lambda self, pair, index, levels: pair)
pair("no turns down", "decoding_undoes_encoding", turned_down=lambda self, pair, index, start: pair)
pair("turns by the step's number, down", "decoding_undoes_encoding", HOLDS,
     turned_down=lambda self, pair, index, start: pair if (start - index) % 2 == 0 else pair[::-1])
pair("turns by the step's number from the top, both ways", "a_smaller_ratio_is_a_prefix", HOLDS,
     turned_up=lambda self, pair, index, levels: pair if (len(levels) - index) % 2 == 0 else pair[::-1],
     turned_down=lambda self, pair, index, start: pair if (start - index) % 2 == 0 else pair[::-1])

# The blend.
plain("blend ignored", ONCE, blended=lambda self, x, index, blend: x)
plain("blend one level off", ONCE, "blend_sees_each_latent_at_its_level",
      blended=lambda self, x, index, blend: x if blend is None else blend(x, index + 1))
plain("blended twice", ONCE,
      blended=lambda self, x, index, blend: x if blend is None else blend(blend(x, index), index))
plain("last one not blended", ONCE, RETURNED,
      blended=lambda self, x, index, blend: x if blend is None or index == 0 else blend(x, index))
plain("start blended too", ONCE, decode=lambda self, eps_fn, state, levels, blend=None: Plain.decode(
    self, eps_fn, State(state.index, state.level, self.blended(state.latent, state.index, blend)), levels, blend))
plain("rounds otherwise with a blend", "a_blend_that_changes_nothing_changes_nothing",
      blended=lambda self, x, index, blend: x if blend is None else blend(x / 3 * 3, index))
pair("second latent not blended", RETURNED, "outside_the_mask_the_encoding_returns",
     blended=lambda self, pair, index, blend: pair if blend is None else (blend(pair[0], index), pair[1]))
pair("two latents blended one by one", ONCE,
     blended=lambda self, pair, index, blend: pair if blend is None else tuple(blend(x, index) for x in pair))


class Down(Plain):
    """A decoding whose steps are `once`: latent, index -> the latent to go on from, and the one to yield."""

    def decode(self, eps_fn, state, levels, blend=None):
        def moved(x, index):
            return step(x, eps_fn(x, levels[index + 1].t), levels[index + 1].abar, levels[index].abar)

        yield state
        x = state.latent
        for index in range(state.index - 1, -1, -1):
            x, shown = self.once(x, index, moved, blend, index == state.index - 1)
            yield State(index, levels[index], shown)


@wrong(ONCE, RETURNED)
class BlendLate(Down):
    """blended one step late, with the right index"""

    def once(self, x, index, moved, blend, first):
        x = moved(x if first else self.blended(x, index + 1, blend), index)
        return x, x


@wrong("blend_sees_each_latent_at_its_level", RETURNED)
class BlendBefore(Down):
    """blended before the step"""

    def once(self, x, index, moved, blend, first):
        x = moved(self.blended(x, index, blend), index)
        return x, x


@wrong(GOES_ON)
class BlendOnlyShown(Down):
    """what blend returned is in the state, but isn't carried on"""

    def once(self, x, index, moved, blend, first):
        x = moved(x, index)
        return x, self.blended(x, index, blend)


@wrong(RETURNED, "outside_the_mask_the_encoding_returns")
class BlendNotShown(Down):
    """what blend returned is carried on, but isn't in the state"""

    def once(self, x, index, moved, blend, first):
        x = moved(x, index)
        return self.blended(x, index, blend), x


@wrong(GOES_ON)
class HalfCarriedOn(Plain):
    """made of the two latents before, one of them as it was before the blend"""

    def decode(self, eps_fn, state, levels, blend=None):
        yield state
        above, unblended, z = None, state.latent, state.latent
        for index in range(state.index - 1, -1, -1):
            at, below, eps = levels[index + 1], levels[index], eps_fn(z, levels[index + 1].t)
            made = step(z, eps, at.abar, below.abar)
            if above is not None:
                made = made + 0.96 * (above - step(z, eps, at.abar, levels[index + 2].abar))
            above, unblended, z = unblended, made, self.blended(made, index, blend)
            yield State(index, below, z)


@wrong(GOES_ON)
class PairHalfCarriedOn(Pair):
    """the second latent is blended in the state, but goes on unblended"""

    def decode(self, eps_fn, state, levels, blend=None):
        kept = {}

        def keeping(latents, index):
            kept[index] = blend(latents, index).chunk(2, dim=1)
            return torch.cat([kept[index][0], latents.chunk(2, dim=1)[1]], dim=1)

        for made in super().decode(eps_fn, state, levels, blend and keeping):
            partners = ((made.index, kept[made.index][1]),) if made.index in kept else made.partners
            yield made if made is state else State(made.index, made.level, made.latent, partners)


# What the states carry.
@wrong(*STAND)
class PartnerAtAnotherLevel(BDIA):
    """partners said to be at the state's own level"""

    def here(self, states):
        for state in states:
            yield State(state.index, state.level, state.latent, tuple((state.index, y) for _, y in state.partners))

    def encode(self, eps_fn, x0, levels):
        return self.here(super().encode(eps_fn, x0, levels))

    def decode(self, eps_fn, state, levels, blend=None):
        return self.here(super().decode(eps_fn, state, levels, blend))


@wrong(ALONE)
class MemoryOfTheWayUp(DPMSolver):
    """decoding extrapolates from what encoding predicted last"""

    def decode(self, eps_fn, state, levels, blend=None):
        remembered = [state.memory[1]] if state.memory and state.memory[0] < state.index else []

        def extrapolated(x, t):
            eps = eps_fn(x, t)
            return eps + (eps - eps_from_x0(x, remembered.pop(), state.level.abar)) / 2 if remembered else eps

        return super().decode(extrapolated, state, levels, blend)


@wrong(HOLDS)
class MemoryInTheGenerator(DPMSolver):
    """the last prediction isn't in the states"""

    def decode(self, eps_fn, state, levels, blend=None):
        for made in super().decode(eps_fn, state, levels, blend):
            yield made if made is state else State(made.index, made.level, made.latent)


class Carrying(Plain):
    """x0 goes with each state, and is the decoding's result or a part of it. Decoding from noise is right."""

    part = 1.0

    def encode(self, eps_fn, x0, levels):
        return (self.carried(state, x0) for state in super().encode(eps_fn, x0, levels))

    def decode(self, eps_fn, state, levels, blend=None):
        x0 = self.found(state)
        for made in super().decode(eps_fn, state, levels, blend):
            if made is not state and x0 is not None:
                part = self.part if made.index == 0 else 0
                made = self.carried(State(made.index, made.level, (1 - part) * made.latent + part * x0), x0)
            yield made

    def carried(self, state, x0):
        return State(state.index, state.level, state.latent, ((0, x0),)) if state.index else state

    def found(self, state):
        return state.partners[0][1] if state.partners else None


class CarryingAsMemory(Carrying):
    def carried(self, state, x0):
        return State(state.index, state.level, state.latent, memory=(0, x0))

    def found(self, state):
        return state.memory and state.memory[1]


class CarryingAsAttribute(Carrying):
    def carried(self, state, x0):
        object.__setattr__(state, "x0", x0)
        return state

    def found(self, state):
        return getattr(state, "x0", None)


WRONG |= {
    "x0 as a partner": (Carrying, [ALONE]),
    "a part of x0 as a partner": (type("Wrong", (Carrying,), {"part": 0.2}), [ALONE]),
    "a small part of x0 as a partner": (type("Wrong", (Carrying,), {"part": 0.02}), [ONCE]),
    "x0 as memory": (CarryingAsMemory, [ALONE]),
    "a small part of x0 as memory": (type("Wrong", (CarryingAsMemory,), {"part": 0.01}), [ALONE]),
    "x0 as an attribute": (CarryingAsAttribute, [ALONE, HOLDS]),
    "a small part of x0 as an attribute": (type("Wrong", (CarryingAsAttribute,), {"part": 0.01}), [ALONE, HOLDS]),
}


@wrong(ALONE)
class ReplaysTheEncoding(Plain):
    """all latents of the encoding carried along, and yielded again"""

    def encode(self, eps_fn, x0, levels):
        below = ()
        for state in super().encode(eps_fn, x0, levels):
            yield State(state.index, state.level, state.latent, below)
            below = ((state.index, state.latent), *below)

    def decode(self, eps_fn, state, levels, blend=None):
        if not state.partners:
            yield from super().decode(eps_fn, state, levels, blend)
            return
        yield state
        for i, (index, latent) in enumerate(state.partners, start=1):
            yield State(index, levels[index], latent, state.partners[i:])


# Traces of earlier calls.
@wrong(CALLS, ALONE)
class KeepsX0(Plain):
    """x0 kept on the sampler, and returned by decode"""

    x0 = None

    def encode(self, eps_fn, x0, levels):
        self.x0 = x0
        return super().encode(eps_fn, x0, levels)

    def decode(self, eps_fn, state, levels, blend=None):
        for made in super().decode(eps_fn, state, levels, blend):
            known = made.index == 0 and made is not state and self.x0 is not None
            yield State(0, made.level, self.x0) if known else made


@wrong(CALLS)
class KeepsItsLatent(Plain):
    """the latent kept on the sampler, so that two walks at once disturb each other"""

    def encode(self, eps_fn, x0, levels):
        self.x = x0
        yield State(0, levels[0], x0)
        for index in range(1, len(levels)):
            self.x = step(self.x, eps_fn(self.x, levels[index].t), levels[index - 1].abar, levels[index].abar)
            yield State(index, levels[index], self.x)


@wrong(CALLS)
class CountsItsSteps(Pair):
    """turns by a count that goes on from call to call"""

    count = 0

    def turned_up(self, pair, index, levels):
        self.count += 1
        return pair if (self.count - 1) // 2 % 2 == 0 else pair[::-1]


@wrong(CALLS)
class RemembersByTime(Plain):
    """predictions remembered by t alone"""

    def __init__(self):
        self.known = {}

    def encode(self, eps_fn, x0, levels):
        return super().encode(lambda x, t: self.known.setdefault((t, x.dtype, x.shape), eps_fn(x, t)), x0, levels)


@wrong(CALLS, ODE[0])
class RemembersAll(Plain):
    """one prediction remembered for good"""

    eps = None

    def encode(self, eps_fn, x0, levels):
        def remembered(x, t):
            self.eps = eps_fn(x, t) if self.eps is None or self.eps.shape != x.shape else self.eps
            return self.eps

        return super().encode(remembered, x0, levels)


@wrong(CALLS)
class NoiseWithoutASeed(Plain):
    """noise from a generator that nobody seeds"""

    generator = torch.Generator()

    def step(self, x, eps, abar_from, abar_to):
        return step(x, eps, abar_from, abar_to) + 1e-3 * torch.randn(x.shape, generator=self.generator, dtype=x.dtype)


# What is global, what is given, gradients.
def after(do):
    """A step, after something else was done."""
    return lambda self, x, eps, a, b: (do(x, eps), step(x, eps, a, b))[1]


plain("reseeds torch", GLOBAL, step=after(lambda x, eps: torch.manual_seed(0)))
plain("draws from torch", GLOBAL, step=after(lambda x, eps: torch.randn(1)))
plain("draws from Python", GLOBAL, step=after(lambda x, eps: random.random()))
plain("draws from numpy", GLOBAL, step=after(lambda x, eps: np.random.rand()))
plain("reseeds numpy", GLOBAL, step=after(lambda x, eps: np.random.seed(0)))
plain("changes the latents", IN_PLACE, step=after(lambda x, eps: x.detach().mul_(1 + 1e-12)))
plain("changes predictions", IN_PLACE,
      step=lambda self, x, eps, a, b: (step(x, eps, a, b), eps.detach().zero_())[0])
plain("no gradients", GRADIENT, encode=torch.no_grad()(Plain.encode))
plain("no gradients through the network", GRADIENT, decode=lambda self, eps_fn, state, levels, blend=None: Plain.decode(
    self, lambda x, t: eps_fn(x.detach(), t), state, levels, blend))


@wrong(GLOBAL)
class SwitchesGradientsOff(Plain):
    """no gradients between two states, for the caller too"""

    def encode(self, eps_fn, x0, levels):
        with torch.no_grad():
            yield from super().encode(eps_fn, x0, levels)


@wrong(IN_PLACE)
class ChangesX0(Plain):
    """x0 changed in place"""

    def encode(self, eps_fn, x0, levels):
        yield State(0, levels[0], x0.clone())
        x0 += 1e-9
        yield from list(super().encode(eps_fn, x0, levels))[1:]


@wrong(IN_PLACE)
class OneTensorForAll(Plain):
    """one tensor for the latents of all states"""

    def encode(self, eps_fn, x0, levels):
        x = x0.clone()
        yield State(0, levels[0], x)
        for index in range(1, len(levels)):
            x.copy_(step(x, eps_fn(x, levels[index].t), levels[index - 1].abar, levels[index].abar))
            yield State(index, levels[index], x)


@wrong(IN_PLACE)
class ChangesTheState(Plain):
    """the given state changed in place"""

    def decode(self, eps_fn, state, levels, blend=None):
        yield from super().decode(eps_fn, state, levels, blend)
        state.latent.detach().mul_(2)


@wrong(IN_PLACE)
class ChangesTheLevels(Plain):
    """the levels turned round in place"""

    def decode(self, eps_fn, state, levels, blend=None):
        yield from super().decode(eps_fn, state, levels, blend)
        if isinstance(levels, list):
            levels.reverse()


@wrong(IN_PLACE)
class ChangesTheBlend(Down):
    """what blend returned changed in place"""

    def once(self, x, index, moved, blend, first):
        made = moved(x, index)
        if blend is not None and not first:
            x.zero_()
        x = self.blended(made, index, blend)
        return x, x


def one_a_clause():
    """The wrong samplers by name; slow are those whose clauses an earlier one breaks."""
    seen = set()
    for name, (_, clauses) in WRONG.items():
        yield pytest.param(name, marks=[pytest.mark.slow] if set(clauses) <= seen else [])
        seen |= set(clauses)


@pytest.mark.parametrize("name", list(one_a_clause()))
def test_wrong_samplers_break_the_clause_that_names_the_mistake(name):
    sampler, clauses = WRONG[name]
    said, broken = broken_by(sampler())
    assert set(clauses) <= set(broken), said


def test_each_clause_is_broken_by_some_wrong_sampler():
    assert {clause for _, clauses in WRONG.values() for clause in clauses} == set(NAMES)
    assert len(set(NAMES)) == len(NAMES)


def test_wrong_samplers_leave_nothing_behind():
    for name in ("x0 changed in place", "no gradients between two states, for the caller too", "reseeds torch"):
        before = torch.get_rng_state(), random.getstate()
        broken_by(WRONG[name][0]())
        assert torch.equal(before[0], torch.get_rng_state()) and before[1] == random.getstate()
        assert torch.is_grad_enabled()
    check_sampler("ddim")


# ---------------------------------------------------------------- what it says


def test_the_message_names_each_broken_clause_with_its_sentence_and_the_numbers():
    class OneOff(Plain):
        def time_down(self, levels, index):
            return levels[index].t

    said, broken = broken_by(OneOff())
    assert said.split("\n\n") == [
        f"OneOff: 1 of {len(CLAUSES)} clauses of the contract are broken; the first often explains the others",
        "decoding_asks_at_the_time_of_its_latent: Decoding asks, in each step, about some latent with the t of the "
        "level where that stands; and it tells the network no t outside the step.\n"
        "    from t = 601 down to t = 501 it asked about a latent that stands near t = 601, with t = 501"]
    said, _ = broken_by(WRONG["blend one level off"][0]())
    assert "blend must be called with [6, 5, 4, 3, 2, 1, 0], but it was called with [7, 6, 5, 4, 3, 2, 1]" in said
    said, _ = broken_by(WRONG["abar swapped"][0]())
    assert "but it is 1.0000 picture + 0.0170 noise, as near t = 0" in said
    said, _ = broken_by(WRONG["level of the last index"][0]())
    assert "the state of index 1 says Level(t=0, abar=0.99915), but levels[1] is Level(t=1, abar=0.99829602" in said


def test_what_is_broken_by_the_same_is_said_once_and_an_exception_says_where():
    class Unfinished(Plain):
        def encode(self, eps_fn, x0, levels):
            raise TypeError("not written yet")

    said, broken = broken_by(Unfinished())
    assert said.count("TypeError: not written yet (") == 1
    assert "    The same breaks decode_gives_a_state_for_each_level, encoding_begins_with_x0_itself, " in said
    assert f"{__file__}, line " in said and "encode_gives_a_state_for_each_level" in broken
    with pytest.raises(AssertionError) as error:
        check_sampler(Unfinished())
    assert isinstance(error.value.__cause__, TypeError)


def test_claims_are_the_samplers_own_unless_told():
    namespace = SimpleNamespace(encode=Plain().encode, decode=Plain().decode)
    said, broken = broken_by(namespace, exact=True)
    assert "decoding_undoes_encoding" in broken and said.startswith("SimpleNamespace: 2 of ")
    said, broken = broken_by("ddim:time=source", order=2)
    assert broken == ["it_converges_with_its_order"] and said.startswith("ddim:time=source: 1 of ")
    assert "its order is said to be 2, but seen is on the leading grid 0.9" in said and "50 steps: " in said
    check_sampler(WRONG["claims order 2"][0](), order=1)
    check_sampler(WRONG["claims to be exact"][0](), exact=False)
    check_sampler(namespace, order=1)


def test_what_is_no_sampler_is_refused():
    for told in ("euler", Plain, SimpleNamespace(encode=Plain().encode), None):
        with pytest.raises(ValueError, match="^sampler "):
            check_sampler(told)
