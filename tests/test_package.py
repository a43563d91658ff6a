"""Run with `python -m pytest tests/test_package.py` from the repository's root; takes about 15 seconds.

Checks how the package is put together: what importing it costs, its public names, and which module imports which.
"""

import ast
import importlib
import os
import socket
import subprocess
import sys
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
    modules = [name for name in FILES if name and not under(name, "cli", "app", "__main__", "bench.__main__")]
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


def test_the_names_of_the_readme_are_public():
    assert {"load", "diffedit", "sdedit", "encode_decode", "METHODS", "__version__"} <= set(dm.__all__)
    assert len(dm.__all__) == len(set(dm.__all__)) and set(dm.__all__) <= set(dir(dm))
    for name in dm.METHODS:
        assert getattr(dm, name) is dm.METHODS[name]


def test_the_stub_names_the_same():
    """__init__.pyi is what type checkers and editors see instead of the lazy names."""
    stub, shown = ast.parse((ROOT / "__init__.pyi").read_text()), set()
    for node in stub.body:
        if isinstance(node, ast.ImportFrom):        # `X as X` is shown, a plain X is the stub's own
            shown |= {alias.asname for alias in node.names if alias.asname}
        elif isinstance(node, ast.FunctionDef):
            shown.add(node.name)
        elif isinstance(node, ast.AnnAssign):
            shown.add(node.target.id)
    assert shown == set(dir(dm))


@pytest.mark.parametrize("name", list(dm.METHODS))
def test_the_stub_has_each_methods_options(name):
    method, stub = getattr(dm, name), ast.parse((ROOT / "__init__.pyi").read_text())
    kinds = {node.name: node for node in stub.body if isinstance(node, ast.ClassDef)}

    def names_of(kind):
        own = {line.target.id for line in kinds[kind].body if isinstance(line, ast.AnnAssign)}
        return own.union(*(names_of(base.id) for base in kinds[kind].bases if base.id in kinds))

    kind, = [node.args.kwarg.annotation.slice.id for node in stub.body
             if isinstance(node, ast.FunctionDef) and node.name == name]
    options = set(method.options.__dataclass_fields__) | (method.uses - {"reference"})
    assert names_of(kind) == options | {"seed", "size", "preset", "keep", "on_step"}


def test_a_method_is_not_hidden_by_its_module():
    importlib.import_module(f"{NAME}.methods.diffedit")
    assert dm.methods.diffedit is dm.diffedit is dm.METHODS["diffedit"]


def test_an_unknown_name():
    with pytest.raises(AttributeError) as error:
        _ = dm.no_such_name
    assert str(error.value) == "module 'diffedit_min' has no attribute 'no_such_name'"


# ---------------------------------------------------------------- arrows


def test_the_imports_are_read_right():
    """Of this reader, so that the tests below can't pass by seeing nothing."""
    samplers = {f"samplers.{name}" for name in ("ddim", "fixed_point", "edict", "bdia", "belm", "dpm_solver")}
    assert imports("methods.coding")[0] == {"guidance", "samplers", "schedule", "methods.base", "methods.batches",
                                            "methods.options", *samplers}
    assert imports("tiny.train")[0] >= {"model.unet", "schedule", "tiny.scenes", "tiny.vocabulary"}
    assert imports("tiny.paint")[0] == set() and imports("")[0] == set()
    assert "transformers" in imports("model.text")[1]


# For each part, all that it may import of the package.
MAY_IMPORT = {
    "schedule": (),
    "guidance": ("schedule",),
    "mask": ("schedule", "guidance"),
    "samplers": ("schedule", "guidance", "samplers"),
    "model": ("schedule", "model"),
    "tiny.scenes": ("tiny.paint",),
    "tiny.paint": ("tiny.scenes",),
    "loading": ("schedule", "model", "tiny", "loading"),
}
PROGRAMS = ("loading", "tiny", "report", "bench", "jobs", "cli", "edit_command", "console", "typed", "app", "__main__")


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_arrows_point_down(part):
    modules = [module for module in FILES if under(module, part)]
    assert modules
    for module in modules:
        wrong = [other for other in imports(module)[0] if not under(other, *MAY_IMPORT[part])]
        assert not wrong, f"{module} imports {wrong}"


@pytest.mark.parametrize("part", ["schedule", "guidance", "mask", "samplers"])
def test_the_core_needs_torch_alone(part):
    for module in FILES:
        if under(module, part):
            wrong = imports(module)[1] - {"torch"} - set(sys.stdlib_module_names)
            assert not wrong, f"{module} imports {wrong}"


def test_methods_know_no_files_and_no_programs():
    for module in FILES:
        if under(module, "methods"):
            wrong = [other for other in imports(module)[0] if other == "" or under(other, *PROGRAMS)]
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
    programs = ("train", "train_instruct", "evaluate", "choose", "testing", "class_means")
    commands = ("cli", "app.command", "edit_command", "console", "bench.command", "bench.speed.command")
    if module.rpartition(".")[2] in programs or under(module, *commands):
        pytest.skip("a program")
    calls = [node for node in ast.walk(TREES[module]) if isinstance(node, ast.Call)]
    assert not [node.lineno for node in calls if isinstance(node.func, ast.Name) and node.func.id == "print"]
