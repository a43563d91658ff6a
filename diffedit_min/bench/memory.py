"""The peak memory of one program's whole edit, in a process of its own: part of `diffedit-min speed`.

Peaks are the kernel's (VmHWM of /proc/self/status, set back when the networks are there), of all memory that the
process holds, above what it held with everything imported and no network made.
"""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from .programs import Programs, load_rival, task

CLEAR = Path("/proc/self/clear_refs")               # writing "5" sets VmHWM back
FIRST_TO_END = Path("/proc/self/oom_score_adj")     # "1000": if memory runs out, the kernel ends this process
STEPS = 4                                           # an edit of a few steps has the same peak as one of many


@dataclass(frozen=True)
class Order:
    """What a process is to measure: the edit `program` of Programs(model, dtype, against).editors(presets, options)."""

    program: str
    model: str
    dtype: str
    against: str | None
    presets: Sequence[str]
    options: Mapping[str, Any]
    side: int           # px
    threads: int


def in_a_process(order: Order) -> tuple[int, int] | None:
    """What `peak` finds there; None: the edit did not fit. Raises ValueError with its last line if it fails otherwise.
    """
    command = [sys.executable, "-m", __name__, json.dumps(asdict(order))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == -signal.SIGKILL or "can't allocate memory" in done.stderr:
        return None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
        raise ValueError(f"{order.program} failed at {order.side} px in {order.dtype}: {last}")
    return tuple(json.loads(done.stdout.strip().splitlines()[-1]))


@torch.no_grad()
def peak(order: Order) -> tuple[int, int]:
    """In a fresh process: the peak of an edit, and its networks' weights, in bytes."""
    torch.set_num_threads(order.threads)
    import transformers.models.clip.modeling_clip  # noqa: F401
    if order.against:
        load_rival(Path(order.against))     # for what it imports
    given, before = task(order.side), held("VmRSS")
    programs = Programs(order.model, order.dtype, order.against)
    editor = programs.editors(order.presets, order.options)[order.program]()
    del programs        # with what only the others need
    weights = sum(weight.numel() * weight.element_size() for network in (editor.unet, editor.vae, *editor.texts)
                  for weight in network.parameters())
    FIRST_TO_END.write_text("1000")
    CLEAR.write_text("5")
    editor(*given, steps=STEPS)
    return held("VmHWM") - before, weights


def held(kind: str) -> int:
    """Bytes of this process: "VmRSS" now, "VmHWM" at most."""
    return 1024 * int(re.search(rf"{kind}:\s*(\d+) kB", Path("/proc/self/status").read_text())[1])


if __name__ == "__main__":
    sys.stdout.write(json.dumps(peak(Order(**json.loads(sys.argv[1])))) + "\n")
