"""The programs that `diffedit-min speed` measures: ours, and another one that does the same work (`--against`).

The model is one that `load` takes, or a published shape with random weights (shapes.py).

The other program comes as a file with a function rival(model) that returns two dictionaries, both by the names that the
tables have and of functions without arguments that make objects like `Ours` of our model's weights: those for single
calls, and those for whole edits (none where it can't edit). Such a file is tests/against_diffusers.py. It lies outside
the package, which imports no other program.
Shapes: B latents, R rows of the U-Net's batch, C channels, h x w cells, L tokens, D their width.
"""

import os
import platform
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib.util import module_from_spec, spec_from_file_location
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..loading import capabilities, load
from ..methods.paper import diffedit
from ..networks.stable_diffusion import StableDiffusion
from ..networks.unet import Summary, UNetConfig
from ..pictures.picture import check_size
from ..tiny.scenes import demo_scenes
from .shapes import SHAPES, make

OURS = "diffedit_min"                           # as the tables have it
PAIR = 2                                        # rows that share x and t, as guidance and the mask have them
PROMPTS = ("", "a bowl of lemons on marble")    # of such a pair
TIME = torch.tensor(500)                        # t, of a single call: the cost is the same for every t
STEPS = 4                                       # an edit of a few steps needs as much memory as one of many
CLEAR = Path("/proc/self/clear_refs")           # writing "5" sets the peak, VmHWM, back
FIRST_TO_END = Path("/proc/self/oom_score_adj")     # "1000": if memory runs out, the kernel ends this process


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    model: str
    sizes: Sequence[int] = ()                   # px, along each side of the picture; none: the model's own
    rows: Sequence[int] = (1, 2, 4, 8)
    dtypes: Sequence[str] = ("float32",)
    device: str = "cpu"
    parts: Sequence[str] = ("unet", "operations", "vae", "edit")
    presets: Sequence[str] = ()                 # none: the edit as it is called by default
    options: Mapping[str, Any] = field(default_factory=dict)    # of the edit
    against: str | None = None                  # another program's file
    repeats: int = 5                            # rounds
    least: float = 0.2                          # seconds: what is faster is called several times in a round
    matrix: int = 3072                          # n: the ceilings are those of a product of two n x n matrices,
    copied: int = 2**27                         # and of copying so many bytes, more than a cache holds


FLOAT16 = ("avx512_fp16", "amx_fp16", "fp16", "sve")      # names of instructions


def machine(device: str = "cpu") -> str:
    """The GPU's name, if the device is one; the processor's name, its cores, what torch uses of it, and its instruction
    sets for short numbers."""
    info = Path("/proc/cpuinfo")
    text = info.read_text("utf-8", "replace") if info.exists() else ""
    names = re.findall(r"^model name\s*: (.*)$", text, re.MULTILINE)
    short = "bf16|fp16|vnni|i8mm|amx"
    sets = [torch.backends.cpu.get_cpu_capability(),
            *(name for name, there in capabilities().items() if there is True and re.search(short, name))]
    gpu = f"{torch.cuda.get_device_name(device)}; " if torch.device(device).type == "cuda" else ""
    return (f"{gpu}{(names or [platform.processor() or platform.machine()])[0]}, {os.cpu_count()} cores "
            f"({', '.join(sets)}); torch {torch.__version__}, {torch.get_num_threads()} threads")


class Programs:
    """The plan's model in one dtype, and another program with the same weights, if there is one. Made when first used.

    Raises ValueError for a size that the model can't take.
    """

    def __init__(self, plan: Plan, dtype: str):
        self.plan, self.dtype = plan, dtype
        known = SHAPES.get(plan.model)
        model = (known.unet, known.vae) if known else (self.model.unet.config, self.model.vae.config)
        multiple, usual = (model[1].factor * cells for cells in (model[0].multiple, model[0].sample_size))
        full = model[0].block_out_channels[0] >= UNetConfig().block_out_channels[0]
        multiplied = plan.device != "cpu" or any(capabilities().get(name) for name in FLOAT16)
        if dtype == "float16" and full and not multiplied:
            raise ValueError("--dtype float16: this processor doesn't multiply it, so that a call of a full-size U-Net "
                             "takes many minutes and gigabytes: choose bfloat16 or float32")
        for side in plan.sizes:
            check_size(side)
            if side < multiple or side % multiple:
                raise ValueError(f"--size {side}: {plan.model} takes multiples of {multiple} pixels")
        self.sides = tuple(dict.fromkeys(plan.sizes)) or (usual,)       # px

    @cached_property
    def model(self) -> StableDiffusion:
        if self.plan.model in SHAPES:
            return make(SHAPES[self.plan.model], getattr(torch, self.dtype), self.plan.device)
        return load(self.plan.model, device=self.plan.device, dtype=self.dtype)

    @cached_property
    def rival(self) -> tuple[dict[str, Callable[[], Any]], dict[str, Callable[[], Any]]]:
        """What makes the other program's networks, and its editors."""
        return load_rival(Path(self.plan.against))(self.model) if self.plan.against else ({}, {})

    def networks(self) -> dict[str, Any]:
        return {OURS: Ours(self.model), **{name: made() for name, made in self.rival[0].items()}}

    def editors(self) -> dict[str, Callable[[], Any]]:
        """What makes each program's whole edit: ours with each preset if any are given, and the other one's."""
        ours = partial(Ours, self.model, **self.plan.options)
        made = {f"{OURS}, {preset}": partial(ours, preset=preset) for preset in self.plan.presets} or {OURS: ours}
        return made | self.rival[1]

    def forget(self) -> None:
        """Give the networks' memory back; what is used again is made again."""
        for name in ("model", "rival"):
            self.__dict__.pop(name, None)


# ---------------------------------------------------------------- ours


class Ours:
    """Our networks' single calls, and a whole edit through them. Another program's objects are called alike, and each
    casts to its own dtype; those that only serve for single calls need no edit and no `networks`."""

    def __init__(self, model: StableDiffusion, **options: Any):
        self.model, self.options = model, options
        self.networks = model.unet, model.vae, [text.encoder for text in model.texts]       # of the edit

    def unet(self, x: Tensor, t: Tensor, tokens: Tensor, summary: Summary | None) -> Tensor:
        """x (B, C, h, w), tokens (R, L, D), R = B or a multiple -> the prediction (R, C, h, w), in the order of tokens:
        all latents under their first prompt, then all again. summary: what SD XL is told besides."""
        return self.model.unet(x, t, tokens, None, summary)

    def encode(self, pixels: Tensor) -> Tensor:
        """pixels (B, 3, H, W) in [-1, 1] -> the posterior's mean (B, C, h, w), unscaled."""
        return self.model.vae.encode(pixels.to(next(self.model.vae.parameters()).dtype))[0]

    def decode(self, latents: Tensor) -> Tensor:
        """latents (B, C, h, w), unscaled -> pixels (B, 3, H, W)."""
        return self.model.vae.decode(latents.to(next(self.model.vae.parameters()).dtype))

    def edit(self, image: Image.Image, query: str, reference: str, **steps: int) -> Image.Image:
        """steps: of the whole timeline; left out: what the program does by itself."""
        # All cells may change: it costs the same, and with random weights the usual rule can find none.
        told = {"mask_threshold": 0.0, **self.options, **steps}
        edit = diffedit(self.model, image, query, reference, size=max(image.size), **told)
        if edit.empty_mask:
            raise ValueError("the mask is empty, so that the edit stopped early: give another -o mask_threshold")
        return edit.image


def inputs(model: StableDiffusion, side: int, rows: int) -> tuple[Any, ...]:
    """x (B, C, h, w), t, tokens (R, L, D), summary: what `Ours.unet` takes. An even number of rows R are pairs: B = R/2
    latents, each under the empty text and under another, as guidance has them; else B = R."""
    count, cells = rows // PAIR if rows % PAIR == 0 else rows, side // model.factor
    x = torch.randn(count, model.unet.config.in_channels, cells, cells, generator=torch.Generator().manual_seed(0))
    context = model.embed([prompt for prompt in PROMPTS[-(rows // count):] for _ in range(count)])
    x = x.to(model.device, model.dtype)
    return x, TIME.to(model.device), context.tokens.to(model.dtype), model.summary(x, context, None)


def vae_inputs(model: StableDiffusion, side: int) -> dict[str, tuple[Tensor]]:
    """Of one picture: pixels (1, 3, H, W) in [-1, 1] to encode, latents (1, C, h, w) to decode."""
    random, config, cells = torch.Generator().manual_seed(0), model.vae.config, side // model.factor
    pixels = 2 * torch.rand(1, config.in_channels, side, side, generator=random) - 1
    latents = torch.randn(1, config.latent_channels, cells, cells, generator=random)
    return {"encode": (pixels.to(model.device),), "decode": (latents.to(model.device),)}


def task(side: int) -> tuple[Image.Image, str, str]:
    """The picture, query and reference of every edit that is measured."""
    scene, answer = demo_scenes(0, None)
    return scene.render(side), answer.caption, scene.caption


# ---------------------------------------------------------------- another program


def rival_file(name: str) -> Path:
    """The file of another program: a path, or tests/against_NAME.py of the checkout that this package lies in."""
    path = Path(name)
    if path.suffix != ".py":
        path = Path(__file__).parents[2] / "tests" / f"against_{name}.py"
    if not path.is_file():
        place = f"file {str(path)!r}" if path == Path(name) else f"tests/{path.name} beside the package"
        raise ValueError(f"--against {name!r}: there is no {place}; it comes with a checkout, or give the path of such "
                         "a file")
    return path


def load_rival(path: Path) -> Callable[[StableDiffusion], Any]:
    """The file's function `rival`. Raises ValueError if what it needs isn't installed."""
    spec = spec_from_file_location(path.stem, path)
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(f"--against {path.stem.removeprefix('against_')!r} needs {error.name}, which isn't installed: "
                         'pip install -e ".[parity]"') from None
    if not hasattr(module, "rival"):
        raise ValueError(f"--against {str(path)!r}: the file has no function rival(model)")
    return module.rival


# ---------------------------------------------------------------- the peak of an edit


def in_a_process(function: Callable[..., Any], *given: Any) -> Any | None:
    """What it returns, or raises, in a fresh process of its own; None if there was not enough memory: torch says so, or
    the kernel kills the process. Raises ValueError if the process ends in another way, without an answer."""
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=answer, args=(sender, function, given))
    process.start()
    sender.close()      # so that `recv` ends when the process does
    try:
        found, error = receiver.recv()
    except EOFError:
        process.join()
        if process.exitcode == -signal.SIGKILL:
            return None
        raise ValueError(f"the process that measures memory ended with exit code {process.exitcode} and no answer: run "
                         "it again, or leave out --parts memory") from None
    process.join()
    if isinstance(error, RuntimeError) and re.search("can't allocate memory|out of memory", str(error)):
        return None
    if error is not None:
        raise error
    return found


def answer(sender: Connection, function: Callable[..., Any], given: Sequence[Any]) -> None:
    """In the fresh process: send what the function returns, and None; or None, and what it raises."""
    try:
        sender.send((function(*given), None))
    except Exception as error:
        sender.send((None, error))


@torch.no_grad()
def peak(plan: Plan, dtype: str, program: str, side: int, threads: int) -> tuple[int, int]:
    """In a fresh process: the most that it held during an edit, above what it held with everything imported and no
    network made; and the edit's weights. In bytes, as the kernel counts them, or torch on a GPU."""
    torch.set_num_threads(threads)
    import transformers.models.clip.modeling_clip  # noqa: F401
    if plan.against:
        load_rival(Path(plan.against))      # for what it imports
    given, before = task(side), held("VmRSS") if CLEAR.exists() else 0
    editor = Programs(plan, dtype).editors()[program]()
    unet, vae, texts = editor.networks
    weights = sum(weight.nbytes for network in (unet, vae, *texts) for weight in network.parameters())
    if torch.device(plan.device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(plan.device)
        editor.edit(*given, steps=STEPS)
        return torch.cuda.max_memory_allocated(plan.device), weights
    FIRST_TO_END.write_text("1000")
    CLEAR.write_text("5")
    editor.edit(*given, steps=STEPS)
    return held("VmHWM") - before, weights


def wait(device: torch.device) -> None:
    """Until the device has done what it was told. A CPU does it at once."""
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).synchronize()


def held(kind: str) -> int:
    """Bytes of this process: "VmRSS" now, "VmHWM" at most."""
    return 1024 * int(re.search(rf"{kind}:\s*(\d+) kB", Path("/proc/self/status").read_text("ascii", "replace"))[1])
