"""What the clauses of `check_method` are made of: two small pictures and words for them, and runs of a method on these.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..core.coding import Options
from ..core.options import Option
from ..core.state import Sampler
from ..core.task import Outcome, Step, Task
from ..loading import load
from ..methods import METHODS
from ..methods.batches import batches, make_task, requests
from ..methods.call import Call
from ..methods.edit import Edit
from ..methods.method import Method
from ..networks.stable_diffusion import StableDiffusion
from ..networks.unet import UNet
from ..samplers import sampler_of
from .method_seen import apart, found, weights_of


def picture(number: int, size: tuple[int, int]) -> Image.Image:
    """A picture of a few large patches, (width, height) px."""
    patches = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize(size, Image.Resampling.BICUBIC)


# Neither square nor of sizes that networks take: both are padded to 32 x 16 px, and so they share a batch.
PICTURES = (picture(0, (29, 13)), picture(1, (27, 16)))
UPRIGHT = picture(2, (14, 30))              # in a batch of its own
# Of equally many words: Prompt-to-Prompt swaps word for word.
QUERIES, REFERENCES = ("a bowl of pears", "a basket of plums"), ("a bowl of apples", "a bucket of plums")
SEEDS = (3, 4)
SMALL = {"steps": 4, "mask_samples": 2}     # for methods that have these options


def small_model(channels: int) -> StableDiffusion:
    """Tiny random weights in float64, for a U-Net whose input has so many channels.

    It has a level more than `load("random")`: Prompt-to-Prompt reads attention at a quarter of the latents' size. And
    sharper attention, since with plain random weights every word would have the same share of it everywhere.
    """
    model = load("random", device="cpu", dtype="float64")
    config = replace(model.unet.config, in_channels=channels, block_out_channels=(16, 16, 16),
                     down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet(config)
    for name, weight in unet.named_parameters():
        if "to_q" in name or "to_k" in name:
            weight.data *= 4
    return replace(model, unet=unet.to(model.dtype).eval().requires_grad_(False))


# ---------------------------------------------------------------- runs


@dataclass(frozen=True, eq=False)
class Run:
    """One batch through a method: what it was given, what it returned, and its progress."""

    task: Task
    outcome: Outcome
    steps: list[Step]

    @cached_property
    def found(self) -> dict[str, Tensor]:
        """All that it found, by name; a row for each picture."""
        return found(self.outcome)

    def row(self, i: int) -> dict[str, Tensor]:
        """What it found for one picture."""
        return {name: value[i : i + 1] for name, value in self.found.items()}

    @property
    def rows(self) -> Counter[str]:
        """How many rows it counted, by what for."""
        counts = [self.task.rows, *self.task.rows.alone.values()]
        return sum((rows.forward for rows in counts), Counter())


@dataclass(frozen=True, eq=False)
class Trial:
    """A method on trial, with the model and the options that it is tried with. Clauses are functions of it."""

    method: Method
    model: StableDiffusion
    queries: Sequence[str]
    options: Mapping[str, Any]
    weights: Mapping[str, Tensor]       # copies of the model's from before the method ran, requires_grad as theirs

    @classmethod
    def of(
        cls, method: str | Method, model: StableDiffusion | None = None, queries: Sequence[str] = QUERIES,
        **options: Any,
    ) -> "Trial":
        """Of a method or its name; ValueError for a name that isn't known, or another number of queries than two."""
        if len(queries) != len(PICTURES):
            raise ValueError(f"{len(queries)} queries are given: give {len(PICTURES)}")
        if not isinstance(method, Method):
            name = method.replace("-", "_") if isinstance(method, str) else method
            if name not in METHODS:
                raise ValueError(f"method {method!r} is not known (dm.Method makes one of a run); known are "
                                 f"{', '.join(METHODS)}")
            method = METHODS[name]
        small = {name: value for name, value in SMALL.items() if name in method.known}
        model = model or small_model(method.channels)
        weights = {name: value.detach().clone().requires_grad_(value.requires_grad)
                   for name, value in weights_of(model).items()}
        return cls(method, model, queries, {**small, **options}, weights)

    @cached_property
    def settings(self) -> Options:
        """All options in force."""
        return self.method.settings(self.model, self.options)

    def prepared(
        self, which: Sequence[int] = (0, 1), *, queries: Sequence[str] | None = None,
        references: Sequence[str] = REFERENCES, seeds: Sequence[int] = SEEDS, masks: Sequence[Tensor] | None = None,
        earlier: Sequence[Edit] | None = None, keep: str = "trace", **options: Any,
    ) -> tuple[Task, Options]:
        """What the method would be given for some of PICTURES, and with which options.

        which: their numbers; all the others are for both. earlier: Edits whose encodings and maps are offered.
        """
        settings = self.method.settings(self.model, {**self.options, **options})
        pictures, query, reference, seed, mask, reuse = (
            values and [values[i] for i in which]
            for values in (PICTURES, queries or self.queries, references, seeds, masks, earlier))
        call = Call(seed=seed, keep=keep, mask=mask, reuse=reuse)
        [batch] = batches(self.model, requests(pictures, query, reference, call), None)
        return make_task(self.model, batch, settings, call, self.method.to_prompt), settings

    def run(self, which: Sequence[int] = (0, 1), **changes: Any) -> Run:
        """The method on some of PICTURES. changes: what `prepared` takes."""
        return self.finish(*self.prepared(which, **changes))

    @torch.no_grad()
    def finish(self, task: Task, settings: Options) -> Run:
        """The method on a task."""
        running, steps = self.method.outcome(task, settings), []
        while True:
            try:
                steps.append(next(running))
            except StopIteration as done:
                return Run(task, done.value, steps)

    @cached_property
    def plain(self) -> Run:
        """Both pictures in one batch. What it holds must not be changed."""
        return self.run()

    def must_run(self) -> Run:
        """The plain run; or, of a method that doesn't run at all, its error, for which no option is to blame."""
        return self.plain

    def edit(self, i: int = 0, **changes: Any) -> Edit:
        """One of PICTURES, as a person calls the method."""
        told = {"image": PICTURES[i], "query": self.queries[i], "reference": REFERENCES[i], "seed": SEEDS[i]}
        return self.method(self.model, **{**told, **self.options, **changes})

    def edits(self, **changes: Any) -> list[Edit]:
        """Both pictures, as a person calls the method."""
        told = {"image": list(PICTURES), "query": list(self.queries), "reference": list(REFERENCES)}
        return self.method(self.model, **{**told, "seed": list(SEEDS), **self.options, **changes})

    def uses(self, *names: str) -> list[str]:
        """Which of these the method says that it uses."""
        return [name for name in names if name in self.method.uses]

    def half_masks(self) -> list[Tensor]:
        """A mask for each of PICTURES, bool (h, w): the left half, and the right."""
        h, w = self.plain.task.x0.shape[-2:]
        left = (torch.arange(w, device=self.model.device) < w // 2).expand(h, w)
        return [left, ~left]

    def full_masks(self, white: bool) -> list[Tensor]:
        """White or black all over, for each of PICTURES."""
        return [torch.full_like(mask, white) for mask in self.half_masks()]

    def samplers(self, *names: str) -> list[dict[str, str]]:
        """Each of these as options; none at all of a method that offers no choice."""
        option = self.method.known.get("sampler")
        return [{"sampler": name} for name in names] if option is not None and option.kind is Sampler else [{}]

    # ---- options at other values

    @cached_property
    def known(self) -> dict[str, Option]:
        """The method's options by name, but for those that need files."""
        known = self.method.known
        return {name: option for name, option in known.items()
                if not option.file and not any(known[needed].file for needed in option.needs)}

    @cached_property
    def tried(self) -> dict[str, list["Try"]]:
        """Every option at other values, until one makes a difference."""
        self.must_run()
        tried: dict[str, list[Try]] = {}
        for option in self.known.values():
            tries = tried[option.name] = []
            for own in self.tries(option):
                tries.append(own)
                if own.changes:
                    break
        return tried

    def changed(self, *stages: str | None) -> dict[str, Any]:
        """The options of these stages, each at a value with which it makes a difference."""
        return {**self.options, **{name: tries[-1].value for name, tries in self.tried.items()
                                   if self.known[name].stage in stages and tries and tries[-1].changes
                                   and not tries[-1].beside}}

    def tries(self, option: Option) -> Iterator["Try"]:
        """An option at other values: first alone, then beside each other option at another value.

        Those declared next to it go first, since they often belong together. A refused value is not tried again.
        """
        values = self.other_values(option)
        for own in self.attempts(option.name, values, option.needs):
            values = [value for value in values if value != own.value] if own.refused else values
            yield own
        names = list(self.known)
        place = names.index(option.name)
        for name in sorted(names, key=lambda name: abs(names.index(name) - place))[1:]:
            for other in self.other_values(self.known[name])[:1] if option.stage != "cost" else ():
                yield from self.attempts(option.name, values[:2], {**option.needs, name: other})

    def attempts(self, name: str, values: Sequence[Any], beside: Mapping[str, Any]) -> Iterator["Try"]:
        """One option at each of these values, while some others have theirs."""
        before, refused = None, ""
        for value in values:
            try:
                before = before or (self.run(**beside) if beside else self.plain)
                after = self.run(**{**beside, name: value})
            except ValueError as error:
                after, refused = None, str(error)
            yield Try(name, value, beside, before, after, refused if after is None else "")

    def other_values(self, option: Option) -> list[Any]:
        """Some values of an option other than the one in force."""
        now, kind = getattr(self.settings, option.name), option.kind
        if option.choices:
            wanted = list(option.choices)
        elif kind is Sampler:
            wanted = [name for name in ("ddim", "edict") if sampler_of(name) != now]
        elif kind is bool:
            wanted = [not now]
        elif kind is int:
            wanted = [1, 2] if now is None else [now + 1, now // 2]
        elif kind is float:
            scaled = [now / 2, 2 * now, 1e6 * now] if now else []
            wanted = list(dict.fromkeys([*scaled, *(option.usual or ()), option.least, option.most, 1.0]))
        elif kind is tuple:
            wanted = [tuple(factor * number for number in now or (1.0,)) for factor in (0.5, 2.0)]
        elif kind is dict:
            wanted = [{"a": 0.3}]       # a word of the queries
        else:
            # What other options say that this text must be for them to matter; a word of the queries; some words.
            needed = [other.needs[option.name] for other in self.known.values() if option.name in other.needs]
            wanted = [*needed, "a", "green grass"]
        return [value for value in wanted if value is not None and value != now]


@dataclass(frozen=True, eq=False)
class Try:
    """An option at another value: the run without it and with it, or why the value was refused."""

    name: str
    value: Any
    beside: Mapping[str, Any]       # what other options are meanwhile, in both runs
    before: Run | None
    after: Run | None
    refused: str = ""

    @property
    def told(self) -> str:
        """For a message."""
        return f"{self.name}={self.value!r}" + "".join(f" with {name}={value!r}" for name, value in self.beside.items())

    @cached_property
    def changes(self) -> bool:
        """Whether it makes any difference, be it in rows only."""
        return not self.refused and (bool(apart(self.before.found, self.after.found))
                                     or self.before.rows != self.after.rows)
