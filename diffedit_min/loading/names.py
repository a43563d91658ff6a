"""Rules from the tensor names in a checkpoint to the parameter names of our networks.

A rule gets `stored`: name in the file -> an empty tensor with its shape and dtype. It returns `Origins`: our name ->
the tensor in the file, and the part of it to use. With these, `check_exactly` shows that names and shapes fit before
any weight is read. There are two kinds of checkpoint:

    a folder     one file for each network, nearly in our names; names that libraries have changed since are corrected
    one file     all networks together, named as in the code that trained them (CompVis, Stability AI)
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

SHOWN = 10      # an error lists at most this many names of each kind


class Origin(NamedTuple):
    """Where a weight comes from: the tensor's name in the file, and a function that takes the weight out of it."""

    name: str
    take: Callable[[Tensor], Tensor] = lambda whole: whole


Stored = Mapping[str, Tensor]
Origins = dict[str, Origin]


def replace_start(names: Mapping[str, str], name: str) -> str:
    """`name` with its start replaced: the longest key of `names` that is equal to it or followed by a dot in it."""
    for old in sorted(names, key=len, reverse=True):
        if name == old or name.startswith(f"{old}."):
            return names[old] + name[len(old) :]
    return name


# ---------------------------------------------------------------- a folder

# The VAE's attention layers in files from before 2023 (all of SD 1.x and 2.x) -> their names since then.
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def unet_origins(stored: Stored) -> Origins:
    """For unet/: the names are the same."""
    return {name: Origin(name) for name in stored}


def vae_origins(stored: Stored) -> Origins:
    """For vae/: old names of attention layers are replaced."""
    origins = {}
    for name in stored:
        parent, found, layer = name.partition(".attentions.0.")
        origins[free_name(parent + found + replace_start(OLD_ATTENTION, layer), name, stored)] = Origin(name)
    return origins


def text_origins(stored: Stored) -> Origins:
    """For text_encoder/: a `text_model.` in front is dropped, and so is the constant `position_ids`."""
    return {free_name(name.removeprefix("text_model."), name, stored): Origin(name)
            for name in stored if not name.endswith("position_ids")}


def free_name(ours: str, name: str, stored: Stored) -> str:
    """`ours`, our name for the stored `name`; but `name` if the file also holds a tensor called `ours`.

    No network has a parameter called `name`, so the check then refuses the file.
    """
    return name if ours in stored else ours


# ---------------------------------------------------------------- one file

# The start of a name -> the network that the tensor belongs to. SD 2.x and SD XL use OpenCLIP's own names.
PARTS = {
    "model.diffusion_model.": "unet",
    "first_stage_model.": "vae",
    "cond_stage_model.transformer.": "text_encoder",            # SD 1.x
    "cond_stage_model.model.": "text_encoder",                  # SD 2.x, OpenCLIP
    "conditioner.embedders.0.model.": "text_encoder",           # SD 2.x, as SD XL's programs write it
    "conditioner.embedders.0.transformer.": "text_encoder",     # SD XL
    "conditioner.embedders.1.model.": "text_encoder_2",         # SD XL, OpenCLIP
}
# Tensors that are not used: the averaged copy of the U-Net, the schedule and marks (names without a dot), the VAE's
# losses, constants, and the text projection of a first text encoder.
UNUSED = re.compile(r"[^.]+|(model_ema|denoiser|first_stage_model\.loss)\..+|.+\.(logit_scale|position_ids)"
                      r"|(cond_stage_model|conditioner\.embedders\.0)\.(transformer|transformer\.text_model|model)"
                      r"\.text_projection(\.weight)?")

RESNET = {"in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj", "out_layers.0": "norm2",
          "out_layers.3": "conv2", "skip_connection": "conv_shortcut"}
UNET = {
    "time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1", "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in", "out.0": "conv_norm_out", "out.2": "conv_out",
    "middle_block.1": "mid_block.attentions.0",
}
VAE = {"norm_out": "conv_norm_out", "mid.block_1": "mid_block.resnets.0", "mid.block_2": "mid_block.resnets.1",
       "mid.attn_1.norm": "mid_block.attentions.0.group_norm", "mid.attn_1.q": "mid_block.attentions.0.to_q",
       "mid.attn_1.k": "mid_block.attentions.0.to_k", "mid.attn_1.v": "mid_block.attentions.0.to_v",
       "mid.attn_1.proj_out": "mid_block.attentions.0.to_out.0"} | {
    f"mid.attn_1.{to}": f"mid_block.attentions.0.{to}" for to in ("to_q", "to_k", "to_v", "to_out")}  # of converters
OPENCLIP = {"token_embedding": "embeddings.token_embedding", "ln_final": "final_layer_norm",
            "positional_embedding": "embeddings.position_embedding.weight", "text_projection": "text_projection.weight"}
OPENCLIP_LAYER = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
                  "attn.out_proj": "self_attn.out_proj"}


def single_file_origins(
    stored: Stored, unet_layers: int, vae_levels: int, text_layers: Mapping[str, int]
) -> dict[str, Origins]:
    """For each network its origins in a file that holds all of them.

    unet_layers: the U-Net's `layers_per_block`; vae_levels: the VAE's number of levels; text_layers: the number of
    layers of each text encoder. An unknown tensor is put under "unet", where the check reports it as unexpected.
    Raises ValueError, without the file's name, for a weight that is there under two names.
    """
    origins: dict[str, Origins] = {part: {} for part in ("unet", "vae", *text_layers)}
    for name in stored:
        if UNUSED.fullmatch(name):
            continue
        prefix = next((prefix for prefix in PARTS if name.startswith(prefix) and PARTS[prefix] in origins), "")
        part, inner = PARTS.get(prefix, "unet"), name[len(prefix) :]
        if not prefix:
            found = {name: Origin(name)}
        elif prefix.endswith(".model."):
            found = openclip_origins(name, inner, text_layers[part])
        elif part == "unet":
            found = {original_unet_name(inner, unet_layers): Origin(name)}
        elif part == "vae":
            found = {original_vae_name(inner, vae_levels): Origin(name)}
        else:
            found = {inner.removeprefix("text_model."): Origin(name)}
        for ours in found.keys() & origins[part].keys():
            raise ValueError(f"holds the same weight twice, as {origins[part][ours].name} and as {name}: get the file "
                             "from where it was made, or remove one of them")
        origins[part] |= found
    return origins


def original_unet_name(name: str, layers: int) -> str:
    """Our name for a tensor of the original U-Net.

    The original numbers its blocks consecutively. Each level has `layers` input blocks (a residual block each) and one
    more for the change of size; and `layers` + 1 output blocks, the last of which also holds the change of size.
    """
    if middle := re.fullmatch(r"middle_block\.([02])\.(.+)", name):
        return f"mid_block.resnets.{int(middle[1]) // 2}.{replace_start(RESNET, middle[2])}"
    block = re.fullmatch(r"(input|output)_blocks\.(\d+)\.(\d)\.(.+)", name)
    if not block or name.startswith("input_blocks.0."):
        return replace_start(UNET, name)
    way, index, layer, rest = block[1], int(block[2]), block[3], block[4]
    side, (level, i) = ("down", divmod(index - 1, layers + 1)) if way == "input" else ("up", divmod(index, layers + 1))
    if rest.startswith("op."):
        return f"down_blocks.{level}.downsamplers.0.conv.{rest.removeprefix('op.')}"
    if rest.startswith("conv."):
        return f"up_blocks.{level}.upsamplers.0.{rest}"
    if layer == "0":
        return f"{side}_blocks.{level}.resnets.{i}.{replace_start(RESNET, rest)}"
    return f"{side}_blocks.{level}.attentions.{i}.{rest}"


def original_vae_name(name: str, levels: int) -> str:
    """Our name for a tensor of the original VAE, which counts the decoder's levels from the finest one."""
    side, _, rest = name.partition(".")
    level = re.fullmatch(r"(down|up)\.(\d+)\.(?:block\.(\d+)|(?:down|up)sample)\.(.+)", rest)
    if not level:
        return f"{side}.{replace_start(VAE, rest)}" if rest.startswith(("mid.", "norm_out.")) else name
    way, number, i, leaf = level[1], int(level[2]), level[3], level[4]
    block = f"{side}.{way}_blocks.{number if way == 'down' else levels - 1 - number}"
    leaf = replace_start({"nin_shortcut": "conv_shortcut"}, leaf)
    return f"{block}.{way}samplers.0.{leaf}" if i is None else f"{block}.resnets.{i}.{leaf}"


def openclip_origins(name: str, inner: str, layers: int) -> Origins:
    """The origins that one tensor of OpenCLIP's text transformer gives; `inner` is its name without the prefix.

    OpenCLIP projects queries, keys and values by one joint matrix, which becomes three weights here. SD 2.x uses the
    output of the last layer but one, so its configs have one layer less than the file; the last layer (`layers` and
    above) is dropped. SD XL has all layers, and a text projection that is stored transposed under OpenCLIP's name,
    `text_projection`; converted files hold it as a linear layer has it, under `text_projection.weight`.
    """
    block = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)", inner)
    if inner == "text_projection.weight":
        return {inner: Origin(name)}
    if not block:
        ours = replace_start(OPENCLIP, inner)
        return {ours: Origin(name, lambda whole: whole.T) if inner == "text_projection" else Origin(name)}
    if int(block[1]) >= layers:
        return {}
    ours = f"encoder.layers.{block[1]}"
    if joint := re.fullmatch(r"attn\.in_proj_(weight|bias)", block[2]):
        return {f"{ours}.self_attn.{to}_proj.{joint[1]}": Origin(name, partial(third, i))
                for i, to in enumerate("qkv")}
    return {f"{ours}.{replace_start(OPENCLIP_LAYER, block[2])}": Origin(name)}


def third(i: int, whole: Tensor) -> Tensor:
    """The i-th of three equal parts along the first axis.

    It accepts tensors of any shape, since a damaged file may hold anything; the check then reports the wrong shape.
    """
    return torch.atleast_1d(whole).tensor_split(3)[i]


# ---------------------------------------------------------------- the check


def check_exactly(
    module: nn.Module, origins: Origins, stored: Stored, where: str, config: str = "its config.json"
) -> None:
    """Raise ValueError, in one line that names the file `where`, unless all names and all shapes match.

    config: what describes the network, in words that can follow "doesn't fit".
    Shapes may differ by ones at their end: a 1x1 convolution and a linear layer hold the same numbers.
    """
    own = own_names(module)
    missing = [name for name in own if name not in origins]
    unexpected = [origin.name for name, origin in origins.items() if name not in own]
    misshapen = []
    for name in own.keys() & origins.keys():
        found, shape = origins[name].take(stored[origins[name].name]).shape, module.get_parameter(own[name]).shape
        if without_ones(found) != without_ones(shape):
            misshapen.append(f"{origins[name].name} {tuple(found)} instead of {tuple(shape)}")
    complaints = [
        f"{len(names)} {kind}: {', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''}"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("misshapen", sorted(misshapen)))
        if names
    ]
    if complaints:
        raise ValueError(f"{where} doesn't fit {config}: {'; '.join(complaints)}")


def own_names(module: nn.Module) -> dict[str, str]:
    """The name used in origins -> the module's own name of a parameter.

    They differ for text encoders: some names start with `text_model.` in transformers before 5.6, and not since.
    """
    return {name.removeprefix("text_model."): name for name, _ in module.named_parameters()}


def without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape without the ones at its end: (C, C, 1, 1) -> (C, C)."""
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape
