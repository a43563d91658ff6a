"""Run with `python -m pytest tests/test_package.py` from the repository's root; takes about 15 seconds.

Checks how the package is put together: what importing it costs, its public names, and which module imports which.
"""

import ast
import os
import socket
import subprocess
import sys
import types
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from pytest_socket import SocketBlockedError

import diffedit_min as dm

ROOT = Path(dm.__file__).parent
NAME = "diffedit_min"


def module_name(path: Path) -> str:
    """"" for the package itself, else for example "methods.diffedit"."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}
TREES = {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in FILES.items()}


def nodes_in_use(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under `if TYPE_CHECKING:`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from nodes_in_use(child)


def imports(module: str) -> tuple[set[str], set[str]]:
    """What a module imports anywhere, functions included: modules of the package, and others' top-level names."""
    package = module if FILES[module].name == "__init__.py" else module.rpartition(".")[0]
    own, others = set(), set()
    for node in nodes_in_use(TREES[module]):
        if isinstance(node, ast.Import):
            wanted = [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = [NAME, *package.split(".")] if package else [NAME]
            above = above[: len(above) - node.level + 1] if node.level else []
            wanted = [(".".join([*above, *filter(None, [node.module])]), alias.name) for alias in node.names]
        else:
            continue
        for source, name in wanted:
            top, _, inside = source.partition(".")
            if top != NAME:
                others.add(top)
            else:
                submodule = f"{inside}.{name}".strip(".")
                own.add(submodule if name and submodule in FILES else inside)
    return own, others


def under(module: str, *parents: str) -> bool:
    return any(module == parent or module.startswith(f"{parent}.") for parent in parents)


def run(code: str) -> subprocess.CompletedProcess:
    """In a fresh interpreter that finds this very package."""
    path = os.pathsep.join([str(ROOT.parent), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": path})


# ---------------------------------------------------------------- importing


def test_importing_the_package_imports_nothing_else():
    done = run(
        "import sys; before = set(sys.modules)\n"
        "import diffedit_min\n"
        "tops = {name.partition('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)\n"
        "print(sorted(tops), sorted(n for n in sys.modules if n.startswith('diffedit_min')))"
    )
    assert (done.stdout, done.stderr) == ("['diffedit_min'] ['diffedit_min']\n", "")


def test_no_module_does_work_when_imported():
    """All of them in one interpreter: not a line is printed, torch's state stays, and transformers waits for its use.

    cli, app and __main__ are programs.
    """
    programs = ("cli", "app", "__main__", "bench.__main__", "testing.__main__")
    modules = [name for name in FILES if name and not under(name, *programs)]
    done = run(f"""
import importlib, sys, torch
def state():
    return (torch.get_rng_state().sum().item(), torch.is_grad_enabled(), torch.get_default_dtype(),
            torch.get_num_threads(), torch.are_deterministic_algorithms_enabled())
before = state()
for name in {modules!r}:
    importlib.import_module("{NAME}." + name)
assert state() == before, (before, state())
loaded = {{"transformers", "diffusers", "gradio", "matplotlib", "torchmetrics"}} & set(sys.modules)
assert not loaded, loaded
""")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.filterwarnings("ignore:A test tried to use socket")
def test_tests_have_no_network():
    with pytest.raises(SocketBlockedError):
        socket.socket(socket.AF_INET)
    assert os.environ["HF_HUB_OFFLINE"] == "1"


# ---------------------------------------------------------------- public names


@pytest.mark.parametrize("name", dir(dm))
def test_every_public_name_resolves(name):
    assert getattr(dm, name) is not None


def test_names_of_methods_are_public():
    assert len(dm.__all__) == len(set(dm.__all__)) and set(dm.__all__) <= set(dir(dm))
    for name in dm.METHODS:
        assert getattr(dm, name) is dm.METHODS[name] and name in dir(dm)


def test_type_checkers_see_the_names_that_are_looked_up_when_used():
    """Those of __init__.py's `if TYPE_CHECKING:` are the public ones; any other name is a Method there."""
    block, = (node for node in TREES[""].body if isinstance(node, ast.If))
    shown = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert shown == {*dm.__all__, *dm._MODULES} - {"__version__"}


@pytest.mark.parametrize("module", [name for name in FILES if under(name, "methods") and "." in name])
def test_a_method_does_not_hide_its_module(module):
    found = {}
    exec(f"import {NAME}.{module} as m", found)
    assert isinstance(found["m"], types.ModuleType)


def test_an_unknown_name():
    with pytest.raises(AttributeError) as error:
        _ = dm.no_such_name
    assert str(error.value) == "module 'diffedit_min' has no attribute 'no_such_name'"


# ---------------------------------------------------------------- arrows


def test_the_imports_are_read_right():
    """Of this reader, so that the tests below can't pass by seeing nothing."""
    assert imports("core.coding")[0] == {f"core.{name}" for name in ("ddim", "guidance", "options", "reuse", "schedule",
                                                                     "state", "task")}
    assert imports("tiny.train")[0] >= {"model.unet", "core.schedule", "tiny.scenes", "tiny.vocabulary"}
    assert imports("tiny.paint")[0] == set() and imports("")[0] == set()
    assert "transformers" in imports("model.text")[1]


# For each part, all that it may import of the package.
MAY_IMPORT = {
    "core": ("core",),
    "samplers": ("core", "samplers"),
    "model": ("core", "model"),
    "tiny.scenes": ("tiny.paint",),
    "tiny.paint": ("tiny.scenes",),
    "loading": ("core", "model", "tiny", "loading"),
    "methods": ("core", "samplers", "model", "picture", "methods", ""),
    "testing": ("core", "samplers", "model", "methods", "loading", "picture", "testing"),
}


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_arrows_point_down(part):
    modules = [module for module in FILES if under(module, part)]
    assert modules
    for module in modules:
        wrong = [other for other in imports(module)[0]
                 if not (other in MAY_IMPORT[part] or under(other, *MAY_IMPORT[part]))]
        assert not wrong, f"{module} imports {wrong}"


@pytest.mark.parametrize("part", ["core", "samplers"])
def test_the_core_needs_torch_alone(part):
    for module in FILES:
        if under(module, part):
            wrong = imports(module)[1] - {"torch"} - set(sys.stdlib_module_names)
            assert not wrong, f"{module} imports {wrong}"


def test_no_cycles():
    TopologicalSorter({module: imports(module)[0] - {module} for module in FILES}).prepare()


@pytest.mark.parametrize("module", FILES)
def test_diffusers_is_imported_nowhere(module):
    assert "diffusers" not in imports(module)[1]
    text = FILES[module].read_text(encoding="utf-8")
    assert "import diffusers" not in text and "from diffusers" not in text


@pytest.mark.parametrize("module", FILES)
def test_modules_do_not_print(module):
    programs = ("train", "train_instruct", "evaluate", "choose", "class_means")
    commands = ("cli", "app.command", "edit_command", "console", "bench.command", "bench.speed.command",
                "testing.__main__")
    if module.rpartition(".")[2] in programs or under(module, *commands):
        pytest.skip("a program")
    calls = [node for node in ast.walk(TREES[module]) if isinstance(node, ast.Call)]
    assert not [node.lineno for node in calls if isinstance(node.func, ast.Name) and node.func.id == "print"]
