"""pytest tests/test_speed.py: `diffedit-min speed`: what is measured, counted, composed and shown.

No test looks at how long anything took. Models are tiny and random; the machine's ceilings are small.
"""

import csv
import io
import os
import signal
from functools import partial
from pathlib import Path

import checkpoints
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import diffedit_min as dm
from diffedit_min.bench import programs, shapes, speed
from diffedit_min.networks.unet import UNetConfig
from diffedit_min.networks.vae import VAEConfig

QUICK = {"model": "random", "repeats": 1, "rows": (1, 2), "least": 1e-6, "matrix": 16, "copied": 2**10,
         "options": {"steps": 4}}


@pytest.fixture
def run(call_command):
    return partial(call_command, "speed")


@pytest.fixture
def measured(tmp_path):
    """measured(parts, ...): measure, and give each table's lines as table.csv has them."""

    def measure(*parts: str, **plan: object) -> dict[str, list[dict[str, str]]]:
        speed.measure(programs.Plan(**{**QUICK, "parts": parts, **plan}), tmp_path, lambda _: None)
        tables: dict[str, list[dict[str, str]]] = {}
        for line in csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text())):
            tables.setdefault(line["table"], []).append(line)
        return tables

    return measure


# ---------------------------------------------------------------- what is counted


def test_flops_by_hand():
    """A multiply-add is two; a convolution's are those of a product at each cell; attention's of its two products."""
    linear, conv = nn.Linear(5, 7), nn.Conv2d(3, 4, 3, padding=1)
    with torch.no_grad():
        assert speed.flops(lambda: linear(torch.zeros(11, 5)))[0] == 2 * 11 * 5 * 7
        assert speed.flops(lambda: conv(torch.zeros(2, 3, 8, 6)))[0] == 2 * 2 * 8 * 6 * 4 * 3 * 9
        q, kv = torch.zeros(2, 3, 16, 8), torch.zeros(2, 3, 5, 8)
        assert speed.flops(lambda: F.scaled_dot_product_attention(q, kv, kv))[0] == 2 * 2 * 2 * 3 * 16 * 5 * 8
        assert speed.flops(lambda: q @ kv.mT @ kv)[0] == 2 * 2 * 2 * 3 * 16 * 5 * 8


@pytest.mark.parametrize("rows, latents", [(1, 1), (2, 1), (3, 3), (8, 4)])
def test_an_even_number_of_rows_are_pairs(model, rows, latents):
    x, t, tokens, _ = programs.inputs(model, 32, rows)
    assert x.shape == (latents, 4, 8, 8) and len(tokens) == rows
    empty, lemons = model.embed(list(programs.PROMPTS)).tokens
    assert (tokens[-latents:] == lemons).all() and (tokens[:latents] == (empty if latents < rows else lemons)).all()
    with torch.no_grad():
        together = programs.Ours(model).unet(x, t, tokens, None)
        alone = torch.cat([model.eps(x[[i % latents]], int(t), tokens[[i]]) for i in range(rows)])
    assert (together - alone).abs().max() <= 1e-12


def test_an_edit_is_watched_and_nothing_is_left_behind(model):
    editor = programs.Ours(model, steps=5)
    seconds, inside, rows = speed.watched(editor, 32)
    assert rows["unet"] == dm.diffedit(model, *programs.task(32), steps=5).rows
    assert (rows["encode"], rows["decode"]) == (1, 1) and rows["text"] > 0
    assert 0 < inside.total() <= seconds and not model.unet._forward_hooks and not model.unet._forward_pre_hooks


def test_programs_take_turns():
    bench, order = speed.Bench(programs.Plan(**{**QUICK, "repeats": 4}), "float32"), []
    bench.in_turns({name: partial(order.append, name) for name in "xyz"})
    assert "".join(order) == "xyz" "yzx" "zxy" "xyz"


def test_kinds_of_operation():
    kinds = {"aten::mkldnn_convolution": "convolution", "mkldnn::_linear_pointwise": "matrix product",
             "aten::mm": "matrix product", "aten::bmm": "attention", "aten::_softmax": "attention",
             "aten::native_group_norm": "normalisation", "aten::silu": "other", "aten::comm": "other"}
    assert {operation: speed.kind_of(operation) for operation in kinds} == kinds


# ---------------------------------------------------------------- the tables


def test_single_calls_have_a_line_each(measured, tmp_path):
    tables = measured("unet", "vae", "operations", sizes=(32, 40))
    assert [(line["size"], line["rows"], line["program"]) for line in tables["U-Net"]] == [
        (size, rows, "diffedit_min") for size in ("32", "40") for rows in ("1", "2")]
    assert [(line["size"], line["what"]) for line in tables["VAE"]] == [
        (size, what) for size in ("32", "40") for what in ("encode", "decode")]
    line, number = tables["U-Net"][-1], lambda line, name: float(line[name])
    assert number(line, "seconds a row") == pytest.approx(number(line, "seconds") / 2)
    ceiling, = (own for own in tables["Ceilings"] if (own["size"], own["rows"]) == ("40", "2"))
    assert number(line, "of the matrix product") == pytest.approx(
        number(line, "GFLOP/s") / number(ceiling, "matrix product, GFLOP/s"))
    assert sum(float(tables["Operations"][0][kind]) for kind in speed.KINDS) == pytest.approx(1)
    text = (tmp_path / "table.md").read_text().splitlines()
    assert text[0].startswith("random on ") and f"torch {torch.__version__}, {torch.get_num_threads()} " in text[0]
    assert [line for line in text if line.startswith("#")] == ["### U-Net", "### Operations", "### VAE", "### Ceilings"]
    assert text[6].startswith("| dtype | size | rows | program | seconds | seconds a row | GFLOP/s | of the matrix ")
    assert text[8].startswith("| float32 | 32 | 1 | diffedit_min | ")


def test_cells():
    assert [speed.cell("seconds", value) for value in ("a", 3, 0.0012345, 12.34, 1234.5)] == [
        "a", "3", "0.00123", "12.3", "1234"]
    assert speed.cell("attention", 0.256) == "26%"


def test_each_preset_is_an_edit_of_its_own(measured):
    paper, fast = measured("edit", presets=("paper", "fast"), sizes=(16,))["Whole edit"]
    assert (paper["program"], fast["program"]) == ("diffedit_min, paper", "diffedit_min, fast")
    assert (paper["U-Net rows"], paper["encodings"], paper["decodings"]) == (str(2 * 10 + 3 + 2 * 3), "1", "1")
    assert paper["in"] == "float32" and float(paper["overhead"]) >= 1
    assert int(fast["U-Net rows"]) < int(paper["U-Net rows"])


def test_a_large_edit_is_composed():
    """30 rows in pairs of 0.5 seconds, one encoding, two decodings, and the 70 - 63 seconds that were outside."""
    watched = 70.0, {"unet": 60.0, "encode": 1.0, "decode": 2.0, "text": 3.0}, {"unet": 30, "encode": 1, "decode": 2}
    assert speed.compose([watched], {"unet": 0.5, "encode": 3.0, "decode": 100.0}) == 15 * 0.5 + 3.0 + 200.0 + 7.0
    bench = speed.Bench(programs.Plan(**{**QUICK, "presets": ("paper", "fast")}), "float32")
    editors = {name: made() for name, made in bench.editors().items()}
    seconds = speed.composed(bench, 32, editors, dict.fromkeys(editors, [watched]))
    assert list(seconds) == list(editors) and min(seconds.values()) > 7.0


@pytest.mark.slow
@pytest.mark.skipif(not programs.CLEAR.exists(), reason="only Linux has it")
def test_memory_is_measured_in_a_process_of_its_own(measured):
    line, = measured("memory", dtypes=("bfloat16",))["Memory"]
    weights = 2 * sum(weight.numel() for network in (lambda m: (m.unet, m.vae, m.text_encoder))(dm.load("random"))
                      for weight in network.parameters())
    assert float(line["weights, MB"]) == weights / 1e6 and float(line["peak / weights"]) > 2
    wrong = programs.Plan(**{**QUICK, "options": {"sampler": "x"}})
    with pytest.raises(ValueError, match="^sampler 'x' is not known"):
        programs.in_a_process(programs.peak, wrong, "float32", "diffedit_min", 32, 1)
    assert programs.in_a_process(signal.raise_signal, signal.SIGKILL) is None       # as the kernel does
    with pytest.raises(ValueError, match="ended with exit code -6 and no answer"):      # a crash is no want of memory
        programs.in_a_process(os.abort)


def test_the_compiled_unet_is_measured_beside_the_same_as_it_is(measured, monkeypatch):
    monkeypatch.setenv("CXX", "c++")        # as if there were a compiler: nothing is compiled here
    with torch.compiler.set_stance("force_eager"):
        plain, fast = measured("compile")["torch.compile"]
    assert (plain["program"], fast["program"]) == ("diffedit_min", "diffedit_min, compiled")
    assert float(plain["seconds"]) > 0 and float(fast["to the first call's end"]) > 0


def test_the_command_prints_the_tables_and_gives_threads_back(run):
    before = torch.get_num_threads()
    done = run("--model", "random", "--parts", "operations", "--repeats", 1, "--threads", before + 1, "--out", "out")
    assert done.code == 0, done.err
    assert Path("out/table.md").read_text() in done.out and done.out.endswith("wrote out/table.md, out/table.csv\n")
    assert done.err.startswith("operations, random in float32\n") and torch.get_num_threads() == before
    assert f"{before + 1} threads" in done.out


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize("arguments, message", [
    (("--dtype", "float8"), "--dtype 'float8' is not known; known are float32, float64, float16, bfloat16"),
    (("--parts", "unet", "gpu"), "--parts 'gpu' is not known; known are unet, operations, vae, edit, memory, compile"),
    (("--device", "toaster"), "device 'toaster' can't be used"),
    (("--size", "30"), "--size 30: random takes multiples of 8 pixels"),
    (("--size", "2147483648"), "size is 2147483648: give the side in pixels, from 1 to 8192"),
    (("--model", "sd15-shape", "--size", "100"), "--size 100: sd15-shape takes multiples of 64 pixels"),
    (("--against", "nobody"), "--against 'nobody': there is no tests/against_nobody.py beside the package; it comes "
                              "with a checkout, or give the path of such a file"),
    (("--against", "nowhere/mine.py"), "--against 'nowhere/mine.py': there is no file 'nowhere/mine.py'; it comes with "
                                       "a checkout, or give the path of such a file"),
    (("--preset", "paper", "best"), "diffedit has no preset 'best'; it has recommended, paper"),
    (("-o", "steps=none"), "steps must be a whole number, not 'none'"),
    (("--out", __file__), f"the folder {__file__!r} can't be made (File exists): choose another"),
])
def test_what_is_refused_before_any_work(run, arguments, message):
    done = run(*("--model", "random") * ("--model" not in arguments), *arguments)
    assert (done.code, done.out) == (1, "") and done.err.startswith(f"error: {message}") and done.err.count("\n") == 1
    assert not list(Path().rglob("table.*"))


def test_a_call_or_an_edit_that_costs_something_else_is_refused(model):
    with pytest.raises(ValueError, match="^what diffedit_min puts out is not finite: it would not cost what it should"):
        speed.same_work({"diffedit_min": lambda: torch.tensor([1.0, float("nan")])})
    with pytest.raises(ValueError, match="^fake does other work than diffedit_min: what it puts out is 20% off$"):
        speed.same_work({"diffedit_min": lambda: torch.ones(3), "fake": lambda: 1.2 * torch.ones(3)})
    with pytest.raises(ValueError, match="^the mask is empty, so that the edit stopped early: give another"):
        picture, query, _ = programs.task(32)
        programs.Ours(model).edit(picture, query, query)


# ---------------------------------------------------------------- full size, random weights


@pytest.mark.parametrize("name, family", [("sd15-shape", "sd15"), ("sd21-shape", "sd21-768"), ("sdxl-shape", "sdxl")])
def test_the_shapes_are_as_published(name, family):
    published, shape = checkpoints.REAL[family], shapes.SHAPES[name]
    assert shape.unet == UNetConfig.from_dict(checkpoints.full_config("unet", published["unet"]))
    assert shape.vae == VAEConfig.from_dict(published["vae"])
    texts = [config for part, config in published.items() if part.startswith("text_encoder")]
    assert len(texts) == len(shape.texts)
    for text, config in zip(shape.texts, texts, strict=True):
        assert text == {key: config[key] for key in text}
    assert shape.zeros == bool(published["index"].get("force_zeros_for_empty_prompt"))


TEXT = {**shapes.VIT_L, "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
SMALL = UNetConfig(block_out_channels=(32, 64), down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                   attention_head_dim=2, cross_attention_dim=16, sample_size=8)


def test_a_shape_is_a_model_whose_numbers_are_sane():
    """What comes out is finite and of about the size of what went in: no kernel is slowed down, or sped up, by it."""
    shape = shapes.Shape("small", SMALL, VAEConfig(block_out_channels=(32, 32, 64)), (TEXT,))
    model = shapes.make(shape, torch.bfloat16)
    assert model.dtype == next(model.vae.parameters()).dtype == torch.bfloat16
    assert model.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)       # as load has it
    x, context = torch.randn(2, 4, 8, 8), model.embed(["", "a bowl of pears"])
    with torch.no_grad():
        for out in (model.eps(x, 500, context), model.encode(x[:, :3]), model.decode(x)):
            assert out.isfinite().all() and 0.01 < out.std() < 10


# ---------------------------------------------------------------- another program

FAKE = """
from diffedit_min.bench.programs import Ours

def rival(model):
    return ({"fake, plain": lambda: Ours(model)},
            {"fake, quick": lambda: Ours(model, steps=2, mask_samples=1)})
"""


def test_another_program_takes_turns(measured, tmp_path):
    (tmp_path / "fake.py").write_text(FAKE)
    tables = measured("unet", "vae", "edit", rows=(2,), sizes=(16,), against=str(tmp_path / "fake.py"))
    for table, other in (("U-Net", "fake, plain"), ("VAE", "fake, plain"), ("Whole edit", "fake, quick")):
        ours, theirs = tables[table][:2]
        assert (ours["program"], theirs["program"], theirs[f"/ {other}"]) == ("diffedit_min", other, "")
        assert float(ours[f"/ {other}"]) == pytest.approx(float(ours["seconds"]) / float(theirs["seconds"]))


@pytest.mark.parametrize("text, message", [
    ("import no_such_module", "--against 'it' needs no_such_module, which isn't installed: pip install -e"),
    ("", "--against 'against_it.py': the file has no function rival(model)")])
def test_what_a_file_of_another_program_lacks_is_named(run, tmp_path, text, message):
    (tmp_path / "against_it.py").write_text(text)
    done = run("--model", "random", "--against", "against_it.py")
    assert done.code == 1 and done.err.startswith(f"error: {message}")


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_diffusers_does_the_same_work_with_the_same_weights(family, tmp_path):
    pytest.importorskip("diffusers")
    configs = checkpoints.small(family)
    model = dm.load(checkpoints.write_folder(tmp_path, configs, checkpoints.random_weights(configs)),
                    device="cpu", dtype="float64")
    networks, editors = programs.load_rival(programs.rival_file("diffusers"))(model)
    ours, side = programs.Ours(model), model.multiple
    for variant, made in networks.items():
        theirs = made()
        for what, given in (("unet", programs.inputs(model, side, 1)), ("unet", programs.inputs(model, side, 2)),
                            *programs.vae_inputs(model, side).items()):
            with torch.no_grad():
                a, b = getattr(ours, what)(*given), getattr(theirs, what)(*given)
            assert (a - b).norm() / a.norm() <= 1e-6, (variant, what)
    names = ["diffusers, default", "diffusers, tuned"]
    assert list(editors) == ([] if family == "sdxl" else names)     # its pipeline has one text encoder


@pytest.mark.slow
def test_a_whole_run_against_diffusers(measured):
    """Its edit takes 4 x 10 rows for the mask and 2 x 40 each for encoding and decoding; a VAE encoding for each noise
    and one more."""
    pytest.importorskip("diffusers")
    edits = measured("unet", "edit", dtypes=("bfloat16",), against=str(programs.rival_file("diffusers")))["Whole edit"]
    assert [tuple(line[name] for name in ("program", "in", "U-Net rows", "encodings")) for line in edits] == [
        ("diffedit_min", "bfloat16", "29", "1"), ("diffusers, default", "float32", "200", "11"),
        ("diffusers, tuned", "bfloat16", "200", "11")]
