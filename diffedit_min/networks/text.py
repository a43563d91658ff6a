"""The text's side: prompts -> tokens -> CLIP's hidden states. Both parts are the transformers library's.

transformers takes seconds to import, so it is imported when a text model is made, not with this module.
Shapes: B prompts, L token places, D the text model's width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import CLIPTokenizer


@dataclass(frozen=True)
class Context:
    """What the U-Net is told of B prompts."""

    tokens: Tensor                  # (B, L, D)
    pooled: Tensor | None = None    # (B, D'), one vector a prompt, for models that want it
    ids: Tensor | None = None       # (B, L), the token ids: tells equal prompts, and which word is where

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: slice | list[int] | Tensor) -> Context:
        """Some of the prompts, as a Context of that many."""
        return Context(*(None if part is None else part[rows] for part in self._parts()))

    def join(self, other: Context) -> Context:
        """These prompts, then the other's."""
        pairs = zip(self._parts(), other._parts(), strict=True)
        return Context(*(None if a is None or b is None else torch.cat([a, b]) for a, b in pairs))

    def repeat(self, times: int) -> Context:
        """All prompts, then all again, `times` over."""
        return Context(*(None if part is None else torch.cat([part] * times) for part in self._parts()))

    def _parts(self) -> tuple[Tensor | None, ...]:
        return self.tokens, self.pooled, self.ids


@dataclass(frozen=True, eq=False)
class TextModel:
    """A text encoder with its tokenizer."""

    encoder: nn.Module
    tokenizer: CLIPTokenizer


# A config beyond these is a mistake or an attack, not a text encoder: it would take long only to be laid out.
LARGEST = {"num_hidden_layers": 100, "hidden_size": 2**14, "intermediate_size": 2**16, "max_position_embeddings": 2**13,
           "vocab_size": 2**20, "num_attention_heads": 2**10, "projection_dim": 2**14}


def check_text_config(config: dict[str, Any], where: str) -> None:
    """ValueError, naming the config `where`, for sizes that can't be."""
    for name, most in LARGEST.items():
        if name in config and not (type(config[name]) is int and 1 <= config[name] <= most):
            raise ValueError(f"{where}: {name} = {config[name]!r} is not a whole number from 1 to {most}")


def make_text_encoder(config: dict[str, Any], where: str = "text_encoder/config.json") -> nn.Module:
    """CLIP's text transformer from a parsed config.json, with no weights loaded; with a projection if it says so.

    Raises ValueError, naming the config `where`, for what can't be.
    """
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    check_text_config(config, where)
    try:
        projected = "CLIPTextModelWithProjection" in (config.get("architectures") or ())
        return (CLIPTextModelWithProjection if projected else CLIPTextModel)(CLIPTextConfig.from_dict(config)).eval()
    except Exception as error:      # the library's own checks raise errors of many kinds, in several lines
        raise ValueError(f"{where}: {' '.join(str(error).split())}") from None


def make_tokenizer(folder: Path) -> CLIPTokenizer:
    """From a folder with vocab.json and merges.txt."""
    from transformers import CLIPTokenizer

    try:
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:      # its parser, in another language, raises bare Exceptions
        raise ValueError(f"{folder} is not a tokenizer ({str(error).splitlines()[0]}): copy it again") from None


def tokenize(tokenizer: CLIPTokenizer, prompts: list[str]) -> Tensor:
    """Prompts -> token ids (B, L), padded, and cut off at L, the tokenizer's `model_max_length`."""
    batch = tokenizer(prompts, padding="max_length", truncation=True, max_length=tokenizer.model_max_length,
                      return_tensors="pt")
    return batch.input_ids


def dropped_text(tokenizer: CLIPTokenizer, prompt: str) -> str:
    """What of a prompt has no place in the text model: it is cut off, as CLIP cuts it."""
    ids = tokenizer(prompt, verbose=False).input_ids                    # start, words, end; our warning is enough
    return tokenizer.decode(ids[tokenizer.model_max_length - 1 : -1])


def encode_text(text_encoder: nn.Module, ids: Tensor) -> Tensor:
    """Token ids (B, L) -> the last hidden states after the final norm (B, L, D), as SD 1.x and 2.x use them.

    (SD 2.x's folders hold 23 of OpenCLIP's 24 layers, so the last one there is the penultimate one of the original.)
    """
    return text_encoder(ids).last_hidden_state


def encode_text_twice(encoders: Sequence[nn.Module], ids: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """SD XL: what the last layer but one of each encoder puts out, side by side (B, L, D1 + D2), before any final norm;
    and the last encoder's projected summary of the prompt (B, D2'). arXiv:2307.01952 section 2.1."""
    outputs = [encoder(part, output_hidden_states=True) for encoder, part in zip(encoders, ids, strict=True)]
    return torch.cat([output.hidden_states[-2] for output in outputs], dim=2), outputs[-1].text_embeds
