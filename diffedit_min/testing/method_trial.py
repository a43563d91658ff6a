"""What the clauses of `check_method` are made of: two small pictures and words for them, runs of a method on these, and
what is seen of a run from outside.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils._python_dispatch import TorchDispatchMode

from ..core.coding import Options
from ..core.options import Option
from ..core.state import Sampler
from ..core.task import Outcome, Step, Task
from ..loading import load
from ..methods import METHODS
from ..methods.batches import batches, make_task, requests
from ..methods.edit import Edit
from ..methods.method import Method
from ..model.stable_diffusion import StableDiffusion
from ..model.unet import UNet
from ..samplers import sampler_of


def picture(number: int, size: tuple[int, int]) -> Image.Image:
    """A picture of a few large patches, (width, height) px."""
    patches = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize(size, Image.Resampling.BICUBIC)


# Neither square nor of sizes that networks take: both are padded to 32 x 16 px, and so they share a batch.
PICTURES = (picture(0, (29, 13)), picture(1, (27, 16)))
UPRIGHT = picture(2, (14, 30))              # in a batch of its own
QUERIES, REFERENCES = ("a bowl of pears", "a basket of plums"), ("a bowl of apples", "a bucket of plums")
OTHER_WORDS = "a box of lemons"             # as many as the others: Prompt-to-Prompt swaps word for word
SEEDS = (3, 4)
SMALL = {"steps": 4, "mask_samples": 2}     # for methods that have these options

# How far apart numbers may be that differ by the rounding of other batch sizes, relative to their size.
ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 1e-1}


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
        return self.task.rows.forward


@dataclass(frozen=True, eq=False)
class Trial:
    """A method on trial, with the model and the options that it is tried with. Clauses are functions of it."""

    method: Method
    model: StableDiffusion
    options: Mapping[str, Any]

    @classmethod
    def of(cls, method: str | Method, model: StableDiffusion | None = None, **options: Any) -> "Trial":
        """Of a method or its name; ValueError for a name that isn't known."""
        if not isinstance(method, Method):
            if method not in METHODS:
                raise ValueError(f"method {method!r} is not known; known are {', '.join(METHODS)}")
            method = METHODS[method]
        small = {name: value for name, value in SMALL.items() if name in method.known}
        return cls(method, model or small_model(method.channels), {**small, **options})

    @cached_property
    def settings(self) -> Options:
        """All options in force."""
        return self.method.settings(self.model, self.options)

    def prepared(
        self, which: Sequence[int] = (0, 1), *, queries: Sequence[str] = QUERIES,
        references: Sequence[str] = REFERENCES, seeds: Sequence[int] = SEEDS, masks: Sequence[Tensor] | None = None,
        earlier: Sequence[Edit] | None = None, keep: str = "trace", **options: Any,
    ) -> tuple[Task, Options]:
        """What the method would be given for some of PICTURES, and with which options.

        which: their numbers; all the others are for both. earlier: Edits whose encodings and maps are offered.
        """
        settings = self.method.settings(self.model, {**self.options, **options})
        given = {"query": queries, "reference": references, "seed": seeds, "mask": masks, "reuse": earlier}
        chosen = {name: values and [values[i] for i in which] for name, values in given.items()}
        wanted = requests([PICTURES[i] for i in which], **chosen, encoded=None, mask_map=None)
        [batch] = batches(self.model, wanted, None)
        return make_task(self.model, [fitted for _, fitted in batch], settings, keep, plain=self.method.plain), settings

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
        told = {"image": PICTURES[i], "query": QUERIES[i], "reference": REFERENCES[i], "seed": SEEDS[i]}
        return self.method(self.model, **{**told, **self.options, **changes})

    def edits(self, **changes: Any) -> list[Edit]:
        """Both pictures, as a person calls the method."""
        told = {"image": list(PICTURES), "query": list(QUERIES), "reference": list(REFERENCES), "seed": list(SEEDS)}
        return self.method(self.model, **{**told, **self.options, **changes})

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
            wanted = [*scaled, *(option.usual or ()), option.least, option.most, 1.0]
        elif kind is tuple:
            wanted = [tuple(factor * number for number in now or (1.0,)) for factor in (0.5, 2.0)]
        elif kind is dict:
            wanted = [{"a": 0.3}]       # a word of the queries
        else:
            # What other options say that this text must be for them to matter; a word of the queries; some words.
            needed = [other.needs[option.name] for other in self.known.values() if option.name in other.needs]
            wanted = [*needed, "a", OTHER_WORDS]
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


# ---------------------------------------------------------------- comparing


def tensors_of(result: Outcome | Edit) -> dict[str, Tensor]:
    """The tensors of an outcome or an Edit by name, but for its trace."""
    named = {name: getattr(result, name, None) for name in ("latent", "mask", "mask_map")}
    named["source"] = result.source if isinstance(result, Outcome) else None        # an Edit's is a picture
    states = {f"{name}[{state.index}]": state.latents for name in ("encoded", "decoded")
              for state in getattr(result, name)}
    return {name: value for name, value in {**named, **states}.items() if value is not None}


def found(result: Outcome | Edit) -> dict[str, Tensor]:
    """Copies of all its tensors. Of an outcome each has a row for each picture, the trace's (n, B, ...) too."""
    trace = {f"trace[{name!r}]": value.transpose(0, 1) for name, value in result.trace.items()}
    return {name: value.detach().clone() for name, value in {**tensors_of(result), **trace}.items()}


def apart(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, float]:
    """How far what two runs found lies apart, by name, where it differs at all. See `difference`."""
    differences = {name: difference(one.get(name), other.get(name)) for name in {**one, **other}}
    return {name: by for name, by in differences.items() if by > 0}


def apart_beyond_rounding(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, float]:
    """The same, but for what rounding explains."""
    return {name: by for name, by in apart(one, other).items()
            if name not in one or by > ROUNDING.get(one[name].dtype, 0)}


def difference(one: Tensor | None, other: Tensor | None) -> float:
    """The largest difference, relative to the largest number where that is above 1; infinite if none can be taken."""
    if one is None or other is None or one.shape != other.shape:
        return float("inf")
    if torch.equal(one, other):
        return 0.0
    a, b = one.double(), other.double()
    largest = ((a - b).abs().max() / b.abs().max().clamp_min(1)).item()
    return largest if largest == largest else float("inf")      # not a number: infinities, or NaN itself


def shown(differences: Mapping[str, float]) -> str:
    """The largest three for a message: "latent (by 1.3e-02), ..."."""
    largest = sorted(differences, key=differences.get, reverse=True)
    texts = [f"{name} (by {differences[name]:.1e})" if differences[name] < float("inf")
             else f"{name} (in shape, or only one has it)" for name in largest[:3]]
    return ", ".join(texts) + (f" and {len(largest) - 3} more" if len(largest) > 3 else "")


# ---------------------------------------------------------------- what is seen from outside


class Draws(TorchDispatchMode):
    """While it is entered it counts how often random numbers are drawn from torch, with whichever generator."""

    drawn = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        # Attention carries the tag too, for it can drop weights at random; here it never does.
        if torch.Tag.nondeterministic_seeded in function.tags and "attention" not in str(function):
            self.drawn += 1
        return function(*args, **(kwargs or {}))


@dataclass
class Seen:
    """Rows that really went through a U-Net, and back."""

    forward: int = 0
    backward: int = 0


@contextmanager
def rows_seen() -> Iterator[Seen]:
    """Counts the rows of every U-Net, of copies too."""
    seen = Seen()

    def back(gradient: Tensor) -> None:
        seen.backward += len(gradient)

    def forward(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(module, UNet):
            seen.forward += len(output)
            if output.requires_grad:
                output.register_hook(back)

    handle = register_module_forward_hook(forward)
    try:
        yield seen
    finally:
        handle.remove()


def tensors_given(task: Task) -> dict[str, Tensor]:
    """The tensors of a task by name, those of earlier edits included."""
    named = {name: getattr(task, name) for name in ("pixels", "x0", "valid", "mask")}
    for told in ("query", "reference", "negative", "empty"):
        context = getattr(task, told)
        named |= {f"{told}.{part}": getattr(context, part) for part in ("tokens", "pooled", "ids")}
    for i, trajectories in enumerate(task.offers.encoded):
        named |= {f"encoded[{state.index}] of picture {i}": state.latents for own in trajectories for state in own}
    for i, maps in enumerate(task.offers.mask_map):
        named |= {f"mask_map of picture {i}": own for own in maps}
    return {name: value for name, value in named.items() if value is not None}


def weights_of(model: StableDiffusion) -> dict[str, Tensor]:
    """All weights of a model by name."""
    networks = {"unet": model.unet, "vae": model.vae,
                **{f"text_encoder_{i}": text.encoder for i, text in enumerate(model.texts)}}
    return {f"{part}.{name}": weight for part, network in networks.items()
            for name, weight in network.named_parameters()}


def copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in tensors.items()}
