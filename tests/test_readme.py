"""pytest tests/test_readme.py: what every README.md and weights.md claim about the repository is so.

The documents are found by their name; `-m slow` also runs their examples.
"""

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

import diffedit_min as dm
from diffedit_min.studio import cli

ROOT = Path(__file__).parents[1]
DOCUMENTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in readme_tables.DOCUMENTS}
README, ALL = DOCUMENTS["README.md"], "".join(DOCUMENTS.values())
every_document = pytest.mark.parametrize("name", DOCUMENTS)


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


def blocks(text: str, language: str = r"\w*") -> list[str]:
    """The code blocks of a Markdown text."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def prose(text: str) -> str:
    """A Markdown text without its code blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


# ---------------------------------------------------------------- size and form


def test_the_first_readme_is_short():
    size = len(README.encode())
    assert size <= 13_000, size


@every_document
def test_code_is_not_wider_than_github_shows(name):
    wide = [line for block in blocks(DOCUMENTS[name]) for line in block.splitlines() if len(line) > 96]
    assert not wide


def test_tables_of_the_first_readme_have_six_columns_at_most():
    assert all(len(table[0]) <= 6 for table in readme_tables.markdown_tables(README))


def test_line_counts_are_of_today():
    """`python tests/readme_tables.py tree` counts again."""
    assert readme_tables.count_lines(README) == README


def test_the_tree_has_every_folder_and_every_file_of_the_core():
    tree = README.partition("<!-- tree -->")[2].partition("\n```\n\n")[0]
    package = ROOT / "diffedit_min"
    folders = {path.parent.name + "/" for path in package.glob("*/__init__.py")}
    files = {path.name for path in (package / "core").glob("*.py")} - {"__init__.py"}
    assert set(re.findall(r"^ +(\S+) ", tree, re.MULTILINE)) == folders | files


# ---------------------------------------------------------------- equations, methods, tests


EQUATIONS = table_after("The paper, equation by equation")
CHECKED = dict(re.findall(r"^- (`.*`):\n  `(test_\w+\.py::test_\w+)`$", ALL, re.MULTILINE))     # in core/README.md


def test_the_map_has_every_equation():
    named = " ".join(row[0] for row in EQUATIONS)
    for tag in ("(1)", "(2)", "(3)", "(4)", "(5)", "E_r", "D_r", "G_r", "ỹ_t"):
        assert tag in named


@pytest.mark.parametrize("row", EQUATIONS, ids=lambda row: row[0])
def test_no_row_of_the_equation_map_dangles(row):
    names = re.findall(r"`([\w.]+)`", row[1])
    assert names, "a row names a function"
    for name in names:
        assert callable(pkgutil.resolve_name(f"diffedit_min.{name}"))
    assert row[1] in CHECKED, "a test checks it"


def named_tests(text: str) -> list[tuple[str, str]]:
    return re.findall(r"`(test_\w+\.py)::(test_\w+)`", text)


@pytest.mark.parametrize(("file", "test"), named_tests(ALL))
def test_every_named_test_is_there(file, test):
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_the_table_has_every_method():
    assert {row[0].strip("`") for row in table_after("Methods")} == set(dm.METHODS)


def test_the_card_names_the_files_that_are_there():
    rows = re.findall(r"^- `(checkpoint\S+)`, ([\d,]+) bytes, SHA-256\n  `([0-9a-f]{64})`$", ALL, re.MULTILINE)
    assert len(rows) == 4
    for name, size, digest in rows:
        data = (ROOT / "diffedit_min" / "tiny" / name).read_bytes()
        assert len(data) == int(size.replace(",", ""))
        assert hashlib.sha256(data).hexdigest() == digest


# ---------------------------------------------------------------- links


def anchors(text: str) -> set[str]:
    """Of a Markdown text's headings, as GitHub makes them."""
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
            for heading in re.findall(r"^#+ (.*)$", prose(text), re.MULTILINE)}


@every_document
def test_links_lead_somewhere(name):
    folder = (ROOT / name).parent
    for target, _, anchor in (link.partition("#") for link in re.findall(r"\]\(([^)]+)\)", prose(DOCUMENTS[name]))):
        if target.startswith("http"):
            continue
        path = (folder / target).resolve() if target else ROOT / name
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path.read_text(encoding="utf-8")), f"{target}#{anchor}"


@every_document
def test_files_that_are_named_are_there(name):
    """`folder/file.py` in a sentence or a table is a file of the package or of the repository."""
    text = re.sub(r"\]\([^)]*\)", "]", prose(DOCUMENTS[name]))         # without the links' targets
    places = ROOT, ROOT / "diffedit_min", (ROOT / name).parent
    for file in re.findall(r"(?<![\w./-])((?:\w+/)+\w+\.py)\b", text):
        assert any((place / file).exists() for place in places), file


# ---------------------------------------------------------------- commands


def commands() -> list[str]:
    """Every command of the documents' blocks and sentences, and of the tables that are made again, on one line each."""
    text = re.sub(r"\\\n\s*", "", ALL)
    lines = re.findall(r"^((?:torchrun|diffedit-min|python) .*)$", text, re.MULTILINE)
    quoted = [" ".join(words.split()) for words in re.findall(r"`((?:diffedit-min|python) [^`]+)`", text)]
    made = [command for piece in readme_tables.PIECES.values() for command in piece.commands]
    return sorted({*lines, *quoted, *made})


@pytest.mark.parametrize("line", commands())
def test_every_option_of_a_command_exists(line):
    words = line.partition("#")[0].split()
    if words[0] == "torchrun":
        words = ["diffedit-min", *words[words.index("diffedit_min") + 1:]]
    if words[0] == "python":
        options = options_of_program(words[2:] if words[1] == "-m" else words[1:], module=words[1] == "-m")
        words = words[2:]
    else:
        options = options_of_command(words[1])
    assert {word for word in words if re.match(r"--?[a-z]", word)} <= options


def options_of_command(name: str) -> set[str]:
    """All options of `diffedit-min NAME`."""
    if name.startswith("-"):
        return {"--version", "--debug", "--help"}
    parameters = typer.main.get_command(cli.app).commands[name].params
    return {"--help", *(option for parameter in parameters for option in parameter.opts)}


def options_of_program(words: list[str], module: bool) -> set[str]:
    """What `python -m MODULE` or `python FILE` says that it takes, read in its text and its neighbours'."""
    path = ROOT / (words[0].replace(".", "/") + ".py" if module else words[0])
    path = path if path.exists() else path.with_suffix("") / "__main__.py"
    text = path.read_text(encoding="utf-8")
    beside = [path.with_name(f"{name}.py") for name in re.findall(r"^from \.(\w+) import", text, re.MULTILINE)]
    texts = [text, *(file.read_text(encoding="utf-8") for file in beside if file.is_file())]
    return {"-m", *re.findall(r"add_argument\(\s*\"(--[\w-]+)\"", "\n".join(texts))}


def test_every_option_that_is_named_exists():
    """In whichever sentence it stands, some program here has it."""
    names = ["--version", "--debug", *typer.main.get_command(cli.app).commands]
    programs = [path.relative_to(ROOT).as_posix() for folder in ("diffedit_min", "tests")
                for path in (ROOT / folder).rglob("*.py") if "argparse" in path.read_text(encoding="utf-8")]
    known = set.union(*map(options_of_command, names), *(options_of_program([path], module=False) for path in programs))
    others = {"--local-dir", "--nproc-per-node"}        # of hf and torchrun
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]*", ALL)) - others <= known


def test_every_table_that_is_made_again_has_its_place():
    made = [name for piece in readme_tables.PIECES.values() for name in piece.tables]
    places = re.findall(r"<!-- table: (\S+) -->\n\|", ALL)
    assert sorted(made) == sorted(places)
    pictures = {name for piece in readme_tables.PIECES.values() for name in piece.pictures}
    assert pictures == set(re.findall(r"\.github/(\S+)\)", ALL))


# ---------------------------------------------------------------- the program that makes tables


def test_a_table_takes_the_place_of_the_old_one():
    text = "before\n\n<!-- table: one -->\n| a |\n|---|\n| 1 |\n\nafter\n\n<!-- table: two -->\n| b |\n|---|\n| 2 |\n"
    new = readme_tables.put_table(text, "one", (["a", "c"], [["3", "4"], ["5", ""]]))
    assert new == text.replace("| a |\n|---|\n| 1 |", "| a | c |\n|---|---|\n| 3 | 4 |\n| 5 | |")
    assert readme_tables.markdown_tables(new) == [[{"a": "3", "c": "4"}, {"a": "5", "c": ""}], [{"b": "2"}]]
    assert readme_tables.put_table(text, "three", (["a"], [])) == text


def test_lines_are_counted_in_place():
    before = "before\n\n<!-- tree -->\n```\ndiffedit_min/\n  core/   7  the paper\n    ddim.py  x  a step\n```\nafter\n"
    lines = len((ROOT / "diffedit_min/core/ddim.py").read_text(encoding="utf-8").splitlines())
    after = readme_tables.count_lines(before.replace("  x  ", "  0  "))
    assert after.splitlines()[6] == f"    ddim.py{lines:>13}  a step"
    assert re.fullmatch(r"  core/ +\d{2,}00  the paper", after.splitlines()[5])
    assert after.endswith("```\nafter\n")


# ---------------------------------------------------------------- examples


RUN = """
import os, runpy, sys
for script in sys.argv[1:]:
    print(script, flush=True)
    os.mkdir(script + ".folder")
    os.chdir(script + ".folder")
    runpy.run_path(script)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, text in DOCUMENTS.items() if blocks(text, "python")])
def test_examples_run(name, tmp_path):
    """Each block as it stands, in an empty folder; one process for all of a document, as torch is slow to import."""
    scripts = [tmp_path / f"{index}.py" for index in range(len(blocks(DOCUMENTS[name], "python")))]
    for script, block in zip(scripts, blocks(DOCUMENTS[name], "python"), strict=True):
        script.write_text(block, encoding="utf-8")
    result = subprocess.run([sys.executable, "-c", RUN, *scripts], capture_output=True, text=True)
    assert result.returncode == 0, f"{result.stdout}{result.stderr}"
