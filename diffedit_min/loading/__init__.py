"""`load`: from a name to a checked model.

    load()                         the embedded model; its name is "tiny"
    load("tiny-instruct")          the embedded model that follows instructions, for instruct_pix2pix
    load("random")                 tiny random weights, for tests of samplers
    load("path/to/folder")         a checkpoint folder in the usual layout
    load("path/to/file.ckpt")      a checkpoint in one file (.ckpt or .safetensors)
    load("owner/name")             a checkpoint on the Hub, from the cache or downloaded

The networks are first built on the meta device, which needs no memory. Then every name and shape of the files is
checked against them, and only then are the weights read, each of them once. Code inside a file is never run.
"""

import os
import shutil
import sys
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.schedule import Schedule
from ..networks.finite import finite
from ..networks.stable_diffusion import StableDiffusion
from ..networks.text import TextModel, make_text_encoder
from ..networks.tokenizer import PADDING, make_tokenizer
from ..networks.unet import UNet, UNetConfig
from ..networks.vae import VAE, VAEConfig
from .asking import settled
from .files import WEIGHT_DTYPES, check_finite, first_line
from .layout import SCHEDULER
from .names import check_exactly, own_names
from .sources import EMBEDDED, TINY, Checkpoint, Network, find
from .usual import warn_of_heads

DTYPES = ("float32", "float64", "float16", "bfloat16")
HALF = (torch.float16, torch.bfloat16)
GRAPHS = 256            # that a compiled U-Net may have; beyond its limit of 8, torch.compile ends in an error
FULL_SIZE = 10**8       # a U-Net with fewer weights runs in float32; published U-Nets have over 300 million


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
) -> StableDiffusion:
    """The model called `name`, ready to use; its weights need no gradients.

    device: "auto" (cuda, mps or cpu) or a torch device.
    dtype: "auto" (see `best_dtype`), "float32", "float64", "float16" or "bfloat16".
    prediction_type: "epsilon", "v_prediction" or "sample" (the clean latent), instead of what the files say. If
    they say nothing, the network is asked (asking.py); if it clearly contradicts what is said, there is a warning.
    config: for a single file, the folder or Hub id whose configs and tokenizer are used; or a .yaml of the original
        programs, which says what the U-Net predicts.
    revision, token: for the Hub. seed: for the weights of "random".
    compile: use torch.compile for the U-Net; it compiles at the first call for each number of rows and picture size.
    rows_per_batch: how many rows the U-Net runs at once; by default as many as make 32,768 latent cells.
    A weight that needs no conversion to the dtype (float32 or float64) stays mapped to its file: don't change the file
    while the model is in use.
    Raises ValueError, in one line that names what is wrong and the way out.
    """
    torch_device, torch_dtype = usable_device(device), usable_dtype(dtype)
    if rows_per_batch is not None and rows_per_batch < 1:
        raise ValueError(f"rows_per_batch must be at least 1, not {rows_per_batch}")
    if str(name) == "random":
        model = random_model(seed, prediction_type or "epsilon", torch_device, torch_dtype or torch.float32)
    else:
        look_up = partial(find, str(name), half=torch_dtype in HALF, config=config, revision=revision, token=token)
        checkpoint = look_up(prediction_type=prediction_type)
        model = build(checkpoint, torch_device, torch_dtype)
        if str(name) not in EMBEDDED:       # of those it is known
            model.prediction_type = settled(checkpoint, model)
        answered = checkpoint.prediction_type is None and model.prediction_type == "v_prediction"
        if answered and checkpoint.usual is None and config is None:    # SD 2.x for 768 px, but configs for 512 px
            model = build(look_up(prediction_type="v_prediction"), torch_device, torch_dtype)
    model.rows_per_batch = rows_per_batch
    if compile:
        compile_unet(model)
    return model


def usable_device(device: str) -> torch.device:
    """The device of that name, or for "auto" the best one here; ValueError if it can't be used."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        one = torch.ones((), device=device)
        one.add(one).item()     # that of "meta" holds no numbers
        return one.device
    except (RuntimeError, AssertionError, ImportError) as error:     # the last: a kind that needs a package
        raise ValueError(f"device {device!r} can't be used: {first_line(error)}") from None


def usable_dtype(dtype: str) -> torch.dtype | None:
    """The dtype of that name, None for "auto"; ValueError if it isn't known."""
    if dtype not in ("auto", *DTYPES):
        raise ValueError(f"dtype {dtype!r} is not known; known are auto, {', '.join(DTYPES)}")
    return None if dtype == "auto" else getattr(torch, dtype)


def best_dtype(unet: nn.Module, device: torch.device) -> torch.dtype:
    """The dtype for "auto": float16 on CUDA, bfloat16 on CPUs that multiply it in hardware, float32 otherwise.

    Small models run in float32 everywhere. Half precision changes an edit less than the sampler's own error does
    (bench/README.md).
    """
    if sum(weight.numel() for weight in unet.parameters()) < FULL_SIZE:
        return torch.float32
    if device.type == "cuda":
        return torch.float16
    if device.type == "cpu" and any(capabilities().get(name) for name in ("avx512_bf16", "amx_bf16", "sve_bf16")):
        return torch.bfloat16
    return torch.float32


def capabilities() -> dict[str, Any]:
    """What the processor can do, by names of instructions; nothing is known in a torch before 2.7."""
    return torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}


def dtype_of(network: nn.Module, dtype: torch.dtype) -> torch.dtype:
    """The dtype of this network in a model of that dtype: float32 for a VAE that overflows in half precision."""
    return torch.float32 if dtype in HALF and getattr(network.config, "force_upcast", False) else dtype


def compile_unet(model: StableDiffusion, backend: str = "inductor") -> None:
    """Let torch.compile compile the U-Net. Raises ValueError if there is no C++ compiler for a CPU.

    Each number of rows and each size of pictures has a graph of its own, which is compiled at its first call. (There
    is no single graph for all sizes, because torch.compile can't halve a size that it doesn't know.)
    """
    compilers = ("cl",) if sys.platform == "win32" else ("c++", "g++", "clang++")
    needs_one = backend == "inductor" and model.device.type == "cpu" and not os.environ.get("CXX")
    if needs_one and not any(map(shutil.which, compilers)):
        raise ValueError(f"compile needs a C++ compiler ({' or '.join(compilers)}): install one, or leave compile out")
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, GRAPHS)
    model.unet.compile(fullgraph=True, dynamic=False, backend=backend)


# ---------------------------------------------------------------- from a checkpoint


def build(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype | None) -> StableDiffusion:
    """The model of a checkpoint; dtype None means "auto". All networks are checked before any weight is read."""
    schedule, networks, texts = checked_parts(checkpoint)
    dtype = dtype or best_dtype(networks["unet"], device)
    for part, module in networks.items():
        fill(module, checkpoint.networks[part], device, dtype_of(module, dtype))
    prediction_type = checkpoint.prediction_type or checkpoint.usual or "epsilon"
    return StableDiffusion(
        networks["unet"], networks["vae"], texts, schedule, prediction_type,
        bool(checkpoint.index.get("force_zeros_for_empty_prompt")),
        checkpoint.card.get("defaults", {}), checkpoint.name, words=checkpoint.card.get("vocabulary", {}),
    )


def checked_parts(checkpoint: Checkpoint) -> tuple[Schedule, dict[str, nn.Module], tuple[TextModel, ...]]:
    """Noise levels, networks without weights, and these text encoders with their tokenizers.

    Raises ValueError, in one line, for configs and tokenizers that can't be, and for weights that don't fit them.
    """
    schedule = Schedule.from_config(checkpoint.scheduler, f"{checkpoint.name}: {SCHEDULER}")
    networks = empty_networks(checkpoint)
    for part, module in networks.items():
        network = checkpoint.networks[part]
        check_exactly(module, network.origins, network.weights.header, str(network.weights.path),
                      network.described_by)
    check_together(networks, checkpoint.name)
    warn_of_heads(checkpoint.name, networks["unet"].config, {
        part: module.config.to_dict() for part, module in networks.items() if "text" in part})
    encoders = [module for part, module in networks.items() if "text" in part]
    return schedule, networks, text_models(encoders, checkpoint.tokenizers)


def text_models(encoders: Sequence[nn.Module], folders: Sequence[Path]) -> tuple[TextModel, ...]:
    """Text encoders, each with the tokenizer in its folder; all of them take texts of the same length."""
    places = min(encoder.config.max_position_embeddings for encoder in encoders)
    tokenizers = [make_tokenizer(folder, encoder.config.vocab_size, places, PADDING[encoder.config.hidden_act])
                  for encoder, folder in zip(encoders, folders, strict=True)]
    for tokenizer in tokenizers:
        tokenizer.model_max_length = min(each.model_max_length for each in tokenizers)
    return tuple(map(TextModel, encoders, tokenizers))


def empty_networks(checkpoint: Checkpoint) -> dict[str, nn.Module]:
    """The networks that the configs describe, on the meta device: they have shapes, but no memory."""
    networks = {}
    with torch.device("meta"):
        for part, network in checkpoint.networks.items():
            where = f"{checkpoint.name}: {part}/config.json"
            if part == "unet":
                networks[part] = UNet(UNetConfig.from_dict(network.config, where))
            elif part == "vae":
                networks[part] = VAE(VAEConfig.from_dict(network.config, where))
            else:
                networks[part] = make_text_encoder(network.config, where, projected=part == "text_encoder_2")
    return networks


def check_together(networks: Mapping[str, nn.Module], name: str) -> None:
    """Raise ValueError unless the networks fit together, which their own weights and configs don't show."""
    unet, latent = networks["unet"].config, networks["vae"].config.latent_channels
    encoders = [module.config for part, module in networks.items() if "text" in part]
    other = "they are of different models"
    if unet.has_summary != (len(encoders) == 2):
        raise ValueError(f"{name}: a U-Net with addition_embed_type = {unet.addition_embed_type!r} needs "
                         f"{1 + unet.has_summary} text encoders, not {len(encoders)}: {other}")
    if unet.cross_attention_dim != (width := sum(encoder.hidden_size for encoder in encoders)):
        raise ValueError(f"{name}: the U-Net has cross_attention_dim = {unet.cross_attention_dim}, but the tokens "
                         f"are {width} wide: {other}")
    if unet.out_channels != latent or unet.in_channels not in (latent, 2 * latent, 2 * latent + 1):
        raise ValueError(f"{name}: latents have {latent} channels, but the U-Net takes {unet.in_channels} and makes "
                         f"{unet.out_channels} (known are U-Nets that take {latent}, {2 * latent} for InstructPix2Pix, "
                         f"or {2 * latent + 1} for inpainting): {other}")
    wanted = unet.has_summary and encoders[1].projection_dim + 6 * unet.addition_time_embed_dim
    if wanted and unet.projection_class_embeddings_input_dim != wanted:
        raise ValueError(f"{name}: the U-Net has projection_class_embeddings_input_dim = "
                         f"{unet.projection_class_embeddings_input_dim}, but the prompt's vector and the six sizes are "
                         f"{wanted} wide: {other}")


def fill(module: nn.Module, network: Network, device: torch.device, dtype: torch.dtype) -> None:
    """Read a network's weights into `module`, convert each as it is read, and turn its gradients off."""
    own, weights = own_names(module), {}
    for name, origin in network.origins.items():
        shape = module.get_parameter(own[name]).shape
        weight = origin.take(network.weights.get(origin.name)).reshape(shape)
        weights[own[name]] = converted(weight, device, dtype, f"{network.weights.path}: {origin.name}")
    warn_if_zero(weights, str(network.weights.path))
    module.load_state_dict(weights, assign=True)
    for name, buffer in list(module.named_buffers()):      # CLIP's position ids 0, 1, 2, ... are in no file
        if buffer.is_meta:
            owner = module.get_submodule(name.rpartition(".")[0])
            setattr(owner, name.rpartition(".")[2], torch.arange(buffer.shape[-1], device=device).expand(buffer.shape))
    module.eval().requires_grad_(False)


def warn_if_zero(weights: Mapping[str, Tensor], where: str) -> None:
    """Warn of matrices and filters that are zero: programs that download reserve a file's space, and fill it later.

    Only a few numbers of each are looked at, since reading all of them takes time.
    """
    def sample(weight: Tensor) -> Tensor:
        return weight[-1] if weight.numel() and not weight[-1].flatten()[-1] else weight.new_ones(1)

    zero = [name for name, weight in weights.items() if weight.dim() > 1 and not sample(weight).any()]
    if zero:
        warnings.warn(f"{where}: {len(zero)} of {len(weights)} weights are zeros, among them {zero[0]}: the file seems "
                      "to be incomplete, so copy it again", stacklevel=2)


def converted(weight: Tensor, device: torch.device, dtype: torch.dtype, where: str) -> Tensor:
    """The weight on that device and in that dtype; the same tensor if nothing has to change. ValueError if it can't be.

    A conversion of the dtype reads every number, so it also checks that all numbers are finite. In half precision the
    weight is always copied: a file's mapping is only released as a whole, so until then each weight whose memory
    format changes would take its memory twice.
    """
    if weight.dtype not in WEIGHT_DTYPES:
        raise ValueError(f"{where} is of {str(weight.dtype).split('.')[1]}; expected floats of 16, 32 or 64 bits")
    memory_format = memory_format_of(weight, dtype)
    new = weight.to(device=device, dtype=dtype, copy=dtype in HALF, memory_format=memory_format)
    if dtype != weight.dtype and not finite(new):
        check_finite(weight, where)
        raise ValueError(f"{where} holds numbers too large for {str(dtype).split('.')[1]}: use another dtype")
    return new.contiguous(memory_format=memory_format)      # `to` alone leaves a transposed weight transposed


def memory_format_of(weight: Tensor, dtype: torch.dtype) -> torch.memory_format:
    """Channels last for convolutions in half precision, which is 1.1 to 1.2 times as fast (bench/README.md).

    In float32 it is not faster, and would need a copy of every weight.
    """
    return torch.channels_last if dtype in HALF and weight.dim() == 4 else torch.contiguous_format


# ---------------------------------------------------------------- random weights


def random_model(seed: int, prediction_type: str, device: torch.device, dtype: torch.dtype) -> StableDiffusion:
    """A model of Stable Diffusion's architecture, tiny and with random weights: 32-px pictures, 8 x 8 latents.

    Its pictures are noise. It serves tests of properties that hold for any network.
    """
    levels = ("CrossAttnDownBlock2D", "DownBlock2D")
    unet = UNetConfig(block_out_channels=(16, 32), down_block_types=levels, layers_per_block=1, attention_head_dim=2,
                      cross_attention_dim=16, norm_num_groups=8, sample_size=8)
    vae = VAEConfig(block_out_channels=(8, 8, 16), layers_per_block=1, norm_num_groups=4)
    tokenizer = make_tokenizer(TINY / "tokenizer")
    text = {"vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
            "num_attention_heads": 2, "max_position_embeddings": tokenizer.model_max_length,
            "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        networks = UNet(unet), VAE(vae), make_text_encoder(text)
    for network in networks:
        network.to(device=device, dtype=dtype).eval().requires_grad_(False)
    return StableDiffusion(*networks[:2], (TextModel(networks[2], tokenizer),), Schedule.from_config({}),
                           prediction_type, name="random")
