"""A whole edit: its seconds, those spent inside its networks, and what it would cost at a larger size.

    overhead   seconds of the edit / seconds inside its U-Net, VAE and text encoders
    composed   sum over its U-Net calls of rows x seconds a row, + encodings, + decodings, + all that is left over
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image
from torch import Tensor, nn

from ...methods.paper import diffedit
from ...networks.stable_diffusion import StableDiffusion
from ...tiny.scenes import demo_scenes
from .workbench import OURS, Bench, Case, Entry, Round

WARMING = 2         # steps of an edit that only warms up


class Watch:
    """While it is entered: the seconds that some networks take, and how often each is called with how many rows.

    It looks on by forward hooks, so that nothing of a program has to be changed for it.
    """

    def __init__(self, networks: Mapping[str, Sequence[nn.Module]]):
        self.networks = networks
        self.seconds = dict.fromkeys(networks, 0.0)
        self.calls: dict[str, dict[int, int]] = {name: {} for name in networks}     # rows -> calls

    def __enter__(self) -> Watch:
        self.hooks = [hook for name, modules in self.networks.items() for module in modules
                      for hook in self.watch(name, module)]
        return self

    def __exit__(self, *_: Any) -> None:
        for hook in self.hooks:
            hook.remove()

    def watch(self, name: str, module: nn.Module) -> list[Any]:
        started = 0.0

        def before(*_: Any) -> None:
            nonlocal started
            started = time.perf_counter()

        def after(_: nn.Module, arguments: Any, output: Any) -> None:
            self.seconds[name] += time.perf_counter() - started
            rows = len(output if isinstance(output, Tensor) else output[0])
            self.calls[name][rows] = self.calls[name].get(rows, 0) + 1

        return [module.register_forward_pre_hook(before), module.register_forward_hook(after)]

    def rows(self, name: str) -> int:
        return sum(rows * calls for rows, calls in self.calls[name].items())


class OurEditor:
    """`dm.diffedit` as an Editor (rival.py)."""

    def __init__(self, model: StableDiffusion, dtype: str, **options: Any):
        self.model, self.dtype, self.options = model, dtype, options
        self.unet, self.vae, self.texts = model.unet, model.vae, [text.encoder for text in model.texts]

    def __call__(self, image: Image.Image, query: str, reference: str, steps: int | None = None) -> Image.Image:
        options = self.options if steps is None else {**self.options, "steps": steps}
        edit = diffedit(self.model, image, query, reference, size=max(image.size), **options)
        if edit.empty_mask:
            raise ValueError("the mask is empty, so that the edit stopped early: give another -o mask_threshold")
        return edit.image


def task(side: int) -> tuple[Image.Image, str, str]:
    """The picture, query and reference of every edit that is measured."""
    scene, answer = demo_scenes(0, None)
    return scene.render(side), answer.caption, scene.caption


def editors(case: Case, bench: Bench) -> dict[str, Callable[[], Any]]:
    """What makes each program's Editor: ours, with each preset if any were asked for, and the rival's."""
    def ours(**given: Any) -> Callable[[], OurEditor]:
        return lambda: OurEditor(bench.model, case["dtype"], **given, **case["options"])

    made = {f"{OURS}, {preset}": ours(preset=preset) for preset in case["presets"]} or {OURS: ours()}
    if bench.rival is not None:
        made |= {f"{bench.rival.name}, {kind}": make for kind, make in bench.rival.editors.items()}
    return made


def edit(case: Case, bench: Bench) -> Round:
    """A whole edit by each program, each warmed up by one of few steps."""
    image, query, reference = task(case["size"])
    ready = {name: make() for name, make in editors(case, bench).items()}
    for run in ready.values():
        run(image, query, reference, steps=WARMING)
    goes_through = {name: f"{bench.rival.name}, {run.variant}" if hasattr(run, "variant") else OURS
                    for name, run in ready.items()}
    programs = {name: lambda name=name, run=run: {**watched(run, image, query, reference), "as": goes_through[name]}
                for name, run in ready.items()}
    return lambda index: bench.turns(programs, index, least=0.0)


def watched(run: Any, image: Image.Image, query: str, reference: str) -> Entry:
    """One edit, and what went through its networks. calls: of the U-Net, as [rows, calls] pairs."""
    networks = {"unet": [run.unet], "encode": [run.vae.encoder], "decode": [run.vae.decoder], "text": run.texts}
    with Watch(networks) as watch:
        run(image, query, reference)
    return {"inside": watch.seconds, "rows": watch.rows("unet"), "encodings": watch.rows("encode"),
            "decodings": watch.rows("decode"), "calls": sorted(map(list, watch.calls["unet"].items())),
            "dtype": run.dtype}


def compose(said: Entry, seconds: float, row: Mapping[int, float], encode: float, decode: float) -> float:
    """The seconds of an edit at another size.

    said, seconds: the edit as it was measured. row: seconds a row at that size, by the rows of a call; a call of
    another number of rows counts as the next smaller that was measured. encode, decode: seconds for one picture there.
    What was left over when the edit was measured (text, samplers, masks) is added as it is.
    """
    unet = sum(calls * rows * row[nearest(rows, row)] for rows, calls in said["calls"])
    inside = sum(said["inside"][name] for name in ("unet", "encode", "decode"))
    return unet + said["encodings"] * encode + said["decodings"] * decode + (seconds - inside)


def nearest(rows: int, measured: Mapping[int, float]) -> int:
    """The largest number of rows that was measured and isn't above; if none, the smallest."""
    return max((n for n in measured if n <= rows), default=min(measured))
