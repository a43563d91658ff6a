"""The contract of a method, second half: masks, what earlier edits hold, and options."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from ..core.options import Option
from .method_seen import apart, apart_beyond_rounding, difference, found, shown
from .method_trial import PICTURES, REFERENCES, SEEDS, Trial, Try
from .probes import Contract, require

METHOD_USE_CLAUSES = Contract()

# ---------------------------------------------------------------- masks


@METHOD_USE_CLAUSES.clause
def outside_a_mask_stays_x0(trial: Trial) -> None:
    """Outside a given mask the result is the picture's own latent, to the last bit; with a black one, everywhere."""
    if not trial.uses("mask"):
        return
    for kind, masks in (("half a mask", trial.half_masks()), ("a black mask", trial.full_masks(white=False))):
        run = trial.run(masks=masks)
        require(run.outcome.latent is not None, f"with {kind}: expected a latent, as with any given mask, got None")
        for i, mask in enumerate(masks):
            away = difference(run.outcome.latent[i][:, ~mask], run.task.x0[i][:, ~mask])
            require(away == 0, f"picture {i}, outside {kind}: expected x0 itself, it is {away:.1e} away")


@METHOD_USE_CLAUSES.clause
def inside_a_mask_is_edited(trial: Trial) -> None:
    """Inside a given mask the picture changes, and the mask that comes back is the given one."""
    if not trial.uses("mask"):
        return
    for kind, masks in (("half a mask", trial.half_masks()), ("a white mask", trial.full_masks(white=True))):
        run, given = trial.run(masks=masks), torch.stack(masks)[:, None]
        require(run.outcome.mask is not None and torch.equal(run.outcome.mask, given),
                f"with {kind}: Outcome.mask is not the given one")
        for i, mask in enumerate(masks):
            away = difference(run.outcome.latent[i][:, mask], run.task.x0[i][:, mask])
            require(away > 0, f"picture {i}, inside {kind}: expected a change, all is as in x0")


@METHOD_USE_CLAUSES.clause
def every_blend_is_at_its_own_level(trial: Trial) -> None:
    """Outside a given mask every decoded state is the encoded one of the same level, to the last bit.

    With the samplers edict and belm too: one has two latents at each level, the other makes one of two levels' latents.
    """
    if not trial.uses("mask"):
        return
    masks = trial.half_masks()
    outside = ~torch.stack(masks)[:, None]
    for sampler in trial.samplers("ddim", "edict", "belm"):
        outcome = trial.run(masks=masks, **sampler).outcome
        encoded = {state.level: state for state in outcome.encoded}
        for state in outcome.decoded if encoded else ():
            require(state.level in encoded, f"decoded[{state.index}] is at {state.level}, where nothing was encoded")
            other = encoded[state.level]
            away = difference(state.latents.where(outside, 0), other.latents.where(outside, 0))
            require(away == 0, f"decoded[{state.index}], outside the mask: expected encoded[{other.index}] itself, it "
                               f"is {away:.1e} away {sampler or ''}")


@METHOD_USE_CLAUSES.clause
def what_is_put_back_is_of_its_own_level(trial: Trial) -> None:
    """If what lies outside a found mask is an encoding's latent, it is the one of the same level."""
    outcome = trial.run().outcome
    if outcome.mask is None or outcome.mask.all():
        return
    for state in outcome.decoded:
        for other in outcome.encoded:
            same = state.latent.where(~outcome.mask, 0).equal(other.latent.where(~outcome.mask, 0))
            require(not same or other.index == state.index, f"decoded[{state.index}], outside the mask: it is "
                    f"encoded[{other.index}], not encoded[{state.index}]")


@METHOD_USE_CLAUSES.clause
def a_null_edit_changes_nothing(trial: Trial) -> None:
    """If all texts are equal, the sampler exact (edict) and the mask half, every decoded state is the encoded one."""
    if not trial.uses("mask") or not trial.samplers("edict")[0]:
        return
    unguided = {"guidance_scale": 1.0} if "guidance_scale" in trial.method.known else {}
    task, settings = trial.prepared(masks=trial.half_masks(), sampler="edict", **unguided)
    nothing = ("",) * len(PICTURES)
    outcome = trial.finish(replace(task, query=task.empty, reference=task.empty, negative=task.empty, queries=nothing,
                                   references=nothing), settings).outcome
    for state in outcome.decoded if outcome.encoded else ():
        name = f"decoded[{state.index}]"
        if differences := apart_beyond_rounding({name: state.latent}, {name: outcome.encoded[state.index].latent}):
            raise AssertionError(f"this differs from the encoded state: {shown(differences)}")


@METHOD_USE_CLAUSES.clause
def equal_words_give_the_picture_itself(trial: Trial) -> None:
    """If a method finds masks itself and query and reference are equal, the input comes back, with `empty_mask`."""
    if not trial.uses("mask_map"):
        return
    alone, both = trial.edit(0, reference=trial.queries[0]), trial.edits(reference=[trial.queries[0], REFERENCES[1]])
    for case, edit in (("alone", alone), ("in a batch", both[0])):
        cells = None if edit.mask is None else int(edit.mask.sum())
        require(edit.empty_mask, f"{case}: expected an empty mask, got empty_mask={edit.empty_mask} and {cells} cells")
        require(edit.image.tobytes() == PICTURES[0].tobytes(), f"{case}: another picture came back than the given one")
    require(not both[1].empty_mask, "beside a picture with equal words, one with other words got an empty mask")


# ---------------------------------------------------------------- what earlier edits hold


@METHOD_USE_CLAUSES.clause
def what_an_edit_holds_serves_again(trial: Trial) -> None:
    """Given back, an Edit's encoding or map gives the same result for fewer rows; so does `reuse=` with the Edit."""
    names = trial.uses("encoded", "mask_map")
    if not names:
        return
    trial.must_run()
    for options in ({}, trial.changed("encoding", "map", None)):
        try:
            first = trial.edits(**options)
        except ValueError:
            continue        # the values of several options may not go together
        if options and any(edit.empty_mask for edit in first):
            continue        # the options lead to an empty mask, with which no encoding is made
        for name in names:
            held = getattr(first[0], name)
            require(held is not None and len(held) > 0, f"the method takes {name}=, but its Edit holds none")
        for name, values in [*((name, [getattr(edit, name) for edit in first]) for name in names), ("reuse", first)]:
            for edit in (trial.edits(**options, **{name: values})[1], trial.edit(1, **options, **{name: values[1]})):
                told = f"with {name}={f' and {options}' if options else ''}"
                differences = apart_beyond_rounding(found(first[1]), found(edit))
                require(not differences, f"{told} these differ: {shown(differences)}")
                require(edit.rows < first[1].rows, f"{told} it takes {edit.rows} rows, without it {first[1].rows}")


@METHOD_USE_CLAUSES.clause
def what_does_not_fit_is_refused(trial: Trial) -> None:
    """An encoding or a map that something else has made, such as another picture or query, is refused: ValueError."""
    for name, changes in other_origins(trial):
        foreign = getattr(trial.edit(0, **changes), name)
        try:
            trial.edit(0, **{name: foreign})
        except ValueError:
            continue
        made = ", ".join(f"{what}={value!r}" for what, value in changes.items() if what != "image")
        raise AssertionError(f"{name}= was taken, though it was made with {made or 'another picture'}")


def other_origins(trial: Trial) -> Iterator[tuple[str, dict[str, Any]]]:
    """What the method takes of earlier edits, each time with something that makes another one of it."""
    for name in trial.uses("encoded", "mask_map"):
        yield name, {"image": PICTURES[1]}
        if name == "mask_map":
            yield name, {"query": trial.queries[1]}
            yield name, {"query": REFERENCES[0]}        # equal words
            yield name, {"seed": SEEDS[0] + 1}
        for option in ("sampler", "steps") if name == "encoded" else ():
            if option in trial.known:
                yield name, {option: trial.other_values(trial.known[option])[0]}


@METHOD_USE_CLAUSES.clause
def reuse_never_changes_a_result(trial: Trial) -> None:
    """With `reuse=` of an edit of another picture, with other words or another seed the result is as without it."""
    if not trial.uses("encoded", "mask_map"):
        return
    plain = trial.edit(0)
    for changes in ({"image": PICTURES[1]}, {"query": trial.queries[1]}, {"reference": REFERENCES[1]},
                    {"seed": SEEDS[0] + 1}):
        again = trial.edit(0, reuse=trial.edit(0, **changes))
        if differences := apart(found(plain), found(again)):
            raise AssertionError(f"of an edit with another {next(iter(changes))}: {shown(differences)}")


# ---------------------------------------------------------------- options


@METHOD_USE_CLAUSES.clause
def every_option_has_an_effect(trial: Trial) -> None:
    """Every option changes something at another value: the result, what is found on the way, or the rows.

    One of stage "cost" changes nothing of the result.
    """
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


@METHOD_USE_CLAUSES.clause
def every_stage_is_true(trial: Trial) -> None:
    """An option changes nothing that comes before its stage. (By the stages earlier encodings and maps are used again.)
    """
    wrong = []
    for name, tries in trial.tried.items():
        option = trial.method.known[name]
        wrong += [f'{own.told} changes {shown(differences)}, but {name} was declared with stage "{option.stage}"'
                  for own in tries if not own.refused and (differences := before_its_stage(option, own))]
    require(not wrong, "; ".join(wrong))


def before_its_stage(option: Option, own: Try) -> dict[str, float]:
    """What differs that must not: the map, but for options of the map; the encoding, but for options of the encoding.

    An option of the levels may add states and take some away; those at the same levels stay.
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


@METHOD_USE_CLAUSES.clause
def extremes_work_or_are_refused(trial: Trial) -> None:
    """At the ends of its range, and at each of its choices, an option gives a finite result or a ValueError."""
    trial.must_run()
    wrong = []
    for option in trial.known.values():
        for value in extremes(option):
            try:
                latent = trial.run((0,), keep="result", **{**option.needs, option.name: value}).outcome.latent
            except ValueError:
                continue
            except Exception as error:
                wrong.append(f"{option.name}={value!r} raises {type(error).__name__}: {error}")
                continue
            if latent is not None and not latent.isfinite().all():
                wrong.append(f"{option.name}={value!r} gives numbers that are not finite")
    require(not wrong, "; ".join(wrong))


def extremes(option: Option) -> list[Any]:
    """An option's choices, and the ends of its range. (A whole number's upper end may take for ever.)"""
    ends = [option.least, option.most] if option.kind is float else [option.least] if option.kind is int else []
    return [*option.choices, *(option.kind(end) for end in ends if end is not None)]


@METHOD_USE_CLAUSES.clause
def settings_can_be_kept(trial: Trial) -> None:
    """An Edit's settings can be held by JSON, name every option, and give the same options back."""
    edit, method = trial.edit(0), trial.method
    kept = json.loads(json.dumps(edit.settings))
    missing = [name for name in method.known if name not in kept]
    require(not missing, f"settings lack {', '.join(missing)}")
    cases = [(edit.options, {name: kept[name] for name in method.known})]
    for option in trial.known.values():
        for value in trial.other_values(option):
            try:
                options = method.made({**option.needs, option.name: value})
            except ValueError:
                continue
            cases.append((options, json.loads(json.dumps(options.record()))))
    for options, kept in cases:
        again = method.made(kept)
        require(again == options, f"{options}, kept as {kept}, came back as {again}")


@METHOD_USE_CLAUSES.clause
def presets_are_of_its_options(trial: Trial) -> None:
    """Every preset holds options that the method takes."""
    for name, preset in trial.method.presets.items():
        try:
            trial.method.made(preset)
        except ValueError as error:
            raise AssertionError(f"preset {name!r}: {error}") from None
