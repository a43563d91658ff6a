"""`check`: does a checkpoint do here what it should? One table, for people who run real weights for the first time.

    files      all names and shapes fit, every number is finite
    predicts   what the U-Net predicts, measured (loading/asking.py), against what is said
    VAE        the round trip of a picture
    DDIM       the same through the U-Net too: encoded under the empty text and decoded
    DTYPE      the networks in each dtype that is usable here, and an edit in each, against float32
    CPU        the networks on the CPU against those on the device
    diffusers  the networks against diffusers' with the same weights (tests/against_diffusers.py, in a checkout)
    cost       seconds a row, of a whole edit; the peak of memory

Each part is a function of a Check that yields Lines. A network whose numbers are not finite raises ValueError, which
becomes a line too. The picture is the package's photograph; for the embedded models, which know only their scenes, it
is a scene whose true edit is known.
"""

from __future__ import annotations

import gc
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .. import loading
from ..loading.asking import ask
from ..loading.sources import EMBEDDED
from ..methods import METHODS, Edit, Method
from ..methods.method import MADE_FOR
from ..networks.finite import finite
from ..networks.stable_diffusion import StableDiffusion
from ..networks.text import Context
from ..pictures.drawing import overlay, strip
from ..pictures.photo import CAPTION, photograph
from ..pictures.picture import fit, psnr, unfit
from ..tiny.instructions import instruction
from ..tiny.scenes import changed, demo_scenes
from .measures import cell_mask, iou
from .programs import CLEAR, PAIR, Ours, held, inputs, load_rival, rival_file, vae_inputs

QUERY, INSTRUCTION = "a glass of orange juice on a wooden table", "replace the coffee with orange juice"
STEPS, RATIO = 20, 0.5      # of DDIM's round trip; the edits take as many steps
SIDE = 256                  # px: networks are compared at up to this size

# What is usual. The limits lie far from it: a checkpoint that misses one is of no use.
USUAL_VAE = {4: "about 30 dB (the embedded one)", 8: "25 to 30 dB (Stable Diffusion's)"}    # by factor
LEAST_VAE = 20.0            # dB, the VAE's round trip
MOST_LOST = 0.5             # DDIM's round trip: |error| / |latent|
LEAST_IOU = 0.8             # of the masks in two dtypes; the same dtype with other noises reaches 0.9
LEAST_TRUE = 0.4            # IoU with the true mask of a scene, where 0.8 is usual
MOST_ROUNDING = {"float32": 0.02, "float16": 0.05, "bfloat16": 0.2}      # of the networks: |difference| / |output|


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    what: str
    found: str
    expected: str
    wrong: str = ""         # what is wrong and what to do about it; "" = nothing
    measured: bool = True   # False: there was nothing to compare

    @property
    def verdict(self) -> str:
        return self.wrong or ("ok" if self.measured else "-")


@dataclass
class Checked:
    """What `check` found. print() shows the table."""

    model: str
    device: str
    lines: list[Line] = field(default_factory=list)
    pictures: list[tuple[Image.Image, str]] = field(default_factory=list)       # with captions

    @property
    def wrong(self) -> list[Line]:
        """The lines that are not as they should be."""
        return [line for line in self.lines if line.wrong]

    @property
    def strip(self) -> Image.Image:
        """The pictures in a row."""
        return strip(*zip(*self.pictures, strict=True))

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {"model": self.model, "device": self.device, "ok": not self.wrong,
                "lines": [{**asdict(line), "verdict": line.verdict} for line in self.lines]}

    def __str__(self) -> str:
        widths = [max(len(getattr(line, name)) for line in self.lines) for name in ("what", "found", "expected")]
        rows = (f"{line.what:<{widths[0]}}  {line.found:<{widths[1]}}  {line.expected:<{widths[2]}}  {line.verdict}"
                for line in self.lines)
        return "\n".join([f"{self.model} on {self.device}: what was found, what is expected, and whether it is ok",
                          *(row.rstrip() for row in rows)])


def check(
    model: StableDiffusion | str = "tiny", *, quick: bool = False, tell: Callable[[str], None] = lambda _: None,
    device: str = "auto", dtype: str = "auto", **source: Any,
) -> Checked:
    """Check a model, or a checkpoint by its name: `print(check("path/to/folder"))`.

    quick: leave out the edits, which take most of the time. tell: is told what is done, before long work.
    device, source: as for `load`; a loaded model is checked where it is. dtype: one to check beside float32; by default
    all that are usable on the device.
    Never raises because something is wrong with the checkpoint: the lines say it. Raises ValueError for a device or a
    dtype that can't be used.
    """
    if isinstance(model, StableDiffusion):
        device, make = str(model.device), partial(copy_in, model)
        name = model.name
    else:
        device, name = str(loading.usable_device(device)), model
        make = partial(loading.load, model, **source)
    loading.usable_dtype(dtype)
    run = Check(name, make, device, dtype, quick, tell)
    run.all()
    return run.checked


class Check:
    """What the parts are given: the model in the dtype that is asked for last, and the picture with its texts."""

    def __init__(self, name: str, make: Callable[..., StableDiffusion], device: str, dtype: str, quick: bool,
                 tell: Callable[[str], None]):
        self.name, self.make, self.device, self.dtype = name, make, device, dtype
        self.quick, self.tell = quick, tell
        self.checked = Checked(name, device)
        self.plain: dict[str, Tensor] = {}      # the networks' outputs in float32
        self.edits: dict[str, Edit] = {}        # by dtype

    @torch.no_grad()
    def all(self) -> None:
        """All parts. What rests on a part that is wrong is left out."""
        if self.part("files", "all names and shapes fit", self.open):
            return
        wrong = self.part("predicts", "", self.predicts) + self.part("VAE", "", self.vae)
        wrong += self.part("DDIM", "", self.ddim) if self.method and self.method.channels == 4 else 0
        self.part("float32", "", partial(self.in_dtype, "float32", wrong))
        self.part("cost", "", self.cost)
        self.part("diffusers", "", self.diffusers)
        for dtype in self.others():
            self.model = None       # so that only one is in memory
            gc.collect()
            if not self.part(dtype, "finite numbers", partial(self.load, dtype)):
                self.part(dtype, "finite numbers", partial(self.in_dtype, dtype, wrong))
        if self.device != "cpu":
            self.part("CPU", "", self.cpu)

    def part(self, what: str, expected: str, lines: Callable[[], Iterator[Line]]) -> int:
        """Run one part; how many of its lines are wrong. What it raises is a line."""
        found = []
        self.tell(what)
        try:
            for line in lines():
                found.append(line)
        except ValueError as error:
            found.append(Line(what, "an error", expected, str(error)))
        except (torch.OutOfMemoryError, MemoryError):
            found.append(Line(what, "did not fit into memory", expected, measured=False))
        self.checked.lines += found
        return sum(bool(line.wrong) for line in found)

    # ---- the parts

    def open(self) -> Iterator[Line]:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            yield from self.load("float32")
        parts = {"U-Net": [self.model.unet], "VAE": [self.model.vae],
                 "text": [text.encoder for text in self.model.texts]}
        for name, networks in parts.items():
            for network in networks:
                for weight, numbers in network.named_parameters():
                    if not finite(numbers):
                        raise ValueError(f"{name}: {weight} holds NaN or infinite numbers: the file is damaged, get "
                                         "it again")
        sizes = (f"{name} {sum(p.numel() for n in networks for p in n.parameters()) / 1e6:.1f} M"
                 for name, networks in parts.items())
        yield Line("files", ", ".join(sizes), "all names and shapes fit, numbers finite")
        channels = self.model.unet.config.in_channels
        purpose = MADE_FOR.get(channels, "unknown")
        yield Line("made for", f"{channels} input channels: {purpose}", "", measured=False)
        for warning in said:
            if issubclass(warning.category, UserWarning) and "it seems to predict" not in str(warning.message):
                yield Line("warning", str(warning.message), "", measured=False)     # `predicts` measures that one

    def load(self, dtype: str) -> Iterator[Line]:
        with warnings.catch_warnings():
            if dtype != "float32":
                warnings.simplefilter("ignore")     # it was said already
            self.model = self.make(device=self.device, dtype=dtype)
        yield from ()

    def predicts(self) -> Iterator[Line]:
        answer, said = ask(self.model, self.picture), self.model.prediction_type
        found = answer.prediction_type
        errors = ", ".join(f"{error:.2f} as {reading}" for reading, error in answer.errors.items())
        wrong = ("" if found == said else "these weights predict nothing: they are random, damaged or of another model"
                 if found is None else f"it is read as {said}: give prediction_type={found}")
        errors += f"; {answer.scaling:.2f} without a network"
        yield Line("predicts", f"{found or 'nothing'}; error {errors}", f"{said}, clearly", wrong)

    def vae(self) -> Iterator[Line]:
        pixels, frame = fit(self.picture, self.model.multiple, self.model.native_area)
        back = unfit(self.model.decode(self.model.encode(pixels))[0], frame)
        self.checked.pictures += [(self.picture, "the picture"), (back, "VAE's round trip")]
        found = psnr(back, self.picture)
        usual = USUAL_VAE.get(self.model.factor, "not known for this factor")
        yield Line("VAE", f"{found:.1f} dB at factor {self.model.factor}", f"above {LEAST_VAE:.0f} dB; usual: {usual}",
                   "" if found > LEAST_VAE else "it doesn't give the picture back: its weights are of another VAE, "
                   "random or damaged")

    def ddim(self) -> Iterator[Line]:
        edit = METHODS["invert"](self.model, self.picture, steps=STEPS, encoding_ratio=RATIO)
        self.checked.pictures.append((edit.image, "DDIM's round trip"))
        before, after = edit.encoded[0].latent, edit.decoded[0].latent
        lost = ((after - before).norm() / before.norm()).item()
        yield Line("DDIM", f"{lost:.1%} of the latent lost, {psnr(edit.image, self.picture):.1f} dB",
                   f"below {MOST_LOST:.0%}", "" if lost < MOST_LOST else
                   "encoding and decoding don't agree: is what it predicts read right, and its schedule?")

    def in_dtype(self, dtype: str, wrong_before: int) -> Iterator[Line]:
        """The networks in this dtype, and an edit."""
        found = outputs(self.model)
        if not self.plain:
            self.plain = found
            yield Line(dtype, "the networks' numbers are finite", "finite numbers")
        else:
            yield compared(f"{dtype} to float32", found, self.plain, MOST_ROUNDING[dtype],
                           f"rounding is too large here: use dtype {'bfloat16 or ' * (dtype == 'float16')}float32")
        if self.quick or wrong_before or self.method is None:
            why = "--quick" if self.quick else "no method edits with it" if self.method is None else "see above"
            yield Line(f"edit in {dtype}", f"left out: {why}", "", measured=False)
            return
        seconds = self.row_seconds(self.picture.width * self.picture.height)
        self.tell(f"edit in {dtype}: {self.rows(steps=STEPS)} rows, about {seconds * self.rows(steps=STEPS):.0f} s")
        edit = self.method(self.model, self.picture, *self.texts, steps=STEPS)
        self.edits[dtype] = edit
        if edit.mask_image is not None:
            self.checked.pictures.append((overlay(edit.input, edit.mask_image), f"mask, {dtype}"))
        self.checked.pictures.append((edit.image, f"{self.texts[0]}, {dtype}"))
        yield self.judged(dtype, edit)

    def judged(self, dtype: str, edit: Edit) -> Line:
        """An edit against that in float32; that one against the true answer, where this is known."""
        what, plain = f"edit in {dtype}", self.edits.get("float32")
        if edit.empty_mask:
            return Line(what, "an empty mask", "a mask", "nothing to change was found: is it a model of texts and "
                        "pictures, as Stable Diffusion is?")
        if plain is not None and plain is not edit:
            return against_float32(what, edit, plain)
        if self.scenes:
            before, after = (scene.render(self.picture.width) for scene in self.scenes)
            if edit.mask is not None:
                found = iou(edit.mask.cpu().numpy(), cell_mask(changed(before, after), edit.factor))
                told = f"mask IoU {found:.2f} with the true one", f"above {LEAST_TRUE}"
                good = found > LEAST_TRUE
            else:
                found, least = psnr(edit.image, after), psnr(before, after)
                told = f"{found:.1f} dB to the true answer", f"above {least:.1f} dB, the picture's own"
                good = found > least
            return Line(what, *told, "" if good else "it makes another edit: are these the package's files?")
        covers = "" if edit.mask is None else f"; the mask covers {edit.frame.share(edit.mask, edit.factor):.0%}"
        return Line(what, f"{psnr(edit.image, self.picture):.1f} dB to the picture{covers}", "look at it (--out)",
                    measured=False)

    def diffusers(self) -> Iterator[Line]:
        try:
            rival = load_rival(rival_file("diffusers"))
        except ValueError as error:
            yield Line("diffusers", f"not compared: {error}", "", measured=False)
            return
        networks, (of_unet, of_vae) = next(iter(rival(self.model)[0].values()))(), given(self.model)
        theirs = {"U-Net": networks.unet(*of_unet), "encode": networks.encode(*of_vae["encode"]),
                  "decode": networks.decode(*of_vae["decode"])}
        theirs = {name: numbers.float().cpu() for name, numbers in theirs.items()}
        yield compared("to diffusers", self.plain, theirs, MOST_ROUNDING["float32"], "one of the two reads these files "
                       "wrongly: please report this table")

    def cost(self) -> Iterator[Line]:
        area = self.model.native_area
        seconds, side = self.row_seconds(area), math.isqrt(area)
        rows = self.rows()
        if torch.device(self.device).type == "cuda":
            peak = f"; peak {torch.cuda.max_memory_allocated(self.device) / 1e9:.1f} GB on the device"
        else:
            peak = f"; peak {held('VmHWM') / 1e9:.1f} GB" if CLEAR.exists() else ""
        edit = f"; an edit of {rows} rows {rows * seconds:.0f} s" if rows else ""
        yield Line("cost in float32", f"{seconds:.2g} s a row at {side} px{edit}{peak}", "", measured=False)

    def cpu(self) -> Iterator[Line]:
        self.model = None
        gc.collect()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.model = self.make(device="cpu", dtype="float32")
        yield compared(f"{self.device} to CPU", self.plain, outputs(self.model), MOST_ROUNDING["float32"],
                       "the device computes something else: try another version of torch or of its driver")

    # ---- what the parts share

    @cached_property
    def scenes(self) -> tuple[Any, ...]:
        """For the embedded models: a scene and its true edit."""
        return demo_scenes(0, None) if self.model.name in EMBEDDED else ()

    @cached_property
    def picture(self) -> Image.Image:
        return self.scenes[0].render(math.isqrt(self.model.native_area)) if self.scenes else photograph()

    @cached_property
    def method(self) -> Method | None:
        """The method that is tried: the first that works with such a U-Net."""
        usable = [METHODS["diffedit"], *METHODS.values()]
        return next((one for one in usable if one.channels == self.model.unet.config.in_channels), None)

    @property
    def texts(self) -> tuple[str, ...]:
        """The query, and the reference if the method takes one."""
        if self.scenes:
            scene, answer = self.scenes
            known = instruction("fruit", scene, answer), answer.caption, scene.caption
        else:
            known = INSTRUCTION, QUERY, CAPTION
        return known[:1] if self.method.needs_instruction else known[1:]

    def rows(self, **options: int) -> int:
        """How many rows an edit takes with these options; 0 if there is no method."""
        if self.method is None:
            return 0
        settings = self.method.settings(self.model, options)
        if self.method.needs_instruction:
            return 3 * settings.steps
        return 2 * settings.mask_samples + 3 * (len(settings.levels(self.model.schedule)) - 1)

    def row_seconds(self, area: int) -> float:
        """Seconds a row, of a pair of rows on a picture of so many pixels."""
        multiple = self.model.multiple
        side = max(1, math.isqrt(area) // multiple) * multiple
        call = partial(Ours(self.model).unet, *inputs(self.model, side, PAIR))
        call()      # to warm up
        begin = time.perf_counter()
        call().sum().item()     # a number waits for the device
        return (time.perf_counter() - begin) / PAIR

    def others(self) -> Sequence[str]:
        """The dtypes to check beside float32."""
        if self.dtype != "auto":
            return [] if self.dtype == "float32" else [self.dtype]
        kind = torch.device(self.device).type
        small = sum(weight.numel() for weight in self.model.unet.parameters()) < loading.FULL_SIZE
        if kind == "cpu":       # a large network in float16 takes minutes a row there
            return ["bfloat16", "float16"] if small else ["bfloat16"]
        return ["float16"] if kind == "mps" else ["float16", "bfloat16"]


def copy_in(model: StableDiffusion, device: str, dtype: str) -> StableDiffusion:
    """A copy of a model in another dtype, on another device."""
    kind, moved = getattr(torch, dtype), {}
    for name in ("unet", "vae"):
        network = getattr(model, name)
        keep = name == "vae" and network.config.force_upcast and kind in loading.HALF
        moved[name] = deepcopy(network).to(device, torch.float32 if keep else kind)
    texts = tuple(replace(text, encoder=deepcopy(text.encoder).to(device, kind)) for text in model.texts)
    return replace(model, **moved, texts=texts)


def outputs(model: StableDiffusion) -> dict[str, Tensor]:
    """What each network makes of the same inputs, in float32 on the CPU."""
    (x, t, tokens, summary), vae = given(model)
    scaling, context = model.vae.config.scaling_factor, Context(tokens, summary and summary.pooled)
    raw = replace(model, prediction_type="epsilon")         # what the U-Net puts out, as it is
    found = {"text": tokens, "U-Net": raw.eps(x, int(t), context), "encode": model.encode(*vae["encode"]) / scaling,
             "decode": model.decode(vae["decode"][0] * scaling)}
    return {name: numbers.float().cpu() for name, numbers in found.items()}


def given(model: StableDiffusion) -> tuple[tuple[Any, ...], dict[str, tuple[Tensor]]]:
    """The inputs of the U-Net, and of the VAE."""
    multiple = model.multiple
    side = max(multiple, min(SIDE, math.isqrt(model.native_area)) // multiple * multiple)
    return inputs(model, side, PAIR), vae_inputs(model, side)


def compared(what: str, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], limit: float, to_do: str) -> Line:
    """The line about the networks' outputs against the same made in another way."""
    apart = {name: ((ours[name] - other).norm() / other.norm()).item() for name, other in theirs.items()}
    found = ", ".join(f"{name} {number:.1g}" for name, number in apart.items())
    return Line(what, found, f"differences below {limit:g} of the output", "" if max(apart.values()) < limit else to_do)


def against_float32(what: str, edit: Edit, plain: Edit) -> Line:
    """The line about an edit in another dtype."""
    apart = psnr(edit.image, plain.image)
    if edit.mask is None:
        return Line(what, f"{apart:.1f} dB to that in float32", f"above {LEAST_VAE:.0f} dB",
                    "" if apart > LEAST_VAE else "it makes another picture in this dtype: use float32")
    overlap = iou(edit.mask.cpu().numpy(), plain.mask.cpu().numpy())
    return Line(what, f"mask IoU {overlap:.2f} with float32's, {apart:.1f} dB", f"IoU above {LEAST_IOU}",
                "" if overlap > LEAST_IOU else "it finds another mask in this dtype: use float32")
