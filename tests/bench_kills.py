"""Kill a run again and again at random moments, and hold its table against an uninterrupted run's.

    python tests/bench_kills.py --kills 20 --out /tmp/kills

Each process is killed with SIGKILL, so nothing of it can tidy up. (Processes are forked from one that has loaded the
model, or loading would be most of what is killed. POSIX only.)
"""

import argparse
import dataclasses
import os
import random
import signal
import time
from pathlib import Path

import torch

import diffedit_min as dm
from diffedit_min.bench import report
from diffedit_min.bench.datasets.item import Location
from diffedit_min.bench.datasets.scenes import read
from diffedit_min.bench.metrics.base import Files
from diffedit_min.bench.metrics.pictures import ScenesMetric
from diffedit_min.bench.run import Plan, begin, work
from diffedit_min.bench.variants import grid

FILES = ("table.csv", "table.md", "results.jsonl")


def forked(job) -> int:
    """Run it in a process of its own: the process's id."""
    process = os.fork()
    if process == 0:
        try:
            job()
        finally:
            os._exit(0)
    return process


def run(plan: Plan) -> None:
    begin(plan)
    work(plan, quiet=True)
    report.write(plan, report.results(plan))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, dataset, rng = dm.load("random", device="cpu"), read(Location()), random.Random(arguments.seed)
    variants = grid(["diffedit", "sdedit"], [0.4, 0.8], ["steps=5", "diffedit:mask_samples=1"])
    plan = Plan(dataclasses.replace(dataset, items=dataset.items[:12]), tuple(variants), lambda _: model,
                {"scenes": ScenesMetric(Files())}, arguments.out / "whole", batch=2, pictures=2)
    started = time.perf_counter()
    os.waitpid(forked(lambda: run(plan)), 0)
    seconds = time.perf_counter() - started

    killed, done, folder = 0, 0, 0
    while killed < arguments.kills:
        broken = dataclasses.replace(plan, out=arguments.out / f"broken-{folder}")
        process = forked(lambda: run(broken))       # noqa: B023
        time.sleep(rng.uniform(0, seconds / 3))
        os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        killed += os.WIFSIGNALED(status)
        if os.WIFSIGNALED(status) and killed < arguments.kills:
            continue
        run(broken)     # to the end, after the last kill, or once more if it was done before it could be killed
        for name in FILES:
            assert (broken.out / name).read_bytes() == (plan.out / name).read_bytes(), f"{name} of {broken.out} differs"
        done, folder = done + 1, folder + 1
    print(f"{killed} kills over {done} runs; every table is the uninterrupted run's")


if __name__ == "__main__":
    main()
