"""What an edit costs, and how near that is to what the machine can do: `diffedit-min speed`.

    unet         one call of the U-Net, by size and by rows
    operations   its time by kind of operation
    vae          one encoding, one decoding
    edit         a whole edit, and what it would cost at a larger size
    memory       the peak of a whole edit, in a process of its own
    compile      the U-Net with torch.compile

Each part is a function of a Bench that yields lines of tables. The programs (programs.py) take turns in rounds, and so
do the machine's own ceilings: if someone else uses the machine, the ceilings show it, and a ratio of two programs still
holds. Seconds are medians of all measurements. A FLOP is one operation: a multiplication with its addition counts as
two.
"""

from __future__ import annotations

import copy
import os
import re
import time
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils.benchmark import Measurement, Timer
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from ..loading import HALF, compile_unet
from ..pictures.writing import make_folder
from .programs import (
    CLEAR,
    OURS,
    PAIR,
    Ours,
    Plan,
    Programs,
    in_a_process,
    inputs,
    machine,
    peak,
    task,
    vae_inputs,
    wait,
)
from .tables import as_csv, as_markdown, put, table_of

COMPILED = f"{OURS}, compiled"
EDIT_SIDE = 256                                 # px: whole edits run at up to this size, and are composed for larger
WARMING = 2                                     # steps of an edit that only warms up

Line = dict[str, Any]                           # of a table: its cells by column
Lines = Iterator[tuple[str, Line]]              # each with its table's title


class Bench(Programs):
    """What the parts are given: the plan, the programs in one dtype, and measurements in turns."""

    def in_turns(self, measure: Mapping[Hashable, Callable[[], Any]]) -> dict[Hashable, list[Any]]:
        """What each returns in each round; another one is the first each time."""
        names, found = list(measure), {name: [] for name in measure}
        for index in range(self.plan.repeats):
            first = index % len(names)
            for name in names[first:] + names[:first]:
                found[name].append(measure[name]())
        return found

    def seconds(self, calls: Mapping[Hashable, Callable[[], Any]]) -> dict[Hashable, float]:
        """Of each call, warmed up; in a round as often as fits into `least` seconds, at least once."""
        threads, least = torch.get_num_threads(), self.plan.least
        timers = {name: Timer("call()", globals={"call": call}, num_threads=threads) for name, call in calls.items()}
        found = self.in_turns({name: partial(timer.blocked_autorange, min_run_time=least)
                               for name, timer in timers.items()})
        return {name: Measurement.merge(rounds)[0].median for name, rounds in found.items()}

    def ceilings(self) -> dict[str, Callable[[], Tensor]]:
        """Calls that do nothing but multiply matrices, and copy memory."""
        n, device = self.plan.matrix, self.model.device
        source = torch.ones(self.plan.copied, dtype=torch.uint8, device=device)
        a = torch.randn(n, n, generator=torch.Generator().manual_seed(0)).to(device, getattr(torch, self.dtype))
        return {"matrix product": partial(torch.matmul, a, a), "copy": partial(torch.empty_like(source).copy_, source)}


# ---------------------------------------------------------------- single calls


def flops(call: Callable[[], Tensor]) -> tuple[int, Tensor]:
    """The FLOPs of a call's matrix products, convolutions and attention, and what it returned."""
    attention = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu:        # not in torch's own table
                 lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)}
    with FlopCounterMode(display=False, custom_mapping=attention) as counter:
        result = call()
    return counter.get_total_flops(), result


def same_work(calls: Mapping[str, Callable[[], Tensor]]) -> dict[str, int]:
    """Each call's FLOPs. Raises ValueError where numbers aren't finite, or where another program's aren't ours."""
    counted, outputs = {}, {}
    for name, call in calls.items():
        counted[name], outputs[name] = flops(call)
        if not outputs[name].isfinite().all():
            raise ValueError(f"what {name} puts out is not finite: it would not cost what it should; try float32")
    expected = outputs[OURS].float()
    limit = 0.3 if outputs[OURS].dtype in HALF else 0.01        # rounding adds up over a hundred layers
    for name, output in outputs.items():
        if (error := ((output.float() - expected).norm() / expected.norm()).item()) > limit:
            raise ValueError(f"{name} does other work than {OURS}: what it puts out is {error:.0%} off")
    return counted


def ratios(name: str, values: Mapping[str, float]) -> Line:
    """A program of ours against each of another's: "/ NAME"."""
    others = [other for other in values if not other.startswith(OURS)] if name.startswith(OURS) else []
    return {f"/ {other}": values[name] / values[other] for other in others}


def single_calls(bench: Bench, title: str, programs: Mapping[str, Callable[[], Tensor]], **about: Any) -> Lines:
    """One call of each program, in turns with the machine's ceilings."""
    work = same_work(programs)
    seconds = bench.seconds(programs | bench.ceilings())
    best, copied = 2 * bench.plan.matrix**3 / seconds.pop("matrix product"), 2 * bench.plan.copied / seconds.pop("copy")
    for name, own in seconds.items():
        a_row = {"seconds a row": own / about["rows"]} if "rows" in about else {}
        yield title, {**about, "program": name, "seconds": own, **a_row, "GFLOP/s": work[name] / own / 1e9,
                      "of the matrix product": work[name] / own / best, **ratios(name, seconds)}
    yield "Ceilings", {"of": title, **about, "matrix product, GFLOP/s": best / 1e9, "copy, GB/s": copied / 1e9}


def unet(bench: Bench) -> Lines:
    networks = bench.networks()
    for side in bench.sides:
        for rows in bench.plan.rows:
            given = inputs(bench.model, side, rows)
            programs = {name: partial(own.unet, *given) for name, own in networks.items()}
            yield from single_calls(bench, "U-Net", programs, size=side, rows=rows)


def vae(bench: Bench) -> Lines:
    networks = bench.networks()
    for side in bench.sides:
        for what, given in vae_inputs(bench.model, side).items():
            programs = {name: partial(getattr(own, what), *given) for name, own in networks.items()}
            yield from single_calls(bench, "VAE", programs, size=side, what=what)


# ---------------------------------------------------------------- operations, torch.compile

# The first that fits an operation's name says its kind. The U-Net multiplies batches of matrices ("bmm") in attention
# only. "other" is mostly additions, activations and copies.
KINDS = {
    "attention": r"scaled_dot_product|softmax|flash_attention|bmm",
    "convolution": r"conv",
    "matrix product": r"addmm|::mm$|matmul|(::|_)linear(_|$)",
    "normalisation": r"norm",
    "other": "",
}


def kind_of(operation: str) -> str:
    """The kind of an operation, by its name in a profile: "aten::addmm" is a matrix product."""
    return next(kind for kind, pattern in KINDS.items() if re.search(pattern, operation))


def operations(bench: Bench) -> Lines:
    """The share of each kind in the time of a U-Net call with a pair of rows."""
    if bench.model.device.type != "cpu":
        raise ValueError("--parts operations: they are measured on the CPU only: leave it out")
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")         # else the profiler writes lines to stderr
    from torch.profiler import ProfilerActivity, profile

    for side in bench.sides:
        call = partial(Ours(bench.model).unet, *inputs(bench.model, side, PAIR))
        call()      # to warm up
        with profile(activities=[ProfilerActivity.CPU]) as run:
            for _ in range(bench.plan.repeats):
                call()
        seconds = Counter(dict.fromkeys(KINDS, 0.0))
        for event in run.key_averages():
            seconds[kind_of(event.key)] += event.self_cpu_time_total / 1e6     # without the operations inside it
        yield "Operations", {"size": side, "rows": PAIR, "seconds": seconds.total() / bench.plan.repeats,
                             **{kind: own / seconds.total() for kind, own in seconds.items()}}


def compiled(bench: Bench) -> Lines:
    """The U-Net compiled against the same as it is: the seconds until the first call has ended, and of a later call."""
    import torch._inductor.config as inductor

    models = {OURS: bench.model, COMPILED: replace(bench.model, unet=copy.copy(bench.model.unet))}      # same weights
    compile_unet(models[COMPILED])
    for side in bench.sides:
        calls = {name: partial(Ours(model).unet, *inputs(model, side, PAIR)) for name, model in models.items()}
        torch.compiler.reset()
        begin = time.perf_counter()
        with inductor.patch(force_disable_caches=True), warnings.catch_warnings():     # nothing from an earlier run
            warnings.simplefilter("ignore")
            calls[COMPILED]()
            wait(bench.model.device)
        first = {COMPILED: {"to the first call's end": time.perf_counter() - begin}}
        for name, own in bench.seconds(calls).items():
            yield "torch.compile", {"size": side, "rows": PAIR, "program": name, "seconds": own, **first.get(name, {})}


# ---------------------------------------------------------------- whole edits


def watched(editor: Any, side: int) -> tuple[float, Counter, Counter]:
    """One edit: its seconds; of them, those inside each network; how many rows went through each.

    Forward hooks look on, so that nothing of a program has to be changed. (A Timer would run the edit twice.)
    """
    unet, vae, texts = editor.networks
    device = next(unet.parameters()).device
    networks = [("unet", unet), ("encode", vae.encoder), ("decode", vae.decoder), *(("text", text) for text in texts)]
    inside, rows, hooks = Counter(), Counter(), []

    def before(name: str, *_: Any) -> None:
        wait(device)
        inside[name] -= time.perf_counter()

    def after(name: str, _: Any, __: Any, output: Any) -> None:
        wait(device)
        inside[name] += time.perf_counter()
        rows[name] += len(output if isinstance(output, Tensor) else output[0])

    for name, module in networks:
        hooks += [module.register_forward_pre_hook(partial(before, name)),
                  module.register_forward_hook(partial(after, name))]
    seconds = timed_edit(editor, side)
    for hook in hooks:
        hook.remove()
    if device.type != "cpu":        # there the looking on makes it slower, since each network is waited for
        seconds = timed_edit(editor, side)
    return seconds, inside, rows


def timed_edit(editor: Any, side: int) -> float:
    """Seconds of one edit, until the picture is there."""
    given, begin = task(side), time.perf_counter()
    editor.edit(*given)
    return time.perf_counter() - begin


def edit(bench: Bench) -> Lines:
    """A whole edit, on the CPU measured up to EDIT_SIDE, and composed for what is larger."""
    editors, found = {name: made() for name, made in bench.editors().items()}, {}
    largest = EDIT_SIDE if bench.model.device.type == "cpu" else max(bench.sides)
    for side in sorted({*(min(side, largest) for side in bench.sides), *bench.sides}):
        if side <= largest:
            for editor in editors.values():
                editor.edit(*task(side), steps=WARMING)
            found = bench.in_turns({name: partial(watched, editor, side) for name, editor in editors.items()})
            seconds = {name: median(whole for whole, *_ in rounds) for name, rounds in found.items()}
            inside = {name: median(own.total() for _, own, _ in rounds) for name, rounds in found.items()}
        else:
            seconds, inside = composed(bench, side, editors, found), {}
        for name, editor in editors.items():
            rows = found[name][0][2]
            more = {"overhead": seconds[name] / inside[name]} if inside else {}
            dtype = next(editor.networks[0].parameters()).dtype
            yield "Whole edit", {"size": side, "program": name, "in": str(dtype).removeprefix("torch."),
                                 "U-Net rows": rows["unet"], "encodings": rows["encode"], "decodings": rows["decode"],
                                 "seconds": seconds[name], **more, **ratios(name, seconds)}


def composed(bench: Bench, side: int, editors: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, float]:
    """The seconds of edits at a larger size, from single calls there."""
    given = {"unet": inputs(bench.model, side, PAIR), **vae_inputs(bench.model, side)}
    seconds = bench.seconds({(name, what): partial(getattr(editor, what), *told)
                             for name, editor in editors.items() for what, told in given.items()})
    return {name: compose(found[name], {what: seconds[name, what] for what in given}) for name in editors}


def compose(rounds: Sequence[tuple[float, Counter, Counter]], call: Mapping[str, float]) -> float:
    """U-Net rows x seconds a row, encodings and decodings x their seconds, and, as it was in the edit that was watched,
    what was outside these networks. call: the seconds of one "encode", one "decode", and a "unet" of a pair of rows."""
    rows, outside = rounds[0][2], median(whole - sum(inside[what] for what in call) for whole, inside, _ in rounds)
    return outside + rows["unet"] / PAIR * call["unet"] + sum(rows[what] * call[what] for what in ("encode", "decode"))


def memory(bench: Bench) -> Lines:
    """Each program's peak beside its weights; "did not fit" where the kernel ended it for want of memory."""
    if bench.plan.device == "cpu" and not CLEAR.exists():
        raise ValueError("--parts memory: peaks are read from /proc/self, which only Linux has: leave it out")
    names, threads = list(bench.editors()), torch.get_num_threads()
    bench.forget()     # this process needs no networks meanwhile
    for side in bench.sides:
        found = {name: in_a_process(peak, bench.plan, bench.dtype, name, side, threads) for name in names}
        peaks = {name: one[0] for name, one in found.items() if one}
        for name, one in found.items():
            told = {"weights, MB": one[1] / 1e6, "peak, MB": one[0] / 1e6, "peak / weights": one[0] / one[1],
                    **ratios(name, peaks)} if one else {"peak, MB": "did not fit"}
            yield "Memory", {"size": side, "program": name, **told}


# ---------------------------------------------------------------- all of it, and the tables

PARTS: dict[str, Callable[[Bench], Lines]] = {
    "unet": unet, "operations": operations, "vae": vae, "edit": edit, "memory": memory, "compile": compiled,
}

TABLES = {
    "U-Net": "One call. An even number of rows are pairs that share x and t and differ in the prompt.",
    "Operations": "Shares of one U-Net call's time, by kind of operation.",
    "VAE": "One picture.",
    "Whole edit": "DiffEdit. Overhead: seconds / those inside the U-Net, VAE and text encoders. On a CPU, above "
                  f"{EDIT_SIDE} px, seconds are composed: the rows x seconds a row at that size, + the VAE's calls "
                  "there, + what was left over at the smaller size.",
    "Memory": "Peak of a whole edit, in a process of its own; on a GPU, of the GPU's memory.",
    "torch.compile": "The U-Net; to the first call's end: compiling included, nothing cached.",
    "Ceilings": "Measured in the same rounds. A product of two square matrices; memory copied, read and written bytes "
                "together.",
}
PERCENT = {"of the matrix product", *KINDS}      # columns


@torch.no_grad()
def measure(plan: Plan, out: Path, tell: Callable[[str], None]) -> None:
    """Measure it all, and write OUT/table.md to read and OUT/table.csv with the same values unrounded.

    Both are written anew after each line, so that a run that is stopped leaves what is done.
    """
    make_folder(out)
    tables: dict[str, list[Line]] = {title: [] for title in TABLES}
    for dtype in plan.dtypes:
        bench = Bench(plan, dtype)
        for part in plan.parts:
            tell(f"{part}, {plan.model} in {dtype}")
            for title, line in PARTS[part](bench):
                tables[title].append({"dtype": dtype, **line})
                write(plan, tables, out)
        del bench       # before the next dtype's networks are made


def write(plan: Plan, tables: Mapping[str, Sequence[Line]], out: Path) -> None:
    text, told = [f"{plan.model} on {machine(plan.device)}. Medians; ratios are of medians."], []
    for title, lines in tables.items():
        if lines:
            rows = table_of([{name: cell(name, value) for name, value in line.items()} for line in lines])
            text += [f"### {title}", TABLES[title], "\n".join(as_markdown(rows))]
        told += [{"table": title, "model": plan.model, "threads": torch.get_num_threads(), **line} for line in lines]
    put(out / "table.md", "\n\n".join(text) + "\n")
    put(out / "table.csv", as_csv(table_of(told)))


def cell(column: str, value: Any) -> str:
    """A value as table.md has it."""
    if isinstance(value, float):
        return f"{value:.0%}" if column in PERCENT else f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)
