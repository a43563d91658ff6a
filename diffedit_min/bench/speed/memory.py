"""The peak memory of a whole edit, each program's in a process of its own.

Peaks are the kernel's (VmHWM of /proc/self/status, set back when the networks are there), of all memory that the
process holds, above what it held with everything imported and no network made. An edit of a few steps has the peak of
one of many. A program that the kernel ends for want of memory has no peak: the table says that it didn't fit.
"""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from . import edits, rival
from .workbench import Bench, Case, Entry, Round

CLEAR = Path("/proc/self/clear_refs")       # writing "5" sets VmHWM back
STATUS = Path("/proc/self/status")
FIRST_TO_END = Path("/proc/self/oom_score_adj")     # "1000": if memory runs out, the kernel ends this process
STEPS = 4


def memory(case: Case, bench: Bench) -> Round:
    """Each program's peak, in bytes, beside those of its weights."""
    names = list(edits.editors(case, bench))
    bench.forget()      # this process needs no networks meanwhile
    order = {"case": case, "against": str(bench.against or "")}
    return lambda index: {"said": {name: in_a_process({**order, "program": name}) for name in names}}


def in_a_process(order: dict[str, Any]) -> Entry:
    """What `measure` finds there. Raises ValueError with the last line of what it said, if it fails otherwise than for
    want of memory."""
    command = [sys.executable, "-m", __name__, json.dumps(order)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == -signal.SIGKILL or "can't allocate memory" in done.stderr:
        return {"peak": None, "weights": None}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
        raise ValueError(f"{order['program']} failed at {order['case']['size']} px in {order['case']['dtype']}: {last}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(order: dict[str, Any]) -> Entry:
    """In the fresh process: make one program's networks, edit, and see how high memory rose."""
    case = order["case"]
    torch.set_num_threads(case["threads"])
    against = Path(order["against"]) if order["against"] else None
    bench = Bench(case["model"], case["dtype"], against)
    image, query, reference = edits.task(case["size"])
    import transformers.models.clip.modeling_clip  # noqa: F401
    if against:
        rival.load(against)     # imports what it needs

    before = held("VmRSS")
    run = edits.editors(case, bench)[order["program"]]()
    del bench       # with what only other programs need
    weights = sum(weight.numel() * weight.element_size()
                  for network in (run.unet, run.vae, *run.texts) for weight in network.parameters())
    FIRST_TO_END.write_text("1000")
    CLEAR.write_text("5")
    with torch.no_grad():
        run(image, query, reference, steps=STEPS)
    return {"peak": held("VmHWM") - before, "weights": weights}


def held(kind: str) -> int:
    """Bytes: "VmRSS" now, "VmHWM" at most."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{kind}:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(json.loads(sys.argv[1]))) + "\n")
