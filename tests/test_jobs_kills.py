"""pytest tests/test_jobs_kills.py: `edit --jobs` interrupted and killed in the middle, in processes of their own.

Whatever was finished is whole, nothing else is there, and the same command goes on to the same files, byte for byte.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import diffedit_min as dm

ROOT = Path(dm.__file__).parents[1]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
               "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)}
COUNT = 10
JOBS = [sys.executable, "-m", "diffedit_min", "edit", "--jobs", "jobs.csv", "--query", "a basket of pears", "--model",
        "random", "-o", "steps=40", "-o", "mask_samples=1", "--batch", "3", "--composite", "--mask-grow", "2"]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="POSIX signals")]


def prepare(folder):
    folder.mkdir()
    for i in range(COUNT):
        noise = np.random.default_rng(i).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((45, 37 if i % 4 else 24), Image.BICUBIC).save(folder / f"p{i}.png")
    (folder / "jobs.csv").write_text("image,seed\n" + "".join(f"p{i}.png,{i}\n" for i in range(COUNT)))
    return folder


def start(folder):
    pipe = subprocess.PIPE
    return subprocess.Popen(JOBS, cwd=folder, env=ENVIRONMENT, stdout=pipe, stderr=pipe, text=True,
                            preexec_fn=heed_interrupts)


def heed_interrupts():
    """What a shell runs in the background, these tests for example, has Ctrl-C ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(folder):
    done = subprocess.run(JOBS, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def results(folder):
    """The results' names and bytes, and whatever else lies beside them."""
    return {path.name: path.read_bytes() for path in (folder / "edits").glob("*")}


def finished(folder):
    return [path for path in (folder / "edits").glob("*") if not path.name.startswith(".")]


def wait_for(process, folder, count):
    """Until so many results are there."""
    while len(finished(folder)) < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What a run that nothing stopped makes."""
    folder = prepare(tmp_path_factory.mktemp("whole") / "jobs")
    finish(folder)
    made = results(folder)
    assert len(made) == COUNT
    return made


def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(tmp_path, whole):
    folder = prepare(tmp_path / "jobs")
    process = start(folder)
    wait_for(process, folder, 3)
    process.send_signal(signal.SIGINT)
    before = len(finished(folder))
    out, err = process.communicate(timeout=60)
    made = results(folder)
    assert process.returncode == 130 and 3 <= len(made) <= before + 3 < COUNT       # at once: no batch more
    told = out.count("wrote ")
    assert len(made) - told in (0, 1)       # 1: it came between the writing and the telling
    assert err == (f"stopped: {told} of {COUNT} pictures are done, and the same command goes on from there\n"
                   "interrupted\n")
    assert made.items() <= whole.items()
    assert f"{COUNT - len(made)} edited, {len(made)} done before, 0 failed" in finish(folder)
    assert results(folder) == whole


@pytest.mark.full
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_files(tmp_path, whole):
    folder, rng = prepare(tmp_path / "jobs"), random.Random(0)
    for kill in range(2):
        process = start(folder)
        wait_for(process, folder, 2 * kill + 1)
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        assert all(path.read_bytes() == whole[path.name] for path in finished(folder))
    finish(folder)
    assert results(folder) == whole


def test_what_a_kill_while_writing_leaves_is_cleared_away(tmp_path, whole):
    """A process stops for good in the midst of a file, in a place and under a name of `replacing`'s own choice."""
    folder = prepare(tmp_path / "jobs")
    (folder / "edits").mkdir()
    code = ("import os; from diffedit_min.pictures import replacing\n"
            "with replacing('edits/p1-edit.png') as file:\n"
            "    file.write(b'half'); file.flush(); os.kill(os.getpid(), 9)")
    subprocess.run([sys.executable, "-c", code], cwd=folder, env=ENVIRONMENT)
    (folder / "edits" / ".other.part").write_bytes(b"another program's")
    left = set(results(folder))
    assert len(left) == 2 and ".other.part" in left
    finish(folder)
    assert set(results(folder)) - set(whole) == {".other.part"}
    assert {name: results(folder)[name] for name in whole} == whole


@pytest.mark.full
def test_commands_that_are_killed_leave_whole_files_and_end_as_without(tmp_path):
    """A few kills of each; by hand: python tests/kills.py --kills 20 --out FOLDER."""
    done = subprocess.run([sys.executable, str(ROOT / "tests" / "kills.py"), "--kills", "3", "--only", "jobs", "demo",
                           "unitune", "--out", str(tmp_path)], env=ENVIRONMENT, capture_output=True, text=True,
                          timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("none in the end") == 3
