"""Run: python -m pytest tests/test_checks.py; takes about half a minute.

check_sampler: right samplers pass each clause, and each wrong one below, a small variation of a right one, fails the
clause that names its mistake.
"""

import random
import re
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from diffedit_min.core.ddim import step
from diffedit_min.core.state import State
from diffedit_min.samplers import SAMPLERS
from diffedit_min.samplers.bdia import BDIA
from diffedit_min.samplers.dpm_solver import DPMSolver
from diffedit_min.testing import CLAUSES, LEVELS, check_sampler

# ---------------------------------------------------------------- right ones


class Plain:
    """DDIM, each part of it a method, so that a wrong one below differs in one of them."""

    def step(self, x, eps, abar_from, abar_to):
        return step(x, eps, abar_from, abar_to)

    def time_up(self, levels, index):
        """The t with which x at levels[index - 1] goes to levels[index]."""
        return levels[index].t

    def time_down(self, levels, index):
        """The t with which x at levels[index + 1] goes to levels[index]."""
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


class Walking:
    """Both directions by one step, `there`: what README.md does for Heun's method."""

    order = 2

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


class Heun(Walking):
    """A DDIM step, then again with the mean of both ends' predictions."""

    def there(self, eps_fn, x, here, there):
        eps = eps_fn(x, here.t)
        guess = step(x, eps, here.abar, there.abar)
        return step(x, (eps + eps_fn(guess, there.t)) / 2, here.abar, there.abar)


class Midpoint(Walking):
    """Half a DDIM step, and the whole one with what is predicted there: at a time that is none of the levels'."""

    order = None            # it brings its schedule along, so the kit has no other grid for it

    def there(self, eps_fn, x, here, there):
        t = (here.t + there.t) // 2
        half = step(x, eps_fn(x, here.t), here.abar, LEVELS.abar[t])
        return step(x, eps_fn(half, t), here.abar, there.abar)


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
                change, accelerated = solved - guess, solved
                if last is not None:
                    turned = change - last[1]
                    size = turned.square().sum(dim=(1, 2, 3), keepdim=True)
                    part = (change * turned).sum(dim=(1, 2, 3), keepdim=True) / size.clamp_min(1e-300)
                    accelerated = solved - part * (solved - last[0])
                guess, last = accelerated, (solved, change)
            x = step(x, eps_fn(guess, there.t), here.abar, there.abar)
            yield State(index, there, x)


def module():
    """A module with two functions."""
    made = ModuleType("my_sampler")
    made.encode, made.decode = Plain().encode, Plain().decode
    return made


class Pair:
    """EDICT, with the places where it can go wrong."""

    exact, order, p = True, 1, 0.93

    def first_up(self, index, levels, pair):
        return pair if index % 2 == 0 else pair[::-1]

    def first_down(self, index, start, pair):
        return pair if index % 2 == 0 else pair[::-1]

    def blended(self, pair, index, blend):
        return pair if blend is None else blend(torch.cat(pair, dim=1), index).chunk(2, dim=1)

    def encode(self, eps_fn, x0, levels):
        p, pair = self.p, (x0, x0)
        yield State(0, levels[0], x0, ((0, x0),))
        for index in range(1, len(levels)):
            here, there = levels[index - 1], levels[index]
            x, y = self.first_up(index, levels, pair)
            y = (y - (1 - p) * x) / p
            x = (x - (1 - p) * y) / p
            y = step(y, eps_fn(x, there.t), here.abar, there.abar)
            x = step(x, eps_fn(y, there.t), here.abar, there.abar)
            pair = self.first_up(index, levels, (x, y))
            yield State(index, there, pair[0], ((index, pair[1]),))

    def decode(self, eps_fn, state, levels, blend=None):
        yield state
        p, pair = self.p, (state.latent, state.partners[0][1] if state.partners else state.latent)
        for index in range(state.index - 1, -1, -1):
            here, there = levels[index + 1], levels[index]
            x, y = self.first_down(index + 1, state.index, pair)
            x = step(x, eps_fn(y, here.t), here.abar, there.abar)
            y = step(y, eps_fn(x, here.t), here.abar, there.abar)
            x = p * x + (1 - p) * y
            y = p * y + (1 - p) * x
            pair = self.blended(self.first_down(index + 1, state.index, (x, y)), index, blend)
            yield State(index, there, pair[0], ((index, pair[1]),))


RIGHT = {"Plain": Plain(), "Heun": Heun(), "Midpoint": Midpoint(), "Anderson": Anderson(), "Pair": Pair(),
         "a namespace": SimpleNamespace(encode=Heun().encode, decode=Heun().decode), "a module": module()}


@pytest.mark.parametrize("clause", CLAUSES)
@pytest.mark.parametrize("sampler", [*SAMPLERS.values(), *RIGHT.values()], ids=[*SAMPLERS, *RIGHT])
def test_right_samplers_keep_every_clause(sampler, clause):
    clause(sampler)


@pytest.mark.parametrize("told", ["ddim:time=source", "edict:p=1", "edict:p=0.9", "bdia:gamma=1", "fixed_point:iterations=15"])
def test_samplers_with_other_options_pass(told):
    check_sampler(told)


# ---------------------------------------------------------------- wrong ones: steps, levels and times


WRONG = {}      # by what is wrong: the sampler, and the clauses that must be among the broken ones


def wrong(*clauses):
    """Collects a wrong sampler, a class without arguments."""

    def collect(sampler):
        WRONG[sampler.__name__] = sampler, clauses
        return sampler

    return collect


BOTH_STAND = "encoding_stands_at_its_levels", "decoding_stands_at_its_levels"


@wrong(*BOTH_STAND)
class AbarSwapped(Plain):
    def step(self, x, eps, abar_from, abar_to):
        return step(x, eps, abar_to, abar_from)


@wrong(*BOTH_STAND)
class SignOfEps(Plain):
    def step(self, x, eps, abar_from, abar_to):
        return step(x, -eps, abar_from, abar_to)


@wrong(*BOTH_STAND)
class SignInX0(Plain):
    def step(self, x, eps, abar_from, abar_to):
        x0 = (x + (1 - abar_from) ** 0.5 * eps) / abar_from**0.5
        return abar_to**0.5 * x0 + (1 - abar_to) ** 0.5 * eps


@wrong(*BOTH_STAND)
class RootForgotten(Plain):
    def step(self, x, eps, abar_from, abar_to):
        return abar_to**0.5 * (x - (1 - abar_from) * eps) / abar_from**0.5 + (1 - abar_to) * eps


@wrong(*BOTH_STAND)
class RootOfAbarForgotten(Plain):
    def step(self, x, eps, abar_from, abar_to):
        return abar_to * (x - (1 - abar_from) ** 0.5 * eps) / abar_from + (1 - abar_to) ** 0.5 * eps


@wrong("encoding_asks_within_its_step")
class TimeUpTooHigh(Plain):
    def time_up(self, levels, index):
        return levels[min(index + 1, len(levels) - 1)].t


@wrong("encoding_asks_within_its_step")
class TimeUpTooLow(Plain):
    def time_up(self, levels, index):
        return levels[max(index - 2, 0)].t


@wrong("decoding_asks_at_the_time_of_its_latent")
class TimeOfTheLevelReached(Plain):
    def time_down(self, levels, index):
        return levels[index].t


@wrong("decoding_asks_at_the_time_of_its_latent")
class TimeDownTooHigh(Plain):
    def time_down(self, levels, index):
        return levels[min(index + 2, len(levels) - 1)].t


@wrong("decoding_asks_at_the_time_of_its_latent")
class TimeDownOneTooLow(Plain):
    """One training time, not one level: t - 1."""

    def time_down(self, levels, index):
        return levels[index + 1].t - 1


@wrong("encoding_asks_within_its_step")
class TimeUpOneTooHigh(Plain):
    def time_up(self, levels, index):
        return levels[index].t + 1


@wrong("encoding_asks_within_its_step", "decoding_asks_at_the_time_of_its_latent")
class IndexAsTime(Plain):
    def time_up(self, levels, index):
        return index

    def time_down(self, levels, index):
        return index + 1


@wrong("encoding_asks_within_its_step", "decoding_asks_at_the_time_of_its_latent")
class AlwaysTheSameTime(Plain):
    def time_up(self, levels, index):
        return levels[-1].t

    time_down = time_up


@wrong("the_network_is_asked_properly")
class TimeAsFloat(Plain):
    def time_down(self, levels, index):
        return float(levels[index + 1].t)


@wrong("the_network_is_asked_properly")
class TimeAsTensor(Plain):
    def time_up(self, levels, index):
        return torch.tensor(levels[index].t)


@wrong("the_network_is_asked_properly")
class TimeOutOfRange(Plain):
    def time_up(self, levels, index):
        return levels[index].t + 1000


@wrong("the_network_is_asked_properly")
class TimeBelowZero(Plain):
    def time_down(self, levels, index):
        return levels[index + 1].t - 2


@wrong("the_network_is_asked_properly")
class AsksForTwiceTheRows(Plain):
    def decode(self, eps_fn, state, levels, blend=None):
        return super().decode(lambda x, t: eps_fn(torch.cat([x, x]), t).chunk(2)[0], state, levels, blend)


@wrong("the_network_is_asked_properly")
class AsksInFloat32(Plain):
    def encode(self, eps_fn, x0, levels):
        return super().encode(lambda x, t: eps_fn(x.float(), t).to(x.dtype), x0, levels)


@wrong("the_network_is_asked_properly")
class AsksForEachRow(Plain):
    def encode(self, eps_fn, x0, levels):
        return super().encode(lambda x, t: torch.cat([eps_fn(row[None], t) for row in x]), x0, levels)


# ---------------------------------------------------------------- wrong ones: states


@wrong("encode_gives_a_state_for_each_level")
class LastLevelForgotten(Plain):
    def encode(self, eps_fn, x0, levels):
        return super().encode(eps_fn, x0, levels[:-1] or levels)


@wrong("encode_gives_a_state_for_each_level")
class PastTheLastLevel(Plain):
    def encode(self, eps_fn, x0, levels):
        yield from super().encode(eps_fn, x0, (*levels, LEVELS.at(999)))


@wrong("encode_gives_a_state_for_each_level")
class NeverEnds(Plain):
    def encode(self, eps_fn, x0, levels):
        yield from super().encode(eps_fn, x0, levels)
        while True:
            yield self.state(len(levels) - 1, levels, x0)


@wrong("decode_gives_a_state_for_each_level")
class StopsOneLevelEarly(Plain):
    def decode(self, eps_fn, state, levels, blend=None):
        for made in super().decode(eps_fn, state, levels, blend):
            if made.index > 0 or state.index == 0:
                yield made


@wrong("encode_gives_a_state_for_each_level", "encoding_begins_with_x0_itself")
class FirstStateMissingUp(Plain):
    def encode(self, eps_fn, x0, levels):
        states = super().encode(eps_fn, x0, levels)
        next(states)
        yield from states


@wrong("decode_gives_a_state_for_each_level", "decoding_begins_with_the_given_state")
class FirstStateMissingDown(Plain):
    def decode(self, eps_fn, state, levels, blend=None):
        states = super().decode(eps_fn, state, levels, blend)
        next(states)
        yield from states


@wrong(*BOTH_STAND)
class LevelSkipped(Plain):
    """In both directions; what is yielded for it is a copy of the next."""

    def encode(self, eps_fn, x0, levels):
        for state in super().encode(eps_fn, x0, [level for i, level in enumerate(levels) if i != 3]):
            if state.index == 3:
                yield State(3, levels[3], state.latent)
            yield State(index := state.index + (state.index >= 3), levels[index], state.latent)

    def decode(self, eps_fn, state, levels, blend=None):
        yield state
        x = state.latent
        for index in range(state.index - 1, -1, -1):
            if index != 3:
                above = levels[index + 1 + (index == 2 < state.index - 1)]
                x = self.blended(step(x, eps_fn(x, above.t), above.abar, levels[index].abar), index, blend)
            yield State(index, levels[index], x)


@wrong("encode_gives_a_state_for_each_level", "decode_gives_a_state_for_each_level")
class LevelLeftOut(Plain):
    """In both directions: there is no state of index 3."""

    def encode(self, eps_fn, x0, levels):
        return (state for state in super().encode(eps_fn, x0, levels) if state.index != 3)

    def decode(self, eps_fn, state, levels, blend=None):
        return (s for s in super().decode(eps_fn, state, levels, blend) if s.index != 3 or s is state)


@wrong("encode_gives_a_state_for_each_level")
class WrongIndex(Plain):
    def encode(self, eps_fn, x0, levels):
        for state in super().encode(eps_fn, x0, levels):
            yield State(state.index + 1, state.level, state.latent)


@wrong("encode_gives_a_state_for_each_level", "decode_gives_a_state_for_each_level")
class WrongLevel(Plain):
    def state(self, index, levels, x):
        return State(index, levels[max(index - 1, 0)], x)


@wrong("decode_gives_a_state_for_each_level")
class AlwaysFromTheTop(Plain):
    def decode(self, eps_fn, state, levels, blend=None):
        return super().decode(eps_fn, State(len(levels) - 1, levels[-1], state.latent), levels, blend)


@wrong("encode_gives_a_state_for_each_level", "states_come_one_by_one")
class ListOfTheLast(Plain):
    def encode(self, eps_fn, x0, levels):
        *_, last = super().encode(eps_fn, x0, levels)
        return [last.latent]


@wrong("encode_gives_a_state_for_each_level")
class YieldsTensors(Plain):
    def encode(self, eps_fn, x0, levels):
        return (state.latent for state in super().encode(eps_fn, x0, levels))


@wrong("states_come_one_by_one")
class AllAtOnce(Plain):
    def decode(self, eps_fn, state, levels, blend=None):
        yield from list(super().decode(eps_fn, state, levels, blend))


@wrong("tensors_keep_their_form")
class StatesInFloat32(Plain):
    def state(self, index, levels, x):
        return State(index, levels[index], x.float())


@wrong("float64_stays_float64")
class StepsInFloat32(Plain):
    def step(self, x, eps, abar_from, abar_to):
        return step(x.float(), eps.float(), abar_from, abar_to).to(x.dtype)


@wrong("float64_stays_float64")
class RootsInFloat32(Plain):
    def step(self, x, eps, abar_from, abar_to):
        a, b = torch.tensor([abar_from, abar_to]).sqrt().tolist()       # float32 is torch's default
        return step(x, eps, a**2, b**2)


@wrong("tensors_keep_their_form")
class StatesOfOneRow(Plain):
    def state(self, index, levels, x):
        return State(index, levels[index], x[:1])


@wrong("a_level_without_noise_is_a_level")
class DividesByTheNoise(Plain):
    def step(self, x, eps, abar_from, abar_to):
        return step(x, eps, abar_from, abar_to) + 0 * x / torch.tensor(1 - abar_from, dtype=x.dtype).sqrt()


@wrong("a_smaller_ratio_is_a_prefix")
class KnowsHowFarItGoes(Plain):
    def time_up(self, levels, index):
        return levels[index if len(levels) % 2 else index - 1].t


@wrong("encoding_stands_at_its_levels")
class OwnGrid(Plain):
    """As if all steps were as the last one."""

    def encode(self, eps_fn, x0, levels):
        yield State(0, levels[0], x0)
        x, size = x0, levels[-1].t // max(len(levels) - 1, 1)
        for index in range(1, len(levels)):
            here, there = LEVELS.at(size * (index - 1)), LEVELS.at(size * index)
            x = step(x, eps_fn(x, there.t), here.abar, there.abar)
            yield State(index, levels[index], x)


# ---------------------------------------------------------------- wrong ones: accuracy and claims


@wrong("it_converges_with_its_order")
class ClaimsOrder2(Plain):
    order = 2


@wrong("decoding_undoes_encoding")
class ClaimsToBeExact(Plain):
    exact = True


@wrong("encoding_follows_the_ode", "decoding_follows_the_ode")
class AsksOnce(Plain):
    """One prediction serves all steps."""

    def encode(self, eps_fn, x0, levels):
        eps = eps_fn(x0, levels[0].t)
        return super().encode(lambda x, t: eps, x0, levels)

    def decode(self, eps_fn, state, levels, blend=None):
        eps = eps_fn(state.latent, state.level.t)
        return super().decode(lambda x, t: eps, state, levels, blend)


@wrong("decoding_undoes_encoding")
class PairWithoutTurnsUp(Pair):
    def first_up(self, index, levels, pair):
        return pair


@wrong("decoding_undoes_encoding")
class PairWithoutTurnsDown(Pair):
    def first_down(self, index, start, pair):
        return pair


@wrong("decoding_undoes_encoding", "a_state_holds_all_that_decoding_needs")
class PairTurnsByStepsDown(Pair):
    """The parity of the step's number, not of the level's: wrong for odd numbers of steps."""

    def first_down(self, index, start, pair):
        return pair if (start - index) % 2 == 0 else pair[::-1]


@wrong("a_smaller_ratio_is_a_prefix")
class PairTurnsByStepsLeft(Pair):
    """Both directions agree, but a smaller ratio's states are no prefix of a larger's."""

    def first_up(self, index, levels, pair):
        return pair if (len(levels) - 1 - index) % 2 == 0 else pair[::-1]

    def first_down(self, index, start, pair):
        return pair if (start - index) % 2 == 0 else pair[::-1]


# ---------------------------------------------------------------- wrong ones: the blend


@wrong("each_new_latent_is_blended_once")
class BlendIgnored(Plain):
    def blended(self, x, index, blend):
        return x


@wrong("each_new_latent_is_blended_once")
class BlendOneLevelOff(Plain):
    def blended(self, x, index, blend):
        return x if blend is None else blend(x, index + 1)


@wrong("each_new_latent_is_blended_once")
class BlendedTwice(Plain):
    def blended(self, x, index, blend):
        return x if blend is None else blend(blend(x, index), index)


@wrong("each_new_latent_is_blended_once", "what_blend_returns_is_the_latent")
class BlendOneStepLate(Plain):
    def decode(self, eps_fn, state, levels, blend=None):
        yield state
        x = state.latent
        for index in range(state.index - 1, -1, -1):
            if index < state.index - 1:
                x = self.blended(x, index + 1, blend)
            x = step(x, eps_fn(x, levels[index + 1].t), levels[index + 1].abar, levels[index].abar)
            yield State(index, levels[index], x)


@wrong("blend_sees_each_latent_at_its_level", "what_blend_returns_is_the_latent")
class BlendBeforeTheStep(Plain):
    def decode(self, eps_fn, state, levels, blend=None):
        yield state
        x = state.latent
        for index in range(state.index - 1, -1, -1):
            x = self.blended(x, index, blend)
            x = step(x, eps_fn(x, levels[index + 1].t), levels[index + 1].abar, levels[index].abar)
            yield State(index, levels[index], x)


@wrong("decoding_goes_on_from_what_blend_returned")
class BlendOnlyInTheState(Plain):
    def decode(self, eps_fn, state, levels, blend=None):
        for made in super().decode(eps_fn, state, levels):
            yield made if made is state else State(made.index, made.level, self.blended(made.latent, made.index, blend))


@wrong("what_blend_returns_is_the_latent")
class BlendNotInTheState(Plain):
    def decode(self, eps_fn, state, levels, blend=None):
        yield state
        x = state.latent
        for index in range(state.index - 1, -1, -1):
            x = step(x, eps_fn(x, levels[index + 1].t), levels[index + 1].abar, levels[index].abar)
            yield State(index, levels[index], x)
            x = self.blended(x, index, blend)


@wrong("each_new_latent_is_blended_once", "what_blend_returns_is_the_latent")
class LastNotBlended(Plain):
    def blended(self, x, index, blend):
        return x if blend is None or index == 0 else blend(x, index)


@wrong("each_new_latent_is_blended_once")
class StartBlendedToo(Plain):
    def decode(self, eps_fn, state, levels, blend=None):
        start = State(state.index, state.level, self.blended(state.latent, state.index, blend))
        return super().decode(eps_fn, start, levels, blend)


@wrong("a_blend_that_changes_nothing_changes_nothing")
class AnotherPathWithBlend(Plain):
    """With a blend it steps through the predicted picture, in another order of operations."""

    def blended(self, x, index, blend):
        return x if blend is None else blend(x / 3 * 3, index)


@wrong("what_blend_returns_is_the_latent")
class PairHalfBlended(Pair):
    def blended(self, pair, index, blend):
        return pair if blend is None else (blend(pair[0], index), pair[1])


@wrong("decoding_goes_on_from_what_blend_returned")
class PairHalfCarriedOn(Pair):
    """The states hold what blend returned; but the next step is made with the other latent as it was."""

    def decode(self, eps_fn, state, levels, blend=None):
        kept = {}

        def keeping(latent, index):
            kept[index] = blend(latent, index).chunk(2, dim=1)
            return torch.cat([kept[index][0], latent.chunk(2, dim=1)[1]], dim=1)

        for made in super().decode(eps_fn, state, levels, blend and keeping):
            partners = ((made.index, kept[made.index][1]),) if made.index in kept else made.partners
            yield made if made is state else State(made.index, made.level, made.latent, partners)


@wrong("decoding_goes_on_from_what_blend_returned")
class TwoStepHalfCarriedOn(Plain):
    """Each latent is made of the two before it, of which one is as it was before the blend."""

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


@wrong("each_new_latent_is_blended_once")
class PairBlendedOneByOne(Pair):
    def blended(self, pair, index, blend):
        return pair if blend is None else (blend(pair[0], index), blend(pair[1], index))


@wrong("decoding_stands_at_its_levels", "encoding_stands_at_its_levels")
class PartnerAtAnotherLevel(BDIA):
    """Its partners are said to be at the state's own level."""

    def encode(self, eps_fn, x0, levels):
        for state in super().encode(eps_fn, x0, levels):
            yield State(state.index, state.level, state.latent, tuple((state.index, y) for _, y in state.partners))

    def decode(self, eps_fn, state, levels, blend=None):
        for made in super().decode(eps_fn, state, levels, blend):
            partners = tuple((made.index, y) for _, y in made.partners)
            yield made if made is state else State(made.index, made.level, made.latent, partners)


# ---------------------------------------------------------------- wrong ones: traces


@wrong("decoding_starts_from_the_latent_alone")
class MemoryOfTheWayUp(DPMSolver):
    """Decoding extrapolates from what encoding predicted last."""

    def decode(self, eps_fn, state, levels, blend=None):
        yield state
        states = super().decode(eps_fn, state, levels, blend)
        next(states)
        for made in states:
            if state.memory and made.index == state.index - 1:
                made = State(made.index, made.level, made.latent + 0.1 * (state.memory[1] - made.memory[1]),
                             memory=made.memory)
            yield made


@wrong("a_state_holds_all_that_decoding_needs")
class MemoryInTheGenerator(DPMSolver):
    """What the last step predicted isn't in the states."""

    def decode(self, eps_fn, state, levels, blend=None):
        for made in super().decode(eps_fn, state, levels, blend):
            yield made if made is state else State(made.index, made.level, made.latent)


class Carrying(Plain):
    """x0 is carried along in each state, in a way of its own, and is the decoding's result or a part of it."""

    part = 1.0

    def encode(self, eps_fn, x0, levels):
        for state in super().encode(eps_fn, x0, levels):
            yield self.carried(state, x0)

    def decode(self, eps_fn, state, levels, blend=None):
        x0 = self.found(state)
        for made in super().decode(eps_fn, state, levels, blend):
            if x0 is not None and made is not state:
                made = self.carried(made, x0)
                if made.index == 0:
                    latent = (1 - self.part) * made.latent + self.part * x0
                    made = State(0, made.level, latent, made.partners, made.memory)
            yield made


@wrong("decoding_starts_from_the_latent_alone")
class CarriesX0AsPartner(Carrying):
    def carried(self, state, x0):
        return State(state.index, state.level, state.latent, ((0, x0),)) if state.index else state

    def found(self, state):
        return state.partners[0][1] if state.partners else None


@wrong("decoding_starts_from_the_latent_alone")
class CarriesX0InPart(CarriesX0AsPartner):
    part = 0.2


@wrong("blend_is")
class CarriesLittleOfX0(CarriesX0AsPartner):
    part = 0.03


@wrong("decoding_starts_from_the_latent_alone")
class CarriesX0AsMemory(Carrying):
    part = 0.01

    def carried(self, state, x0):
        return State(state.index, state.level, state.latent, memory=(0, x0))

    def found(self, state):
        return state.memory and state.memory[1]


@wrong("decoding_starts_from_the_latent_alone", "a_state_holds_all_that_decoding_needs")
class CarriesX0AsAttribute(Carrying):
    def carried(self, state, x0):
        object.__setattr__(state, "x0", x0)
        return state

    def found(self, state):
        return getattr(state, "x0", None)


@wrong("decoding_starts_from_the_latent_alone")
class ReplaysTheEncoding(Plain):
    """All latents of the encoding are carried along, and yielded again."""

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
        for i, (index, latent) in enumerate(state.partners):
            yield State(index, levels[index], latent, state.partners[i + 1:])


@wrong("a_call_depends_on_its_arguments_alone", "decoding_starts_from_the_latent_alone")
class KeepsX0(Plain):
    x0 = None

    def encode(self, eps_fn, x0, levels):
        self.x0 = x0
        return super().encode(eps_fn, x0, levels)

    def decode(self, eps_fn, state, levels, blend=None):
        for made in super().decode(eps_fn, state, levels, blend):
            known = made.index == 0 and made is not state and self.x0 is not None
            yield State(0, made.level, self.x0) if known else made


@wrong("a_call_depends_on_its_arguments_alone")
class KeepsItsLatent(Plain):
    """Two walks at once disturb each other."""

    def encode(self, eps_fn, x0, levels):
        self.x = x0
        yield State(0, levels[0], x0)
        for index in range(1, len(levels)):
            eps = eps_fn(self.x, levels[index].t)
            self.x = step(self.x, eps, levels[index - 1].abar, levels[index].abar)
            yield State(index, levels[index], self.x)


@wrong("a_call_depends_on_its_arguments_alone")
class PairCountsItsSteps(Pair):
    count = 0

    def first_up(self, index, levels, pair):
        self.count += 1
        return pair if (self.count - 1) // 2 % 2 == 0 else pair[::-1]


@wrong("a_call_depends_on_its_arguments_alone")
class RemembersPredictions(Plain):
    def __init__(self):
        self.known = {}

    def encode(self, eps_fn, x0, levels):
        return super().encode(lambda x, t: self.known.setdefault((t, x.dtype, x.shape), eps_fn(x, t)), x0, levels)


@wrong("encoding_follows_the_ode")
class RemembersOnePrediction(Plain):
    eps = None

    def encode(self, eps_fn, x0, levels):
        def remembered(x, t):
            self.eps = eps_fn(x, t) if self.eps is None or self.eps.shape != x.shape else self.eps
            return self.eps

        return super().encode(remembered, x0, levels)


@wrong("nothing_global_changes")
class Reseeds(Plain):
    def encode(self, eps_fn, x0, levels):
        torch.manual_seed(0)
        yield from super().encode(eps_fn, x0, levels)


@wrong("nothing_global_changes")
class DrawsFromTorch(Plain):
    def step(self, x, eps, abar_from, abar_to):
        return step(x, eps, abar_from, abar_to) + 0 * torch.randn(1)


@wrong("nothing_global_changes")
class DrawsFromPython(Plain):
    def step(self, x, eps, abar_from, abar_to):
        return step(x, eps, abar_from, abar_to) + 0 * random.random()


@wrong("nothing_global_changes")
class DrawsFromNumpy(Plain):
    def step(self, x, eps, abar_from, abar_to):
        return step(x, eps, abar_from, abar_to) + 0 * np.random.rand()


@wrong("a_call_depends_on_its_arguments_alone")
class NoiseWithoutASeed(Plain):
    def __init__(self):
        self.generator = torch.Generator()

    def step(self, x, eps, abar_from, abar_to):
        return step(x, eps, abar_from, abar_to) + 1e-3 * torch.randn(x.shape, generator=self.generator, dtype=x.dtype)


@wrong("nothing_is_changed_in_place")
class ChangesX0(Plain):
    def encode(self, eps_fn, x0, levels):
        yield State(0, levels[0], x0.clone())
        x0 += 1e-9
        yield from list(super().encode(eps_fn, x0, levels))[1:]


@wrong("nothing_is_changed_in_place")
class ChangesItsStates(Plain):
    """One tensor for all levels."""

    def encode(self, eps_fn, x0, levels):
        x = x0.clone()
        yield State(0, levels[0], x)
        for index in range(1, len(levels)):
            x.copy_(step(x, eps_fn(x, levels[index].t), levels[index - 1].abar, levels[index].abar))
            yield State(index, levels[index], x)


@wrong("nothing_is_changed_in_place")
class ChangesTheGivenState(Plain):
    def decode(self, eps_fn, state, levels, blend=None):
        yield from super().decode(eps_fn, state, levels, blend)
        with torch.no_grad():
            state.latent.mul_(2)


@wrong("nothing_is_changed_in_place")
class ChangesWhatBlendReturned(Plain):
    def decode(self, eps_fn, state, levels, blend=None):
        yield state
        x = state.latent
        for index in range(state.index - 1, -1, -1):
            eps = eps_fn(x, levels[index + 1].t)
            made = step(x, eps, levels[index + 1].abar, levels[index].abar)
            if blend is not None and index < state.index - 1:
                x.zero_()
            x = self.blended(made, index, blend)
            yield State(index, levels[index], x)


@wrong("nothing_is_changed_in_place")
class ChangesPredictions(Plain):
    def step(self, x, eps, abar_from, abar_to):
        made = step(x, eps, abar_from, abar_to)
        eps.detach().zero_()
        return made


@wrong("nothing_is_changed_in_place")
class ChangesTheLevels(Plain):
    def decode(self, eps_fn, state, levels, blend=None):
        yield from super().decode(eps_fn, state, levels, blend)
        if isinstance(levels, list):
            levels.reverse()


@wrong("rows_do_not_mix")
class MeanOverTheBatch(Plain):
    def step(self, x, eps, abar_from, abar_to):
        return step(x, eps.mean(dim=0, keepdim=True).expand_as(eps), abar_from, abar_to)


@wrong("rows_do_not_mix")
class RollsTheBatch(Plain):
    def step(self, x, eps, abar_from, abar_to):
        return step(x.roll(1, dims=0), eps.roll(1, dims=0), abar_from, abar_to)


@wrong("rows_do_not_mix")
class ScaledByTheBatch(Plain):
    """Some norm over all rows, as if to keep the latents in bounds."""

    def step(self, x, eps, abar_from, abar_to):
        made = step(x, eps, abar_from, abar_to)
        return made * (1 + 1e-6 * (made.norm() / made.numel() ** 0.5 - 1))


@wrong("results_can_be_differentiated")
class WithoutGradients(Plain):
    encode = torch.no_grad()(Plain.encode)


@wrong("results_can_be_differentiated")
class PredictionsWithoutGradients(Plain):
    def decode(self, eps_fn, state, levels, blend=None):
        return super().decode(lambda x, t: eps_fn(x.detach(), t), state, levels, blend)


@wrong("nothing_global_changes")
class SwitchesGradientsOff(Plain):
    """Between two states they are off for the caller too."""

    def encode(self, eps_fn, x0, levels):
        with torch.no_grad():
            yield from super().encode(eps_fn, x0, levels)


@wrong("results_can_be_differentiated")
class RequiresGradients(Plain):
    def state(self, index, levels, x):
        return State(index, levels[index], x.detach().requires_grad_() if index else x)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_samplers_break_the_clause_that_names_the_mistake(name):
    sampler, clauses = WRONG[name]
    with pytest.raises(AssertionError) as error:
        check_sampler(sampler())
    broken = re.findall(r"^(\w+): ", str(error.value), flags=re.MULTILINE)
    assert set(clauses) <= set(broken), str(error.value)
