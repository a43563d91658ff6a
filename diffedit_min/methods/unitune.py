"""UniTune, arXiv:2210.09477: the network learns the picture under a rare word, then edits it under "[rare] query".

    tuning      min over theta of | eps - eps_theta(x_t, t, "[rare]") |^2,   x_t = noised x_0      Eq. (1) of DiffEdit
    sampling    SDEdit under "[rare] query", from a high level of noise, with very strong guidance

The whole U-Net is tuned, in a copy: the caller's model doesn't change. A tuned U-Net can be used for many edits
(`save`, `tuned`). The paper uses Imagen as its model. Its last step, which interpolates details of the input after
sampling, is left out here.
"""

import copy
import os
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..core.coding import RatioOptions
from ..core.options import option
from ..core.schedule import add_noise, generator, standard_noise
from ..core.state import Trajectory
from ..core.task import Outcome, Step, Task
from ..networks.finite import NotFinite
from ..networks.stable_diffusion import StableDiffusion
from ..networks.text import Context
from ..networks.unet import UNet
from ..pictures.picture_files import check_target
from ..pictures.writing import NotWritten, replacing
from . import sdedit
from .help import GUIDED_STEP, Text
from .method import Method

OPTIMISER = torch.optim.Adam


@dataclass(frozen=True)
class UniTuneOptions(RatioOptions):
    """The paper's numbers where it has them; `tuning_steps` and the rare word are those of public implementations."""

    encoding_ratio: float = option(0.9, "r, how far towards noise the picture goes; the paper: 0.8 to 0.98", least=0,
                                   most=1, stage="levels")
    guidance_scale: float = option(32.0, "s, how much the query counts while decoding", least=0, usual=(0, 40),
                                   stage="decoding")
    rare: str = option("beikkpic", "the rare word or words under which the picture is learnt", stage="encoding")
    tuning_steps: int = option(128, "the number of tuning steps", least=0, most=100_000, usual=(0, 500),
                              stage="encoding")
    learning_rate: float = option(1e-4, "the learning rate of the tuning", above=0, stage="encoding")
    batch: int = option(4, "rows in each tuning step; they run one after the other, with the memory of one", least=1,
                        most=1000, usual=(1, 16), stage="encoding")
    checkpointing: bool = option(False, "needs less memory but more time, for full-size models", stage="cost")
    save: str = option("", "a .safetensors file to write the tuned U-Net to", file=True, stage="cost")
    tuned: str = option("", "a file that `save` has written, to use instead of tuning", file=True, stage="encoding")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.rare.strip():
            raise ValueError("rare is empty: give a word that the text model hardly knows")
        for name in ("save", "tuned"):
            path = getattr(self, name)
            if path and (not path.endswith(".safetensors") or os.path.isdir(path)):
                raise ValueError(f"{name} {path!r} must be a .safetensors file")
        if self.save:
            check_target(Path(self.save), (".safetensors",))
        if self.save and self.tuned:
            raise ValueError(f"save {self.save!r} has nothing to save: tuned={self.tuned!r} skips the tuning")

    def check_count(self, pictures: int) -> None:
        """Raise ValueError for several pictures with a file, which holds the U-Net that is tuned to one picture."""
        if (self.save or self.tuned) and pictures > 1:
            raise ValueError(f"a tuning belongs to one picture, but {pictures} are given: leave out save and tuned")


def run(task: Task, options: UniTuneOptions) -> Generator[Step, None, Outcome]:
    """For each picture: tuning_steps x batch rows forward and backward, unless `tuned` is given; then 2k rows."""
    given = read_tuned(options, task.model.unet) if options.tuned else None
    context = task.model.embed([f"{options.rare} {query}" for query in task.queries])
    each = []
    for i in range(len(task.x0)):
        unet = given if given is not None else (yield from tune(task, options, i))
        if options.save:
            save_tuned(unet, options)
        own = replace(task, model=replace(task.model, unet=unet.to(task.model.dtype)), x0=task.x0[i : i + 1],
                      query=context[i : i + 1], negative=task.negative[i : i + 1], seeds=task.seeds[i : i + 1])
        steps = steps_of_one(sdedit.run(own, options), alone=len(task.x0) == 1)
        each.append((yield from steps).decoded)
    decoded = Trajectory.join(each)
    return Outcome(decoded[0].latent, decoded=decoded)


def steps_of_one(steps: Generator[Step, None, Outcome], alone: bool) -> Generator[Step, None, Outcome]:
    """The steps of one picture's sampling; without latents if it isn't alone, since a Step shows the whole batch."""
    while True:
        try:
            step = next(steps)
        except StopIteration as done:
            return done.value
        yield step if alone else replace(step, latent=None)


def tune(task: Task, options: UniTuneOptions, i: int) -> Generator[Step, None, UNet]:
    """A copy of the U-Net, tuned to picture i under the rare word."""
    unet = copy_to_tune(task.model.unet).requires_grad_(True)
    model, context = replace(task.model, unet=unet), task.model.embed([options.rare])
    optimizer = OPTIMISER(unet.parameters(), lr=options.learning_rate)
    x0, seed, total = task.x0[i : i + 1], task.seeds[i], options.tuning_steps
    for step in range(total):
        for row in range(options.batch):
            random = generator(seed, "unitune t", step * options.batch + row)
            t = int(torch.randint(model.schedule.T, (), generator=random))
            eps = standard_noise(x0, (seed,), "unitune", step * options.batch + row)
            try:
                descend(model, x0, t, eps, context, options)
            except NotFinite as error:
                if step == 0:
                    raise       # nothing is tuned yet
                raise ValueError(f"the tuning went wrong at step {step + 1}: give a smaller learning_rate than "
                                 f"{options.learning_rate:g} ({error})") from None
            task.rows.forward["tune"] += 1
            task.rows.backward["tune"] += 1
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield Step("tune", i * total + step + 1, len(task.x0) * total)
    return unet.requires_grad_(False)


def copy_to_tune(unet: UNet) -> UNet:
    """A copy in at least float32, since small tuning steps would be lost to rounding in half precision."""
    return copy.deepcopy(unet).to(torch.promote_types(unet.conv_in.weight.dtype, torch.float32))


@torch.enable_grad()
def descend(
    model: StableDiffusion, x0: Tensor, t: int, eps: Tensor, context: Context, options: UniTuneOptions
) -> None:
    """Add one row's part to the gradient of Eq. (1), averaged over a batch."""
    x_t = add_noise(x0, eps, model.schedule.abar[t])
    predicted = model.eps(x_t, t, context, checkpointing=options.checkpointing)
    (F.mse_loss(predicted, eps) / options.batch).backward()


# ---------------------------------------------------------------- files of tuned U-Nets


def save_tuned(unet: UNet, options: UniTuneOptions) -> None:
    """Write the U-Net to the file `save`, as a whole or not at all."""
    weights = {name: weight.contiguous() for name, weight in unet.state_dict().items()}
    with replacing(options.save) as file:
        try:
            save_file(weights, file.name, {"format": "pt", "rare": options.rare})
        except SafetensorError as error:    # so it calls the system's own
            raise NotWritten(f"save {options.save!r} can't be written ({error}): make room there, or choose another "
                             "place") from None


def read_tuned(options: UniTuneOptions, like: UNet) -> UNet:
    """The U-Net of the file `tuned`. Raises ValueError if it is of another kind, or tuned under another word."""
    try:
        with safe_open(options.tuned, "pt") as file:
            rare, weights = (file.metadata() or {}).get("rare"), {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"tuned {options.tuned!r} can't be read: {error}") from None
    if rare is None:
        raise ValueError(f"tuned {options.tuned!r} is not a file that unitune has saved: it names no rare word")
    if rare != options.rare:
        raise ValueError(f"tuned {options.tuned!r} was tuned under {rare!r}, not under {options.rare!r}: pass rare=")
    own = like.state_dict()
    if {name: weight.shape for name, weight in weights.items()} != {name: weight.shape for name, weight in own.items()}:
        raise ValueError(f"tuned {options.tuned!r} holds the U-Net of another kind of model")
    unet = copy_to_tune(like)
    unet.load_state_dict(weights)
    return unet


LEARNT = Text(
    "A copy of the network first learns the picture under a rare word. Then the latent is noised to level k.",
    ("min_θ |ε − ε_θ(x_t, t, “rare word”)|^2", *sdedit.NOISED.equations), (tune, *sdedit.NOISED.functions),
    why="Why a rare word: it means nothing to the network yet, so it can come to stand for this one picture.")

unitune = Method("unitune", run, UniTuneOptions, texts={"start": LEARNT, "decode": Text(
    "From there back to a picture with the tuned copy, strongly guided towards “rare word, query”.", GUIDED_STEP)})
