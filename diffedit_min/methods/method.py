"""`Method` makes a function of a `run`: dm.Method("my_method", run, MyOptions) is called like all other methods.

    my_method(model, image, query, reference, **options) -> Edit          a list of pictures gives a list of Edits

`run(task, options)` is a generator that yields a `Step` for each step taken and returns an `Outcome` (core/task.py). A
Method checks what a person gives it, makes the tasks for `run` from it, and makes Edits from the outcomes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from PIL import Image

from ..core.coding import Options
from ..core.options import Option, check_text, declared
from ..core.state import Sampler
from ..core.task import Outcome, Step, Task
from ..networks.stable_diffusion import StableDiffusion
from ..pictures.picture import unfit
from ..pictures.picture_files import to_rgb
from ..samplers import files_named_by, sampler_of
from .batches import Fitted, Request, batches, make_task, naming_pictures, requests
from .call import PAPER, RECOMMENDED, Call
from .edit import Edit, Pictures, checked, make_edit
from .help import Text, about, check_names, help_text, signature
from .syntax import warn_of_syntax
from .unknown_words import warn_of_unknown_words

# What a U-Net is made for, by the number of its input channels.
MADE_FOR = {4: "making pictures from text, as most methods here do",
            8: "InstructPix2Pix, which is method instruct_pix2pix",
            9: "inpainting, for which there is no method here"}

USES = {"reference", "mask", "mask_map", "encoded"}     # what some methods can be given besides picture and query

# The fields that a method takes from the one that it is `based_on`, if it leaves them out; and their defaults.
INHERITED: dict[str, Any] = {
    "run": None, "options": Options, "presets": {}, "uses": frozenset(), "takes_query": True, "needs_reference": False,
    "needs_instruction": False, "to_prompt": str, "remakes": False, "generates": False, "channels": 4, "texts": {}}


@dataclass(frozen=True, eq=False, repr=False)
class Method:
    """A method, and what it can do. A field that is None is taken from the method that this one is based on."""

    name: str
    run: Callable[[Task, Any], Generator[Step, None, Outcome]] | None = None
    options: type[Options] | None = None
    based_on: Method | None = None      # its presets, and what a model's card recommends for it, hold for this one too
    presets: Mapping[str, Mapping[str, Any]] | None = None      # name of a preset -> values of options
    uses: frozenset[str] | None = None  # a part of `USES`
    takes_query: bool | None = None
    needs_reference: bool | None = None     # True: the reference must not be empty
    needs_instruction: bool | None = None   # True: the query says what to do, not what the picture should show
    to_prompt: Callable[[str], str] | None = None   # a query -> the prompt that is embedded for it
    remakes: bool | None = None         # True: it decodes the input picture too, beside the edit: Edits have a `source`
    generates: bool | None = None       # True: without a picture, it edits one that it makes from seed and reference
    channels: int | None = None         # the number of the U-Net's input channels
    texts: Mapping[str, Text] | None = None     # a report's texts about its steps: "start", "mask", "decode"

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ValueError(f"method {self.name!r} needs a name that Python takes, for example my_method")
        self._inherit()
        self._check_fields()
        if self.based_on is not None and self.presets is self.based_on.presets:
            self._set("presets", {name: {option: value for option, value in values.items() if option in self.known}
                                  for name, values in self.presets.items()})    # without the options that it lacks
        self._set("__signature__", signature(self))
        self._set("__doc__", help_text(self))

    def _inherit(self) -> None:
        """Fill in the fields that are left out. Texts are taken from `based_on` only if they describe the same run."""
        base = self.based_on
        if not (base is None or isinstance(base, Method)):
            raise ValueError(f"method {self.name!r}: based_on takes a method such as dm.diffedit, not {base!r}")
        same_run = base is not None and self.run in (None, base.run)
        for name, default in INHERITED.items():
            if getattr(self, name) is None:
                from_base = base is not None and (name != "texts" or same_run)
                self._set(name, getattr(base, name) if from_base else default)

    def _check_fields(self) -> None:
        """Raise ValueError, which names it, for a field that can't be."""
        if self.run is None:
            raise ValueError(f"method {self.name!r} needs a run(task, options), or another method to be based on")
        if isinstance(self.uses, str) or not set(self.uses) <= USES:
            raise ValueError(f"method {self.name!r}: uses is a set of {', '.join(sorted(USES))}, not {self.uses!r}")
        self._set("uses", frozenset(self.uses))
        for name in self.presets:
            if name in (RECOMMENDED, PAPER):
                raise ValueError(f"method {self.name!r}: every method has a preset {name!r}; give yours another name")
        if not (isinstance(self.options, type) and issubclass(self.options, Options)):
            raise ValueError(f"method {self.name!r}: {getattr(self.options, '__name__', self.options)!s} must be a "
                             "dataclass based on Options or on one of its kind, such as DiffEditOptions")
        declared(self.options)      # raises ValueError for a field that can't be an option
        check_names(self)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)       # as the dataclass is frozen

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
        """Run to the end, and call `on_step` with each step; if it raises an error, the edit stops. See `iterate`."""
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
        self, model: StableDiffusion, image: Image.Image | Sequence[Image.Image] | None,
        query: str | Sequence[str] = "", reference: str | Sequence[str] = "", **keywords: Any,
    ) -> Generator[Step, None, Edit | list[Edit]]:
        """Edit a picture, or a list of them in batches; yields `Step`s and returns an `Edit` or a list of them.

        keywords: those of `Call`, and the method's options; see the method's own help, for example help(dm.diffedit).
        Raises ValueError, in one line that names the value.
        """
        call, options = Call.split(keywords)
        settings = self.settings(model, options, call.preset)
        pictures, one = self.pictures(image)
        self.check(model, pictures, call)
        settings.check_count(len(pictures))
        wanted = requests(pictures, query, reference, call)
        self.check_words([request.query for request in wanted], [request.reference for request in wanted])
        self.look_at_words(wanted, settings.negative_prompt, model)

        edits: dict[int, Edit] = {}
        for batch in batches(model, wanted, call.size):
            with naming_pictures([fitted.request.index for fitted in batch], len(wanted)):
                task = make_task(model, batch, settings, call, self.to_prompt)
                outcome = yield from self.outcome(task, settings)
                edits |= self.edits(task, settings, outcome, batch, call)
        return edits[0] if one else [edits[i] for i in range(len(wanted))]

    def outcome(self, task: Task, settings: Options) -> Generator[Step, None, Outcome]:
        """Run the method on a task: yields its steps and returns its outcome, both checked."""
        running = self.run(task, settings)
        while inspect.isgenerator(running):     # a run without steps may be a plain function
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
        self, task: Task, settings: Options, outcome: Outcome, batch: Sequence[Fitted], call: Call
    ) -> dict[int, Edit]:
        """The Edits of a batch, each by its picture's place in the call."""
        decoded, remade = (None if latent is None else task.model.decode(latent)
                           for latent in (outcome.latent, outcome.source))      # (B, 3, H, W) each
        edits = {}
        for row, fitted in enumerate(batch):
            result, source = (None if pixels is None else unfit(pixels[row], fitted.frame)
                              for pixels in (decoded, remade))
            picture = source if task.generate else to_rgb(fitted.request.picture)
            profile = {} if picture is None else picture.info       # of the colours: the numbers are the input's
            for made in filter(None, (result, source)):
                made.info.update(profile)
            pictures = Pictures(picture, result, source, fitted.frame)
            facts = {"model": task.model.name, "size": call.size, "given": sorted(call.given),
                     **{name: getattr(fitted.request, name) for name in ("query", "reference", "seed")}}
            edits[fitted.request.index] = make_edit(self, task, settings, outcome, row, pictures,
                                                    self.record(facts, settings))
        return edits

    # ---- as a person types it

    @property
    def dashed(self) -> str:
        """The name as a person types it: prompt-to-prompt."""
        return self.name.replace("_", "-")

    @property
    def embedded_model(self) -> str:
        """The name of the embedded model that this method needs."""
        return "tiny-instruct" if self.needs_instruction else "tiny"

    def parsed(self, texts: Sequence[str]) -> dict[str, Any]:
        """["steps=25", ...] -> {"steps": 25, ...}. Raises ValueError for a value of a wrong type or out of range."""
        options: dict[str, Any] = {}
        for text in texts:
            name, equals, value = text.partition("=")
            name = name.strip().replace("-", "_")
            if not equals:
                raise ValueError(f"-o {text!r} has no value: write it as name=value, for example steps=25")
            if name not in self.known:
                raise ValueError(f"{self.dashed} has no option {name!r}; it has {', '.join(sorted(self.known))}")
            options[name] = self.known[name].parsed(value)
        self.made(options)      # raises ValueError for a value out of range, before a model is loaded
        return options

    # ---- its options and settings

    @property
    def known(self) -> dict[str, Option]:
        """The method's options by name."""
        return declared(self.options)

    def settings(self, model: StableDiffusion, options: Mapping[str, Any], preset: str = RECOMMENDED) -> Options:
        """All options of a call. Of these, the first that has a value for an option decides:

        options, which the caller gives; the model's recommendation for this method with this preset ("diffedit, fast");
        the preset; the model's recommendation for this method; the default. The preset "paper" has all the defaults.
        """
        recommended = {**self.recommended(model.defaults), **self.preset(preset)}
        if preset in self.presets:
            recommended |= self.recommended(model.defaults, f", {preset}")
        return self.made({**recommended, **options})

    def made(self, options: Mapping[str, Any]) -> Options:
        """The options as an object of this method's dataclass; a sampler may be given by its name.

        Raises ValueError for a name that isn't known and for a value that isn't allowed.
        """
        for name in options:
            if name not in self.known:
                raise ValueError(f"{self.name} has no option {name!r}; it has {', '.join(sorted(self.known))}")
        return self.options(**{name: sampler_of(value) if self.known[name].kind is Sampler else value
                               for name, value in options.items()})

    def recommended(self, defaults: Mapping[str, Mapping[str, Any]], end: str = "") -> dict[str, Any]:
        """The options that a model's card recommends for this method; `end` is ", " and a preset, or nothing.

        If the card doesn't name this method, its recommendations for the method that this one is based on hold, but not
        for options that this method lacks or declares with another default. Raises ValueError for an option that names
        a file or a model.
        """
        found = defaults.get(f"{self.name}{end}")
        if found is None and self.based_on is not None:
            of_base = self.based_on.known
            found = {name: value for name, value in self.based_on.recommended(defaults, end).items()
                     if name in self.known and self.known[name].default == of_base[name].default}
        for name, value in (found or {}).items():
            if name in self.known and (files := files_named_by(self.known[name], value)):
                raise ValueError(f"{files[0]} names a file or a model, which a card must not choose (here {value!r}): "
                                 "remove it from the card, and give it with the call if you want it")
        return dict(found or {})

    @property
    def preset_names(self) -> tuple[str, ...]:
        """The names of its presets, of which the first holds where nothing is said."""
        return RECOMMENDED, PAPER, *self.presets

    def preset(self, name: str) -> Mapping[str, Any]:
        """The options of a preset. Raises ValueError for a name that isn't known."""
        if name not in self.preset_names:
            raise ValueError(f"{self.name} has no preset {name!r}; it has {', '.join(self.preset_names)}")
        if name == PAPER:
            return {option.name: option.default for option in self.known.values()}
        return self.presets.get(name, {})

    def record(self, facts: Mapping[str, Any], options: Options) -> dict[str, Any]:
        """An Edit's settings: everything that its result depends on. Masks, maps and encodings are only named.

        facts: "model" (the model's name), "query", "reference", "seed", "size" and "given" (those names).
        """
        names = ("model", "query", "reference", "seed", "size", "given")
        return {"method": self.name, **{name: facts[name] for name in names}, **options.record()}

    # ---- checks of what is given

    def pictures(self, image: Image.Image | Sequence[Image.Image] | None) -> tuple[list[Image.Image | None], bool]:
        """The pictures as a list, and whether a single one is given. None stands for a picture that is to be made."""
        if image is None and not self.generates:
            raise ValueError(f"{self.name} needs a picture to edit")
        return ([image], True) if image is None or isinstance(image, Image.Image) else (list(image), False)

    def check_words(self, queries: Sequence[str], references: Sequence[str]) -> None:
        """Raise ValueError for what is no text, and for an empty text if the method needs it."""
        for name, texts in (("query", queries), ("reference", references)):
            for text in texts:
                check_text(text, f"the {name}")
        if self.takes_query and not all(text.strip() for text in queries):
            wanted = "what to do with the picture" if self.needs_instruction else "what the edited picture should show"
            raise ValueError(f"the query is empty: say {wanted}")
        if self.needs_reference and not all(text.strip() for text in references):
            raise ValueError(f"{self.name} needs a reference: a caption of the input picture")

    def look_at_words(self, wanted: Sequence[Request], negative_prompt: str, model: StableDiffusion) -> None:
        """Warn of what is an instruction in other programs but not here, where weights that this method has are none;
        and of words that the model doesn't know."""
        texts = [("query", self.to_prompt(request.query)) for request in wanted]
        texts += [("reference", request.reference) for request in wanted] + [("negative_prompt", negative_prompt)]
        warn_of_syntax(texts, model.tokenizer.get_added_vocab())
        warn_of_unknown_words(texts, model)

    def check(self, model: StableDiffusion, pictures: list[Any], call: Call) -> None:
        """Raise ValueError, before any work, for what this method can't do."""
        if not pictures:
            raise ValueError("there is no picture in the list")
        if call.keep not in ("result", "trace"):
            raise ValueError(f"keep {call.keep!r} is not known; known are result and trace")
        for name in sorted(call.given):
            if name not in self.uses:
                raise ValueError(f"{self.name} takes no {name}")
        has = model.unet.config.in_channels
        if has != self.channels:
            raise ValueError(f"{self.name} needs a U-Net with {self.channels} input channels; {model.name!r} has {has} "
                             f"and is made for {MADE_FOR.get(has, 'something else')}")
