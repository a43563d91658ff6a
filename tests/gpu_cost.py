"""What an edit costs on one GPU: Stable Diffusion 1.5, 2.1 and XL with random weights, ours and diffusers', in minutes.

    python tests/gpu_cost.py                                        # float16 on cuda, at most five minutes
    python tests/gpu_cost.py --device cpu --model random --dtype float32    # to try it without a GPU

For each model: a pair of rows, a whole edit with the time that Python takes beside the networks, the peak of memory;
for the first one, torch.compile too. It is `diffedit-min speed` on each model; what no time is left for is said.
"""

import argparse
import time
from pathlib import Path

import torch

from diffedit_min.bench.programs import Plan, rival_file
from diffedit_min.bench.speed import measure
from diffedit_min.loading import usable_device

SIZES = {"sd15-shape": (512,), "sd21-shape": (512, 1024), "sdxl-shape": (1024,)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="float16")
    parser.add_argument("--model", nargs="+", default=list(SIZES))
    parser.add_argument("--minutes", type=float, default=5, help="nothing is begun after so many")
    parser.add_argument("--without-diffusers", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu_cost"))
    asked = parser.parse_args()
    device, begin = str(usable_device(asked.device)), time.perf_counter()
    against = None if asked.without_diffusers else str(rival_file("diffusers"))
    work = [(model, part) for part in ("unet", "edit", "memory") for model in asked.model]
    work.insert(2 * len(asked.model), (asked.model[0], "compile"))
    for model, part in work:
        seconds = time.perf_counter() - begin
        if seconds > 60 * asked.minutes:
            print(f"not measured, after {seconds:.0f} s: {part} of {model}")
            continue
        out = asked.out / model / part
        plan = Plan(model, sizes=SIZES.get(model, ()), rows=(2,), dtypes=(asked.dtype,), device=device, parts=(part,),
                    against=against, repeats=2)
        try:
            measure(plan, out, lambda what: print(f"{time.perf_counter() - begin:.0f} s: {what}", flush=True))
        except torch.OutOfMemoryError:
            print(f"did not fit into memory: {part} of {model}")
            continue
        print((out / "table.md").read_text())
    print(f"{time.perf_counter() - begin:.0f} s in all; the tables are in {asked.out}")


if __name__ == "__main__":
    main()
