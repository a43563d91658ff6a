"""What makes a function of a `run`: `dm.Method("my_method", run, MyOptions)` is called like the others.

    my_method(model, image, query, reference, **options) -> Edit          a list of pictures gives a list of Edits

A method is a generator `run(task, options)` that yields a `Step` at each step and returns an `Outcome` (core/task.py).
`Method` checks, fits, embeds and batches what a person gives it, and decodes the outcome.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from PIL import Image
from torch import Tensor

from ..core.coding import Options
from ..core.options import Option, declared
from ..core.state import Sampler, Trajectory
from ..core.task import Outcome, Step, Task
from ..networks.stable_diffusion import StableDiffusion
from ..pictures.picture import unfit
from ..pictures.picture_files import to_rgb
from ..samplers import sampler_of
from .batches import Fitted, batches, make_task, requests
from .edit import Edit, Pictures, checked, make_edit
from .help import Text, about, check_names, help_text, signature

# What U-Nets are for, by their input channels, and which method takes them.
MADE_FOR = {4: "making pictures from text, as most methods here do",
            8: "InstructPix2Pix, which is method instruct_pix2pix",
            9: "inpainting, for which there is no method here"}

USES = {"reference", "mask", "mask_map", "encoded"}     # what a method may be given besides picture and query

# What a method takes from the one that it is `based_on`, if it says nothing itself; and what holds if there is none.
INHERITED: dict[str, Any] = {
    "run": None, "options": Options, "presets": {}, "uses": frozenset(), "takes_query": True, "needs_reference": False,
    "needs_instruction": False, "plain": str, "remakes": False, "generates": False, "channels": 4, "texts": {}}


@dataclass(frozen=True, eq=False, repr=False)
class Method:
    """A method, and what it can do. What is None is taken from the method that it is based on."""

    name: str
    run: Callable[[Task, Any], Generator[Step, None, Outcome]] | None = None
    options: type[Options] | None = None
    based_on: Method | None = None      # its card's settings and presets hold for this one too
    presets: Mapping[str, Mapping[str, Any]] | None = None      # options by the name of a preset
    uses: frozenset[str] | None = None  # of `USES`
    takes_query: bool | None = None
    needs_reference: bool | None = None     # a caption of the input, not only the empty text
    needs_instruction: bool | None = None   # the query says what to do, not what to show
    plain: Callable[[str], str] | None = None   # a query -> what the network is told of it
    remakes: bool | None = None         # makes the picture anew beside the edit: its Edits have a `source`
    generates: bool | None = None       # can do without a picture: edits the one that the seed makes of the reference
    channels: int | None = None         # of the U-Net's input
    texts: Mapping[str, Text] | None = None     # what a report says of "start", "mask", "decode"

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ValueError(f"method {self.name!r} needs a name that Python takes, for example my_method")
        base = self.based_on
        if not (base is None or isinstance(base, Method)):
            raise ValueError(f"method {self.name!r}: based_on takes a method such as dm.diffedit, not {base!r}")
        same_run = base is not None and self.run in (None, base.run)
        for name, default in INHERITED.items():
            if getattr(self, name) is None:
                from_base = base is not None and (name != "texts" or same_run)
                object.__setattr__(self, name, getattr(base, name) if from_base else default)
        if self.run is None:
            raise ValueError(f"method {self.name!r} needs a run(task, options), or another method to be based on")
        if isinstance(self.uses, str) or not set(self.uses) <= USES:
            raise ValueError(f"method {self.name!r}: uses is a set of {', '.join(sorted(USES))}, not {self.uses!r}")
        object.__setattr__(self, "uses", frozenset(self.uses))
        if not (isinstance(self.options, type) and issubclass(self.options, Options)):
            raise ValueError(f"method {self.name!r}: {getattr(self.options, '__name__', self.options)!s} must be a "
                             "dataclass based on Options or on one of its kind, such as DiffEditOptions")
        own = declared(self.options)        # refuses a field that can't be an option
        if base is not None and self.presets is base.presets:       # as far as it has their options
            presets = {name: {option: value for option, value in values.items() if option in own}
                       for name, values in base.presets.items()}
            object.__setattr__(self, "presets", presets)
        check_names(self)
        object.__setattr__(self, "__signature__", signature(self))
        object.__setattr__(self, "__doc__", help_text(self))

    def __repr__(self) -> str:
        return f"<method {self.name}: {about(self)} help() lists its options>"

    # ---- calling it

    @overload
    def __call__(self, model: StableDiffusion, image: Image.Image | None, query: str = "", reference: str = "",
                 *, on_step: Callable[[Step], None] | None = None, **rest: Any) -> Edit: ...

    @overload
    def __call__(self, model: StableDiffusion, image: Sequence[Image.Image], query: str | Sequence[str] = "",
                 reference: str | Sequence[str] = "", *, on_step: Callable[[Step], None] | None = None,
                 **rest: Any) -> list[Edit]: ...

    def __call__(self, model, image, query="", reference="", *, on_step=None, **rest):
        """Run to the end, telling `on_step` of each step (by raising, it stops). See `iterate` for the rest."""
        steps = self.iterate(model, image, query, reference, **rest)
        while True:
            try:
                step = next(steps)
            except StopIteration as done:
                return done.value
            if on_step is not None:
                on_step(step)

    @torch.no_grad()
    def iterate(
        self,
        model: StableDiffusion,
        image: Image.Image | Sequence[Image.Image] | None,
        query: str | Sequence[str] = "",
        reference: str | Sequence[str] = "",
        *,
        seed: int | Sequence[int] = 0,
        size: int | None = None,
        preset: str = "paper",
        keep: str = "result",
        mask: Any = None,
        mask_map: Tensor | Sequence[Tensor] | None = None,
        encoded: Trajectory | Sequence[Trajectory] | None = None,
        reuse: Edit | Sequence[Any] | None = None,
        **options: Any,
    ) -> Generator[Step, None, Edit | list[Edit]]:
        """Edit a picture, or a list of them in batches; yields `Step`s and returns an `Edit` or a list of them.

        For the arguments see the method's own help, for example help(dm.diffedit). Raises ValueError, in one line that
        names the value.
        """
        settings = self.settings(model, options, preset)
        pictures, one = self.pictures(image)
        given = {name: value for name, value in (("mask", mask), ("mask_map", mask_map), ("encoded", encoded))
                 if value is not None}
        self.check(model, pictures, keep, given)
        settings.check_count(len(pictures))
        wanted = requests(pictures, query=query, reference=reference, seed=seed, mask=mask, encoded=encoded,
                          mask_map=mask_map, reuse=reuse)
        self.check_words([each.query for each in wanted], [each.reference for each in wanted])
        edits: list[Edit | None] = [None] * len(wanted)
        for batch in batches(model, wanted, size):
            numbers, fitted = zip(*batch, strict=True)
            task = make_task(model, fitted, settings, keep, plain=self.plain,
                             strict=frozenset(given) & {"encoded", "mask_map"})
            outcome = yield from self.outcome(task, settings)
            record = {"model": model.name, "size": size, "given": sorted(given)}
            for i, edit in zip(numbers, self.edits(task, settings, outcome, fitted, record), strict=True):
                edits[i] = edit
        return edits[0] if one else edits

    def outcome(self, task: Task, settings: Options) -> Generator[Step, None, Outcome]:
        """What `run` returns, and the steps that it yields, checked."""
        running = self.run(task, settings)
        while inspect.isgenerator(running):     # a plain function may return its outcome at once
            try:
                step = next(running)
            except StopIteration as done:
                running = done.value
                break
            if not isinstance(step, Step):
                raise ValueError(f"{self.name}: run must yield Steps, but it yielded a {type(step).__name__}: write "
                                 "`yield from` before encode, decode and edit_inside")
            yield step
        return checked(running, task, self.name)

    def edits(
        self, task: Task, settings: Options, outcome: Outcome, batch: Sequence[Fitted], record: dict[str, Any]
    ) -> Iterator[Edit]:
        """A batch's outcome as pictures, one for each request."""
        decoded, remade = (None if latent is None else task.model.decode(latent)
                           for latent in (outcome.latent, outcome.source))      # (B, 3, H, W) each
        for row, fitted in enumerate(batch):
            result, source = (None if pixels is None else unfit(pixels[row], fitted.frame)
                              for pixels in (decoded, remade))
            picture = source if task.generate else to_rgb(fitted.request.picture)
            told = {name: getattr(fitted.request, name) for name in ("query", "reference", "seed")}
            yield make_edit(self, task, settings, outcome, row, Pictures(picture, result, source, fitted.frame),
                            self.record({**record, **told}, settings))

    # ---- as a person types it

    @property
    def dashed(self) -> str:
        """Its name as it is typed: prompt-to-prompt."""
        return self.name.replace("_", "-")

    @property
    def embedded_model(self) -> str:
        """The embedded model that it is for."""
        return "tiny-instruct" if self.needs_instruction else "tiny"

    def parsed(self, texts: Sequence[str]) -> dict[str, Any]:
        """["steps=25", ...] -> {"steps": 25, ...}, each of its option's type and in its range; ValueError if not."""
        options: dict[str, Any] = {}
        for text in texts:
            name, equals, value = text.partition("=")
            name = name.strip().replace("-", "_")
            if not equals:
                raise ValueError(f"-o {text!r} has no value: write it as name=value, for example steps=25")
            if name not in self.known:
                raise ValueError(f"{self.dashed} has no option {name!r}; it has {', '.join(sorted(self.known))}")
            options[name] = self.known[name].parsed(value)
        self.made(options)      # refuses, before a model is loaded, what is out of range
        return options

    # ---- what holds

    @property
    def known(self) -> dict[str, Option]:
        """Its options by name."""
        return declared(self.options)

    def settings(self, model: StableDiffusion, options: Mapping[str, Any], preset: str = "paper") -> Options:
        """The options in force: the given ones, over the preset's, the model's recommendations, and the paper's.

        A card may also say what holds with a preset: its "diffedit, fast" goes over both.
        """
        recommended = {**self.recommended(model.defaults), **self.preset(preset),
                       **self.recommended(model.defaults, f", {preset}")}
        return self.made({**recommended, **options})

    def made(self, options: Mapping[str, Any]) -> Options:
        """Options by name as this method's dataclass, samplers by their names too. ValueError for what can't be."""
        for name in options:
            if name not in self.known:
                raise ValueError(f"{self.name} has no option {name!r}; it has {', '.join(sorted(self.known))}")
        return self.options(**{name: sampler_of(value) if self.known[name].kind is Sampler else value
                               for name, value in options.items()})

    def recommended(self, defaults: Mapping[str, Mapping[str, Any]], end: str = "") -> dict[str, Any]:
        """What a model's card says of this method; else of the one that it is based on, but for options that this one
        lacks, or declares anew with another default."""
        card = defaults.get(f"{self.name}{end}")
        if card is not None or self.based_on is None:
            return dict(card or {})
        before = self.based_on.known
        return {name: value for name, value in self.based_on.recommended(defaults, end).items()
                if name in self.known and self.known[name].default == before[name].default}

    def preset(self, name: str) -> Mapping[str, Any]:
        """A preset's options; ValueError if there is none of that name."""
        presets = {"paper": {}, **self.presets}
        if name not in presets:
            raise ValueError(f"{self.name} has no preset {name!r}; it has {', '.join(presets)}")
        return presets[name]

    def record(self, told: Mapping[str, Any], options: Options) -> dict[str, Any]:
        """An Edit's settings: everything that its result depends on, but for what was `given` beside the picture.

        told: the model's name, the words, seed and size, and the names of what was given.
        """
        names = ("model", "query", "reference", "seed", "size", "given")
        return {"method": self.name, **{name: told[name] for name in names}, **options.record()}

    # ---- what is refused

    def pictures(self, image: Image.Image | Sequence[Image.Image] | None) -> tuple[list[Image.Image | None], bool]:
        """The pictures as a list, and whether one was meant; None is the one that is to be made."""
        if image is None and not self.generates:
            raise ValueError(f"{self.name} needs a picture to edit")
        return ([image], True) if image is None or isinstance(image, Image.Image) else (list(image), False)

    def check_words(self, queries: Sequence[str], references: Sequence[str]) -> None:
        """Refuse texts that this method can't do without and that say nothing."""
        if self.takes_query and not all(text.strip() for text in queries):
            wanted = "what to do with the picture" if self.needs_instruction else "what the edited picture should show"
            raise ValueError(f"the query is empty: say {wanted}")
        if self.needs_reference and not all(text.strip() for text in references):
            raise ValueError(f"{self.name} needs a reference: a caption of the input picture")

    def check(self, model: StableDiffusion, pictures: list[Any], keep: str, given: Mapping[str, Any]) -> None:
        """Refuse, before any work, what this method can't do."""
        if not pictures:
            raise ValueError("there is no picture in the list")
        if keep not in ("result", "trace"):
            raise ValueError(f"keep {keep!r} is not known; known are result and trace")
        for name in given:
            if name not in self.uses:
                raise ValueError(f"{self.name} takes no {name}")
        has = model.unet.config.in_channels
        if has != self.channels:
            raise ValueError(f"{self.name} needs a U-Net with {self.channels} input channels; {model.name!r} has {has} "
                             f"and is made for {MADE_FOR.get(has, 'something else')}")
