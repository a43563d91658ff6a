from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypedDict

from PIL import Image
from torch import Tensor
from typing_extensions import Unpack

from . import compositing as compositing
from . import drawing as drawing
from . import guidance as guidance
from . import info as info
from . import loading as loading
from . import mask as mask
from . import metadata as metadata
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
from .methods.batches import Trajectory
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
    compile: bool = False,
    rows_per_batch: int | None = None,
) -> StableDiffusion: ...
# What each method can be told, by name: as its options' dataclass has it, and what `Method.iterate` takes besides.

_Pictures = Image.Image | Sequence[Image.Image]
_Texts = str | Sequence[str]

class _Options(TypedDict, total=False):
    steps: int
    guidance_scale: float
    negative_prompt: str
    seed: int | Sequence[int]
    size: int | None
    preset: str
    keep: str
    on_step: Callable[[Step], None] | None

class _Ratio(_Options, total=False):
    encoding_ratio: float

class _Coding(_Ratio, total=False):
    encoded: Trajectory | Sequence[Trajectory] | None
    sampler: str
    time: str
    iterations: int
    p: float
    gamma: float
    grid: str

class _Interval(_Coding, total=False):
    guidance_from: float
    guidance_until: float

class _DiffEdit(_Interval, total=False):
    mask: Image.Image | Tensor | list[Image.Image | Tensor] | None
    mask_map: Tensor | Sequence[Tensor] | None
    mask_noise_ratio: float
    mask_samples: int
    mask_threshold: float
    mask_norm: str
    mask_average: str
    mask_clip: str
    mask_clip_at: float
    mask_rescale: str

class _Attention(_Ratio, total=False):
    encoded: Trajectory | Sequence[Trajectory] | None
    align: str
    cross_replace: float
    word_windows: dict[str, float | tuple[float, float]]
    self_replace: float
    self_size: float
    reweight: dict[str, float]
    reweight_until: float
    local_blend: str
    blend_threshold: float
    blend_start: float
    blend_size: float

class _PromptToPrompt(_Attention, _Coding, total=False): ...

class _NullText(_Attention, total=False):
    iterations: int
    learning_rate: float
    stop_at: float
    authors_schedule: bool
    checkpointing: bool

class _Stochastic(_Ratio, total=False):
    source_guidance_scale: float
    eta: float

class _EditFriendly(_Stochastic, total=False):
    zero_last_noise: bool

class _Cycle(_Stochastic, total=False):
    trials: int
    clip: str

class _UniTune(_Ratio, total=False):
    rare: str
    tuning_steps: int
    learning_rate: float
    batch: int
    checkpointing: bool
    save: str
    tuned: str

class _Instruct(_Options, total=False):
    image_guidance_scale: float
    eta: float

# All return an Edit, or for a list of pictures a list of them.

def diffedit(
    model: StableDiffusion,
    image: _Pictures,
    query: _Texts,
    reference: _Texts = "",
    **options: Unpack[_DiffEdit],
) -> Any: ...
def sdedit(
    model: StableDiffusion,
    image: _Pictures,
    query: _Texts,
    reference: _Texts = "",
    **options: Unpack[_Ratio],
) -> Any: ...
def encode_decode(
    model: StableDiffusion,
    image: _Pictures,
    query: _Texts,
    reference: _Texts = "",
    **options: Unpack[_Interval],
) -> Any: ...
def prompt_to_prompt(
    model: StableDiffusion,
    image: _Pictures | None,
    query: _Texts,
    reference: _Texts = "",
    **options: Unpack[_PromptToPrompt],
) -> Any: ...
def null_text(
    model: StableDiffusion,
    image: _Pictures,
    query: _Texts,
    reference: _Texts = "",
    **options: Unpack[_NullText],
) -> Any: ...
def negative_prompt_inversion(
    model: StableDiffusion,
    image: _Pictures,
    query: _Texts,
    reference: _Texts = "",
    **options: Unpack[_PromptToPrompt],
) -> Any: ...
def direct_inversion(
    model: StableDiffusion,
    image: _Pictures,
    query: _Texts,
    reference: _Texts = "",
    **options: Unpack[_PromptToPrompt],
) -> Any: ...
def cycle_diffusion(
    model: StableDiffusion,
    image: _Pictures,
    query: _Texts,
    reference: _Texts = "",
    **options: Unpack[_Cycle],
) -> Any: ...
def edit_friendly(
    model: StableDiffusion,
    image: _Pictures,
    query: _Texts,
    reference: _Texts = "",
    **options: Unpack[_EditFriendly],
) -> Any: ...
def unitune(
    model: StableDiffusion,
    image: _Pictures,
    query: _Texts,
    reference: _Texts = "",
    **options: Unpack[_UniTune],
) -> Any: ...
def instruct_pix2pix(
    model: StableDiffusion,
    image: _Pictures,
    query: _Texts,
    reference: _Texts = "",
    **options: Unpack[_Instruct],
) -> Any: ...
def invert(model: StableDiffusion, image: _Pictures, *, reference: _Texts = "", **options: Unpack[_Coding]) -> Any: ...
