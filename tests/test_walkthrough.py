"""Run: python -m pytest tests/test_walkthrough.py     takes two minutes; with -m "not slow" a few seconds.

The notebook diffedit_min/walkthrough.ipynb: it runs in a fresh kernel without a network and shows what it is committed
with; it keeps its promises of equations and answers, and names only what there is. After a change to it, or to what it
calls, `python tests/test_walkthrough.py` runs it and writes its outputs anew.
"""

import base64
import copy
import io
import math
import os
import pkgutil
import re
import tempfile
from itertools import pairwise
from operator import attrgetter
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image
from traitlets.config import Config

import diffedit_min as dm

NOTEBOOK = Path(dm.__file__).parent / "walkthrough.ipynb"
README = Path(__file__).parents[1] / "README.md"
# Run in the kernel before the first cell.
NO_NETWORK = "import pytest_socket; pytest_socket.disable_socket(allow_unix_socket=True)"
METADATA = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"}}


def executed(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """The same notebook, with the outputs that it has when it is run here, in a folder."""
    notebook = copy.deepcopy(notebook)
    path = os.pathsep.join([str(NOTEBOOK.parents[1]), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    env = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}       # figures are to be shown
    with tempfile.TemporaryDirectory() as sockets:
        # Messages to and from the kernel go through sockets in a folder, not through the network.
        transport = Config(KernelManager={"transport": "ipc", "ip": f"{sockets}/kernel"})
        client = NotebookClient(notebook, timeout=600, kernel_name="python3", record_timing=False, config=transport)
        client.extra_arguments = [f"--IPKernelApp.exec_lines={NO_NETWORK}"]
        client.execute(cwd=str(folder), env={**env, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"})
    return tidied(notebook)


def tidied(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Without what differs from run to run, streams in pieces, and the larger half of pictures that are there twice.

    Pillow's pictures come as PNG and JPEG both; the JPEG stays, made anew without visible loss. Figures are PNG.
    """
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in code_cells(notebook):
        cell.metadata, joined = {}, []
        for output in cell.outputs:
            if output.output_type == "stream" and joined and joined[-1].get("name") == output.name:
                joined[-1].text += output.text
                continue
            joined.append(output)
            data = output.get("data", {})
            if "image/jpeg" in data:
                packed = io.BytesIO()
                picture_in(data.pop("image/png")).save(packed, "JPEG", quality=90, subsampling=0, optimize=True)
                data["image/jpeg"] = base64.b64encode(packed.getvalue()).decode()
        cell.outputs = joined
    return notebook


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def picture_in(data: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")


COMMITTED = nbformat.read(NOTEBOOK, as_version=4)
WORDS = [cell.source for cell in COMMITTED.cells if cell.cell_type == "markdown"]


# ---------------------------------------------------------------- it runs, and shows what it is committed with


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("walkthrough")
    notebook = executed(COMMITTED, folder)
    assert not list(folder.iterdir())       # it writes no files
    return notebook


@pytest.mark.slow
def test_every_cell_shows_what_it_is_committed_with(run):
    for before, after in zip(code_cells(COMMITTED), code_cells(run), strict=True):
        assert before.execution_count == after.execution_count
        assert same_outputs(before.outputs, after.outputs) is None, before.id


@pytest.mark.slow
def test_its_kernel_has_no_network(tmp_path):
    cell = nbformat.v4.new_code_cell("import socket; socket.socket(socket.AF_INET)")
    with pytest.raises(CellExecutionError, match="SocketBlockedError"):
        executed(nbformat.v4.new_notebook(cells=[cell]), tmp_path)


def same_outputs(before, after) -> str | None:
    """What differs; None if it is only rounding."""
    kinds = [[(output.output_type, output.get("name"), sorted(output.get("data", ()))) for output in outputs]
             for outputs in (before, after)]
    if kinds[0] != kinds[1]:
        return f"{kinds[0]} became {kinds[1]}"
    for old, new in zip(before, after, strict=True):
        if drawn(old):
            if not alike(picture_in(drawn(old)), picture_in(drawn(new))):
                return "the picture is another"
        elif not same_numbers(text_of(old), text_of(new)):
            return f"{text_of(old)!r} became {text_of(new)!r}"
    return None


def drawn(output) -> str | None:
    """The picture in an output, if it is one, as text."""
    data = output.get("data", {})
    return data.get("image/jpeg", data.get("image/png"))


def text_of(output) -> str:
    return output.text if output.output_type == "stream" else output.data["text/plain"]


def alike(a: Image.Image, b: Image.Image) -> bool:
    """Two pictures at a glance: small and side by side, they differ by less than 2 of 255 on average.

    Fonts may be drawn a little differently, and a cell of a mask may fall on the other side of its threshold.
    """
    small = [np.asarray(image.resize((96, 96), Image.Resampling.BOX), np.float64) for image in (a, b)]
    return abs(a.width / a.height - b.width / b.height) < 0.1 and np.abs(small[0] - small[1]).mean() < 2


def same_numbers(a: str, b: str) -> bool:
    """Equal words, equal whole numbers; others equal to a unit in the last printed place, or to 1 %."""
    number = r"-?\d+\.\d+"
    pairs = list(zip(re.findall(number, a), re.findall(number, b), strict=False))
    return re.sub(rf"\s*{number}", "#", a) == re.sub(rf"\s*{number}", "#", b) and all(
        math.isclose(float(x), float(y), rel_tol=0.01, abs_tol=1.01 * 10.0 ** -len(x.partition(".")[2]))
        for x, y in pairs)


def test_the_comparison_sees_what_is_stale():
    stream = nbformat.v4.new_output("stream", name="stdout", text="IoU 0.83, 140 rows")
    picture = Image.linear_gradient("L").convert("RGB")

    def shown(image):
        packed = io.BytesIO()
        image.save(packed, "PNG")
        return nbformat.v4.new_output("display_data", {"image/png": base64.b64encode(packed.getvalue()).decode()})

    def printed(text):
        return [nbformat.v4.new_output("stream", name="stdout", text=text), shown(picture)]

    before = [stream, shown(picture)]
    assert same_outputs(before, before) is None and same_outputs(before, printed("IoU 0.84, 140 rows")) is None
    assert same_outputs(before, [stream, shown(picture.point(lambda value: value + 1))]) is None
    for after in ([stream], [shown(picture), stream], printed("IoU 0.85, 140 rows"), printed("IoU 0.83, 141 rows"),
                  printed("IOU 0.83, 140 rows"), printed("IoU 0.83, 140 rows\n1.0"),
                  [stream, shown(picture.rotate(90))], [stream, shown(picture.crop((0, 0, 256, 200)))]):
        assert same_outputs(before, after)


# ---------------------------------------------------------------- the file


def test_it_is_a_clean_notebook():
    nbformat.validate(COMMITTED)
    cells = code_cells(COMMITTED)
    assert COMMITTED.metadata == METADATA and not any(cell.metadata for cell in COMMITTED.cells)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert NOTEBOOK.stat().st_size < 1_500_000
    assert max(len(cell.source.splitlines()) for cell in cells) <= 25


def test_its_outputs_hold_no_errors_no_warnings_and_nothing_of_one_machine_or_run():
    for output in (output for cell in code_cells(COMMITTED) for output in cell.outputs):
        assert output.output_type in ("stream", "display_data", "execute_result")
        assert output.get("name") != "stderr"
        text = output.get("text", "") + output.get("data", {}).get("text/plain", "")
        assert not re.search(r"/\w+/|[A-Z]:\\|0x[0-9a-f]{6}|\bseconds\b|\d m?s\b", text), text


# ---------------------------------------------------------------- what it promises


def test_every_equation_is_beside_its_function():
    """Equations are numbered as in the paper, each once, in a cell that names the function of README's map."""
    rows = re.findall(r"^\| \((\d)\) [^|]*\| (`[^|]*`) \|", README.read_text(encoding="utf-8"), re.MULTILINE)
    wanted = {}
    for number, functions in rows:
        wanted.setdefault(number, set()).add(functions)
    assert sorted(wanted) == ["1", "2", "3", "4", "5"]
    for number, cells in wanted.items():
        beside = [words for words in WORDS if rf"\tag{{{number}}}" in words]
        assert len(beside) == 1 and beside[0].count(rf"\tag{{{number}}}") == 1
        for name in re.findall(r"`([\w.]+)`", " ".join(cells)):
            assert f"`{name}`" in beside[0], name


def test_every_step_of_the_readmes_map_is_in_it():
    table = README.read_text(encoding="utf-8").split("## The paper, equation by equation", 1)[1].split("Letters:")[0]
    for functions in re.findall(r"^\|[^|]*\| (`[^|]*`) \|", table, re.MULTILINE):
        for name in re.findall(r"`([\w.]+)`", functions):
            assert any(f"`{name}`" in words for words in WORDS), name


NAMES = sorted({name for words in WORDS for name in re.findall(r"`([a-z_]\w*(?:\.\w+)+)`", words)})


@pytest.mark.parametrize("name", NAMES)
def test_every_function_that_it_names_exists(name, model):
    first, _, rest = name.partition(".")
    if first in ("model", "dm"):
        assert attrgetter(rest)({"model": model, "dm": dm}[first]) is not None
        return
    assert callable(pkgutil.resolve_name(f"diffedit_min.{name}"))


def test_its_links_lead_somewhere():
    targets = [target for words in WORDS for target in re.findall(r"\]\(([^)#]+)\)", words)]
    assert targets
    for target in targets:
        assert target.startswith("https://arxiv.org/") or (NOTEBOOK.parent / target).exists(), target


def test_every_exercise_has_an_answer_that_runs():
    asked = re.findall(r"\*\*Exercise (\d+)\.\*\*", "\n".join(WORDS))
    assert asked == [str(i + 1) for i in range(len(asked))] and len(asked) >= 4
    answers = {}
    for cell, after in pairwise(COMMITTED.cells):
        if cell.cell_type == "markdown" and (found := re.search(r"^### Answer (\d+)$", cell.source, re.MULTILINE)):
            answers[found.group(1)] = after
    assert list(answers) == asked
    assert all(cell.cell_type == "code" and cell.outputs for cell in answers.values())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        nbformat.write(executed(COMMITTED, Path(folder)), NOTEBOOK)
