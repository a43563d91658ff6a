"""An edit as it is asked for: everything but the model and the picture.

    asked = Asked(dm.diffedit, "a basket of pears", "a bowl of pears", seed=3, options={"steps": 25})
    edit = asked(model, picture)                        # to the end
    steps = asked.iterate(model, picture)               # step by step

The command, a table's lines, an earlier result's settings, the page and the benchmark all say what they want with it.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

from ..core.coding import Options
from ..core.task import Step
from ..networks.stable_diffusion import StableDiffusion
from ..pictures.picture import check_size
from .call import RECOMMENDED, SEED, SIZE
from .edit import Edit
from .method import Method


@dataclass(frozen=True, eq=False)
class Asked:
    """Raises ValueError, in one line, for words, a size, a preset or options that the method can't take."""

    method: Method
    query: str = ""
    reference: str = ""
    seed: int = 0
    size: int | None = None
    preset: str = RECOMMENDED
    options: Mapping[str, Any] = field(default_factory=dict)    # that differ from the preset's and the model's card's

    def __post_init__(self) -> None:
        self.method.preset(self.preset)
        self.method.made(self.options)
        self.method.check_words([self.query], [self.reference])
        for one in (SEED, SIZE):
            object.__setattr__(self, one.name, one.checked(getattr(self, one.name)))
        check_size(self.size)

    def iterate(self, model: StableDiffusion, picture: Image.Image | None, **more: Any) -> Generator[Step, None, Edit]:
        """`Method.iterate`. more: what a call takes besides, such as `keep`, `mask` or `reuse`."""
        return self.method.iterate(model, picture, self.query, self.reference, seed=self.seed, **self._rest(), **more)

    def __call__(self, model: StableDiffusion, picture: Image.Image | None, **more: Any) -> Edit:
        """The edit of one picture, run to its end."""
        return self.method(model, picture, self.query, self.reference, seed=self.seed, **self._rest(), **more)

    def settings(self, model: StableDiffusion) -> Options:
        """The options in force with this model."""
        return self.method.settings(model, self.options, self.preset)

    def record(self, model: StableDiffusion, given: Sequence[str] = ()) -> dict[str, Any]:
        """`Edit.settings`, known before the work. given: what is given beside the picture, by name, such as "mask"."""
        return self.method.record({**vars(self), "model": model.name, "given": list(given)}, self.settings(model))

    def without_levels(self) -> Asked:
        """The same at an encoding ratio of 0. Of DiffEdit that is step 1 alone; of `invert`, the VAE alone."""
        nowhere = {"encoding_ratio": 0.0} if "encoding_ratio" in self.method.known else {}
        return replace(self, options={**self.options, **nowhere})

    @property
    def kind(self) -> tuple[Any, ...]:
        """Equal for those that `edit_together` takes."""
        return self.method.name, repr(sorted(self.options.items())), self.size, self.preset

    def _rest(self) -> dict[str, Any]:
        """What a call takes besides words and seed."""
        return {"size": self.size, "preset": self.preset, **self.options}


def edit_together(
    asked: Sequence[Asked], model: StableDiffusion, pictures: Sequence[Image.Image | None], **more: Any
) -> list[Edit]:
    """The edits of several pictures, in batches. All of `asked` are of one `kind`: only words and seeds differ."""
    first = asked[0]
    queries, references, seeds = ([getattr(one, name) for one in asked] for name in ("query", "reference", "seed"))
    return first.method(model, list(pictures), queries, references, seed=seeds, **first._rest(), **more)
