"""check_method(method): does a method keep to its contract? One call, seconds on a CPU. It is to methods what gradcheck
is to autograd.

The contract is in core/task.py and methods/method.py; here it is clause by clause. Each is a function of a `Trial`, and
its docstring says what must hold; it raises an AssertionError that shows what was expected and what was seen. A clause
about what a method doesn't do (it takes no mask, it encodes nothing) holds for it.

    @pytest.mark.parametrize("clause", METHOD_CLAUSES)
    def test_my_method(clause):
        clause(Trial.of(my_method))
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..core.options import Option
from ..core.state import Sampler
from ..methods.edit import Edit
from ..methods.method import Method
from ..model.stable_diffusion import StableDiffusion
from .checks import check
from .method_trial import (
    OTHER_WORDS,
    PICTURES,
    QUERIES,
    REFERENCES,
    SEEDS,
    UPRIGHT,
    Draws,
    Run,
    Trial,
    Try,
    apart,
    apart_beyond_rounding,
    copies,
    difference,
    extreme_values,
    found,
    global_random_numbers,
    global_random_state,
    rows_seen,
    shown,
    tensors_given,
    weights_of,
)
from .probes import require


def check_method(method: str | Method, model: StableDiffusion | None = None, **options: Any) -> None:
    """Raises AssertionError naming each clause of the contract that a method breaks, with what was expected and seen.

    method: a name, or a `dm.Method` of one's own. model: by default tiny random weights in float64, of which nobody
    expects a good picture, but on which a wrong index, sign or seed shows. options: what to run the method with, for
    example fewer iterations. Raises ValueError for what can't be tried at all.
    """
    trial = Trial.of(method, model, **options)
    check(METHOD_CLAUSES, trial, trial.method.name)


# ---------------------------------------------------------------- what comes back


def run_returns_an_outcome(trial: Trial) -> None:
    """run returns an Outcome; its tensors are finite, have the contract's shapes and types, and a row for each picture."""
    for keep in ("trace", "result"):
        run = trial.run(keep=keep)
        B, outcome = len(PICTURES), run.outcome
        for name, value in run.found.items():
            require(len(value) == B, f"{name} has {len(value)} rows for {B} pictures")
            require(bool(value.isfinite().all()), f"{name} holds numbers that are not finite")
        for name, value in run.found.items():
            if name.startswith(("latent", "source", "encoded", "decoded")):
                dtype = run.task.x0.dtype
                require(value.dtype == dtype, f"{name} is {value.dtype}, but the picture's latent is {dtype}")
        if outcome.mask is not None:
            require(outcome.mask.dtype == torch.bool, f"mask must be bool, not {outcome.mask.dtype}")
        if outcome.mask_map is not None:
            low, high = outcome.mask_map.min().item(), outcome.mask_map.max().item()
            require(0 <= low and high <= 1, f"mask_map must be from 0 to 1, but goes from {low:.3g} to {high:.3g}")


def states_are_in_order(trial: Trial) -> None:
    """States rise in noise; encoded[0] holds the picture's own latent, and decoded[0] the result."""
    outcome, x0 = trial.plain.outcome, trial.plain.task.x0
    for name, states in (("encoded", outcome.encoded), ("decoded", outcome.decoded)):
        times = [state.level.t for state in states]
        require(times == sorted(set(times)), f"the times of {name} must rise, but they are {times}")
    if outcome.encoded:
        away = difference(outcome.encoded[0].latent, x0)
        require(away == 0, f"encoded[0].latent differs from x0 by {away:.1e}")
    if outcome.decoded and outcome.latent is not None:
        away = difference(outcome.decoded[0].latent, outcome.latent)
        require(away == 0, f"decoded[0].latent differs from Outcome.latent by {away:.1e}")


def pictures_come_back_at_their_size(trial: Trial) -> None:
    """A picture gives an Edit with a picture of its size, whatever size the network takes; a list gives a list."""
    one = trial.edit(0)
    require(isinstance(one, Edit), f"one picture gave a {type(one).__name__}")
    require(one.image.size == PICTURES[0].size, f"a picture of {PICTURES[0].size} came back as {one.image.size}")
    images = [*PICTURES, UPRIGHT]
    several = trial.method(trial.model, images, OTHER_WORDS, [*REFERENCES, REFERENCES[0]], **trial.options)
    require(isinstance(several, list) and len(several) == len(images),
            f"a list of {len(images)} pictures gave {type(several).__name__} of {len(several)}")
    sizes, wanted = [edit.image.size for edit in several], [image.size for image in images]
    require(sizes == wanted, f"pictures of {wanted} came back as {sizes}")


def what_it_says_of_itself_is_true(trial: Trial) -> None:
    """It returns a `source` if it says that it remakes the picture, and can do without a picture if it says so."""
    has, says = trial.plain.outcome.source is not None, trial.method.remakes
    require(has == says, f"remakes is {says}, but Outcome.source is {'a tensor' if has else None}")
    if trial.method.generates:
        edit = trial.method(trial.model, None, QUERIES[0], REFERENCES[0], **trial.options)
        require(edit.input is not None, "there was no picture, and the Edit has no `input`, which is the one made for it")


def steps_count_up(trial: Trial) -> None:
    """A stage's Steps count 1, 2, ... up to `total`; their latents have a row for each picture."""
    for stage in dict.fromkeys(step.stage for step in trial.plain.steps):
        steps, last = [step for step in trial.plain.steps if step.stage == stage], 0
        for step in steps:
            require(step.total == steps[0].total, f"stage {stage!r}: total was {steps[0].total}, then {step.total}")
            require(step.index == last + 1, f"stage {stage!r}: after index {last} came {step.index} of {step.total}")
            last = 0 if step.index == step.total else step.index       # a second round may follow
            shape = None if step.latent is None else tuple(step.latent.shape)
            require(shape in (None, tuple(trial.plain.task.x0.shape)),
                    f"stage {stage!r}: a Step's latent has the shape {shape}; x0 has {tuple(trial.plain.task.x0.shape)}")
        require(last == 0, f"stage {stage!r} ended at {last} of {steps[-1].total}")


def keeping_more_changes_nothing(trial: Trial) -> None:
    """keep="trace" gives the same result as keep="result", which keeps of a decoding only the last state."""
    less, more = trial.run(keep="result"), trial.plain
    same = {name: value for name, value in more.found.items() if not name.startswith(("decoded[", "trace["))}
    kept = {name: value for name, value in less.found.items() if not name.startswith(("decoded[", "trace["))}
    if differences := apart(same, kept):
        raise AssertionError(f"between the two differ: {shown(differences)}")
    require(less.rows == more.rows, f"rows: {dict(less.rows)} and {dict(more.rows)}")
    require(len(less.outcome.decoded) <= 1,
            f'with keep="result" it kept {len(less.outcome.decoded)} states of its decoding')
    require(not less.outcome.trace, f'with keep="result" it kept the trace {", ".join(less.outcome.trace)}')


def results_carry_no_gradients(trial: Trial) -> None:
    """No tensor of a result remembers how it was computed: none requires gradients."""
    for run in (trial.plain, trial.run(keep="result")):
        results = {**found_itself(run), **{f"a Step's latent ({step.stage})": step.latent for step in run.steps
                                           if step.latent is not None}}
        wrong = [name for name, value in results.items() if value.requires_grad]
        require(not wrong, f"{', '.join(wrong[:3])} requires gradients: detach it, or compute it with gradients off")


def found_itself(run: Run) -> dict[str, Tensor]:
    """The very tensors of an outcome, where `Run.found` has copies."""
    outcome = run.outcome
    single = {name: getattr(outcome, name) for name in ("latent", "source", "mask", "mask_map")}
    states = {f"{name}[{state.index}]": state.latents for name in ("encoded", "decoded")
              for state in getattr(outcome, name)}
    return {name: value for name, value in {**single, **states, **outcome.trace}.items() if value is not None}


# ---------------------------------------------------------------- what it depends on


def nothing_given_is_changed(trial: Trial) -> None:
    """run changes no tensor of its Task: not the latents, the contexts, the mask, or an earlier edit's."""
    cases = [("", {})]
    if trial.uses("mask"):
        cases.append((", with a mask", {"masks": trial.half_masks()}))
    if trial.method.uses & {"encoded", "mask_map"}:
        cases.append((", with earlier edits", {"earlier": [trial.edit(0), trial.edit(1)]}))
    for case, changes in cases:
        task, settings = trial.prepared(**changes)
        given = tensors_given(task)
        before = copies(given)
        trial.finish(task, settings)
        if changed := apart(before, given):
            raise AssertionError(f"changed in place{case}: {shown(changed)}")


def the_model_stays_as_it_was(trial: Trial) -> None:
    """run leaves the model's weights as they were, without gradients, and not to be trained if they were not."""
    weights = weights_of(trial.model)
    before, trained = copies(weights), {name for name, weight in weights.items() if weight.requires_grad}
    trial.run()
    weights = weights_of(trial.model)
    if changed := apart(before, weights):
        raise AssertionError(f"weights changed: {shown(changed)}")
    now = {name for name, weight in weights.items() if weight.requires_grad}
    require(now == trained, f"whether gradients are wanted changed for {len(now ^ trained)} weights")
    left = [name for name, weight in trial.model.unet.named_parameters() if weight.grad is not None]
    require(not left, f"gradients were left at {len(left)} of the U-Net's weights")


def the_same_call_gives_the_same_bits(trial: Trial) -> None:
    """The same call gives the same bits, whatever ran before and wherever the global random numbers stand."""
    with global_random_numbers(1):
        first = trial.run()
    trial.run((0,), queries=(OTHER_WORDS,) * 2, seeds=(8, 9))
    with global_random_numbers(2):
        again = trial.run()
    if differences := apart(first.found, again.found):
        raise AssertionError(f"two equal calls differ: {shown(differences)}")
    require(first.rows == again.rows, f"two equal calls took the rows {dict(first.rows)} and {dict(again.rows)}")


def global_random_numbers_stay(trial: Trial) -> None:
    """It neither draws from the global random numbers of torch, NumPy or Python nor seeds them."""
    with global_random_numbers(1):
        before = global_random_state()
        trial.run()
        after = global_random_state()
    moved = [name for name in before if repr_of(before[name]) != repr_of(after[name])]
    require(not moved, f"the global random state moved: {', '.join(moved)}; core/schedule.py has `generator`")


def repr_of(state: Any) -> Any:
    """A random state as something that `!=` compares as a whole."""
    parts = state if isinstance(state, tuple) else (state,)
    return [part.tolist() if hasattr(part, "tolist") else part for part in parts]


def every_picture_has_its_own_seed(trial: Trial) -> None:
    """If random numbers are drawn, another seed changes what is found for its own picture, and for no other."""
    with Draws() as draws:
        trial.run()
    for i, other in ((0, (SEEDS[0] + 1, SEEDS[1])), (1, (SEEDS[0], SEEDS[1] + 1))):
        run = trial.run(seeds=other)
        require(not draws.drawn or bool(apart(trial.plain.row(i), run.row(i))),
                f"random numbers were drawn {draws.drawn} times, but picture {i} is the same with the seeds {SEEDS} and "
                f"{other}")
        if beside := apart_beyond_rounding(trial.plain.row(1 - i), run.row(1 - i)):
            raise AssertionError(f"the seed of picture {i} changes picture {1 - i}: {shown(beside)}")


def words_matter(trial: Trial) -> None:
    """The query changes the result if the method takes one, the reference if it uses one; and only then."""
    other = (OTHER_WORDS,) * 2
    for name, matters, run in (("query", trial.method.takes_query, trial.run(queries=other)),
                               ("reference", trial.uses("reference"), trial.run(references=other))):
        differences = apart(trial.plain.found, run.found)
        require(bool(differences) or not matters, f"another {name} changes nothing, but the method says that it takes one")
        require(not differences or matters, f"the method says that it takes no {name}, but another one changes "
                                            f"{shown(differences)}")


def alone_or_in_a_batch(trial: Trial) -> None:
    """A picture gives the same alone and in any batch, up to rounding."""
    swapped = trial.run((1, 0))
    for i in (0, 1):
        alone, wrong = trial.run((i,)).found, []
        for place, batch in ((i, trial.plain), (1 - i, swapped)):
            if differences := apart_beyond_rounding(alone, batch.row(place)):
                wrong.append(f"picture {i} as number {place} of the batch: {shown(differences)}")
        require(not wrong, f"alone and in a batch differ: {'; '.join(wrong)}")


def rows_are_counted(trial: Trial) -> None:
    """The rows of the Edits are those that went through a U-Net, copies of it included; backward_rows, back."""
    with rows_seen() as seen:
        edits = trial.method(trial.model, list(PICTURES), list(QUERIES), list(REFERENCES), seed=SEEDS, **trial.options)
    counted = sum(edit.rows for edit in edits)
    require(counted == seen.forward, f"{seen.forward} rows went through the U-Net, but the Edits count {counted}: "
                                     f"{edits[0].rows_for} each")
    back = sum(edit.backward_rows for edit in edits)
    require(back == seen.backward, f"{seen.backward} rows went back through the U-Net, but the Edits count {back}")


# ---------------------------------------------------------------- masks


def outside_a_mask_stays_x0(trial: Trial) -> None:
    """Outside a given mask (all over, if it is black) the result is the picture's own latent, to the last bit."""
    if not trial.uses("mask"):
        return
    for masks in (trial.half_masks(), trial.full_masks(white=False)):
        run = trial.run(masks=masks)
        for i, mask in enumerate(masks):
            away = difference(run.outcome.latent[i][:, ~mask], run.task.x0[i][:, ~mask])
            share = "half a mask" if mask.any() else "a black mask"
            require(away == 0, f"picture {i}, outside {share}: expected x0 itself, it differs by {away:.1e}")


def inside_a_mask_is_edited(trial: Trial) -> None:
    """Inside a given mask the picture changes, and the Edit's mask is the one that was given."""
    if not trial.uses("mask"):
        return
    for masks in (trial.half_masks(), trial.full_masks(white=True)):
        run = trial.run(masks=masks)
        given = torch.stack(masks)[:, None]
        require(run.outcome.mask is not None and torch.equal(run.outcome.mask, given),
                "Outcome.mask is not the mask that was given")
        for i, mask in enumerate(masks):
            same = torch.equal(run.outcome.latent[i][:, mask], run.task.x0[i][:, mask])
            require(not same, f"picture {i}: nothing changed inside its mask")


def every_blend_is_at_its_own_level(trial: Trial) -> None:
    """Outside a given mask each decoded state is the encoded state of the same level, to the last bit; also for samplers
    with a second latent, at the same level (edict) or at another (belm)."""
    if not trial.uses("mask"):
        return
    masks = trial.half_masks()
    outside = ~torch.stack(masks)[:, None]
    for changes in samplers(trial, "ddim", "edict", "belm"):
        outcome = trial.run(masks=masks, **changes).outcome
        encoded = {state.level: state.latents for state in outcome.encoded}
        for state in outcome.decoded if encoded else ():
            require(state.level in encoded, f"decoded[{state.index}] is at {state.level}, where nothing was encoded")
            away = difference(state.latents.where(outside, 0), encoded[state.level].where(outside, 0))
            require(away == 0, f"decoded[{state.index}] differs from encoded[{state.index}] outside the mask by "
                               f"{away:.1e} {changes or ''}")


def a_null_edit_goes_back_the_same_way(trial: Trial) -> None:
    """With equal texts everywhere, unguided, and a sampler that inverts exactly, each decoded state is the encoded one,
    inside a mask and outside."""
    known = trial.method.known
    if not samplers(trial, "edict")[0]:
        return
    unguided = {"guidance_scale": 1.0} if "guidance_scale" in known else {}
    masks = trial.half_masks() if trial.uses("mask") else None
    task, settings = trial.prepared(masks=masks, sampler="edict", **unguided)
    nothing = ("",) * len(PICTURES)
    run = trial.finish(replace(task, query=task.empty, reference=task.empty, negative=task.empty, queries=nothing,
                               references=nothing), settings)
    outcome = run.outcome
    for state in outcome.decoded if outcome.encoded else ():
        encoded = outcome.encoded[state.index]
        away = apart_beyond_rounding({"it": state.latent}, {"it": encoded.latent})
        require(not away, f"decoded[{state.index}] differs from encoded[{state.index}] by {away.get('it', 0):.1e}")


def samplers(trial: Trial, *names: str) -> list[dict[str, str]]:
    """Options that name each of these samplers; none at all for a method without the choice."""
    option = trial.method.known.get("sampler")
    return [{"sampler": name} for name in names] if option is not None and option.kind is Sampler else [{}]


def equal_words_change_nothing(trial: Trial) -> None:
    """A method that finds a mask gives the input picture itself back, with `empty_mask`, if query and reference are equal.
    """
    if not trial.uses("mask_map"):
        return
    edit = trial.edit(0, query=REFERENCES[0])
    marked = "no mask" if edit.mask is None else f"a mask of {int(edit.mask.sum())} cells"
    require(edit.empty_mask, f"empty_mask is {edit.empty_mask}, with {marked}")
    require(edit.image.tobytes() == PICTURES[0].tobytes(), "the picture that came back is not the one that was given")


# ---------------------------------------------------------------- what earlier edits hold


def what_an_edit_holds_serves_again(trial: Trial) -> None:
    """Given back, an Edit's encoding or map gives the same result for fewer rows; so does `reuse=` with the Edit itself.
    """
    names = sorted(trial.method.uses & {"encoded", "mask_map"})
    if not names:
        return
    first = trial.edit(0)
    for name in names:
        require(getattr(first, name) is not None and len(getattr(first, name)) > 0,
                f"the method says that it takes {name}, but its Edit holds none")
    for given in [*({name: getattr(first, name)} for name in names), {"reuse": first}]:
        again, what = trial.edit(0, **given), ", ".join(given)
        differences = apart(found(first), found(again))
        require(not differences, f"with {what}= differ: {shown(differences)}")
        require(first.image.tobytes() == again.image.tobytes(), f"with {what}= another picture comes out")
        require(again.rows < first.rows, f"with {what}= it takes {again.rows} rows, without {first.rows}")


def what_does_not_fit_is_refused(trial: Trial) -> None:
    """An encoding or a map that something else has made is refused with a ValueError: another picture, sampler, ..."""
    for name, changes in other_origins(trial):
        foreign = getattr(trial.edit(0, **changes), name)
        try:
            trial.edit(0, **{name: foreign})
        except ValueError:
            continue
        raise AssertionError(f"{name}= made with {changes or 'the other picture'} was taken")


def other_origins(trial: Trial) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names of what the method takes, each with what makes another one."""
    known = trial.method.known
    for name in sorted(trial.method.uses & {"encoded", "mask_map"}):
        yield name, {"image": PICTURES[1]}
        if name == "encoded" and samplers(trial, "edict")[0]:
            yield name, {"sampler": "edict"}
        if name == "encoded" and "steps" in known:
            yield name, {"steps": 5}
        if name == "mask_map":
            yield name, {"query": OTHER_WORDS}
            yield name, {"seed": SEEDS[0] + 1}


def reuse_never_changes_a_result(trial: Trial) -> None:
    """With `reuse=` of an edit of another picture, with other words, or with another seed the result is as without it."""
    if not trial.method.uses & {"encoded", "mask_map"}:
        return
    plain = trial.edit(0)
    for changes in ({"image": PICTURES[1]}, {"query": OTHER_WORDS}, {"reference": OTHER_WORDS}, {"seed": SEEDS[0] + 1}):
        again = trial.edit(0, reuse=trial.edit(0, **changes))
        if differences := apart(found(plain), found(again)):
            what = "picture" if "image" in changes else "and ".join(changes)
            raise AssertionError(f"with reuse= of an edit with another {what} differ: {shown(differences)}")


# ---------------------------------------------------------------- options


def every_option_has_an_effect(trial: Trial) -> None:
    """Every option changes something at another value: the result, what is found on the way, or the rows. One of stage
    "cost" changes nothing of the result."""
    wrong = []
    for name, tries in trial.tried.items():
        taken = [own for own in tries if not own.refused]
        if trial.method.known[name].stage == "cost":
            wrong += [f'{own.told} changes {shown(differences)}, but {name} was declared with stage "cost"'
                      for own in taken if (differences := apart_beyond_rounding(own.before.found, own.after.found))]
        elif taken and not any(own.changes for own in taken):
            wrong.append(f"{name} changes nothing: tried {', '.join(own.told for own in taken[:3])}"
                         + (f" and {len(taken) - 3} more" if len(taken) > 3 else ""))
    require(not wrong, "; ".join(wrong))


def every_stage_is_true(trial: Trial) -> None:
    """An option changes nothing that comes before the stage that it was declared with. (By these stages earlier encodings
    and maps are used again, so a wrong one gives wrong pictures in silence.)"""
    wrong = []
    for name, tries in trial.tried.items():
        option = trial.method.known[name]
        for own in tries:
            if not own.refused and (differences := before_its_stage(option, own)):
                wrong.append(f'{own.told} changes {shown(differences)}, but {name} was declared with stage '
                             f'"{option.stage}"')
    require(not wrong, "; ".join(wrong))


def before_its_stage(option: Option, own: Try) -> dict[str, float]:
    """What differs that must not: the map, but for options of the map; states of the encoding, but for its options.

    An option of the levels leaves those states alone that stand at the same levels with and without it.
    """
    differences, one, other = {}, own.before.outcome, own.after.outcome
    if option.stage not in ("map", None) and one.mask_map is not None and other.mask_map is not None:
        differences |= apart_beyond_rounding({"mask_map": one.mask_map}, {"mask_map": other.mask_map})
    if option.stage not in ("encoding", None):
        for a, b in zip(one.encoded, other.encoded, strict=False):
            if a.level != b.level:
                break
            name = f"encoded[{a.index}]"
            differences |= apart_beyond_rounding({name: a.latents}, {name: b.latents})
    return differences


def extremes_work_or_are_refused(trial: Trial) -> None:
    """At the ends of its range, and at each of its choices, an option gives a finite result or a ValueError."""
    wrong = []
    for option in trial.known.values():
        for value in extreme_values(option):
            try:
                run = trial.run((0,), keep="result", **{**option.needs, option.name: value})
            except ValueError:
                continue
            except Exception as error:
                wrong.append(f"{option.name}={value!r} raises {type(error).__name__}: {error}")
                continue
            if run.outcome.latent is not None and not run.outcome.latent.isfinite().all():
                wrong.append(f"{option.name}={value!r} gives numbers that are not finite")
    require(not wrong, "; ".join(wrong))


def settings_can_be_kept(trial: Trial) -> None:
    """An Edit's settings can be held by JSON, name every option, and give the same options back."""
    edit, method = trial.edit(0), trial.method
    kept = json.loads(json.dumps(edit.settings))
    missing = [name for name in method.known if name not in kept]
    require(not missing, f"settings lack {', '.join(missing)}")
    again = method.made({name: kept[name] for name in method.known})
    require(again == edit.options, f"settings gave {again}, not {edit.options}")
    for option in method.known.values():
        for value in trial.other_values(option):
            try:
                options = method.made({**option.needs, option.name: value})
            except ValueError:
                continue
            kept = json.loads(json.dumps(options.record()))
            again = method.made(kept)
            require(again == options, f"{option.name}={value!r} came back as {getattr(again, option.name)!r}")


METHOD_CLAUSES: tuple[Callable[[Trial], None], ...] = (
    run_returns_an_outcome,
    states_are_in_order,
    pictures_come_back_at_their_size,
    what_it_says_of_itself_is_true,
    steps_count_up,
    keeping_more_changes_nothing,
    results_carry_no_gradients,
    nothing_given_is_changed,
    the_model_stays_as_it_was,
    the_same_call_gives_the_same_bits,
    global_random_numbers_stay,
    every_picture_has_its_own_seed,
    words_matter,
    alone_or_in_a_batch,
    rows_are_counted,
    outside_a_mask_stays_x0,
    inside_a_mask_is_edited,
    every_blend_is_at_its_own_level,
    a_null_edit_goes_back_the_same_way,
    equal_words_change_nothing,
    what_an_edit_holds_serves_again,
    what_does_not_fit_is_refused,
    reuse_never_changes_a_result,
    every_option_has_an_effect,
    every_stage_is_true,
    extremes_work_or_are_refused,
    settings_can_be_kept,
)
