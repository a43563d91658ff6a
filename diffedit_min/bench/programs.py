"""The programs that `diffedit-min speed` measures: ours, and another one that does the same work (`--against`).

A model is one that `load` takes, or one of full size with random weights, since what a network costs depends on its
shape only:

    sd15-shape   Stable Diffusion 1.x       sd21-shape   2.x (the one for 512 px)       sdxl-shape   XL

The other program comes as a file with a function rival(model) that returns an object with

    name        as the tables have it
    networks    {variant: what makes its networks of our model's weights, without arguments}: objects like `Ours`
    editors     {kind: what makes a whole edit, without arguments}: objects like `OurEditor`; {} where it can't edit

Such a file is tests/against_diffusers.py. It lies outside the package, which imports no other program.
Shapes: B latents, R rows of the U-Net's batch, C channels, h x w cells, L tokens, D their width.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from ..core.schedule import Schedule
from ..loading import HALF, load, memory_format_of
from ..loading.sources import TINY
from ..methods.paper import diffedit
from ..networks.stable_diffusion import StableDiffusion
from ..networks.text import TextModel, make_text_encoder, make_tokenizer
from ..networks.unet import Summary, UNet, UNetConfig
from ..networks.vae import VAE, VAEConfig
from ..tiny.scenes import demo_scenes

OURS = "diffedit_min"                           # as the tables have it
PAIR = 2                                        # rows that share x and t, as guidance and the mask have them
PROMPTS = ("", "a bowl of lemons on marble")    # of such a pair
TIME = torch.tensor(500)                        # t, of a single call: the cost is the same for every t


class Programs:
    """One model in one dtype, and another program with the same weights, if there is one. Made when first used."""

    def __init__(self, model: str, dtype: str, against: str | None = None):
        self.name, self.dtype, self.against = model, dtype, against

    @cached_property
    def model(self) -> StableDiffusion:
        if self.name in SHAPES:
            return make(SHAPES[self.name], getattr(torch, self.dtype), self.name)
        return load(self.name, device="cpu", dtype=self.dtype)

    @cached_property
    def rival(self) -> Any | None:
        return load_rival(Path(self.against))(self.model) if self.against else None

    def sides(self, wanted: Sequence[int]) -> tuple[int, ...]:
        """Of the pictures, in pixels; by default the model's own. Raises ValueError for one that it can't take."""
        shape = SHAPES.get(self.name) or Shape(self.model.unet.config, self.model.vae.config)
        multiple = shape.vae.factor * shape.unet.multiple
        for side in wanted:
            if side < multiple or side % multiple:
                raise ValueError(f"--size {side}: {self.name} takes multiples of {multiple} pixels")
        return tuple(dict.fromkeys(wanted)) or (shape.unet.sample_size * shape.vae.factor,)

    def networks(self) -> dict[str, Any]:
        """Of each program, and of each variant of the other one's, by the name that the tables have."""
        others = self.rival.networks if self.rival else {}
        return {OURS: Ours(self.model), **{f"{self.rival.name}, {kind}": made() for kind, made in others.items()}}

    def editors(self, presets: Sequence[str], options: Mapping[str, Any]) -> dict[str, Callable[[], Any]]:
        """What makes each program's whole edit: ours with each preset if any are given, and the other one's."""
        ours = partial(OurEditor, self.model, Ours(self.model), **options)
        made = {f"{OURS}, {preset}": partial(ours, preset=preset) for preset in presets} or {OURS: ours}
        others = self.rival.editors if self.rival else {}
        return made | {f"{self.rival.name}, {kind}": other for kind, other in others.items()}

    def forget(self) -> None:
        """Give the memory back; what is used again is made again."""
        for name in ("model", "rival"):
            self.__dict__.pop(name, None)


# ---------------------------------------------------------------- ours


class Ours:
    """Our networks' single calls. Another program's Networks have the same three; each casts to its own dtype."""

    def __init__(self, model: StableDiffusion):
        self._unet, self._vae, self.dtype = model.unet, model.vae, next(model.vae.parameters()).dtype

    def unet(self, x: Tensor, t: Tensor, tokens: Tensor, summary: Summary | None) -> Tensor:
        """x (B, C, h, w), tokens (R, L, D), R = B or a multiple -> the prediction (R, C, h, w), in the order of tokens:
        all latents under their first prompt, then all again. summary: what SD XL is told besides."""
        return self._unet(x, t, tokens, None, summary)

    def encode(self, pixels: Tensor) -> Tensor:
        """pixels (B, 3, H, W) in [-1, 1] -> the posterior's mean (B, C, h, w), unscaled."""
        return self._vae.encode(pixels.to(self.dtype))[0]

    def decode(self, latents: Tensor) -> Tensor:
        """latents (B, C, h, w), unscaled -> pixels (B, 3, H, W)."""
        return self._vae.decode(latents.to(self.dtype))


class OurEditor:
    """A whole edit of ours. Another program's Editor is called alike, and has the same four attributes."""

    def __init__(self, model: StableDiffusion, networks: Ours, **options: Any):
        self.networks = networks                # that the edit goes through, for single calls at a larger size
        self.unet, self.vae, self.texts = model.unet, model.vae, [text.encoder for text in model.texts]     # watched
        self.model, self.options = model, options

    def __call__(self, image: Image.Image, query: str, reference: str, steps: int | None = None) -> Image.Image:
        """steps: of the whole timeline; None: what that program does by itself."""
        options = self.options if steps is None else {**self.options, "steps": steps}
        edit = diffedit(self.model, image, query, reference, size=max(image.size), **options)
        if edit.empty_mask:
            raise ValueError("the mask is empty, so that the edit stopped early: give another -o mask_threshold")
        return edit.image


# ---------------------------------------------------------------- what they are given


def inputs(model: StableDiffusion, side: int, rows: int) -> tuple[Any, ...]:
    """x (B, C, h, w), t, tokens (R, L, D), summary: what `Ours.unet` takes. An even number of rows R are pairs: B = R/2
    latents, each under the empty text and under another, as guidance has them; else B = R."""
    count, cells = rows // PAIR if rows % PAIR == 0 else rows, side // model.factor
    x = torch.randn(count, model.unet.config.in_channels, cells, cells, generator=torch.Generator().manual_seed(0))
    context = model.embed([prompt for prompt in PROMPTS[-(rows // count):] for _ in range(count)])
    return x.to(model.dtype), TIME, context.tokens.to(model.dtype), model.summary(x, context, None)


def vae_inputs(model: StableDiffusion, side: int) -> dict[str, tuple[Tensor]]:
    """Of one picture: pixels (1, 3, H, W) in [-1, 1] to encode, latents (1, C, h, w) to decode."""
    random, config, cells = torch.Generator().manual_seed(0), model.vae.config, side // model.factor
    pixels = 2 * torch.rand(1, config.in_channels, side, side, generator=random) - 1
    return {"encode": (pixels,), "decode": (torch.randn(1, config.latent_channels, cells, cells, generator=random),)}


def task(side: int) -> tuple[Image.Image, str, str]:
    """The picture, query and reference of every edit that is measured."""
    scene, answer = demo_scenes(0, None)
    return scene.render(side), answer.caption, scene.caption


# ---------------------------------------------------------------- another program


def rival_file(name: str) -> Path:
    """The file of another program: a path, or tests/against_NAME.py of the checkout that this package lies in."""
    path = Path(name)
    if path.suffix != ".py":
        path = Path(__file__).parents[2] / "tests" / f"against_{name}.py"
    if not path.is_file():
        place = f"file {str(path)!r}" if path == Path(name) else f"tests/{path.name} beside the package"
        raise ValueError(f"--against {name!r}: there is no {place}; it comes with a checkout, or give the path of such "
                         "a file")
    return path


def load_rival(path: Path) -> Callable[[StableDiffusion], Any]:
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


# ---------------------------------------------------------------- full size, random weights

PLACES = 77     # L, CLIP's

# text_encoder/config.json of CLIP ViT-L/14, of OpenCLIP ViT-H/14 as SD 2.x has it, and of OpenCLIP ViT-bigG/14.
VIT_L = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12,
         "max_position_embeddings": PLACES, "vocab_size": 49408, "hidden_act": "quick_gelu"}
VIT_H = {**VIT_L, "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 23,
         "hidden_act": "gelu"}
VIT_G = {**VIT_L, "hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 20, "num_hidden_layers": 32,
         "hidden_act": "gelu", "projection_dim": 1280, "architectures": ["CLIPTextModelWithProjection"]}


@dataclass(frozen=True)
class Shape:
    """The configs of one family; the defaults are SD 1.x's."""

    unet: UNetConfig = field(default_factory=UNetConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    texts: tuple[dict[str, Any], ...] = (VIT_L,)
    zero_empty_prompt: bool = False


SHAPES = {
    "sd15-shape": Shape(),
    "sd21-shape": Shape(
        UNetConfig(attention_head_dim=(5, 10, 20, 20), cross_attention_dim=1024, use_linear_projection=True),
        texts=(VIT_H,),
    ),
    "sdxl-shape": Shape(
        UNetConfig(block_out_channels=(320, 640, 1280), attention_head_dim=(5, 10, 20), cross_attention_dim=2048,
                   down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                   transformer_layers_per_block=(1, 2, 10), use_linear_projection=True,
                   addition_embed_type="text_time", sample_size=128),
        VAEConfig(scaling_factor=0.13025, force_upcast=True), (VIT_L, VIT_G), zero_empty_prompt=True,
    ),
}


def make(shape: Shape, dtype: torch.dtype, name: str = "") -> StableDiffusion:
    """A model of that shape, on the CPU, each network in the dtype and layout that `load` would give it."""
    unet, vae, *texts = empty_networks(shape)
    vae_in_full = shape.vae.force_upcast and dtype in HALF
    for network in (unet, vae, *texts):
        fill_randomly(network, torch.float32 if vae_in_full and network is vae else dtype)
    tokenizer = make_tokenizer(TINY / "tokenizer")
    tokenizer.model_max_length = PLACES
    return StableDiffusion(unet, vae, tuple(TextModel(text, tokenizer) for text in texts), Schedule.from_config({}),
                           zero_empty_prompt=shape.zero_empty_prompt, name=name)


def empty_networks(shape: Shape) -> list[nn.Module]:
    """U-Net, VAE and text encoders on the meta device: shapes without memory."""
    tokenizer = make_tokenizer(TINY / "tokenizer")
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    with torch.device("meta"):
        return [UNet(shape.unet), VAE(shape.vae), *(make_text_encoder({**text, **ends}) for text in shape.texts)]


@torch.no_grad()
def fill_randomly(network: nn.Module, dtype: torch.dtype) -> None:
    """Give an empty network normal weights of variance 1 / inputs: the size of what goes through it stays the same."""
    network.to(dtype).to_empty(device="cpu")
    random = torch.Generator().manual_seed(0)
    for name, weight in network.named_parameters():
        if weight.ndim > 1:
            weight.normal_(0, 1 / math.sqrt(weight[0].numel()), generator=random)
        else:
            weight.fill_(1.0 if name.endswith("weight") else 0.0)       # 1-dim weights are those of norms; biases are 0
        weight.data = weight.contiguous(memory_format=memory_format_of(weight, dtype))
    for buffer in network.buffers():        # the only one: in CLIP, the numbers of the token places
        buffer.copy_(torch.arange(buffer.shape[-1]))
    network.eval().requires_grad_(False)
