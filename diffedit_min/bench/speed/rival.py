"""Another program that does the same work, for `--against`: what its file has to hold, and how it is found.

The file has a function `rival(model) -> Rival`, which makes that program's networks with the weights of ours: the very
tensors, where dtype and layout allow it (our state dicts have the names of the published checkpoints). Such a file is
tests/against_diffusers.py. It lies outside the package, which knows no rival.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Protocol

from PIL import Image
from torch import Tensor, nn

from ...networks.stable_diffusion import StableDiffusion
from ...networks.unet import Summary


class Networks(Protocol):
    """Single calls. All tensors are in the networks' dtypes."""

    def unet(self, x: Tensor, t: int, tokens: Tensor, summary: Summary | None) -> Tensor:
        """x (R, C, h, w), tokens (R, L, D) -> the U-Net's prediction (R, C, h, w). summary: what SD XL is told."""
        ...

    def encode(self, pixels: Tensor) -> Tensor:
        """pixels (B, 3, H, W) in [-1, 1] -> the posterior's mean (B, C, h, w), unscaled."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """latents (B, C, h, w), unscaled -> pixels (B, 3, H, W)."""
        ...


class Editor(Protocol):
    """A whole edit, with the networks that it goes through: their calls are counted and timed from outside."""

    unet: nn.Module
    vae: nn.Module                  # its `encoder` and `decoder` are watched
    texts: Sequence[nn.Module]
    variant: str                    # of `networks`, which it goes through
    dtype: str                      # the U-Net's, such as "float32"

    def __call__(self, image: Image.Image, query: str, reference: str, steps: int | None = None) -> Image.Image:
        """steps: of the whole timeline, as `Options.steps`; None: what that program does by itself."""
        ...


class Rival(Protocol):
    """Everything is made when it is called for, and forgotten when it has been measured."""

    name: str                                           # as the tables have it
    networks: Mapping[str, Callable[[], Networks]]      # by variant, such as "as made", "channels_last"
    editors: Mapping[str, Callable[[], Editor]]         # such as "default", "tuned"; none where it can't edit


def find(name: str) -> Path:
    """The file of a rival: the path itself, or tests/against_NAME.py of the checkout that this package lies in."""
    path = Path(name)
    if path.suffix != ".py":
        path = Path(__file__).parents[3] / "tests" / f"against_{name}.py"
    if not path.is_file():
        place = f"file {str(path)!r}" if path == Path(name) else f"tests/{path.name} beside the package"
        raise ValueError(f"--against {name!r}: there is no {place}; it comes with a checkout, or give the path of such "
                         "a file")
    return path


def load(path: Path) -> Callable[[StableDiffusion], Rival]:
    """The file's function `rival`. Raises ValueError if what it needs isn't installed."""
    spec = spec_from_file_location(path.stem, path)
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(f"--against {path.stem.removeprefix('against_')!r} needs {error.name}, which isn't installed: "
                         'pip install -e ".[parity]"') from None
    if not hasattr(module, "rival"):
        raise ValueError(f"--against {str(path)!r}: the file has no function rival(model)")
    return module.rival
