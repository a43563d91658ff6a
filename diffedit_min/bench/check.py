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
becomes a line too. The picture is the package's photograph. Models with the embedded models' words know only their
scenes, so for them it is a scene, whose true edit is known.
"""

from __future__ import annotations

import gc
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .. import loading
from ..loading.asking import ask
from ..loading.files import check_finite, first_line
from ..methods import METHODS, Asked, Edit, Method
from ..methods.cost import about, rows_of
from ..methods.method import MADE_FOR
from ..networks.stable_diffusion import StableDiffusion
from ..networks.tokenizer import make_tokenizer
from ..pictures.drawing import overlay
from ..pictures.photo import CAPTION, photograph
from ..pictures.picture import fit, psnr, unfit
from ..tiny.instructions import instruction
from ..tiny.scenes import changed, demo_scenes
from .agreement import MOST_ROUNDING, against_plain, compared, copy_in, inputs_of, outputs
from .findings import Checked, Line
from .measures import cell_mask, iou
from .programs import CLEAR, PAIR, Ours, held, inputs, load_rival, rival_file

QUERY, INSTRUCTION = "a glass of orange juice on a wooden table", "replace the coffee with orange juice"
STEPS, RATIO = 20, 0.5      # of DDIM's round trip; the edits take as many steps

# What is usual. The limits lie far from it: a checkpoint that misses one is of no use.
USUAL_VAE = {4: "about 36 dB (the embedded one's)", 8: "25 to 30 dB (Stable Diffusion's)"}    # by factor
LEAST_VAE = 20.0            # dB, the VAE's round trip
MOST_LOST = 0.25            # DDIM's round trip: |error| / |latent|
LEAST_TRUE = 0.4            # IoU with the true mask of a scene, where 0.8 is usual


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
        self.model: StableDiffusion | None = None
        self.base = "float32"                   # the dtype that the others are held against
        self.plain: dict[str, Tensor] = {}      # the networks' outputs in it
        self.edit: Edit | None = None           # and the edit

    @torch.no_grad()
    def all(self) -> None:
        """All parts. What rests on a part that is wrong is left out."""
        if self.part("files", self.open, "all names and shapes fit") or self.model is None:
            return
        wrong = self.part("predicts", self.predicts) + self.part("VAE", self.vae)
        wrong += self.part("DDIM", self.ddim) if self.method and self.method.channels == 4 else 0
        wrong += self.part(self.base, partial(self.in_dtype, self.base, wrong), "finite numbers")
        self.part("cost", self.cost)
        if self.plain:
            self.part("diffusers", self.diffusers)
        for dtype in self.others():
            self.part(dtype, partial(self.in_another, dtype, wrong), "finite numbers")
        if self.plain and self.device != "cpu":
            self.part("CPU", self.cpu)

    def part(self, what: str, lines: Callable[[], Iterator[Line]], expected: str = "") -> int:
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
        except RuntimeError as error:       # an operation that the device doesn't have, say
            found.append(Line(what, "an error", expected, f"torch can't do this here: {first_line(error)}"))
        self.checked.lines += found
        return sum(bool(line.wrong) for line in found)

    # ---- the parts

    def open(self) -> Iterator[Line]:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                self.load(self.base)
            except torch.OutOfMemoryError:
                yield Line("float32", "did not fit into memory", "", measured=False)
                self.base = "bfloat16" if torch.device(self.device).type == "cpu" else "float16"
                self.load(self.base)
        names = "U-Net", "VAE", "text encoder", "second text encoder"
        for name, network in zip(names, self.model.networks, strict=False):
            for weight, numbers in network.named_parameters():
                check_finite(numbers, f"{name}: {weight}")
        yield Line("files", self.model.sizes, "all names and shapes fit, numbers finite")
        channels = self.model.unet.config.in_channels
        purpose = MADE_FOR.get(channels, "unknown")
        yield Line("made for", f"{channels} input channels: {purpose}", "", measured=False)
        for warning in said:
            if issubclass(warning.category, UserWarning) and "it seems to predict" not in str(warning.message):
                yield Line("warning", str(warning.message), "", measured=False)     # `predicts` measures that one

    def load(self, dtype: str, device: str | None = None) -> None:
        self.model = None       # so that only one is in memory
        gc.collect()
        with warnings.catch_warnings():
            if self.checked.lines:
                warnings.simplefilter("ignore")     # it was said already
            self.model = self.make(device=device or self.device, dtype=dtype)

    def predicts(self) -> Iterator[Line]:
        answer, said = ask(self.model, self.picture), self.model.prediction_type
        found = answer.prediction_type
        errors = ", ".join(f"{error:.2f} as {reading}" for reading, error in answer.errors.items())
        wrong = ("" if found == said else "these weights predict nothing: they are random, damaged or of another model"
                 if found is None else f"it is read as {said}: give prediction_type={found} (--prediction-type)")
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
        if dtype == self.base:
            self.plain = found
        if found is self.plain or not self.plain:       # nothing to compare with
            yield Line(dtype, "the networks' numbers are finite", "finite numbers")
        else:
            yield compared(f"{dtype} to {self.base}", found, self.plain, MOST_ROUNDING.get(dtype, 0.01),
                           f"rounding is too large here: use dtype {'bfloat16 or ' * (dtype == 'float16')}float32")
        if self.quick or wrong_before or self.method is None:
            why = "--quick" if self.quick else "no method edits with it" if self.method is None else "see above"
            yield Line(f"edit in {dtype}", f"left out: {why}", "", measured=False)
            return
        seconds = self.row_seconds(self.picture.width * self.picture.height)
        self.tell(f"edit in {dtype}: {self.rows(steps=STEPS)} rows, {about(seconds * self.rows(steps=STEPS))}")
        edit = self.method(self.model, self.picture, *self.texts, steps=STEPS)
        if edit.mask_image is not None:
            self.checked.pictures.append((overlay(edit.input, edit.mask_image), f"mask, {dtype}"))
        self.checked.pictures.append((edit.image, f"{self.texts[0]}, {dtype}"))
        yield self.judged(dtype, edit)
        self.edit = self.edit or edit

    def in_another(self, dtype: str, wrong_before: int) -> Iterator[Line]:
        self.load(dtype)
        yield from self.in_dtype(dtype, wrong_before)

    def judged(self, dtype: str, edit: Edit) -> Line:
        """An edit against the first one; that one against the true answer, where this is known."""
        what = f"edit in {dtype}"
        if edit.empty_mask:
            return Line(what, "an empty mask", "a mask", "nothing to change was found: is it a model of texts and "
                        "pictures, as Stable Diffusion is?")
        if self.edit is not None:
            return against_plain(what, edit, self.edit, self.base)
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
        networks, (of_unet, of_vae) = next(iter(rival(self.model)[0].values()))(), inputs_of(self.model)
        theirs = {"U-Net": networks.unet(*of_unet), "encode": networks.encode(*of_vae["encode"]),
                  "decode": networks.decode(*of_vae["decode"])}
        theirs = {name: numbers.float().cpu() for name, numbers in theirs.items()}
        yield compared("to diffusers", self.plain, theirs, MOST_ROUNDING[self.base], "one of the two reads these files "
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
        yield Line(f"cost in {self.base}", f"{seconds:.2g} s a row at {side} px{edit}{peak}", "", measured=False)

    def cpu(self) -> Iterator[Line]:
        self.load("float32", "cpu")
        yield compared(f"{self.device} to CPU", self.plain, outputs(self.model), MOST_ROUNDING[self.base],
                       "the device computes something else: try another version of torch or of its driver")

    # ---- what the parts share

    @cached_property
    def scenes(self) -> tuple[Any, ...]:
        """A scene and its true edit, for models with the embedded models' words; other models know photographs."""
        words = make_tokenizer(loading.TINY / "tokenizer").get_vocab()
        return demo_scenes(0, None) if self.model.tokenizer.get_vocab() == words else ()

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
        return 0 if self.method is None else rows_of(Asked(self.method, *self.texts, options=options), self.model)

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
            return [] if self.dtype == self.base else [self.dtype]
        kind = torch.device(self.device).type
        small = sum(weight.numel() for weight in self.model.unet.parameters()) < loading.FULL_SIZE
        dtypes = {"cpu": ["bfloat16"] + ["float16"] * small,        # large ones in float16 take minutes a row there
                  "mps": ["float16"]}.get(kind, ["float16", "bfloat16"])
        return [dtype for dtype in dtypes if dtype != self.base]
