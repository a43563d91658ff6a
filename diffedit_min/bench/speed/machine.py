"""The machine: what it is, and its own ceilings, which everything else is held against.

    matrix product   GFLOP/s of a plain product of two matrices, a multiply-add counted as two
    copy             GB/s of copying memory that no cache holds, read and written bytes together
"""

import os
import platform
import time
from pathlib import Path
from typing import Any

import torch

MATRICES = ((4096, 320, 2560), (4096, 1280, 1280), (3072, 3072, 3072))     # n, k, m: SD 1.x has such; a large one
COPIED = 2**27      # bytes

# Instruction sets that decide how fast matrix products are, as Linux names them.
SETS = ("avx2", "fma", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16",
        "asimd", "asimddp", "sve", "bf16", "i8mm")


def describe() -> dict[str, Any]:
    """The processor's name, its cores, its instruction sets, and those that torch makes use of."""
    names, flags = [], set()
    if (path := Path("/proc/cpuinfo")).exists():
        pairs = [line.partition(":")[::2] for line in path.read_text().splitlines()]
        names = [value.strip() for key, value in pairs if key.strip() == "model name"]
        flags = {word for key, value in pairs if key.strip() in ("flags", "Features") for word in value.split()}
    return {"processor": next(iter(names), platform.processor() or platform.machine()), "cores": os.cpu_count(),
            "instructions": [name for name in SETS if name in flags],
            "used": torch.backends.cpu.get_cpu_capability(), "torch": torch.__version__}


class Ceilings:
    """The machine's ceilings for one dtype, ready to be measured again and again."""

    def __init__(self, dtype: torch.dtype):
        random = torch.Generator().manual_seed(0)
        self.factors = {
            f"{n} x {k} x {m}": (torch.randn(n, k, generator=random).to(dtype),
                                 torch.randn(k, m, generator=random).to(dtype))
            for n, k, m in MATRICES
        }
        self.source = torch.ones(COPIED, dtype=torch.uint8)
        self.target = torch.empty_like(self.source)
        self.measure()      # the first time is slower

    def measure(self) -> dict[str, float]:
        """GFLOP/s of each product, by its size, and GB/s of the "copy"."""
        rates = {}
        for name, (a, b) in self.factors.items():
            started = time.perf_counter()
            a @ b
            rates[name] = 2 * a.numel() * b.shape[1] / (time.perf_counter() - started) / 1e9
        started = time.perf_counter()
        self.target.copy_(self.source)
        rates["copy"] = 2 * self.source.numel() / (time.perf_counter() - started) / 1e9
        return rates
