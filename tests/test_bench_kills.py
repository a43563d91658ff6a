"""pytest tests/test_bench_kills.py: runs that are killed for real, and runs of several processes under torchrun.

They are processes of their own; those under torchrun talk to each other over the loopback interface.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="POSIX signals")]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
              "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)}
BENCH = ["-m", "diffedit_min", "bench", "--dataset", "scenes", "--model", "random", "--limit", "8", "--batch", "1",
         "--methods", "diffedit", "sdedit", "--ratios", "0.4", "0.8", "--quiet"]
SAME = ("table.csv", "table.md", "results.jsonl", "curves.svg")


def torchrun(processes: int) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes),
            "--max-restarts", "2"]


def files_of(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in SAME}


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_table(tmp_path):
    done = subprocess.run([sys.executable, str(ROOT / "tests" / "bench_kills.py"), "--kills", "6", "--out",
                           str(tmp_path)], env=ONE_THREAD, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("6 kills over ")


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[str, bytes]:
    """What one process makes."""
    out = tmp_path_factory.mktemp("alone")
    subprocess.run([sys.executable, *BENCH, "-o", "steps=10", "--out", str(out)], env=ONE_THREAD, check=True,
                   capture_output=True, timeout=300)
    return files_of(out)


@pytest.mark.full       # of torchrun, the killed worker below shows more
def test_several_processes_make_the_same_table(alone, tmp_path):
    done = subprocess.run([*torchrun(3), *BENCH, "-o", "steps=10", "--out", str(tmp_path)], env=ONE_THREAD,
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert files_of(tmp_path) == alone
    assert len(list((tmp_path / "parts").glob("results-*.jsonl"))) == 3


def test_a_worker_that_is_killed_costs_its_unfinished_items_only(alone, tmp_path):
    launched = subprocess.Popen([*torchrun(2), *BENCH, "-o", "steps=10", "--out", str(tmp_path)], env=ONE_THREAD,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    mine = tmp_path / "parts" / "results-1.jsonl"
    waited_until = time.monotonic() + 120
    while not (mine.exists() and mine.stat().st_size) and time.monotonic() < waited_until:
        time.sleep(0.02)
    before = mine.read_bytes()
    os.kill(worker(launched.pid, rank=1), signal.SIGKILL)
    output, _ = launched.communicate(timeout=300)
    assert launched.returncode == 0, output
    assert files_of(tmp_path) == alone
    after = mine.read_bytes()
    assert after.startswith(before[: before.rfind(b"\n") + 1]), "what was done before is kept"
    assert len(after.splitlines()) == 4 * 4, "and not done again"


def worker(launcher: int, rank: int) -> int:
    """The process that torchrun started for a rank."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            environment = (path / "environ").read_bytes().split(b"\0")
        except (OSError, IndexError, ValueError):
            continue
        if parent == launcher and f"RANK={rank}".encode() in environment:
            return int(path.name)
    pytest.skip("no /proc to find the worker in")
