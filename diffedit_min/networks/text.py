"""Text: prompts -> token ids -> CLIP's hidden states. Tokenizer and text encoder come from the transformers library.

transformers takes seconds to import, so it is imported only when a tokenizer or text encoder is made.
Shapes: B prompts, L token places, D the text encoder's width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import CLIPTokenizer


@dataclass(frozen=True)
class Context:
    """The U-Net's conditioning on B prompts."""

    tokens: Tensor                  # (B, L, D)
    pooled: Tensor | None = None    # (B, D'), one vector for each prompt; only SD XL needs it
    ids: Tensor | None = None       # (B, L), the token ids; they show which prompts are equal, and where each word is

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: slice | list[int] | Tensor) -> Context:
        """The Context of some of the prompts."""
        return Context(*(None if part is None else part[rows] for part in self._parts()))

    def join(self, other: Context) -> Context:
        """The Context of these prompts, followed by those of `other`."""
        pairs = zip(self._parts(), other._parts(), strict=True)
        return Context(*(None if a is None or b is None else torch.cat([a, b]) for a, b in pairs))

    def repeat(self, times: int) -> Context:
        """The whole list of prompts, `times` times in a row."""
        return Context(*(None if part is None else torch.cat([part] * times) for part in self._parts()))

    def _parts(self) -> tuple[Tensor | None, ...]:
        return self.tokens, self.pooled, self.ids


@dataclass(frozen=True, eq=False)
class TextModel:
    """A text encoder with its tokenizer."""

    encoder: nn.Module
    tokenizer: CLIPTokenizer


# The sizes in a text encoder's config.json: their defaults, which are CLIP's, and the largest of each. A larger one is
# a mistake or an attack, and building a network from it would take very long.
SIZES = {"num_hidden_layers": (12, 100), "hidden_size": (512, 2**14), "intermediate_size": (2048, 2**16),
         "max_position_embeddings": (77, 2**13), "vocab_size": (49408, 2**20), "num_attention_heads": (8, 2**10),
         "projection_dim": (512, 2**14)}
ACTIVATIONS = ("quick_gelu", "gelu")
MODEL_TYPES = ("clip_text_model", "clip")
PROJECTED = "CLIPTextModelWithProjection"


def checked_text_config(raw: dict[str, Any], where: str) -> dict[str, Any]:
    """What a parsed config.json says of CLIP's text encoder, with defaults; nothing else in the file is used.

    The text's part is taken from the config of a whole CLIP. Raises ValueError that names the config `where`, the key
    and the value.
    """
    if (kind := raw.get("model_type")) not in (None, *MODEL_TYPES):
        raise ValueError(f"{where}: model_type = {kind!r:.60} is not supported (only {' or '.join(MODEL_TYPES)})")
    if isinstance(raw.get("text_config"), dict):
        raw = {**raw["text_config"], **{key: raw[key] for key in ("projection_dim", "architectures") if key in raw}}
    config = {}
    for key, (default, most) in SIZES.items():
        config[key] = default if raw.get(key) is None else raw[key]
        if not (type(config[key]) is int and 1 <= config[key] <= most):
            raise ValueError(f"{where}: {key} = {config[key]!r:.60} is not a whole number from 1 to {most}")
    config["hidden_act"] = raw.get("hidden_act") or ACTIVATIONS[0]
    if config["hidden_act"] not in ACTIVATIONS:
        raise ValueError(f"{where}: hidden_act = {raw['hidden_act']!r:.60} is not supported (only "
                         f"{' or '.join(ACTIVATIONS)})")
    config["layer_norm_eps"] = 1e-5 if raw.get("layer_norm_eps") is None else raw["layer_norm_eps"]
    if not (type(config["layer_norm_eps"]) is float and 0 < config["layer_norm_eps"] < 1):
        raise ValueError(f"{where}: layer_norm_eps = {raw['layer_norm_eps']!r:.60} is not a number between 0 and 1")
    if config["hidden_size"] % config["num_attention_heads"]:
        raise ValueError(f"{where}: a hidden_size of {config['hidden_size']} can't be split into "
                         f"{config['num_attention_heads']} heads")
    config["architectures"] = raw.get("architectures") or []
    if not (isinstance(config["architectures"], list) and all(isinstance(n, str) for n in config["architectures"])):
        raise ValueError(f"{where}: architectures = {raw['architectures']!r:.60} is not a list of names")
    return config


def make_text_encoder(
    config: dict[str, Any], where: str = "text_encoder/config.json", projected: bool = False
) -> nn.Module:
    """CLIP's text transformer from a parsed config.json, without loaded weights.

    projected: with a projection of its last output; it also has one if the config's `architectures` says so.
    Raises ValueError that names the config `where` if it is not a valid one.
    """
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    known = checked_text_config(config, where)
    known |= {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")
              if type(config.get(key)) is int}
    projected = projected or PROJECTED in known.pop("architectures")
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(CLIPTextConfig(**known)).eval()


def tokenize(tokenizer: CLIPTokenizer, prompts: list[str]) -> Tensor:
    """Prompts -> token ids (B, L), padded or cut off to L, the tokenizer's `model_max_length`."""
    batch = tokenizer(prompts, padding="max_length", truncation=True, max_length=tokenizer.model_max_length,
                      return_tensors="pt")
    return batch.input_ids


def dropped_text(tokenizer: CLIPTokenizer, prompt: str) -> str:
    """The end of a prompt that has too many tokens for the text encoder: `tokenize` cuts it off. "" if it fits."""
    ids = tokenizer(prompt, verbose=False).input_ids        # start, words, end; the caller warns, so this is silent
    return tokenizer.decode(ids[tokenizer.model_max_length - 1 : -1])


def encode_text(text_encoder: nn.Module, ids: Tensor) -> Tensor:
    """Token ids (B, L) -> the hidden states after the last layer and the final norm (B, L, D), for SD 1.x and 2.x.

    SD 2.x uses the last but one of OpenCLIP's 24 layers. Its published folders hold only the first 23, so the last
    layer is the right one there too.
    """
    return text_encoder(ids).last_hidden_state


def encode_text_twice(
    encoders: Sequence[nn.Module], ids: Sequence[Tensor], end: int
) -> tuple[Tensor, Tensor]:
    """Token ids for each of SD XL's two text encoders -> tokens and pooled vector, arXiv:2307.01952 section 2.1.

    tokens (B, L, D1 + D2): the outputs of each encoder's last layer but one, before any final norm, concatenated.
    pooled (B, D2'): the second encoder's projected vector for the whole prompt, at its first end token. end: that
    token's id. (The library takes it at the largest id, which an added token has.)
    """
    outputs = [encoder(part, output_hidden_states=True) for encoder, part in zip(encoders, ids, strict=True)]
    first_end = (ids[-1] == end).int().argmax(dim=1)                            # (B,)
    last = outputs[-1].last_hidden_state[torch.arange(len(first_end)), first_end]
    return torch.cat([output.hidden_states[-2] for output in outputs], dim=2), encoders[-1].text_projection(last)
