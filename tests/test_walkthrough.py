"""Run: python -m pytest tests/test_walkthrough.py     takes two minutes; with -m "not slow" a few seconds.

The notebook diffedit_min/walkthrough.ipynb: it runs in a fresh kernel without a network and shows what it is committed
with; it keeps its promises of equations, answers and texts for pictures, and names only what there is. After a change
to it, or to what it calls, `python tests/test_walkthrough.py` runs it and writes its outputs anew.
"""

import base64
import copy
import io
import math
import os
import pkgutil
import re
import tempfile
from html import unescape
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
from diffedit_min.core.ddim import step
from diffedit_min.studio.notebook import show
from diffedit_min.testing import check_sampler

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
    """Without what differs from run to run, and streams in one piece."""
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in code_cells(notebook):
        cell.metadata, joined = {}, []
        for output in cell.outputs:
            if output.output_type == "stream" and joined and joined[-1].get("name") == output.name:
                joined[-1].text += output.text
                continue
            joined.append(output)
        cell.outputs = joined
    return notebook


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def picture_in(data: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")


COMMITTED = nbformat.read(NOTEBOOK, as_version=4)
WORDS = [cell.source for cell in COMMITTED.cells if cell.cell_type == "markdown"]
SOURCES = {cell.id: cell.source for cell in COMMITTED.cells}
FENCED = r"```{}\n(.*?)```"
ANSWERS = {number: body for words in WORDS for number, body in re.findall(
    r"<details><summary><b>Answer (\d+)</b></summary>\n(.*?)\n</details>", words, re.DOTALL)}


def answered(number: str) -> str:
    """The code of an answer. If it is some lines for the cell below the question, that cell with these lines."""
    code = re.search(FENCED.format("python"), ANSWERS[number], re.DOTALL).group(1)
    return filled(SOURCES[f"exercise-{number}"], code) if code.startswith(" ") else code


def filled(skeleton: str, lines: str) -> str:
    """A skeleton in which each of these lines takes the place of the one that sets the same name."""
    for line in lines.splitlines():
        skeleton, count = re.subn(rf"^{line.split('=')[0]}=.*$", line, skeleton, flags=re.MULTILINE)
        assert count == 1, line
    return skeleton


# ---------------------------------------------------------------- it runs, and shows what it is committed with


# Run after the notebook and the answers: what the sliders do where somebody moves them.
SLIDERS = """
assert edited("diffedit", 0.8) is edited("diffedit", 0.8)
at_ratio(0.7)
asked = model.unet.register_forward_pre_hook(lambda *given: 1 / 0)
captions = [repr(at_threshold(i / 20)) for i in range(20)]
asked.remove()
assert len(set(captions)) == 20
"""


@pytest.mark.slow
def test_every_cell_shows_what_it_is_committed_with(tmp_path):
    run = executed(COMMITTED, tmp_path)
    assert not list(tmp_path.iterdir())       # it writes no files
    for before, after in zip(code_cells(COMMITTED), code_cells(run), strict=True):
        assert before.id == after.id and before.execution_count == after.execution_count
        assert same_outputs(before.outputs, after.outputs) is None, before.id


@pytest.mark.full
def test_every_answer_prints_what_it_says_and_sliders_ask_for_nothing_twice(tmp_path):
    """After the notebook's own cells each answer is run as it stands; the pictures that it shows are not kept."""
    notebook = copy.deepcopy(COMMITTED)
    notebook.cells += [nbformat.v4.new_code_cell(source) for source in (*map(answered, ANSWERS), SLIDERS)]
    run = executed(notebook, tmp_path)
    for cell, (number, body) in zip(run.cells[len(COMMITTED.cells):], ANSWERS.items(), strict=False):
        printed = "".join(output.text for output in cell.outputs if output.output_type == "stream")
        assert same_numbers(re.search(FENCED.format("text"), body, re.DOTALL).group(1), printed), (number, printed)


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
        if not same_numbers(text_of(old), text_of(new)):
            return f"{text_of(old)!r} became {text_of(new)!r}"
        if not all(alike(*pair) for pair in zip(drawn(old), drawn(new), strict=True)):
            return "a picture is another"
    return None


DATA = r"data:image/\w+;base64,([^\"]*)"


def drawn(output) -> list[Image.Image]:
    """The pictures in an output."""
    return [picture_in(data) for data in re.findall(DATA, output.get("data", {}).get("text/html", ""))]


def text_of(output) -> str:
    """All that an output says, without its pictures."""
    data = output.get("data", {})
    return output.get("text", "") + re.sub(DATA, "", data.get("text/html", "")) + data.get("text/plain", "")


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
        return nbformat.v4.new_output("execute_result", {"text/html": show([image], ["a"]).html, "text/plain": "a"})

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
        assert output.output_type in ("stream", "execute_result")
        assert output.get("name") != "stderr"
        text = re.sub("<[^>]*>", " ", text_of(output))
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


def test_the_first_picture_comes_before_any_theory():
    title, first = COMMITTED.cells[:2]
    assert len(title.source.splitlines()) <= 6 and "$" not in title.source
    assert len(first.source.splitlines()) <= 18 and len(drawn(first.outputs[0])) == 4
    for words in ("input", "mask", "result", "true answer"):
        assert re.search(rf"<figcaption[^>]*>[^<]*{words}", first.outputs[0].data["text/html"]), words


def test_every_picture_says_what_it_shows():
    """No picture is shown but as `img` with words, which are more than its caption where it is a chart."""
    html = [output.data["text/html"] for cell in code_cells(COMMITTED) for output in cell.outputs
            if output.output_type != "stream"]
    assert all(set(output.data) == {"text/html", "text/plain"} for cell in code_cells(COMMITTED)
               for output in cell.outputs if output.output_type != "stream")
    pictures = [picture for page in html for picture in re.findall("<img[^>]*>", page)]
    alts = [unescape(re.search('alt="([^"]*)"', picture).group(1)) for picture in pictures]
    assert len(alts) > 60 and all(alts)
    assert all(len(alt) > 60 for page in html if "<figure" not in page for alt in re.findall('alt="([^"]*)"', page))
    assert not re.search(r"!\[\]|<img", "\n".join(WORDS))


def test_every_exercise_has_a_place_to_answer_and_a_folded_answer():
    asked = re.findall(r"\*\*Exercise (\d+)\.\*\*", "\n".join(WORDS))
    assert asked == [str(i + 1) for i in range(len(asked))] == list(ANSWERS) and len(asked) >= 6
    order = [cell.id for cell in COMMITTED.cells]
    for number in asked:
        question = next(cell.id for cell in COMMITTED.cells if f"**Exercise {number}.**" in cell.source)
        assert order[order.index(question) + 1:][:2] == [f"exercise-{number}", f"answer-{number}"]
        words = SOURCES[f"answer-{number}"]
        assert words.startswith("<details>") and words.endswith("</details>") and words.count("<details>") == 1


# ---------------------------------------------------------------- the sampler that a reader writes

# As the text of exercise 6 says it, formula by formula.
BY_THE_TEXT = """\
            guess = step(x, eps, level_from.abar, level_to.abar)
            eps_there = eps_fn(guess, level_to.t)
"""


def own_sampler(skeleton: str) -> type:
    """The class Heun that the cells of the last chapter make, with this cell for exercise 6."""
    names = {"dm": dm, "step": step}
    for source in (SOURCES["sampler"], skeleton):
        exec(source.partition("\nverdict(")[0], names)
    return names["Heun"]


def test_a_reader_who_follows_the_text_ends_with_a_sampler_that_passes():
    check_sampler(own_sampler(filled(SOURCES["exercise-6"], BY_THE_TEXT))())
    check_sampler(own_sampler(answered("6"))())


@pytest.mark.parametrize(("lines", "seen"), [
    ([], "its order is said to be 2"),
    ([0], ""),
    ([1], ""),
])
def test_a_sampler_that_is_not_filled_in_does_not_pass(lines, seen):
    some = "\n".join(BY_THE_TEXT.splitlines()[i] for i in lines)
    with pytest.raises(AssertionError, match=seen or "clauses of the contract are broken"):
        check_sampler(own_sampler(filled(SOURCES["exercise-6"], some))())


def test_the_notebook_shows_what_the_kit_says_of_right_and_wrong_samplers():
    shown = {cell.id: text_of(cell.outputs[0]) for cell in code_cells(COMMITTED) if cell.outputs}
    assert shown["sampler"].startswith("passes") and shown["variant-check"].startswith("passes")
    for name in ("decoding_asks_at_the_time_of_its_latent", "each_new_latent_is_blended_once"):
        assert name in shown["wrong"]
    assert "it_converges_with_its_order" in shown["exercise-6"] and "passes" not in shown["exercise-6"]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        nbformat.write(executed(COMMITTED, Path(folder)), NOTEBOOK)
