"""What the clauses of `check_method` see of a method: how far two results lie apart, and what happens beside them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils._python_dispatch import TorchDispatchMode

from ..core.task import Outcome, Task
from ..methods.edit import Edit
from ..networks.stable_diffusion import StableDiffusion
from ..networks.unet import UNet

# ---------------------------------------------------------------- comparing

# How far apart numbers may be that differ by the rounding of other batch sizes, relative to their size.
ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 1e-1, torch.uint8: 1e-2}


def tensors_of(result: Outcome | Edit) -> dict[str, Tensor]:
    """The tensors of an outcome or an Edit by name, but for its trace."""
    if isinstance(result, Outcome):
        named = {name: getattr(result, name) for name in ("latent", "source", "mask", "mask_map")}
    else:
        named = {"image": torch.from_numpy(np.array(result.image)), "mask": result.mask, "mask_map": result.mask_map}
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
