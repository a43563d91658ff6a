"""pytest tests/test_own.py: methods and samplers of one's own are taken everywhere, as README.md files show them.

Every example file of methods/README.md and samplers/README.md runs as a plugin: in `edit` with its report, in `bench`,
in `info`, on the page and through the kit.
"""

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

import diffedit_min as dm
from diffedit_min.core.coding import RatioOptions
from diffedit_min.core.diffedit import DiffEditOptions, edit_inside
from diffedit_min.samplers import SAMPLERS

PACKAGE = Path(dm.__file__).parent
BLOCKS = {re.search(r"(?:Method\(\"|class )(\w+)", block.split("dm.register")[-1]).group(1).lower(): block
          for folder in ("methods", "samplers")
          for block in re.findall(r"```python\n(.*?)```", (PACKAGE / folder / "README.md").read_text(), re.DOTALL)
          if "dm.register" in block}
SOME = [name if name in ("attention_mask", "heun") else pytest.param(name, marks=pytest.mark.full) for name in BLOCKS]
OWN_METHODS = [name for name, block in BLOCKS.items() if "dm.Method(" in block]
QUERY = {"two_edits": "a basket of plums on sand | a bowl of plums on grass"}
AT_MOST = {"otsu": 15, "per_level": 20, "attention_mask": 45, "two_edits": 40, "heun": 20}      # lines, but for imports


@pytest.fixture
def plugin(tmp_path, unregistered):
    """plugin(name): the README's example of that name, as a file."""

    def write(name):
        path = tmp_path / f"{name}.py"
        path.write_text(BLOCKS[name])
        return path

    return write


@pytest.fixture
def scene(tmp_path):
    """A picture that the embedded model knows; and what it shows."""
    shown = dm.tiny.scenes.sample(2_000_000_000)
    shown.render().save(tmp_path / "scene.png")
    return shown


def told(name):
    """--method, or --sampler: how the command is told to use an example."""
    return ("--method", name.replace("_", "-")) if name in OWN_METHODS else ("-o", f"sampler={name}")


def test_the_examples_are_all_there_and_short():
    assert set(BLOCKS) == set(AT_MOST)
    for name, block in BLOCKS.items():
        lines = [line for line in block.splitlines() if line.strip() and not line.startswith(("import ", "from "))]
        assert len(lines) <= AT_MOST[name], (name, len(lines))


@pytest.mark.parametrize("name", [
    name if name in ("otsu", "heun") else pytest.param(name, marks=pytest.mark.full) for name in BLOCKS])
def test_an_example_edits_and_reports(name, plugin, scene, call_command):
    query = QUERY.get(name, "a bucket of plums on marble")
    done = call_command("edit", "scene.png", "--query", query, "--reference", scene.caption, *told(name), "-o",
                        "steps=5", "--plugin", plugin(name), "--report", "edit.html", "--out", "out.png", "--quiet")
    assert done.code == 0, done.err
    page = Path("edit.html").read_text(encoding="utf-8")
    assert f"{name}.py" in page         # its own source is shown, from a file outside the package
    settings = json.loads(Image.open("out.png").text["diffedit"])
    assert settings["sampler" if name == "heun" else "method"] == name
    again = call_command("edit", "scene.png", "--like", "out.png", "--plugin", plugin(name), "--out", "again.png",
                         "--quiet")
    assert again.code == 0, again.err
    assert Image.open("again.png").tobytes() == Image.open("out.png").tobytes()


def test_a_report_of_another_rule_does_not_show_the_threshold(plugin, scene, tmp_path):
    """Otsu's mask is not `map > 0.5`: the page doesn't say that it is, and its slider starts where the mask was cut."""
    dm.methods.load_plugin(plugin("otsu"))
    model = dm.load()
    edit = dm.otsu(model, scene.render(), "a bucket of plums on marble", scene.caption, steps=5, keep="trace")
    told = dm.studio.report.page(edit, model)
    assert "otsu&#39;s own rule" in told and "M = 1" not in told
    cut = float(re.search(r'id="cut"[^>]*value="([\d.]+)"', told).group(1))
    assert edit.mask.equal(edit.mask_map > cut)


@pytest.mark.slow
@pytest.mark.parametrize("name", SOME)
def test_an_example_is_measured(name, plugin, call_command):
    whose = [name.replace("_", "-")] if name in OWN_METHODS else ["diffedit", "-o", f"sampler=ddim,{name}"]
    if name == "two_edits":
        pytest.skip("the scenes ask for one edit")
    done = call_command("bench", "--dataset", "scenes", "--limit", 2, "--ratios", 0.4, 0.8, "--methods", *whose, "-o",
                        "steps=5", "--plugin", plugin(name), "--pictures", 1, "--quiet")
    assert done.code == 0, done.err
    table = Path("runs/scenes/table.csv").read_text()
    assert name.replace("_", "-") in table and ",0," in table       # no edit failed


@pytest.mark.parametrize("name", BLOCKS)
def test_info_knows_an_example(name, plugin, call_command):
    done = call_command("info", "--plugin", plugin(name))
    assert done.code == 0 and f"  {name.replace('_', '-')}: " in done.out
    if name in OWN_METHODS:
        done = call_command("info", name, "--plugin", plugin(name))
        told = BLOCKS[name].split("def run(task, options):")[1].split('"""')[1]
        assert "steps=50" in done.out and told[:30] in done.out


@pytest.mark.slow
@pytest.mark.skipif(find_spec("gradio") is None, reason="the page needs the extra app")
def test_the_page_offers_the_examples(plugin):
    """In its lists of methods and samplers, with a control for each option of theirs."""
    from diffedit_min.loading.held import Models
    from diffedit_min.studio.app.page import make_page

    for name in BLOCKS:
        dm.methods.load_plugin(plugin(name))
    parts = [part["props"] for part in make_page(Models(("tiny",)), 20, 40).get_config_file()["components"]]
    offered = {choice[-1] for part in parts for choice in part.get("choices") or ()}
    assert set(BLOCKS) <= offered
    ids = {part.get("elem_id") for part in parts}
    assert {f"option-{option}" for name in OWN_METHODS for option in dm.METHODS[name].known} <= ids


@pytest.mark.slow
@pytest.mark.parametrize("name", SOME)
def test_an_example_passes_its_check(name, plugin):
    dm.methods.load_plugin(plugin(name))
    if name in OWN_METHODS:
        queries = {"queries": ("a bowl | a plate", "pears | plums")} if name == "two_edits" else {}
        dm.testing.check_method(name, **queries)
    else:
        dm.testing.check_sampler(name)


# ---------------------------------------------------------------- variants


@pytest.fixture(scope="module")
def tiny():
    return dm.load()


def test_a_twin_has_the_same_row_and_the_same_words(tiny, scene, unregistered):
    """`based_on` and nothing changed: card, presets, results and reports are DiffEdit's but for the name."""
    twin = dm.register(dm.Method("twin", based_on=dm.diffedit))
    pages = []
    for preset in ("recommended", "paper", "fast"):
        assert twin.settings(tiny, {}, preset) == dm.diffedit.settings(tiny, {}, preset)
    for method in (dm.diffedit, dm.twin):
        edit = method(tiny, scene.render(), "a bucket of plums on marble", scene.caption, steps=5, keep="trace")
        page = dm.studio.report.page(edit, tiny, again={})      # the command names the method, too
        pages.append(page.replace(f"({method.name})", "").replace(f"{method.name}, step", "step")
                     .replace(f"<td>{method.name}</td>", "").replace(f"&#34;{method.name}&#34;", ""))
    assert pages[0] == pages[1]
    assert twin is dm.METHODS["twin"]


def test_a_variant_takes_the_card_but_for_what_it_declares_anew(tiny):
    @dataclass(frozen=True)
    class Weaker(DiffEditOptions):
        guidance_scale: float = dm.option(2.0, "weaker", least=0, stage="decoding")

    variant = dm.Method("weaker", dm.diffedit.run, Weaker, based_on=dm.diffedit)
    settings, own = variant.settings(tiny, {}), dm.diffedit.settings(tiny, {})
    assert (settings.guidance_scale, own.guidance_scale) == (2.0, 3.0)
    assert settings.mask_norm == own.mask_norm == "l2"
    without = dm.Method("plain", dm.sdedit.run, RatioOptions, based_on=dm.diffedit)
    assert without.settings(tiny, {}).encoding_ratio == own.encoding_ratio      # what it has not is left out


def test_an_option_of_ones_own_is_its_own_row(tiny, scene):
    """A map is not shared between values of an option whose stage is the map's, or isn't said."""
    for declared in ({"stage": "map"}, {}):
        @dataclass(frozen=True)
        class PowerOptions(DiffEditOptions):
            power: float = dm.option(1.0, "the map is raised to this power", above=0, **declared)

        def run(task, options):
            mask_map, _ = dm.core.diffedit.find_map(task, options)
            raised = mask_map**options.power
            return (yield from edit_inside(task, options, (raised > options.mask_threshold)[:, None], mask_map))

        method = dm.Method("powered", run, PowerOptions, based_on=dm.diffedit, uses={"reference", "mask_map"})
        words = scene.render(), "a bucket of plums on marble", scene.caption
        first = method(tiny, *words, encoding_ratio=0.0)
        second = method(tiny, *words, encoding_ratio=0.0, power=4.0, reuse=first)
        assert second.rows_for == {"mask": 20} and not second.mask.equal(first.mask)


def test_a_sampler_of_ones_own_needs_no_name(tiny, scene):
    namespace = {}
    exec(BLOCKS["heun"].replace("@dm.register", ""), namespace)
    heun = namespace["Heun"]()
    words = scene.render(), "a bucket of plums on marble", scene.caption
    edit = dm.diffedit(tiny, *words, sampler=heun, steps=5, keep="trace")
    assert edit.rows_for == {"mask": 20, "encode": 8, "decode": 16}
    again = dm.diffedit(tiny, *words, sampler=heun, steps=5, encoded=edit.encoded, mask_map=edit.mask_map)
    assert again.rows_for == {"decode": 16} and again.image.tobytes() == edit.image.tobytes()
    with pytest.raises(ValueError, match="encoded was made with sampler 'heun', but this edit has 'ddim': leave it"):
        dm.diffedit(tiny, *words, steps=5, encoded=edit.encoded)
    assert "Heun run backwards" in dm.studio.report.page(edit, tiny)


# ---------------------------------------------------------------- the benchmark


POWER = """
from dataclasses import dataclass
import torch
import diffedit_min as dm
from diffedit_min.core.diffedit import DiffEditOptions, edit_inside, find_map

@dataclass(frozen=True)
class PowerOptions(DiffEditOptions):
    power: float = dm.option(1.0, "the map is raised to this power", above=0, stage="mask")

def run(task, options):
    mask_map, _ = find_map(task, options)
    raised = mask_map ** (EXPONENT * options.power)
    return (yield from edit_inside(task, options, (raised > options.mask_threshold)[:, None], mask_map))

dm.register(dm.Method("powered", run, PowerOptions, based_on=dm.diffedit, uses={"reference", "mask_map", "encoded"}))
"""
BENCH = ("bench", "--dataset", "scenes", "--model", "random", "--limit", 1, "--pictures", 0, "--quiet", "-o", "steps=5",
         "--ratios", 0.4)


def rows_of(out="runs/scenes"):
    return [json.loads(line) for line in (Path(out) / "results.jsonl").read_text().splitlines()]


def test_the_benchmark_tells_an_options_values_apart(tmp_path, call_command, unregistered):
    """They share the map and the encoding, as the declared stages say, and nothing else."""
    (tmp_path / "powered.py").write_text(POWER.replace("EXPONENT", "1"))
    done = call_command(*BENCH, "--methods", "powered", "-o", "power=0.8,1", "--plugin", "powered.py")
    assert done.code == 0, done.err
    first, second = rows_of()
    assert (first["rows"], second["rows"]) == (20 + 2 + 4, 4) and first["iou"] != second["iou"]


def test_the_benchmark_measures_again_what_other_code_has_made(tmp_path, call_command, unregistered):
    plain = POWER.replace("PowerOptions, based_on", "DiffEditOptions, based_on").replace(" * options.power", "")
    told = (*BENCH, "--methods", "powered", "sdedit", "--plugin", "powered.py")
    (tmp_path / "powered.py").write_text(plain.replace("EXPONENT", "1"))
    assert call_command(*told).code == 0
    before = rows_of()
    parts = Path("runs/scenes/parts/results-0.jsonl")
    assert call_command(*told).code == 0 and len(parts.read_text().splitlines()) == 2      # nothing is done again
    (tmp_path / "powered.py").write_text(plain.replace("EXPONENT", "5"))
    assert call_command(*told).code == 0
    after = rows_of()
    assert after[0]["iou"] != before[0]["iou"] and after[1] == before[1]
    assert len(parts.read_text().splitlines()) == 3


def test_the_benchmark_takes_levels_of_ones_own(tmp_path, call_command, unregistered):
    """Levels that are no prefix of each other: nothing is shared, and nothing fails."""
    (tmp_path / "halved.py").write_text("""
from dataclasses import dataclass
import diffedit_min as dm
from diffedit_min.core.coding import IntervalOptions

@dataclass(frozen=True)
class Halved(IntervalOptions):
    def levels(self, schedule):
        return schedule.levels(max(1, round(self.encoding_ratio * self.steps)), 0.8)

dm.register(dm.Method("halved", dm.encode_decode.run, Halved, based_on=dm.encode_decode))
""")
    done = call_command(*BENCH, 0.8, "--methods", "halved", "--plugin", "halved.py")
    assert done.code == 0, done.err
    assert [entry["rows"] for entry in rows_of()] == [2 + 4, 3 + 6] and not any("error" in e for e in rows_of())


@pytest.mark.slow
def test_torchrun_takes_a_plugin(plugin, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m",
               "diffedit_min", "bench", *map(str, BENCH[1:]), "--limit", "2", "--methods", "otsu", "--batch", "1",
               "--out", "out", "--plugin", str(plugin("otsu"))]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300,
                          env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PACKAGE.parent)})
    assert done.returncode == 0, done.stderr
    assert [entry["method"] for entry in rows_of(tmp_path / "out")] == ["otsu", "otsu"]


# ---------------------------------------------------------------- registering


def test_names_of_the_package_stay_its_own(unregistered):
    for name in ("diffedit", "load"):
        with pytest.raises(ValueError, match=f"'{name}' is a name of diffedit_min's own: give the method another one"):
            dm.register(dm.Method(name, based_on=dm.diffedit))
    with pytest.raises(ValueError, match="'ddim' is a sampler of diffedit_min's own"):
        dm.register(SAMPLERS["ddim"])
    with pytest.raises(ValueError, match="register takes a Method, or a sampler with encode and decode, not 3"):
        dm.register(3)
    first, second = (dm.Method("mine", based_on=dm.diffedit) for _ in range(2))
    dm.register(first)
    assert dm.register(second) is dm.mine is second         # a cell of a notebook that runs again


@pytest.mark.parametrize(("text", "message"), [
    (None, "--plugin {file!r} is not there: give a Python file that calls dm.register"),
    ("x = 1\n", "--plugin {file!r} registers nothing: end it with dm.register(my_method)"),
    ("x = 1\ny = z\n", "--plugin {file!r}, line 2: NameError: name 'z' is not defined"),
    ("def f(:\n", "--plugin {file!r}, line 1: SyntaxError: "),
])
def test_a_plugin_that_does_not_work_is_one_line(text, message, tmp_path, call_command, unregistered):
    file = tmp_path / "mine.py"
    if text is not None:
        file.write_text(text)
    done = call_command("info", "--plugin", file)
    assert done.code == 1 and done.out == ""
    assert done.err.startswith("error: " + message.format(file=str(file))) and done.err.count("\n") == 1


def test_an_installed_package_adds_its_methods(tmp_path):
    """By the entry points of group diffedit_min.methods; one that fails is told of and takes no other along."""
    (tmp_path / "theirs.py").write_text("import diffedit_min as dm\n"
                                        "method = dm.Method('theirs', based_on=dm.diffedit)\n")
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[diffedit_min.methods]\nbroken = nowhere:method\ntheirs = theirs:method\n")
    done = run("import diffedit_min as dm\n"
               "print(dm.theirs.name, 'theirs' in dm.METHODS, len(dm.METHODS) > 10)", tmp_path)
    assert done.stdout == "theirs True True\n", done.stderr
    assert "the method 'broken' of package theirs can't be used: No module named 'nowhere'" in done.stderr


def run(code, *places):
    path = os.pathsep.join([*map(str, places), str(PACKAGE.parent)])
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=places[0],
                          env={**os.environ, "PYTHONPATH": path})


def test_a_method_or_a_sampler_is_added_by_one_file_and_one_line(tmp_path):
    """To a copy of the package: afterwards it is known to `dm`, to the command, and to what the tests run over."""
    copy = Path(shutil.copytree(PACKAGE, tmp_path / "diffedit_min", ignore=shutil.ignore_patterns("__pycache__")))
    method = BLOCKS["otsu"].replace("import diffedit_min as dm\n", "from .method import Method\n"
                                                                    "from .paper import diffedit\n")
    method = method.replace("dm.register(dm.Method(", "otsu_method = (Method(").replace("dm.diffedit", "diffedit")
    (copy / "methods" / "otsu.py").write_text(method.replace("diffedit_min.core", "..core"))
    sampler = (PACKAGE / "samplers" / "edict.py").read_text()
    sampler = sampler.replace('"edict"', '"second"').replace("class EDICT", "class Second")
    (copy / "samplers" / "second.py").write_text(sampler)
    for file, last, name in (("methods/registry.py", '"instruct_pix2pix")', '"otsu"'),
                             ("samplers/__init__.py", '".dpm_solver")', '".second"')):
        path = copy / file
        text = path.read_text()
        assert text.count(last) == 1
        path.write_text(text.replace(last, f"{last[:-1]}, {name})"))
    done = run("import diffedit_min as dm; from diffedit_min.testing import check_sampler\n"
               "print(dm.otsu, dm.__file__); check_sampler('second:p=0.9')\n"
               "from diffedit_min.studio import info; print('\\n'.join(info.lines(info.describe())))", tmp_path)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) in done.stdout and "  otsu: steps=50" in done.stdout and "  second: p=0.93" in done.stdout


# ---------------------------------------------------------------- the contract, in words


def outcome(**changed):
    """A run that returns an Outcome with something else."""
    def run(task, options):
        yield dm.Step("nothing", 1, 1)
        return replace(dm.Outcome(task.x0), **{name: value(task) for name, value in changed.items()})

    return run


def forgotten(task, options):
    yield dm.Step("nothing", 1, 1)


@pytest.mark.parametrize(("run", "message"), [
    (forgotten, r"mine: run must end with `return Outcome\(...\)`, but it returned NoneType"),
    (outcome(latent=lambda task: task.x0[..., 1:]),
     r"mine: Outcome.latent must have the shape \(1, 4, 4, 4\), not \(1, 4, 4, 3\)"),
    (outcome(mask=lambda task: task.valid), r"mine: Outcome.mask must have the shape \(1, 1, 4, 4\), not \(1, 4, 4\)"),
    (outcome(mask=lambda task: task.valid[:, None].float()), "mine: Outcome.mask must be bool, not torch.float32"),
    (outcome(mask_map=lambda task: "x"), "mine: Outcome.mask_map must be a tensor, not str"),
    (outcome(latent=lambda task: None),
     "mine: Outcome.latent is None, which means that no picture is to be changed, but there is no mask"),
    (outcome(decoded=lambda task: (task.x0,)), "mine: Outcome.decoded must hold States by level, the clean one first"),
])
def test_what_comes_back_from_a_run_is_checked(run, message, model):
    with pytest.raises(ValueError, match=message):
        dm.Method("mine", run)(model, Image.new("RGB", (16, 16)), "a")


def test_a_run_without_steps_may_be_a_plain_function(model):
    edit = dm.Method("mine", lambda task, options: dm.Outcome(task.x0))(model, Image.new("RGB", (16, 16)), "a")
    assert edit.rows == 0 and edit.image.size == (16, 16)


def test_what_a_method_can_not_be_made_of():
    with pytest.raises(ValueError, match="method 'my method' needs a name that Python takes, for example my_method"):
        dm.Method("my method", based_on=dm.diffedit)
    with pytest.raises(ValueError, match="method 'mine' needs a run"):
        dm.Method("mine")

    @dataclass(frozen=True)
    class Loose:
        steps: int = 3

    with pytest.raises(ValueError, match="method 'mine': Loose must be a dataclass based on Options"):
        dm.Method("mine", dm.sdedit.run, Loose)


def test_a_method_documents_itself():
    text = dm.diffedit.__doc__
    for name, option in dm.diffedit.known.items():
        assert name in text and " ".join(option.sentence.split()[:3]) in text
    parameters = inspect.signature(dm.diffedit).parameters
    assert {"model", "image", "query", "reference", "mask", "reuse", *dm.diffedit.known} <= set(parameters)
    assert "mask" not in inspect.signature(dm.sdedit).parameters
    assert len(repr(dm.load("random"))) < 1000
