"""pytest -m slow tests/test_mutations.py: a few damaged and odd inputs of each kind, made by the program
tests/mutations.py; by hand: python tests/mutations.py KIND COUNT.

Whatever comes is read, or refused in one line: no other exception, no endless run, no code of a file, no lost input.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import diffedit_min as dm

HERE, ROOT = Path(__file__).parent, Path(dm.__file__).parents[1]
COUNTS = {"headers": 40, "configs": 12, "tokenizers": 10, "pickles": 200, "pictures": 200, "command_lines": 12}

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")]


@pytest.mark.parametrize("kind", COUNTS)
def test_ends_as_foreseen(kind):
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run([sys.executable, HERE / "mutations.py", kind, str(COUNTS[kind])], capture_output=True,
                          text=True, env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"})
    *tried, last = done.stdout.splitlines() or ["nothing"]
    assert done.returncode == 0, f"{done.stderr[-2000:]}\nlast tried: {last}"
    assert len(tried) == COUNTS[kind] and json.loads(last) == []
