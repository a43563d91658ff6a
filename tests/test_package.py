"""Run with `python -m pytest tests/test_package.py` from the repository's root; takes about 15 seconds.

How the house is built, read from the modules' own import statements: which floor stands on which, and what stands at
the top. And what importing costs, and the public names.
"""

import ast
import os
import socket
import subprocess
import sys
import types
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from pytest_socket import SocketBlockedError

import diffedit_min as dm

ROOT = Path(dm.__file__).parent
NAME = "diffedit_min"

# The floors, the ground floor first. A room may import itself and the rooms of the floors below.
FLOORS = [{"core"}, {"samplers", "networks", "pictures"}, {"loading"}, {"methods"}, {"tiny", "testing"}, {"bench"},
          {"studio"}, {"", "__main__"}]
HEIGHT = {room: height for height, floor in enumerate(FLOORS) for room in floor}


def module_name(path: Path) -> str:
    """"" for the package itself, else for example "core.diffedit"."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}
TREES = {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in FILES.items()}


def imports(module: str) -> tuple[set[str], set[str]]:
    """What a module imports anywhere, also in functions and for type checkers only: modules of the package (the version
    alone is no module), and others' top-level names."""
    package = module if FILES[module].name == "__init__.py" else module.rpartition(".")[0]
    own, others = set(), set()
    for node in ast.walk(TREES[module]):
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


def room(module: str) -> str:
    return module.partition(".")[0]


def run(code: str) -> subprocess.CompletedProcess:
    """In a fresh interpreter that finds this very package."""
    path = os.pathsep.join([str(ROOT.parent), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": path})


# ---------------------------------------------------------------- the house


def test_the_imports_are_read_right():
    """Of this reader, so that the tests below can't pass by seeing nothing."""
    assert imports("core.coding")[0] == {f"core.{name}" for name in ("ddim", "guidance", "options", "reuse", "schedule",
                                                                     "state", "task")}
    assert imports("tiny.train")[0] >= {"networks.unet", "core.schedule", "tiny.scenes", "tiny.vocabulary"}
    assert "" not in imports("pictures.metadata")[0], "the version is no module"
    assert "loading" in imports("studio.cli")[0], "in a function"
    assert imports("")[0] >= {"core.task", "studio"}, "for type checkers"
    assert "transformers" in imports("networks.text")[1]


def test_what_stands_at_the_top():
    shown = {path.name for path in ROOT.iterdir() if path.name != "__pycache__"}
    rooms = {path.name for path in ROOT.iterdir() if path.is_dir()} - {"__pycache__"}
    assert shown - rooms == {"__init__.py", "__main__.py", "py.typed", "walkthrough.ipynb"}
    assert rooms == set(HEIGHT) - {"", "__main__"} and len(rooms) <= 12


@pytest.mark.parametrize("floor", FLOORS, ids=lambda floor: "-".join(sorted(floor)).strip("-"))
def test_arrows_point_down(floor):
    modules = [module for module in FILES if room(module) in floor]
    assert modules
    for module in modules:
        wrong = [other for other in imports(module)[0]
                 if room(other) != room(module) and HEIGHT[room(other)] >= HEIGHT[room(module)]]
        assert not wrong, f"{module} imports {wrong}"


def test_no_circles():
    TopologicalSorter({module: imports(module)[0] - {module} for module in FILES}).prepare()


def test_core_and_samplers_need_torch_alone():
    for module in FILES:
        if room(module) in ("core", "samplers"):
            wrong = imports(module)[1] - {"torch"} - set(sys.stdlib_module_names)
            assert not wrong, f"{module} imports {wrong}"


def test_diffusers_is_imported_nowhere():
    for module in FILES:
        assert "diffusers" not in imports(module)[1], module


def test_only_programs_print():
    programs = ("train", "train_instruct", "evaluate", "choose", "class_means")
    for module, tree in TREES.items():
        if module.rpartition(".")[2] not in programs and room(module) != "studio" and module != "testing.__main__":
            lines = [node.lineno for node in ast.walk(tree)
                     if isinstance(node, ast.Call) and ast.unparse(node.func) == "print"]
            assert not lines, f"{module} prints in lines {lines}"


# ---------------------------------------------------------------- importing


def test_importing_the_package_imports_nothing_but_its_version():
    done = run(
        "import sys; before = set(sys.modules)\n"
        "import diffedit_min\n"
        "tops = {name.partition('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)\n"
        "print(sorted(tops), sorted(n for n in sys.modules if n.startswith('diffedit_min')))"
    )
    assert (done.stdout, done.stderr) == ("['diffedit_min'] ['diffedit_min', 'diffedit_min.core']\n", "")


def test_no_module_does_work_when_imported():
    """All of them in one interpreter: not a line is printed, torch's state stays, and transformers waits for its use.

    The page and the __main__ modules are programs.
    """
    modules = [name for name in FILES if name and not name.endswith("__main__") and not name.startswith("studio.app")]
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


def test_every_public_name_resolves():
    assert len(dm.__all__) == len(set(dm.__all__)) and set(dm.__all__) | set(dm.METHODS) <= set(dir(dm))
    for name in dir(dm):
        assert getattr(dm, name) is not None, name
    for name in dm.METHODS:
        assert getattr(dm, name) is dm.METHODS[name]
    with pytest.raises(AttributeError, match="^module 'diffedit_min' has no attribute 'no_such_name'$"):
        _ = dm.no_such_name


def test_type_checkers_see_the_names_that_are_looked_up_when_used():
    """Those of __init__.py's `if TYPE_CHECKING:` are the public ones; any other name is a Method there."""
    block, = (node for node in TREES[""].body if isinstance(node, ast.If))
    shown = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert shown == set(dir(dm)) - set(dm.METHODS) - {"__version__"}


def test_a_method_does_not_hide_its_module():
    for module in FILES:
        if module.startswith("methods."):
            found = {}
            exec(f"import {NAME}.{module} as m", found)
            assert isinstance(found["m"], types.ModuleType), module
