"""Kill commands again and again at random moments, and hold what they leave against what an uninterrupted run makes.

    python tests/kills.py --kills 20 --out /tmp/kills
    python tests/kills.py --kills 20 --out /tmp/kills --only demo --signals SIGTERM SIGINT

Of each command, so many processes are started and ended by a signal, SIGKILL, SIGTERM and SIGINT in turn. After each,
every file in its place must be whole; after SIGTERM and SIGINT nothing unfinished may lie beside it. In the end the
command runs undisturbed: then there are the same files with the same bytes as without kills, and no other. (Processes
are forked from one that has imported everything, or imports would be most of what is killed. POSIX only.)
"""

import argparse
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
import transformers.models.clip.modeling_clip  # noqa: F401
from PIL import Image

import diffedit_min.bench.theory  # noqa: F401
import diffedit_min.studio.report.sections  # noqa: F401
from diffedit_min.studio import cli

PICTURES = 6
FEW = ("--model", "random", "-o", "steps=10", "-o", "mask_samples=1")
EDIT = ("--query", "a basket of pears", "--quiet")
COMMANDS = {
    "jobs": ("edit", "--jobs", "jobs.csv", *EDIT, *FEW, "--batch", "2"),
    "bench": ("bench", "--dataset", "scenes", "--limit", "6", "--batch", "2", "--pictures", "2", "--methods",
              "diffedit", "sdedit", "--ratios", "0.4", "0.8", *FEW[:4], "-o", "diffedit:mask_samples=1", "--quiet",
              "--out", "run"),
    "demo": ("demo", "--report", "demo.html", "--strip", "steps.png", "-o", "steps=10", "-o", "mask_samples=1",
             "--quiet"),
    "unitune": ("edit", "p0.png", *EDIT, "--model", "random", "--method", "unitune", "-o", "steps=5", "-o",
                "tuning_steps=4", "-o", "save=tuned.safetensors", "--out", "edited.png"),
}
VARIES = ("demo.html", "timings")       # names of what holds seconds, or lines in the order of the tries


def prepare(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for i in range(PICTURES):
        noise = np.random.default_rng(i).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((45, 37 if i % 4 else 24), Image.BICUBIC).save(folder / f"p{i}.png")
    lines = "".join(f"p{i}.png,{i}\n" for i in range(PICTURES))
    (folder / "jobs.csv").write_text(f"image,seed\n{lines}", encoding="utf-8")
    return folder


def started(folder: Path, command: tuple[str, ...]) -> int:
    """The id of a process that runs the command in the folder, and says nothing."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            os.chdir(folder)
            log = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            signal.signal(signal.SIGINT, signal.default_int_handler)     # in the background a shell has it ignored
            sys.argv = ["diffedit-min", *command]
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        finally:
            os._exit(code)
    return process


def ended(process: int) -> int:
    """Its exit code; negative: the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def unfinished(found: dict[str, bytes]) -> list[str]:
    return [name for name in found if name.endswith(".part")]


def check_whole(found: dict[str, bytes], whole: dict[str, bytes]) -> None:
    """Every file in its place is the one that an uninterrupted run makes."""
    for name, data in found.items():
        if name in unfinished(found) or any(part in name for part in VARIES) or "parts" in name:
            continue
        assert data == whole[name], f"{name} differs"


def killed(name: str, out: Path, kills: int, signals: list[signal.Signals], rng: random.Random) -> str:
    """A command's kills, and a line of what they showed."""
    command, whole_folder = COMMANDS[name], prepare(out / name / "whole")
    began = time.perf_counter()
    assert ended(started(whole_folder, command)) == 0, whole_folder.with_suffix(".log").read_text()
    seconds, whole = time.perf_counter() - began, files(whole_folder)
    codes, left, folder, tries = Counter(), 0, prepare(out / name / "broken-0"), 0
    while codes.total() - codes[0] < kills:
        process, sent = started(folder, command), signals[codes.total() % len(signals)]
        time.sleep(rng.uniform(0, seconds))
        os.kill(process, sent)
        code = ended(process)
        codes[code] += 1
        found = files(folder)
        check_whole(found, whole)
        left += len(unfinished(found))
        if code in (0, 128 + signal.SIGTERM, 128 + signal.SIGINT) and sent != signal.SIGKILL:
            before = set(unfinished(found))
            assert code != 0 or not before, f"{before} left by a run that ended well"
        if code == 0:       # it was done before the signal came: once more from the beginning
            tries += 1
            folder = prepare(out / name / f"broken-{tries}")
    assert ended(started(folder, command)) == 0, folder.with_suffix(".log").read_text()
    found = files(folder)
    check_whole(found, whole)
    assert found.keys() == whole.keys(), found.keys() ^ whole.keys()
    ends = ", ".join(f"{count} x {code}" for code, count in sorted(codes.items()))
    return (f"{name}: {codes.total() - codes[0]} kills (exit codes: {ends}), {left} unfinished files seen, none in the "
            "end")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="of each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=list(COMMANDS), choices=COMMANDS)
    parser.add_argument("--signals", nargs="+", default=["SIGKILL", "SIGTERM", "SIGINT"])
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.only:
        print(killed(name, given.out, given.kills, [signal.Signals[each] for each in given.signals],
                     random.Random(given.seed)), flush=True)


if __name__ == "__main__":
    main()
