from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from . import drawing as drawing
from . import guidance as guidance
from . import info as info
from . import loading as loading
from . import mask as mask
from . import methods as methods
from . import model as model
from . import picture as picture
from . import samplers as samplers
from . import schedule as schedule
from . import testing as testing
from . import theory as theory
from . import tiny as tiny
from .methods import METHODS as METHODS
from .methods import Edit as Edit
from .methods import Method as Method
from .methods import Step as Step
from .methods.base import Trajectory
from .model.stable_diffusion import StableDiffusion as StableDiffusion
from .model.text import Context as Context

__version__: str

def load(
    name: str | Path = "tiny",
    *,
    device: str = "auto",
    dtype: str = "auto",
    prediction_type: str | None = None,
    config: str | Path | None = None,
    revision: str | None = None,
    token: str | None = None,
    seed: int = 0,
) -> StableDiffusion: ...
def diffedit(
    model: StableDiffusion,
    image: Image.Image | Sequence[Image.Image],
    query: str | Sequence[str],
    reference: str | Sequence[str] = "",
    *,
    encoding_ratio: float = ...,
    steps: int = ...,
    guidance_scale: float = ...,
    negative_prompt: str = ...,
    sampler: str = ...,
    time: str = ...,
    iterations: int = ...,
    p: float = ...,
    gamma: float = ...,
    mask: Image.Image | Tensor | None = None,
    mask_noise_ratio: float = ...,
    mask_samples: int = ...,
    mask_threshold: float = ...,
    mask_norm: str = ...,
    mask_average: str = ...,
    mask_clip: str = ...,
    mask_clip_at: float = ...,
    mask_rescale: str = ...,
    mask_map: Tensor | None = None,
    encoded: Trajectory | None = None,
    seed: int | Sequence[int] = 0,
    size: int | None = None,
    keep: str = "result",
    on_step: Callable[[Step], None] | None = None,
) -> Any: ...  # Edit; for a list of pictures a list of them
def sdedit(
    model: StableDiffusion,
    image: Image.Image | Sequence[Image.Image],
    query: str | Sequence[str],
    reference: str | Sequence[str] = "",
    *,
    encoding_ratio: float = ...,
    steps: int = ...,
    guidance_scale: float = ...,
    negative_prompt: str = ...,
    seed: int | Sequence[int] = 0,
    size: int | None = None,
    keep: str = "result",
    on_step: Callable[[Step], None] | None = None,
) -> Any: ...
def encode_decode(
    model: StableDiffusion,
    image: Image.Image | Sequence[Image.Image],
    query: str | Sequence[str],
    reference: str | Sequence[str] = "",
    *,
    encoding_ratio: float = ...,
    steps: int = ...,
    guidance_scale: float = ...,
    negative_prompt: str = ...,
    sampler: str = ...,
    time: str = ...,
    iterations: int = ...,
    p: float = ...,
    gamma: float = ...,
    encoded: Trajectory | None = None,
    seed: int | Sequence[int] = 0,
    size: int | None = None,
    keep: str = "result",
    on_step: Callable[[Step], None] | None = None,
) -> Any: ...
def invert(
    model: StableDiffusion,
    image: Image.Image | Sequence[Image.Image],
    *,
    reference: str | Sequence[str] = "",
    encoding_ratio: float = ...,
    steps: int = ...,
    guidance_scale: float = ...,
    negative_prompt: str = ...,
    sampler: str = ...,
    time: str = ...,
    iterations: int = ...,
    p: float = ...,
    gamma: float = ...,
    encoded: Trajectory | None = None,
    size: int | None = None,
    keep: str = "result",
    on_step: Callable[[Step], None] | None = None,
) -> Any: ...
