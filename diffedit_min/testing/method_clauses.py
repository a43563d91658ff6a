"""The contract of a method, first half: what comes back, and what it depends on.

Each clause is a function of a `Trial`, and its docstring says what must hold; it raises an AssertionError that shows
what was expected and what was seen. A clause about something that a method doesn't do holds for it.
"""

import random

import numpy as np
import torch

from ..methods.edit import Edit
from .method_seen import (
    Draws,
    apart,
    apart_beyond_rounding,
    difference,
    rows_seen,
    shown,
    tensors_given,
    tensors_of,
    weights_of,
)
from .method_trial import PICTURES, REFERENCES, SEEDS, UPRIGHT, Trial
from .probes import Contract, global_state, global_state_kept, require

RUN_CLAUSES = Contract()

# ---------------------------------------------------------------- what comes back


@RUN_CLAUSES.clause
def run_returns_an_outcome(trial: Trial) -> None:
    """run returns an Outcome. Its tensors have the contract's shapes and types, and all their numbers are finite."""
    for keep in ("trace", "result"):
        run = trial.run(keep=keep)
        dtype, outcome = run.task.x0.dtype, run.outcome
        for name, value in run.found.items():
            require(len(value) == len(PICTURES), f"{name}: expected a row for each of {len(PICTURES)} pictures, got "
                                                 f"{len(value)}")
            require(bool(value.isfinite().all()), f"{name} holds numbers that are not finite")
            require(value.dtype == dtype or name.startswith(("mask", "trace")),
                    f"{name}: expected {dtype} as of the picture's latent, got {value.dtype}")
        require(outcome.mask is None or outcome.mask.dtype == torch.bool, "mask: expected torch.bool, got "
                f"{getattr(outcome.mask, 'dtype', None)}")
        if outcome.mask_map is not None:
            low, high = outcome.mask_map.min().item(), outcome.mask_map.max().item()
            require(0 <= low and high <= 1, f"mask_map: expected numbers from 0 to 1, got {low:.3g} to {high:.3g}")


@RUN_CLAUSES.clause
def states_are_in_order(trial: Trial) -> None:
    """The states of a trajectory rise in noise; encoded[0] holds the picture's own latent, decoded[0] the result."""
    outcome, x0 = trial.plain.outcome, trial.plain.task.x0
    for name, states in (("encoded", outcome.encoded), ("decoded", outcome.decoded)):
        times = [state.level.t for state in states]
        require(times == sorted(set(times)), f"the times of {name}: expected rising ones, got {times}")
    for name, states, wanted in (("encoded", outcome.encoded, x0), ("decoded", outcome.decoded, outcome.latent)):
        if states and wanted is not None:
            away = difference(states[0].latent, wanted)
            require(away == 0, f"{name}[0].latent: expected {'x0' if wanted is x0 else 'Outcome.latent'} itself, it is "
                               f"{away:.1e} away")


@RUN_CLAUSES.clause
def pictures_come_back_at_their_size(trial: Trial) -> None:
    """A picture of any size gives an Edit with a picture of the same size; a list of pictures gives a list of Edits."""
    one = trial.edit(0)
    require(isinstance(one, Edit), f"one picture gave a {type(one).__name__}, not an Edit")
    require(one.image.size == PICTURES[0].size, f"a picture of {PICTURES[0].size} px came back as {one.image.size}")
    images = [*PICTURES, UPRIGHT]
    several = trial.edits(image=images, query=trial.queries[0], reference=REFERENCES[0], seed=0)
    require(isinstance(several, list) and len(several) == len(images),
            f"a list of {len(images)} pictures gave {type(several).__name__} {several!r:.60}")
    sizes, wanted = [edit.image.size for edit in several], [image.size for image in images]
    require(sizes == wanted, f"pictures of {wanted} px came back as {sizes}")


@RUN_CLAUSES.clause
def what_it_says_of_itself_is_true(trial: Trial) -> None:
    """A method that says it remakes the picture returns a `source`; one that says it generates needs no picture."""
    has, says = trial.plain.outcome.source is not None, trial.method.remakes
    require(has == says, f"remakes is {says}, but Outcome.source is {'a tensor' if has else None}")
    if trial.method.generates:
        edit = trial.edit(0, image=None)
        require(edit.input is not None, "without a picture: the Edit has no `input`, which is the picture made for it")


@RUN_CLAUSES.clause
def steps_count_up(trial: Trial) -> None:
    """The Steps of a stage count 1, 2, ... up to `total`, perhaps in several rounds; each latent is of x0's shape."""
    steps, wanted = trial.plain.steps, tuple(trial.plain.task.x0.shape)
    for stage in dict.fromkeys(step.stage for step in steps):
        done, total = 0, None
        for step in steps:
            if step.stage != stage:
                continue
            require(total in (None, step.total), f"stage {stage!r}: total was {total}, then {step.total}")
            require(step.index == done + 1, f"stage {stage!r}: after index {done} of {step.total} came {step.index}")
            total = step.total
            done = 0 if step.index == total else step.index
            shape = wanted if step.latent is None else tuple(step.latent.shape)
            require(shape == wanted, f"stage {stage!r}: a Step's latent has the shape {shape}, but x0 has {wanted}")
        require(done == 0, f"stage {stage!r}: the last index was {done} of {total}")


@RUN_CLAUSES.clause
def keeping_more_changes_nothing(trial: Trial) -> None:
    """keep="trace" gives the same result as keep="result", which keeps of a decoding the last state and no trace."""
    more, less = trial.plain, trial.run(keep="result")
    results = [{name: value for name, value in run.found.items() if not name.startswith(("decoded", "trace"))}
               for run in (more, less)]
    if differences := apart(*results):
        raise AssertionError(f"these differ: {shown(differences)}")
    require(less.rows == more.rows, f"keeping all takes the rows {dict(more.rows)}, else it is {dict(less.rows)}")
    require(len(less.outcome.decoded) <= 1,
            f'with keep="result": expected at most one state of the decoding, got {len(less.outcome.decoded)}')
    require(not less.outcome.trace, f'with keep="result": expected no trace, got {", ".join(less.outcome.trace)}')


@RUN_CLAUSES.clause
def results_carry_no_gradients(trial: Trial) -> None:
    """No tensor that comes back requires gradients."""
    for run in (trial.plain, trial.run(keep="result")):
        on_the_way = {f"Step.latent of {step.stage!r}": step.latent for step in run.steps if step.latent is not None}
        results = {**tensors_of(run.outcome), **run.outcome.trace, **on_the_way}
        wrong = [name for name, value in results.items() if value.requires_grad]
        require(not wrong, f"these do: {', '.join(wrong[:3])}; detach them, or compute them with gradients off")


# ---------------------------------------------------------------- what it changes, and what it depends on


@RUN_CLAUSES.clause
def nothing_given_is_changed(trial: Trial) -> None:
    """run changes no tensor of its Task: no latent, no context, no mask, and nothing that an earlier edit holds."""
    cases = {"": {}}
    if trial.uses("mask"):
        cases[" with a mask"] = {"masks": trial.half_masks()}
    if trial.uses("encoded", "mask_map"):
        cases[" with earlier edits"] = {"earlier": trial.edits()}
    for case, changes in cases.items():
        task, settings = trial.prepared(**changes)
        given = tensors_given(task)
        before = {name: value.clone() for name, value in given.items()}
        trial.finish(task, settings)
        if changed := apart(before, given):
            raise AssertionError(f"changed{case}: {shown(changed)}")


@RUN_CLAUSES.clause
def the_model_stays_as_it_was(trial: Trial) -> None:
    """run leaves the model's weights as they were: the same numbers, no gradients, and as trainable as before."""
    trial.run()
    weights = weights_of(trial.model)
    if changed := apart(trial.weights, weights):
        raise AssertionError(f"weights changed: {shown(changed)}")
    other = [name for name, weight in weights.items() if weight.requires_grad != trial.weights[name].requires_grad]
    require(not other, f"requires_grad changed for {len(other)} of {len(weights)} weights")
    left = [name for name, weight in weights.items() if weight.grad is not None]
    require(not left, f"gradients were left at {len(left)} of {len(weights)} weights")


@RUN_CLAUSES.clause
def the_same_call_gives_the_same_bits(trial: Trial) -> None:
    """The same call gives the same bits, whatever ran before and wherever the global random numbers stand."""
    runs = []
    for seed in (1, 2):
        with global_state_kept():
            for set_seed in (torch.manual_seed, np.random.seed, random.seed):
                set_seed(seed)
            runs.append(trial.run())
        trial.run((0,), queries=trial.queries[::-1], seeds=(8, 9))
    if differences := apart(runs[0].found, runs[1].found):
        raise AssertionError(f"between two equal calls these differ: {shown(differences)}")
    require(runs[0].rows == runs[1].rows, f"two equal calls took the rows {[dict(run.rows) for run in runs]}")


@RUN_CLAUSES.clause
def the_global_state_stays(trial: Trial) -> None:
    """run neither draws from the global random numbers of torch, NumPy or Python, nor seeds them."""
    with global_state_kept():
        before = global_state()
        trial.run()
        after = global_state()
    moved = [name for name in before if before[name] != after[name]]
    require(not moved, f"these changed: {', '.join(moved)}; `standard_noise` (core/schedule.py) leaves them alone")


@RUN_CLAUSES.clause
def every_picture_has_its_own_seed(trial: Trial) -> None:
    """If random numbers are drawn, another seed changes what is found for its own picture, and for no other."""
    with Draws() as draws:
        trial.run()
    for i, seeds in ((0, (SEEDS[0] + 1, SEEDS[1])), (1, (SEEDS[0], SEEDS[1] + 1))):
        run = trial.run(seeds=seeds)
        require(not draws.drawn or bool(apart(trial.plain.row(i), run.row(i))),
                f"random numbers are drawn, but the seeds {SEEDS} and {seeds} give the same for picture {i}")
        if beside := apart_beyond_rounding(trial.plain.row(1 - i), run.row(1 - i)):
            raise AssertionError(f"the seed of picture {i} changes, for picture {1 - i}, {shown(beside)}")


@RUN_CLAUSES.clause
def picture_and_words_matter(trial: Trial) -> None:
    """Another picture changes the result; another query or reference too, if the method takes it, and only then."""
    equal = trial.run(queries=[trial.queries[0]] * 2, references=REFERENCES[:1] * 2, seeds=SEEDS[:1] * 2)
    require(bool(apart(equal.row(0), equal.row(1))), "two pictures with the same words and seed give the same")
    for name, takes, run in (("query", trial.method.takes_query, trial.run(queries=trial.queries[::-1])),
                             ("reference", bool(trial.uses("reference")), trial.run(references=REFERENCES[::-1]))):
        differences = apart(trial.plain.found, run.found)
        require(bool(differences) or not takes, f"the method takes a {name}, but another one changes nothing")
        require(not differences or takes, f"the method says that it takes no {name}, but another one changes "
                                          f"{shown(differences)}")


@RUN_CLAUSES.clause
def alone_or_in_a_batch(trial: Trial) -> None:
    """A picture gives the same alone and in any batch, up to rounding."""
    swapped = trial.run((1, 0))
    for i in (0, 1):
        alone = trial.run((i,)).found
        for place, batch in ((i, trial.plain), (1 - i, swapped)):
            if differences := apart_beyond_rounding(alone, batch.row(place)):
                raise AssertionError(f"picture {i}, alone and as row {place} of a batch of {len(PICTURES)}, differs in "
                                     f"{shown(differences)}")


@RUN_CLAUSES.clause
def rows_are_counted(trial: Trial) -> None:
    """The Edits' rows are those that went through a U-Net, copies of it included; their backward_rows, back through it.
    """
    with rows_seen() as seen:
        edits = trial.edits()
    for name, through, counted in (("rows", seen.forward, sum(edit.rows for edit in edits)),
                                   ("backward_rows", seen.backward, sum(edit.backward_rows for edit in edits))):
        require(counted == through, f"{name}: the Edits of {len(edits)} pictures count {counted}, but {through} went "
                                    f"through; rows_for of each: {edits[0].rows_for}")
