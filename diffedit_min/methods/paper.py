"""DiffEdit as a method; the algorithm itself is in core/diffedit.py."""

from ..core.diffedit import DiffEditOptions, run
from .method import Method

# About a third of the rows; chosen on the embedded model's validation scenes (README, Speed). With fewer steps, a ratio
# ends at a lower noise level, so the ratio is larger here.
FAST = {"steps": 14, "encoding_ratio": 0.9, "mask_samples": 4, "guidance_from": 0.5}

diffedit = Method("diffedit", run, DiffEditOptions, presets={"fast": FAST},
                  uses=frozenset({"reference", "mask", "mask_map", "encoded"}))
