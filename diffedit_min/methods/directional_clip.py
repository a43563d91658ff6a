"""Directional CLIP similarity, arXiv:2108.00946: did the picture change in the same direction as the text?

    cos(image(edited) - image(input), text(query) - text(reference))
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


class DirectionalClip:
    """A CLIP model of the transformers library, from a folder or a Hub id; only safetensors are read."""

    def __init__(self, name: str):
        from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

        try:
            self.model, found = CLIPModel.from_pretrained(name, use_safetensors=True, output_loading_info=True)
            self.tokenizer = CLIPTokenizer.from_pretrained(name)
            self.process = CLIPImageProcessor.from_pretrained(name)
            # For missing files or weights, the library makes random weights, or a tokenizer without words.
            if found["missing_keys"]:
                raise ValueError(f"{len(found['missing_keys'])} weights are missing")
            if len(self.tokenizer) != self.model.config.text_config.vocab_size:
                raise ValueError(f"its tokenizer has {len(self.tokenizer)} tokens, the model knows "
                                 f"{self.model.config.text_config.vocab_size}")
        except Exception as error:      # the library raises errors of many kinds, in several lines
            raise ValueError(f"clip {name!r} can't be read as a CLIP model with weights in safetensors: "
                             f"{' '.join(str(error).split())}") from None
        self.model.eval().requires_grad_(False)

    def similarity(self, pixels: Tensor, edited: Tensor, references: Sequence[str], queries: Sequence[str]) -> Tensor:
        """Input and edited pictures (B, 3, H, W) in [-1, 1], B texts each -> (B,) in [-1, 1], on the CPU."""
        return F.cosine_similarity(self.images(edited) - self.images(pixels),
                                   self.texts(queries) - self.texts(references))

    def images(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> unit vectors (B, D)."""
        bytes_ = ((pixels.float().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        given = self.process(list(bytes_), return_tensors="pt").pixel_values
        hidden = self.model.vision_model(given).pooler_output
        return F.normalize(self.model.visual_projection(hidden), dim=1)

    def texts(self, texts: Sequence[str]) -> Tensor:
        """B texts -> unit vectors (B, D)."""
        ids = self.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        hidden = self.model.text_model(**ids).pooler_output
        return F.normalize(self.model.text_projection(hidden), dim=1)
