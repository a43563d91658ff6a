"""The text's side: prompts -> tokens -> CLIP's last hidden states. Both parts are the transformers library's.

transformers takes seconds to import, so it is imported when a text model is made, not with this module.
Shapes: B prompts, L token places, D the text model's width.
"""

from __future__ import annotations

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


def make_text_encoder(config: dict[str, Any]) -> nn.Module:
    """CLIP's text transformer from a parsed text_encoder/config.json, with no weights loaded."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(CLIPTextConfig.from_dict(config)).eval()


def make_tokenizer(folder: Path) -> CLIPTokenizer:
    """From a folder with vocab.json and merges.txt."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def tokenize(tokenizer: CLIPTokenizer, prompts: list[str]) -> Tensor:
    """Prompts -> token ids (B, L), padded, and cut off at L, the tokenizer's `model_max_length`."""
    batch = tokenizer(prompts, padding="max_length", truncation=True, max_length=tokenizer.model_max_length,
                      return_tensors="pt")
    return batch.input_ids


def encode_text(text_encoder: nn.Module, ids: Tensor) -> Tensor:
    """Token ids (B, L) -> the last hidden states after the final norm (B, L, D), as SD 1.x and 2.x use them.

    (SD 2.x's folders hold 23 of OpenCLIP's 24 layers, so the last one there is the penultimate one of the original.)
    """
    return text_encoder(ids).last_hidden_state
