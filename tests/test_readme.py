"""pytest tests/test_readme.py: what README.md and weights.md claim about the repository is so."""

import ast
import hashlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
import readme_tables
import typer

from diffedit_min.studio import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
WEIGHTS = (ROOT / "weights.md").read_text(encoding="utf-8")
CORE = tuple(f"core/{name}.py" for name in ("diffedit", "schedule", "ddim", "guidance", "mask"))


def table_after(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its two head lines."""
    lines = README.split(f"## {heading}\n", 1)[1].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows[2:]


EQUATIONS = table_after("The paper, equation by equation")


def test_the_map_has_every_equation():
    named = " ".join(row[0] for row in EQUATIONS)
    for tag in ("(1)", "(2)", "(3)", "(4)", "(5)", "E_r", "D_r", "G_r", "ỹ_t"):
        assert tag in named


@pytest.mark.parametrize("row", EQUATIONS, ids=lambda row: row[0])
def test_no_row_of_the_equation_map_dangles(row):
    _, functions, tests = row
    names = re.findall(r"`([\w.]+)`", functions)
    assert names, "a row names a function"
    for name in names:
        assert callable(pkgutil.resolve_name(f"diffedit_min.{name}"))
    assert named_tests(tests), "a row names a test"


def named_tests(text: str) -> list[tuple[str, str]]:
    return re.findall(r"`(test_\w+\.py)::(test_\w+)`", text)


@pytest.mark.parametrize(("file", "test"), named_tests(README))
def test_every_named_test_is_there(file, test):
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_line_counts():
    lines = {name: len((ROOT / "diffedit_min" / name).read_text().splitlines()) for name in CORE}
    for row in table_after("Read"):
        name = re.search(r"\(diffedit_min/(.+)\)", row[0]).group(1)
        assert int(row[1]) == lines[name], name
    total = int(re.search(r"The core is (\d+) lines", README).group(1))
    assert total == sum(lines.values())


@pytest.mark.parametrize("text", [README, WEIGHTS], ids=["README.md", "weights.md"])
def test_links_lead_somewhere(text):
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target


def test_the_card_names_the_files_that_are_there():
    rows = re.findall(r"^\| `(checkpoint\S+)` \| ([\d,]+) \| `([0-9a-f]{64})` \|$", WEIGHTS, re.MULTILINE)
    assert len(rows) == 4
    for name, size, digest in rows:
        data = (ROOT / "diffedit_min" / "tiny" / name).read_bytes()
        assert len(data) == int(size.replace(",", ""))
        assert hashlib.sha256(data).hexdigest() == digest


def commands() -> list[str]:
    """Every `diffedit-min ...` of the README's blocks and sentences, on one line."""
    text = re.sub(r"\\\n\s*", "", README)
    found = re.findall(r"^(?:torchrun .* -m diffedit_min\.|diffedit-min )(.*)$", text, re.MULTILINE)
    return found + [" ".join(quoted.split()) for quoted in re.findall(r"`diffedit-min ([^`]+)`", text)]


@pytest.mark.parametrize("line", commands() + [
    command.removeprefix("diffedit-min ") for piece in readme_tables.PIECES.values() for command in piece.commands
    if command.startswith("diffedit-min ")])
def test_every_option_of_a_command_exists(line):
    name, *words = line.partition("#")[0].split()
    options = {option for parameter in typer.main.get_command(cli.app).commands[name].params
               for option in parameter.opts}
    assert {word for word in words if re.match(r"--?[a-z]", word)} <= options


def test_every_table_that_is_made_again_has_its_place():
    made = [name for piece in readme_tables.PIECES.values() for name in piece.tables]
    places = re.findall(r"<!-- table: (\S+) -->\n\|", README + WEIGHTS)
    assert sorted(made) == sorted(places)
    pictures = {name for piece in readme_tables.PIECES.values() for name in piece.pictures}
    assert pictures == set(re.findall(r"\(\.github/(\S+)\)", README))


def test_a_table_takes_the_place_of_the_old_one():
    text = "before\n\n<!-- table: one -->\n| a |\n|---|\n| 1 |\n\nafter\n\n<!-- table: two -->\n| b |\n|---|\n| 2 |\n"
    new = readme_tables.put_table(text, "one", (["a", "c"], [["3", "4"], ["5", ""]]))
    assert new == text.replace("| a |\n|---|\n| 1 |", "| a | c |\n|---|---|\n| 3 | 4 |\n| 5 | |")
    assert readme_tables.markdown_tables(new) == [[{"a": "3", "c": "4"}, {"a": "5", "c": ""}], [{"b": "2"}]]
    assert readme_tables.put_table(text, "three", (["a"], [])) == text


@pytest.mark.slow
@pytest.mark.parametrize("index", range(len(re.findall(r"```python\n", README))))
def test_examples_run(index, tmp_path):
    """Each block as it stands, in a folder with the mask that it reads."""
    code = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[index]
    script = tmp_path / "example.py"
    script.write_text(code, encoding="utf-8")
    result = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
