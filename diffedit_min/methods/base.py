"""What all methods share: from a person's pictures and words to latents and contexts, and back to an `Edit`.

A method is a generator `run(task, options)` that yields a `Step` at each step and returns an `Outcome`; everything it
sees is a latent, a context or a number. `Method` wraps it: it checks, fits, embeds, batches, and decodes the outcome.
Shapes: B pictures of one size, C channels, h x w latent cells.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..guidance import Rows
from ..model.stable_diffusion import StableDiffusion
from ..model.text import Context
from ..picture import Frame, fit, fit_mask, mask_image, to_rgb, unfit
from ..samplers import State
from .batches import Trajectory, each_ones, joined, same_shapes, spread
from .options import Options

# What U-Nets are for, by their input channels, and which method takes them.
MADE_FOR = {4: "making pictures from text, as most methods here do",
            8: "InstructPix2Pix, which is method instruct_pix2pix",
            9: "inpainting, for which there is no method here"}

Pictures = Image.Image | Sequence[Image.Image]


@dataclass(frozen=True)
class Step:
    """Progress: `index` of `total` steps of `stage` are done; `latent` (B, C, h, w) is what the step made, if any."""

    stage: str
    index: int
    total: int
    latent: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Task:
    """One batch for a method: pictures of one size, as latents."""

    model: StableDiffusion
    pixels: Tensor                      # (B, 3, H, W) in [-1, 1]
    x0: Tensor                          # (B, C, h, w)
    queries: tuple[str, ...]
    references: tuple[str, ...]
    query: Context                      # B prompts each
    reference: Context
    negative: Context
    empty: Context
    seeds: tuple[int, ...]              # one a picture
    valid: Tensor                       # bool (B, h, w): cells with picture in them, not only padding
    rows: Rows
    keep: str                           # "result" or "trace"
    generate: bool                      # there is no picture (x0 tells the shape only): make one from the seed
    mask: Tensor | None = None          # bool (B, 1, h, w), given by the caller
    mask_map: Tensor | None = None      # (B, h, w) in [0, 1], given by the caller
    encoded: Trajectory | None = None   # given by the caller


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a method returns: final latents, and what it found on the way."""

    latent: Tensor | None               # (B, C, h, w); None: nothing to change in any picture
    mask: Tensor | None = None          # bool (B, 1, h, w)
    mask_map: Tensor | None = None      # (B, h, w) in [0, 1]
    encoded: Trajectory = ()
    decoded: Trajectory = ()
    trace: dict[str, Tensor] = field(default_factory=dict)   # each (n, B, ...)
    source: Tensor | None = None        # (B, C, h, w), the picture itself, of methods that make it anew beside the edit


@dataclass(frozen=True, eq=False)
class Edit:
    """One edit of one picture. Tensors have no batch dimension but in states: (1, C, h, w)."""

    image: Image.Image                  # the result, as large as the input
    mask: Tensor | None                 # bool (h, w); None for methods without one
    mask_map: Tensor | None             # (h, w) in [0, 1], before the threshold; pass it back as `mask_map=`
    encoded: Trajectory                 # by level, encoded[0] the picture's own latent; pass it back as `encoded=`
    decoded: Trajectory                 # by level too; with keep="result" only the last state, at level 0
    settings: dict[str, Any]            # everything that the result depends on
    rows: int                           # samples that went through the U-Net
    backward_rows: int                  # samples that went back through it, for gradients
    empty_mask: bool                    # nothing to change was found, and the input picture came back
    input: Image.Image                  # if there was none, the one made from the seed
    source: Image.Image | None          # the input as the method made it anew beside the edit, if it does
    frame: Frame                        # how the picture was fitted to the network
    factor: int                         # pixels per latent cell
    trace: dict[str, Tensor] = field(default_factory=dict)      # keep="trace": the intermediates of step 1

    @property
    def mask_image(self) -> Image.Image | None:
        """The mask at the picture's size, white where edited."""
        return None if self.mask is None else mask_image(self.mask, self.frame, self.factor)


@dataclass(frozen=True, eq=False)
class Method:
    """A method as one calls it: `method(model, image, query, reference, **options) -> Edit`."""

    name: str
    run: Callable[[Task, Any], Generator[Step, None, Outcome]]
    options: type[Options]
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)      # options by the name of a preset
    knob: str = "encoding_ratio"        # the option that turns how strong the edit is
    uses: frozenset[str] = frozenset()  # of "reference", "mask", "mask_map", "encoded"
    takes_query: bool = True
    needs_reference: bool = False       # a caption of the input, not only the empty text
    needs_instruction: bool = False     # the query says what to do, not what to show
    plain: Callable[[str], str] = str   # a query -> what the network is told of it, without notes for the method
    remakes: bool = False               # makes the picture anew beside the edit: its Edits have a `source`
    generates: bool = False             # can do without a picture: edits the one that the seed makes of the reference
    channels: int = 4                   # of the U-Net's input

    def __call__(
        self,
        model: StableDiffusion,
        image: Pictures | None,
        query: str | Sequence[str] = "",
        reference: str | Sequence[str] = "",
        *,
        on_step: Callable[[Step], None] | None = None,
        **rest: Any,
    ) -> Edit | list[Edit]:
        """Run to the end, telling `on_step` of each step (by raising, it stops). See `iterate` for the rest."""
        steps = self.iterate(model, image, query, reference, **rest)
        while True:
            try:
                step = next(steps)
            except StopIteration as done:
                return done.value
            if on_step is not None:
                on_step(step)

    @torch.no_grad()
    def iterate(
        self,
        model: StableDiffusion,
        image: Pictures | None,
        query: str | Sequence[str] = "",
        reference: str | Sequence[str] = "",
        *,
        seed: int | Sequence[int] = 0,
        size: int | None = None,
        preset: str = "paper",
        keep: str = "result",
        mask: Any = None,
        mask_map: Tensor | Sequence[Tensor] | None = None,
        encoded: Trajectory | Sequence[Trajectory] | None = None,
        **options: Any,
    ) -> Generator[Step, None, Edit | list[Edit]]:
        """Edit a picture, or a list of them in batches; yields `Step`s and returns an `Edit` or a list of them.

        query, reference, seed: one for all pictures, or one each; methods without a use for a reference ignore it.
        size: edit at about size x size pixels. preset: "paper", or, where the method has it, "fast": fewer U-Net rows.
        keep: "trace" keeps every intermediate. mask: a picture, white = edit, or a bool (h, w); for all pictures, or a
        list of one each; skips step 1.
        mask_map, encoded: from an earlier Edit of the same picture and settings, of each if there are more; skip what
        they hold. options: see `self.options`; what is left out is the preset's, else the model's recommendation, else
        the paper's value.
        Without a picture (None), a method that `generates` edits one that it makes from the seed and the reference.
        Raises ValueError, in one line that names the value.
        """
        settings = self.settings(model, options, preset)
        pictures, one = self.pictures(model, image)
        given = {"mask": mask, "mask_map": mask_map, "encoded": encoded}
        self.check(model, pictures, keep, given)
        count = len(pictures)
        settings.check_count(count)
        maps = each_ones(mask_map, isinstance(mask_map, Tensor), count, "mask_map")
        trajectories = each_ones(encoded, bool(encoded) and isinstance(encoded[0], State), count, "encoded")
        masks = spread(mask, count, "masks") if isinstance(mask, list) else [mask] * count
        queries, references = spread(query, count, "queries"), spread(reference, count, "references")
        seeds = spread(seed, count, "seeds")
        self.check_words(queries, references)

        fitted = [fit(to_rgb(picture), model.multiple, model.native_area, size) for picture in pictures]
        edits: list[Edit | None] = [None] * count
        for chosen in same_shapes([pixels for pixels, _ in fitted]):
            task = make_task(model, [fitted[i] for i in chosen], [queries[i] for i in chosen],
                             [references[i] for i in chosen], tuple(seeds[i] for i in chosen), settings, keep,
                             image is None, None if mask is None else [masks[i] for i in chosen],
                             [maps[i] for i in chosen], [trajectories[i] for i in chosen],
                             [self.plain(queries[i]) for i in chosen])
            outcome = yield from self.run(task, settings)
            decoded, remade = (None if latent is None else model.decode(latent)
                               for latent in (outcome.latent, outcome.source))      # (B, 3, H, W) each
            for row, i in enumerate(chosen):
                record = self.record(model, queries[i], references[i], seeds[i], size,
                                     sorted(k for k, v in given.items() if v is not None), settings)
                source = None if remade is None else unfit(remade[row], fitted[i][1])
                result = None if decoded is None else unfit(decoded[row], fitted[i][1])
                picture = source if task.generate else to_rgb(pictures[i])
                edits[i] = make_edit(task, outcome, row, result, source, picture, fitted[i][1], record)
        return edits[0] if one else edits

    def pictures(self, model: StableDiffusion, image: Pictures | None) -> tuple[list[Image.Image], bool]:
        """The pictures as a list, and whether one was meant; for none, a blank one of the model's own size."""
        if image is None and not self.generates:
            raise ValueError(f"{self.name} needs a picture to edit")
        if image is None:
            side = math.isqrt(model.native_area)
            image = Image.new("RGB", (side, side))
        return ([image], True) if isinstance(image, Image.Image) else (list(image), False)

    def settings(self, model: StableDiffusion, options: Mapping[str, Any], preset: str = "paper") -> Options:
        """The options in force: the given ones, over the preset's, the model's recommendations, and the paper's.

        A card may also say what holds with a preset: its "diffedit, fast" goes over both.
        """
        known = {f.name for f in fields(self.options)}
        for name in options:
            if name not in known:
                raise ValueError(f"{self.name} has no option {name!r}; it has {', '.join(sorted(known))}")
        card = model.defaults
        recommended = {**card.get(self.name, {}), **self.preset(preset), **card.get(f"{self.name}, {preset}", {})}
        return self.options(**{**recommended, **options})

    def preset(self, name: str) -> Mapping[str, Any]:
        """A preset's options; ValueError if there is none of that name."""
        presets = {"paper": {}, **self.presets}
        if name not in presets:
            raise ValueError(f"{self.name} has no preset {name!r}; it has {', '.join(presets)}")
        return presets[name]

    def record(
        self, model: StableDiffusion, query: str, reference: str, seed: int, size: int | None, given: list[str],
        options: Options,
    ) -> dict[str, Any]:
        """An Edit's settings: everything that its result depends on, but for what was `given` beside the picture."""
        return {"method": self.name, "model": model.name, "query": query, "reference": reference, "seed": seed,
                "size": size, "given": given, **asdict(options)}

    def check_words(self, queries: Sequence[str], references: Sequence[str]) -> None:
        """Refuse texts that this method can't do without and that say nothing."""
        if self.takes_query and not all(text.strip() for text in queries):
            wanted = "what to do with the picture" if self.needs_instruction else "what the edited picture should show"
            raise ValueError(f"the query is empty: say {wanted}")
        if self.needs_reference and not all(text.strip() for text in references):
            raise ValueError(f"{self.name} needs a reference: a caption of the input picture")

    def check(self, model: StableDiffusion, pictures: list[Image.Image], keep: str, given: dict[str, Any]) -> None:
        """Refuse, before any work, what this method can't do."""
        if not pictures:
            raise ValueError("there is no picture in the list")
        if keep not in ("result", "trace"):
            raise ValueError(f"keep {keep!r} is not known; known are result and trace")
        for name, value in given.items():
            if value is not None and name not in self.uses:
                raise ValueError(f"{self.name} takes no {name}")
        has = model.unet.config.in_channels
        if has != self.channels:
            raise ValueError(f"{self.name} needs a U-Net with {self.channels} input channels; {model.name!r} has {has} "
                             f"and is made for {MADE_FOR.get(has, 'something else')}")


def make_task(
    model: StableDiffusion,
    fitted: list[tuple[Tensor, Frame]],
    queries: list[str],
    references: list[str],
    seeds: tuple[int, ...],
    options: Options,
    keep: str,
    generate: bool = False,
    masks: Sequence[Any] | None = None,
    maps: Sequence[Tensor | None] | None = None,
    trajectories: Sequence[Trajectory | None] | None = None,
    told: list[str] | None = None,
) -> Task:
    """Pictures -> latents, words -> contexts, and the caller's masks, maps and trajectories checked against them.

    told: the queries as the network is told them, where that is not all they say.
    """
    frames, count, device = [frame for _, frame in fitted], len(fitted), model.device
    pixels = torch.cat([pixels for pixels, _ in fitted])
    valid = torch.stack([frame.valid(model.factor) for frame in frames])        # (B, h, w)
    own = tuple(valid.shape[-2:])
    maps, trajectories = maps or [None] * count, trajectories or [None] * count
    for earlier, mask_map in zip(trajectories, maps, strict=True):
        if earlier and (has := tuple(earlier[0].latent.shape[-2:])) != own:
            raise ValueError(f"encoded is of latents of {has}, but the picture's are {own}")
        if mask_map is not None and tuple(mask_map.shape) != own:
            raise ValueError(f"mask_map is {tuple(mask_map.shape)}, but the picture's latents are {own}")
    encoded = joined(trajectories)
    x0 = encoded[0].latent if encoded else model.encode(pixels)
    mask = None
    if masks is not None:
        fitting = [fit_mask(each, frame, model.factor) for each, frame in zip(masks, frames, strict=True)]
        mask = torch.cat(fitting).to(device)                                    # (B, 1, h, w)
    mask_map = None if any(each is None for each in maps) else torch.stack(list(maps)).to(device)     # (B, h, w)
    contexts = model.embed([*(told or queries), *references, *([options.negative_prompt] * count), *([""] * count)])
    query, reference, negative, empty = (contexts[i * count : (i + 1) * count] for i in range(4))
    return Task(model, pixels, x0, tuple(queries), tuple(references), query, reference, negative, empty, seeds,
                valid.to(device), Rows(), keep, generate, mask, mask_map, encoded)


def make_edit(
    task: Task,
    outcome: Outcome,
    row: int,
    result: Image.Image | None,
    source: Image.Image | None,
    picture: Image.Image,
    frame: Frame,
    record: dict[str, Any],
) -> Edit:
    """One picture's part of the outcome. An empty mask found by the method gives the input picture itself back."""
    mask = None if outcome.mask is None else outcome.mask[row, 0]
    empty = mask is not None and task.mask is None and not mask.any().item()
    only = slice(row, row + 1)
    return Edit(
        image=picture.copy() if empty else result,
        mask=mask,
        mask_map=None if outcome.mask_map is None else outcome.mask_map[row],
        encoded=tuple(state.map(lambda rows: rows[only]) for state in outcome.encoded),
        decoded=tuple(state.map(lambda rows: rows[only]) for state in outcome.decoded),
        settings=record,
        rows=task.rows.count // len(task.x0),
        backward_rows=task.rows.backward // len(task.x0),
        empty_mask=empty,
        input=picture,
        source=source,
        frame=frame,
        factor=task.model.factor,
        trace={name: value[:, row] for name, value in outcome.trace.items()},
    )
