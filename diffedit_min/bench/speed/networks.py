"""Single calls: the U-Net, the VAE; the kinds of operation in a U-Net call; and torch.compile.

Each function takes a case and makes everything ready, warmed up once; what it returns measures one round.
Shapes: B latents, R rows of the U-Net's batch, C channels, h x w cells, L tokens, D their width.
"""

import copy
import os
import re
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from ...loading import HALF, compile_unet
from ...networks.stable_diffusion import StableDiffusion
from ...networks.text import Context
from .workbench import OURS, Bench, Case, Entry, Round

TIME = torch.tensor(500)                        # t, of a call: it makes no difference to the cost
PROMPTS = ("", "a bowl of lemons on marble")    # of a pair: what guidance joins


def attention_flops(q: torch.Size, k: torch.Size, v: torch.Size, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(q, k, v)


# torch's own table of formulas leaves out attention on a CPU.
FORMULAS = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flops}


def flops(call: Callable[[], Any]) -> tuple[int, Any]:
    """The floating-point operations of a call, by the formulas of its matrix products, convolutions and attention (a
    multiply-add counts as two), and what it returned."""
    with FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
        result = call()
    return counter.get_total_flops(), result


def warmed(programs: dict[str, Callable[[], Tensor]]) -> dict[str, int]:
    """Call each once -> its FLOPs. Raises ValueError where numbers aren't finite, or a rival's aren't ours."""
    counted, outputs = {}, {}
    for name, call in programs.items():
        counted[name], outputs[name] = flops(call)
        if not outputs[name].isfinite().all():
            raise ValueError(f"what {name} puts out is not finite: it would not cost what it should; try float32")
    expected = outputs[OURS].float()
    limit = 0.3 if outputs[OURS].dtype in HALF else 0.01        # rounding adds up over a hundred layers
    for name, output in outputs.items():
        if (error := ((output.float() - expected).norm() / expected.norm()).item()) > limit:
            raise ValueError(f"{name} does other work than {OURS}: what it puts out is {error:.0%} off")
    return counted


# ---------------------------------------------------------------- the U-Net


def latents_and_context(model: StableDiffusion, side: int, rows: int) -> tuple[Tensor, Context]:
    """x (B, C, h, w) and R prompts, in the U-Net's dtype. An even number of rows are pairs: B = R / 2 latents, each
    under the empty text and under another, in the order in which `guided` joins them; else B = R."""
    count = rows // 2 if rows % 2 == 0 else rows
    cells = side // model.factor
    random = torch.Generator().manual_seed(0)
    x = torch.randn(count, model.unet.config.in_channels, cells, cells, generator=random).to(model.dtype)
    context = model.embed([prompt for prompt in PROMPTS[-(rows // count):] for _ in range(count)])
    return x, Context(context.tokens.to(model.dtype), context.pooled, context.ids)


def call_rows(model: StableDiffusion, unet: nn.Module, x: Tensor, context: Context) -> Tensor:
    """Our U-Net on R rows, as `model.eps` calls it: what rows share is computed once."""
    return unet(x, TIME, context.tokens, None, model.summary(x, context, None))


def unet(case: Case, bench: Bench) -> Round:
    """One call of the U-Net with R rows; a rival's is given each latent once for each prompt."""
    model = bench.model
    x, context = latents_and_context(model, case["size"], case["rows"])
    repeated = x.repeat(len(context) // len(x), 1, 1, 1)
    summary = model.summary(repeated, context, None)
    programs = {OURS: lambda: call_rows(model, model.unet, x, context)}
    for name, networks in rivals(bench):
        programs[name] = lambda networks=networks: networks.unet(repeated, TIME, context.tokens, summary)
    counted = warmed(programs)
    return lambda index: {**bench.turns(programs, index), "flops": counted}


def rivals(bench: Bench) -> Iterable[tuple[str, Any]]:
    """A rival's networks in each variant, by the name that the tables have."""
    if bench.rival is not None:
        for variant, make in bench.rival.networks.items():
            yield f"{bench.rival.name}, {variant}", make()


# ---------------------------------------------------------------- the VAE


def vae(case: Case, bench: Bench) -> Round:
    """Encoding or decoding one picture."""
    network, side = bench.model.vae, case["size"]
    random, dtype = torch.Generator().manual_seed(0), next(network.parameters()).dtype
    if case["what"] == "encode":
        pixels = (2 * torch.rand(1, network.config.in_channels, side, side, generator=random) - 1).to(dtype)
        programs = {OURS: lambda: network.encode(pixels)[0]}
        programs |= {name: lambda other=other: other.encode(pixels) for name, other in rivals(bench)}
    else:
        cells = side // network.config.factor
        latents = torch.randn(1, network.config.latent_channels, cells, cells, generator=random).to(dtype)
        programs = {OURS: lambda: network.decode(latents)}
        programs |= {name: lambda other=other: other.decode(latents) for name, other in rivals(bench)}
    counted = warmed(programs)
    return lambda index: {**bench.turns(programs, index), "flops": counted}


# ---------------------------------------------------------------- kinds of operation

# The first that fits an operation's name says its kind. The U-Net multiplies batches of matrices ("bmm") in attention
# only. What just changes how a tensor is seen ("view") costs no more than its bookkeeping, which is under "other".
KINDS = (
    ("attention", r"scaled_dot_product|softmax|flash_attention|bmm"),
    ("convolution", r"conv"),
    ("matrix product", r"addmm|::mm$|matmul|(::|_)linear(_|$)"),
    ("normalisation", r"norm"),
    ("pointwise", r"::(add|sub|mul|div|pow|neg|exp|sin|cos|silu|gelu|sigmoid|tanh|sqrt|rsqrt|where|clamp|lerp|"
                  r"addcmul|rsub|reciprocal|relu|threshold|maximum|minimum)_?$"),
    ("copies and casts", r"copy|clone|contiguous|::to$|::cat$|upsample|repeat|fill|zero|_pad|pad_|reorder|to_mkldnn"),
)
OTHER = "other"


def kind_of(operation: str) -> str:
    """The kind of an operation, by its name in a profile: "aten::addmm" is a matrix product."""
    return next((kind for kind, pattern in KINDS if re.search(pattern, operation)), OTHER)


def operations(case: Case, bench: Bench) -> Round:
    """The seconds that each kind of operation takes by itself in one call of the U-Net with a pair of rows."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")         # else the profiler writes lines to stderr
    from torch.profiler import ProfilerActivity, profile

    model = bench.model
    x, context = latents_and_context(model, case["size"], case["rows"])
    call_rows(model, model.unet, x, context)

    def one_round(index: int) -> Entry:
        with profile(activities=[ProfilerActivity.CPU]) as run:
            call_rows(model, model.unet, x, context)
        return {"seconds": by_kind(run.key_averages())}

    return one_round


def by_kind(events: Iterable[Any]) -> dict[str, float]:
    """The seconds of each kind of operation, from a profile's averages: without those of the operations inside."""
    seconds = dict.fromkeys([*(kind for kind, _ in KINDS), OTHER], 0.0)
    for event in events:
        seconds[kind_of(event.key)] += event.self_cpu_time_total / 1e6
    return seconds


# ---------------------------------------------------------------- torch.compile


def compiled(case: Case, bench: Bench) -> Round:
    """The U-Net compiled against the same as it is: the seconds of a call, and to the first call's end."""
    import torch._inductor.config as inductor

    model, fast = bench.model, f"{OURS}, compiled"
    x, context = latents_and_context(model, case["size"], case["rows"])
    shadow = replace(model, unet=copy.copy(model.unet))     # the same layers and weights
    compile_unet(shadow)
    torch.compiler.reset()
    first = {}
    for name, network in ((OURS, model.unet), (fast, shadow.unet)):
        started = time.perf_counter()
        with inductor.patch(force_disable_caches=True), warnings.catch_warnings():      # what an earlier run compiled
            warnings.simplefilter("ignore")                                             # is no start from nothing
            call_rows(model, network, x, context)
        first[name] = time.perf_counter() - started
    programs = {OURS: lambda: call_rows(model, model.unet, x, context),
                fast: lambda: call_rows(model, shadow.unet, x, context)}
    counted = dict.fromkeys(programs, flops(programs[OURS])[0])
    return lambda index: {**bench.turns(programs, index), "flops": counted, "first": first}
