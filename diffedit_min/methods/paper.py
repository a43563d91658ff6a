"""DiffEdit as a method that is called; the algorithm itself is core/diffedit.py."""

from ..core.diffedit import DiffEditOptions, run
from .method import Method

# For a third of the rows; chosen on the embedded model's validation scenes (README, Speed). The k-th of few levels lies
# lower than the k-th of many, which the larger ratio makes up for.
FAST = {"steps": 14, "encoding_ratio": 0.9, "mask_samples": 4, "guidance_from": 0.5}

diffedit = Method("diffedit", run, DiffEditOptions, presets={"fast": FAST},
                  uses=frozenset({"reference", "mask", "mask_map", "encoded"}))
