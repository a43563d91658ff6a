"""What a checkpoint's scheduler_config.json says of its noise levels; the kind and range of each value are checked.

Only the noise levels of the training are read. How a sampler of another program would use them (its class, spacing,
thresholds) changes nothing here.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

BETA_SCHEDULES = ("scaled_linear", "linear")
MOST_TIMES = 10_000         # published models have 1000; far more is a mistake, or is meant to take time and memory
LEAST_ABAR = 1e-8           # of the last time, since samplers divide by its root


class Entry(NamedTuple):
    """What may stand at one key."""

    default: Any                        # Stable Diffusion's, which is not always that of a scheduler's class
    wanted: str
    fits: Callable[[Any], bool]


def is_beta(value: Any) -> bool:
    """Whether it is a number between 0 and 1."""
    return type(value) in (int, float) and 0 < value < 1


ENTRIES = {
    "num_train_timesteps": Entry(1000, f"a whole number from 2 to {MOST_TIMES}",
                                 lambda value: type(value) is int and 2 <= value <= MOST_TIMES),
    "beta_schedule": Entry("scaled_linear", " or ".join(BETA_SCHEDULES), lambda value: value in BETA_SCHEDULES),
    "beta_start": Entry(0.00085, "a number between 0 and 1", is_beta),
    "beta_end": Entry(0.012, "a number between 0 and 1", is_beta),
    "trained_betas": Entry(None, f"a list of 2 to {MOST_TIMES} numbers between 0 and 1",
                           lambda value: isinstance(value, list | tuple) and 2 <= len(value) <= MOST_TIMES
                           and all(map(is_beta, value))),
    "steps_offset": Entry(1, "0 or 1", lambda value: type(value) is int and value in (0, 1)),
    "set_alpha_to_one": Entry(False, "true or false", lambda value: type(value) is bool),
    "rescale_betas_zero_snr": Entry(False, "false: with it, abar would be 0 at the last time",
                                    lambda value: value is False),
}


def noise_levels(raw: Mapping[str, Any], where: str) -> tuple[tuple[float, ...], int, float | None]:
    """The fields of a `Schedule`. A key that is missing or null has its default.

    Raises ValueError, in one line that names the file `where`, the key and the value.
    """
    unused = () if raw.get("trained_betas") is None else ("beta_schedule", "beta_start", "beta_end")
    values = {}
    for key, entry in ENTRIES.items():
        given = None if key in unused else raw.get(key)
        if given is not None and not entry.fits(given):
            raise ValueError(f"{where}: {key} = {given!r:.60} is not supported (only {entry.wanted})")
        values[key] = entry.default if given is None else given
    betas, T = betas_of(values), raw.get("num_train_timesteps")
    if T is not None and len(betas) != T:
        raise ValueError(f"{where}: trained_betas has {len(betas)} numbers, but num_train_timesteps = {T}")
    abar = torch.cumprod(1 - betas, dim=0).tolist()
    if not all(a > b for a, b in zip([1.0, *abar], abar, strict=False)):
        raise ValueError(f"{where}: a beta is so small that abar does not fall (the least is {betas.min():.3g})")
    if abar[-1] < LEAST_ABAR:
        raise ValueError(f"{where}: the betas are too large: abar falls to {abar[-1]:.3g}, below {LEAST_ABAR}")
    return tuple(abar), values["steps_offset"], 1.0 if values["set_alpha_to_one"] else None


def betas_of(values: Mapping[str, Any]) -> Tensor:
    """beta (T,), the variance of the noise that is added at each time."""
    if values["trained_betas"] is not None:
        return torch.tensor(values["trained_betas"], dtype=torch.float64)
    start, end, T = values["beta_start"], values["beta_end"], values["num_train_timesteps"]
    if values["beta_schedule"] == "linear":
        return torch.linspace(start, end, T, dtype=torch.float64)
    return torch.linspace(start**0.5, end**0.5, T, dtype=torch.float64) ** 2    # latent diffusion's: linear in the root
