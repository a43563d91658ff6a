"""From the names in a checkpoint to ours, as rules. The modules here carry the published folders' own names.

A rule turns what a file holds, `stored`: name -> a tensor without data (shape and dtype), into `Origins`: our name ->
where its weight is. So names and shapes are proven to fit before anything is read. There are two kinds of checkpoint:

    a folder     a file for each network, nearly in our names; what older and newer libraries renamed is put right
    one file     all networks together, in the names of the code that they were trained with (CompVis, Stability)
"""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

SHOWN = 10      # names listed of each kind in an error


class Origin(NamedTuple):
    """Where a weight of ours is: the name in the file, and what to take of the tensor there."""

    name: str
    take: Callable[[Tensor], Tensor] = lambda whole: whole


Stored = Mapping[str, Tensor]
Origins = dict[str, Origin]


def starting(names: Mapping[str, str], name: str) -> str:
    """`name` with the longest of `names` that it starts with, up to a dot or its end, replaced."""
    for old in sorted(names, key=len, reverse=True):
        if name == old or name.startswith(f"{old}."):
            return names[old] + name[len(old) :]
    return name


# ---------------------------------------------------------------- a folder

# VAE attention in files written before 2023 (all of SD 1.x and 2.x), and since.
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def unet_origins(stored: Stored) -> Origins:
    """unet/: as it is."""
    return {name: Origin(name) for name in stored}


def vae_origins(stored: Stored) -> Origins:
    """vae/: old attention names."""
    origins = {}
    for name in stored:
        parent, found, layer = name.partition(".attentions.0.")
        origins[unless_taken(parent + found + starting(OLD_ATTENTION, layer), name, stored)] = Origin(name)
    return origins


def text_origins(stored: Stored) -> Origins:
    """text_encoder/: with or without `text_model.` in front, and without the constant `position_ids`."""
    return {unless_taken(name.removeprefix("text_model."), name, stored): Origin(name)
            for name in stored if not name.endswith("position_ids")}


def unless_taken(ours: str, name: str, stored: Stored) -> str:
    """Our name for a stored one; if the file holds a tensor of our name too, the stored one, which nothing expects."""
    return name if ours in stored else ours


# ---------------------------------------------------------------- one file

# Which part of one file is which network, by the beginning of its names. SD 2.x and XL bring OpenCLIP's own names.
PARTS = {
    "model.diffusion_model.": "unet",
    "first_stage_model.": "vae",
    "cond_stage_model.transformer.": "text_encoder",            # SD 1.x
    "cond_stage_model.model.": "text_encoder",                  # SD 2.x, OpenCLIP
    "conditioner.embedders.0.transformer.": "text_encoder",     # SD XL
    "conditioner.embedders.1.model.": "text_encoder_2",         # SD XL, OpenCLIP
}
# Not used: an averaged copy, the schedule (names without a dot), the VAE's losses, constants, SD 2.x's projection.
LEFTOVER = re.compile(r"[^.]+|(model_ema|denoiser|first_stage_model\.loss)\..+|.+\.(logit_scale|position_ids)"
                      r"|cond_stage_model\.model\.text_projection")

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
       "mid.attn_1.proj_out": "mid_block.attentions.0.to_out.0"}
OPENCLIP = {"token_embedding": "embeddings.token_embedding", "ln_final": "final_layer_norm",
            "positional_embedding": "embeddings.position_embedding.weight", "text_projection": "text_projection.weight"}
OPENCLIP_LAYER = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
                  "attn.out_proj": "self_attn.out_proj"}


def single_file_origins(
    stored: Stored, unet_layers: int, vae_levels: int, text_layers: Mapping[str, int]
) -> dict[str, Origins]:
    """Each network's origins in a file that holds all of them, by the network's name.

    unet_layers: `layers_per_block`; vae_levels: of the VAE; text_layers: of each text encoder. What belongs to no
    network and is no known leftover is put under "unet", where the check will call it unexpected.
    """
    origins: dict[str, Origins] = {part: {} for part in ("unet", "vae", *text_layers)}
    for name in stored:
        if LEFTOVER.fullmatch(name):
            continue
        prefix = next((prefix for prefix in PARTS if name.startswith(prefix) and PARTS[prefix] in origins), "")
        part, inner = PARTS.get(prefix, "unet"), name[len(prefix) :]
        if not prefix:
            origins[part][name] = Origin(name)
        elif prefix.endswith(".model."):
            origins[part] |= openclip_origins(name, inner, text_layers[part])
        elif part == "unet":
            origins[part][original_unet_name(inner, unet_layers)] = Origin(name)
        elif part == "vae":
            origins[part][original_vae_name(inner, vae_levels)] = Origin(name)
        else:
            origins[part][inner.removeprefix("text_model.")] = Origin(name)
    return origins


def original_unet_name(name: str, layers: int) -> str:
    """There, blocks are counted through: `layers` residual blocks and a change of size a level, going up one more."""
    if middle := re.fullmatch(r"middle_block\.([02])\.(.+)", name):
        return f"mid_block.resnets.{int(middle[1]) // 2}.{starting(RESNET, middle[2])}"
    block = re.fullmatch(r"(input|output)_blocks\.(\d+)\.(\d)\.(.+)", name)
    if not block or name.startswith("input_blocks.0."):
        return starting(UNET, name)
    way, index, place, rest = block[1], int(block[2]), block[3], block[4]
    side, (level, i) = ("down", divmod(index - 1, layers + 1)) if way == "input" else ("up", divmod(index, layers + 1))
    if rest.startswith("op."):
        return f"down_blocks.{level}.downsamplers.0.conv.{rest.removeprefix('op.')}"
    if rest.startswith("conv."):
        return f"up_blocks.{level}.upsamplers.0.{rest}"
    if place == "0":
        return f"{side}_blocks.{level}.resnets.{i}.{starting(RESNET, rest)}"
    return f"{side}_blocks.{level}.attentions.{i}.{rest}"


def original_vae_name(name: str, levels: int) -> str:
    """There, the decoder's levels are counted from the finest."""
    side, _, rest = name.partition(".")
    level = re.fullmatch(r"(down|up)\.(\d+)\.(?:block\.(\d+)|(?:down|up)sample)\.(.+)", rest)
    if not level:
        return f"{side}.{starting(VAE, rest)}" if rest.startswith(("mid.", "norm_out.")) else name
    way, number, i, leaf = level[1], int(level[2]), level[3], level[4]
    block = f"{side}.{way}_blocks.{number if way == 'down' else levels - 1 - number}"
    leaf = starting({"nin_shortcut": "conv_shortcut"}, leaf)
    return f"{block}.{way}samplers.0.{leaf}" if i is None else f"{block}.resnets.{i}.{leaf}"


def openclip_origins(name: str, inner: str, layers: int) -> Origins:
    """One tensor of OpenCLIP's text transformer: of the attention's joint input projection, three of ours.

    SD 2.x uses what the last layer but one puts out: the published text encoder ends there, so `layers` is one less
    than the file's. SD XL's has all of them, and a projection, which is stored transposed.
    """
    block = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)", inner)
    if not block:
        ours = starting(OPENCLIP, inner)
        return {ours: Origin(name, lambda whole: whole.T) if inner == "text_projection" else Origin(name)}
    if int(block[1]) >= layers:
        return {}
    ours = f"encoder.layers.{block[1]}"
    if joint := re.fullmatch(r"attn\.in_proj_(weight|bias)", block[2]):
        return {f"{ours}.self_attn.{to}_proj.{joint[1]}": Origin(name, lambda whole, i=i: third(whole, i))
                for i, to in enumerate("qkv")}
    return {f"{ours}.{starting(OPENCLIP_LAYER, block[2])}": Origin(name)}


def third(whole: Tensor, i: int) -> Tensor:
    """The i-th of three equal parts; of a damaged file's tensor anything, whose shape won't fit."""
    return torch.atleast_1d(whole).tensor_split(3)[i]


# ---------------------------------------------------------------- the proof


def check_exactly(module: nn.Module, origins: Origins, stored: Stored, where: str) -> None:
    """Raise ValueError, in one line naming the file `where`, unless the set of names and every shape match.

    Shapes may differ in trailing ones: a 1x1 convolution and a linear layer hold the same numbers.
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
        raise ValueError(f"{where} doesn't fit its config.json: {'; '.join(complaints)}")


def own_names(module: nn.Module) -> dict[str, str]:
    """The names that origins use -> the module's: transformers dropped `text_model.` from some in 5.6."""
    return {name.removeprefix("text_model."): name for name, _ in module.named_parameters()}


def without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(C, C, 1, 1) -> (C, C)."""
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape
