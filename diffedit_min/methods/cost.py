"""What an edit will cost, known before it runs: its rows through the U-Net.

No formula of a method stands here. The method itself runs once, on a stand-in for the model: same schedule, settings
and tokenizer, but 8 x 8 latents or few more, and a network that computes next to nothing. That takes some hundredths of
a second (0.2 s for the methods that tune). It finds something to change wherever the words differ, and no tuning of it
stops early; so where a real edit finds nothing, or stops early, the cost is an upper bound.

So a method of your own runs twice. What it prints or warns of the first time isn't seen, and no option of it names a
file then; but a file that it writes without such an option is written twice.
"""

from __future__ import annotations

import io
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ..core.task import Step
from ..networks.attention import Attend, Place
from ..networks.blocks import BlockPlace, Features
from ..networks.stable_diffusion import StableDiffusion
from ..networks.text import Context, TextModel, tokenize
from .asked import Asked

SIDE = 8        # of the stand-in's latents, in cells
SECONDS = 2.0   # a count that takes longer is given up: the edit is not to wait for it


@dataclass(frozen=True)
class Cost:
    """What an edit takes at most. `steps`: how many rows are through when each of its Steps is yielded, in order."""

    rows_for: Mapping[str, int]         # the rows by what they are for, as `Edit.rows_for`
    backward_rows: int
    steps: tuple[tuple[str, int, int], ...]         # stage, index, rows so far

    @property
    def rows(self) -> int:
        return sum(self.rows_for.values())


@dataclass
class Progress:
    """Where a running edit is among the steps of its cost. `moved` is its `on_step`."""

    cost: Cost
    place: int = 0      # how many of the cost's steps are done, or were left out

    def moved(self, step: Step) -> None:
        """A step of the edit is done. One that the cost doesn't know moves nothing."""
        for place in range(self.place, len(self.cost.steps)):       # nearly always the first one
            if self.cost.steps[place][:2] == (step.stage, step.index):
                self.place = 1 + place
                return

    @property
    def rows(self) -> int:
        """How many rows are through the U-Net."""
        return self.cost.steps[self.place - 1][2] if self.place else 0

    @property
    def doing(self) -> str:
        """What the edit does now, in words."""
        return in_words(self.cost.steps[self.place][0]) if self.place < len(self.cost.steps) else "picture"


def in_words(stage: str) -> str:
    """A Step's stage, as it is shown to people."""
    return {"encode": "encoding", "decode": "decoding", "tune": "tuning"}.get(stage, stage)


def about(seconds: float) -> str:
    """How long something takes, in words: "about 40 s", "about 12 min", "about 2.5 h"."""
    if seconds < 90:
        return f"about {max(1, round(seconds)):d} s"
    return f"about {round(seconds / 60)} min" if seconds < 5400 else f"about {round(seconds / 1800) / 2:g} h"


class Estimate:
    """Says once how long a run of many edits will still take, as soon as some work of it is measured."""

    def __init__(self, rows: int, tell: Callable[[str], None], least: float = 60.0, after: float = 1.0):
        """rows: of the whole run, from `rows_of`; 0 if it can't be known, and then nothing is said. tell: is given the
        line. least: a run that has fewer seconds left is not spoken of. after: so many seconds are measured first."""
        self.rows, self.tell, self.least, self.after = rows, tell, least, after
        self.started, self.through, self.told = time.perf_counter(), 0, not rows

    def add(self, rows: int) -> None:
        """So many more rows are through."""
        self.through += rows
        self.measured(self.through)

    def measured(self, rows: int, seconds: float | None = None) -> None:
        """So many of the rows are through, after so many seconds of work; None: since this object was made."""
        spent = time.perf_counter() - self.started if seconds is None else seconds
        if self.told or not rows or spent < self.after:
            return
        self.told, left = True, spent / rows * (self.rows - rows)
        if left >= self.least:
            self.tell(f"{about(left)} left: {self.rows:,} rows through the U-Net in all, {spent / rows:.2g} s each")


def rows_of(asked: Asked, model: StableDiffusion, mask: bool = False, picture: bool = True) -> int:
    """How many rows will go through the U-Net for an edit of one picture, at most; 0 if that can't be known.

    Rows of which a gradient is computed are counted once here, as in `Edit.rows`; see `cost_of`.
    """
    cost = cost_of(asked, model, mask, picture)
    return 0 if cost is None else cost.rows


def cost_of(asked: Asked, model: StableDiffusion, mask: bool = False, picture: bool = True) -> Cost | None:
    """The cost of an edit of one picture; None if it can't be known, as a method of one's own may need a real network.

    mask: whether a mask is given. picture: whether a picture is; without one, the method makes it. One count serves all
    words, but for whether query and reference are equal.
    """
    key, known = None, KNOWN.setdefault(model, {})
    try:
        same = tokenize(model.tokenizer, [asked.query, asked.reference]).unique(dim=0)
        key = asked.method, asked.kind, mask, picture, len(same)
        if key not in known:
            with unseen():
                known[key] = counted(asked, model, mask, picture)
    except (Exception, SystemExit):     # of any kind, and on the stand-in only: the edit itself will say what is wrong
        known[key] = None
    while len(known) > KEPT:
        del known[next(iter(known))]
    return known.get(key)


KEPT = 50       # costs of a model at most: the page's visitors may ask for ever new ones
KNOWN: WeakKeyDictionary[StableDiffusion, dict[Any, Cost | None]] = WeakKeyDictionary()


@contextmanager
def unseen() -> Iterator[None]:
    """What a count prints, warns of and draws of PyTorch's random numbers stays here: the edit itself does it again."""
    with redirect_stdout(io.StringIO()), warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        yield


def counted(asked: Asked, model: StableDiffusion, mask: bool, picture: bool) -> Cost:
    """The method's own run on the stand-in. Raises ValueError where a file decides how much is to do."""
    alone = replace(asked, size=None, options={**asked.options, **no_files(asked, model)})
    stand_in, steps = StandIn.of(model), []
    small = small_picture(stand_in)
    given = {"mask": Image.new("L", small.size, 255)} if mask else {}
    edit = alone(stand_in, small if picture else None, **given,
                 on_step=lambda step: steps.append((step.stage, step.index, stand_in.rows[0])))
    return Cost(edit.rows_for, edit.backward_rows, tuple(steps))


def no_files(asked: Asked, model: StableDiffusion) -> dict[str, Any]:
    """The options that name files, set so that a count reads and writes none."""
    files = [option for option in asked.method.known.values() if option.file]
    for option in files:
        if getattr(asked.settings(model), option.name) != option.default and option.stage != "cost":
            raise ValueError(f"what {option.name} holds decides how much is to do")
    return {option.name: option.default for option in files}


def small_picture(model: StableDiffusion) -> Image.Image:
    """A picture of the model's own size: for a stand-in, a small one."""
    side = model.unet.config.sample_size * model.factor
    return Image.linear_gradient("L").resize((side, side)).convert("RGB")


# ---------------------------------------------------------------- a model that computes next to nothing


class NextToNothing(nn.Module):
    """In place of a U-Net or a VAE: its config, and one weight that can be tuned."""

    def __init__(self, config: Any):
        super().__init__()
        self.config = config
        self.conv_in = nn.Conv2d(1, 1, 1).requires_grad_(False)


@dataclass(eq=False)
class StandIn(StableDiffusion):
    """A model for counts only. Its noise predictions differ wherever the words do, most at the first cells.

    So every threshold of a mask finds something, and guided decoding never returns to the picture by itself.
    """

    rows: list[int] = field(default_factory=lambda: [0])        # how many went through; shared by copies that are tuned
    until: float = math.inf     # of `time.monotonic`: then it computes no more

    @classmethod
    def of(cls, model: StableDiffusion, seconds: float = SECONDS) -> StandIn:
        """For a model: its schedule, recommendations, tokenizer and configs, but few latent cells."""
        config = model.unet.config
        unet = NextToNothing(replace(config, sample_size=max(SIDE, config.multiple)))
        texts = tuple(TextModel(nn.Identity(), text.tokenizer) for text in model.texts)
        return cls(unet, NextToNothing(model.vae.config), texts, model.schedule, model.prediction_type,
                   model.zero_empty_prompt, model.defaults, model.name, until=time.monotonic() + seconds)

    def embed(self, prompts: list[str]) -> Context:
        """Each prompt's token ids as its embedding (B, L, 1): they are equal where the prompts are."""
        ids = tokenize(self.tokenizer, prompts)
        return Context(ids[..., None].float(), ids[:, :1].float() if len(self.texts) > 1 else None, ids)

    def encode(self, pixels: Tensor) -> Tensor:
        """Small pixels, in each of the latents' channels."""
        small = F.avg_pool2d(pixels.float(), self.factor).mean(dim=1, keepdim=True)
        return small.repeat(1, self.vae.config.latent_channels, 1, 1)

    def decode(self, latents: Tensor) -> Tensor:
        """Large cells of grey."""
        grey = latents.mean(dim=1, keepdim=True).tanh().repeat(1, 3, 1, 1)
        return F.interpolate(grey, scale_factor=self.factor)

    def eps(
        self, x: Tensor, t: int, context: Context | Tensor, attend: Attend | None = None, sizes: Any = None,
        checkpointing: bool = False, features: Features | None = None,
    ) -> Tensor:
        """(B, C, h, w) -> (m B, C, h, w), which depends on the prompts only. Raises TimeoutError; see `until`."""
        if time.monotonic() > self.until:
            raise TimeoutError("the count takes too long")
        tokens = context if isinstance(context, Tensor) else context.tokens
        self.rows[0] += len(tokens)
        shape = len(tokens), self.unet.config.out_channels, *x.shape[2:]
        for size in (1, 2, 4) if attend is not None or features is not None else ():
            self.show(tokens, shape[2] // size, shape[3] // size, attend, features)
        ids = tokens.detach().flatten(1).to(x)
        words = 50 + 40 * torch.sin(ids @ torch.arange(1.0, 1 + ids.shape[1]).to(x))       # (m B,)
        cells = 0.5 ** torch.arange(shape[2] * shape[3]).to(x).clamp(max=30).view(shape[2:])
        tunable = 0 * (tokens.sum() + self.unet.conv_in.weight.sum()).to(x)
        return words.view(-1, 1, 1, 1) * cells.expand(shape) + tunable

    def show(self, tokens: Tensor, h: int, w: int, attend: Attend | None, features: Features | None) -> None:
        """Show these what they would see at one size of the feature maps."""
        cells, name = torch.ones(len(tokens), 1, h * w, 1), "up_blocks.1.attentions.1.transformer_blocks.0"
        words = tokens.detach().flatten(1)[:, None, :, None]                                 # (m B, 1, L D, 1)
        for place, keys in ((Place(f"{name}.attn1", False, h, w), cells), (Place(f"{name}.attn2", True, h, w), words)):
            if attend is not None and attend.wants(place):
                attend(cells, keys, keys, place)
        block = BlockPlace("up_blocks.1.resnets.1", h, w)
        if features is not None and features.wants(block):
            features(cells.view(-1, 1, h, w), block)
