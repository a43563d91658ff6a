"""Text: prompts -> token ids -> CLIP's hidden states. Tokenizer and text encoder come from the transformers library.

transformers takes seconds to import, so it is imported only when a tokenizer or text encoder is made.
Shapes: B prompts, L token places, D the text encoder's width.
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


# A config with larger numbers is a mistake or an attack, and building a network from it would take very long.
LARGEST = {"num_hidden_layers": 100, "hidden_size": 2**14, "intermediate_size": 2**16, "max_position_embeddings": 2**13,
           "vocab_size": 2**20, "num_attention_heads": 2**10, "projection_dim": 2**14}


def check_text_config(config: dict[str, Any], where: str) -> None:
    """ValueError that names the config `where`, unless each size in it is a whole number up to its largest value."""
    for name, most in LARGEST.items():
        if name in config and not (type(config[name]) is int and 1 <= config[name] <= most):
            raise ValueError(f"{where}: {name} = {config[name]!r} is not a whole number from 1 to {most}")


def make_text_encoder(config: dict[str, Any], where: str = "text_encoder/config.json") -> nn.Module:
    """CLIP's text transformer from a parsed config.json, without loaded weights; with a projection if it asks for one.

    Raises ValueError that names the config `where` if it is not a valid one.
    """
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    check_text_config(config, where)
    try:
        projected = "CLIPTextModelWithProjection" in (config.get("architectures") or ())
        return (CLIPTextModelWithProjection if projected else CLIPTextModel)(CLIPTextConfig.from_dict(config)).eval()
    except Exception as error:      # the library's own checks raise errors of many kinds, in several lines
        raise ValueError(f"{where}: {' '.join(str(error).split())}") from None


def make_tokenizer(folder: Path) -> CLIPTokenizer:
    """The tokenizer in a folder with vocab.json and merges.txt; ValueError if they are not usable."""
    from transformers import CLIPTokenizer

    try:
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:      # its parser is written in Rust and raises plain Exceptions
        raise ValueError(f"{folder} is not a tokenizer ({str(error).splitlines()[0]}): copy it again") from None


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


def encode_text_twice(encoders: Sequence[nn.Module], ids: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Token ids for each of SD XL's two text encoders -> tokens and pooled vector, arXiv:2307.01952 section 2.1.

    tokens (B, L, D1 + D2): the outputs of each encoder's last layer but one, before any final norm, concatenated.
    pooled (B, D2'): the second encoder's projected vector for the whole prompt.
    """
    outputs = [encoder(part, output_hidden_states=True) for encoder, part in zip(encoders, ids, strict=True)]
    return torch.cat([output.hidden_states[-2] for output in outputs], dim=2), outputs[-1].text_embeds
