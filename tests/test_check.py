"""Run with `python -m pytest tests/test_check.py` from the repository's root; `-m slow` runs whole checks.

`check` must pass what is right, and fail what is wrong in a line that names it and the way out.
"""

import json
import shutil
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import diffedit_min as dm
from diffedit_min.bench.agreement import against_plain, compared, copy_in, outputs
from diffedit_min.bench.findings import Checked, Line
from diffedit_min.loading import TINY
from diffedit_min.networks.attention import repeat_rows
from diffedit_min.networks.unet import UNet


@pytest.fixture(scope="module")
def tiny():
    return dm.load("tiny", device="cpu")


@pytest.fixture
def folder_of_tiny(tmp_path):
    """The embedded model's files, to change."""
    return shutil.copytree(TINY, tmp_path / "model")


def line_of(checked, what):
    (line,) = [line for line in checked.lines if line.what == what]
    return line


def verdicts(checked):
    return {line.what: line.verdict for line in checked.lines}


# ---------------------------------------------------------------- the table


def test_the_table_says_what_was_found_what_is_expected_and_what_to_do():
    checked = Checked("some", "cpu", [Line("VAE", "12 dB", "above 20 dB", "get another"), Line("U-Net", "1", "1"),
                                      Line("cost", "3 s", "", measured=False)])
    table = str(checked).splitlines()
    assert "some on cpu" in table[0]
    assert [row.split("  ")[0] for row in table[1:]] == ["VAE", "U-Net", "cost"]
    assert [row.split("  ")[-1].strip() for row in table[1:]] == ["get another", "ok", "-"]
    assert checked.wrong == checked.lines[:1]
    record = json.loads(json.dumps(checked.record()))
    assert record["ok"] is False and record["lines"][0]["verdict"] == "get another"
    assert Checked("some", "cpu", checked.lines[1:]).record()["ok"] is True


def test_what_cannot_be_opened_is_a_line_and_an_error(call_command):
    done = call_command("check", "no/such/folder", "--out", "strip.png", "--quiet")
    assert done.code == 1
    assert "files" in done.out and "neither a folder nor a file" in done.out
    assert done.err == "error: 1 of 1 lines are not as expected: files\n"
    record = json.loads(call_command("check", "no/such/folder", "--json", "--quiet").out)
    assert not record["ok"] and [line["what"] for line in record["lines"]] == ["files"]
    assert not Path("strip.png").exists()


@pytest.mark.parametrize(("options", "named"), [
    ({"dtype": "int8"}, "dtype 'int8' is not known"), ({"device": "toaster"}, "device 'toaster' can't be used")])
def test_a_wrong_device_or_dtype_is_refused_before_any_work(options, named):
    with pytest.raises(ValueError, match=named):
        dm.check("tiny", **options)


def test_a_target_that_cannot_be_written_is_refused_before_any_work(call_command):
    done = call_command("check", "tiny", "--out", "strip.bmp")
    assert done.code == 1 and done.out == "" and "suffix" in done.err


def test_a_weight_that_is_not_finite_is_named(model):
    broken = copy_in(model, "cpu", "float32")
    broken.unet.conv_in.weight[0, 0, 0, 0] = torch.nan
    checked = dm.check(broken, quick=True)
    assert [line.what for line in checked.wrong] == ["files"] and len(checked.lines) == 1
    assert "U-Net: conv_in.weight holds NaN" in checked.wrong[0].wrong


def test_a_network_whose_output_is_never_finite_fails_in_every_dtype_and_ends_no_check(model):
    """Finite weights, but a norm whose epsilon makes NaN of everything."""
    broken = copy_in(model, "cpu", "float32")
    broken.unet.conv_norm_out.eps = -1e9
    checked = dm.check(broken, quick=True)
    for what in ("predicts", "float32", "bfloat16", "float16"):
        assert "the U-Net at t=" in line_of(checked, what).wrong, what


# ---------------------------------------------------------------- agreement


def test_networks_agree_with_themselves_and_not_with_others(model):
    found = outputs(model)
    assert set(found) == {"text", "U-Net", "encode", "decode"}
    assert not compared("again", found, outputs(model), 1e-6, "no").wrong
    for name, numbers in found.items():         # each of them counts
        other = {**found, name: 1.1 * numbers}
        assert compared("other", other, found, 0.05, "to do").wrong == "to do"
        assert not compared("other", other, found, 0.2, "to do").wrong


def test_the_outputs_are_those_of_the_networks(model):
    """Not scaled, and not changed by what the model is said to predict."""
    as_v = outputs(replace(model, prediction_type="v_prediction"))
    for name, numbers in outputs(model).items():
        assert torch.equal(numbers, as_v[name])
    scaled = replace(model, vae=deepcopy(model.vae))
    scaled.vae.config = replace(model.vae.config, scaling_factor=3.0)
    assert not compared("scaled", outputs(scaled), outputs(model), 1e-5, "no").wrong


def test_a_copy_in_another_dtype_leaves_the_model_and_a_vae_that_must_stay_in_float32(model):
    copied = copy_in(model, "cpu", "bfloat16")
    assert {network.dtype for network in (model, copied)} == {torch.float64, torch.bfloat16}
    assert next(copied.vae.parameters()).dtype == torch.bfloat16
    kept = replace(model, vae=deepcopy(model.vae))
    kept.vae.config = replace(model.vae.config, force_upcast=True)
    assert next(copy_in(kept, "cpu", "float16").vae.parameters()).dtype == torch.float32


def test_edits_agree_by_their_masks_or_by_their_pictures():
    def edit(mask, grey):
        mask = None if mask is None else torch.tensor(mask)
        return SimpleNamespace(mask=mask, image=Image.new("RGB", (8, 8), (grey,) * 3))

    half, other = edit([[True, False]], 100), edit([[True, True]], 100)
    assert against_plain("edit", half, half, "float32").verdict == "ok"
    assert "another mask" in against_plain("edit", other, half, "float32").wrong
    assert against_plain("edit", edit(None, 101), edit(None, 100), "float32").verdict == "ok"
    assert "another picture" in against_plain("edit", edit(None, 200), edit(None, 100), "float32").wrong


# ---------------------------------------------------------------- whole checks


class OfV(UNet):
    """The embedded U-Net, turned into one that predicts v = sqrt(abar) eps - sqrt(1 - abar) x0."""

    schedule = None

    def forward(self, x, t, context, *more, **named):
        eps = super().forward(x, t, context, *more, **named)
        abar = self.schedule.abar[int(t)]
        x = repeat_rows(x, len(eps))
        x0 = (x - (1 - abar) ** 0.5 * eps) / abar**0.5
        return abar**0.5 * eps - (1 - abar) ** 0.5 * x0


@pytest.fixture
def v_model(tiny):
    unet = deepcopy(tiny.unet)
    unet.__class__, unet.schedule = OfV, tiny.schedule
    return replace(tiny, unet=unet, prediction_type="v_prediction")


def overflowing(network: nn.Module, block: str) -> None:
    """Scale a convolution before a norm by 100,000: in float32 that changes nothing, in float16 it overflows."""
    resnet = network.get_submodule(block)
    for layer in (resnet.conv1, getattr(resnet, "time_emb_proj", None)):
        if layer is not None:
            layer.weight.mul_(1e5), layer.bias.mul_(1e5)


@pytest.mark.slow
def test_the_embedded_model_passes(call_command, tmp_path):
    done = call_command("check", "tiny", "--json", "--out", "strip.png", "--quiet", "--dtype", "bfloat16")
    record = json.loads(done.out)
    assert done.code == 0 and record["ok"] and done.err.endswith("wrote strip.png\n"), (record, done.err)
    found = {line["what"]: line["verdict"] for line in record["lines"]}
    for what in ("files", "predicts", "VAE", "DDIM", "edit in float32", "bfloat16 to float32", "edit in bfloat16"):
        assert found[what] == "ok", what
    strip = Image.open(tmp_path / "strip.png")
    assert strip.width > 6 * strip.height / 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["strip.png"]        # nothing half-written


@pytest.mark.slow
def test_the_model_that_follows_instructions_passes_with_its_own_method():
    checked = dm.check("tiny-instruct", dtype="float16", device="cpu")
    assert not checked.wrong, str(checked)
    assert "instruct_pix2pix" in line_of(checked, "made for").found
    assert "true answer" in line_of(checked, "edit in float32").found
    assert "DDIM" not in verdicts(checked)      # its U-Net needs the picture too


@pytest.mark.slow
def test_random_weights_fail_and_no_time_is_spent_on_an_edit():
    checked = dm.check("random", device="cpu")
    assert "predict nothing" in line_of(checked, "predicts").wrong
    assert "VAE" in line_of(checked, "VAE").wrong
    assert "left out" in line_of(checked, "edit in float32").found


@pytest.mark.slow
def test_a_v_model_passes_and_one_that_is_labelled_epsilon_fails_with_the_way_out(v_model):
    right, wrong = (dm.check(model, quick=True, dtype="float32")
                    for model in (v_model, replace(v_model, prediction_type="epsilon")))
    # diffusers, if it is installed, is given the weights alone, which are those of a network that predicts epsilon
    assert {line.what for line in right.wrong} <= {"to diffusers"}, str(right)
    assert [line.what for line in wrong.wrong][:1] == ["predicts"]
    assert wrong.wrong[0].wrong == "it is read as epsilon: give prediction_type=v_prediction (--prediction-type)"


@pytest.mark.slow
def test_a_folder_whose_label_is_wrong_fails_once_and_passes_with_what_the_table_says(call_command, folder_of_tiny):
    config = folder_of_tiny / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "prediction_type": "v_prediction"}))
    done = call_command("check", folder_of_tiny, "--quick", "--quiet", "--dtype", "float32")
    assert done.code == 1 and "give prediction_type=epsilon" in done.out
    assert "lines are not as expected: predicts" in done.err and "warning" not in done.out
    again = call_command("check", folder_of_tiny, "--quick", "--quiet", "--dtype", "float32",
                         "--prediction-type", "epsilon")
    assert again.code == 0, again.out + again.err


@pytest.mark.slow
@pytest.mark.parametrize(("part", "block", "named"), [
    ("unet", "mid_block.resnets.0", "the U-Net at t="), ("vae", "decoder.mid_block.resnets.0", "the VAE's decoder")])
def test_an_overflow_in_float16_fails_that_dtype_and_names_the_network(folder_of_tiny, part, block, named):
    model = copy_in(dm.load("tiny", device="cpu"), "cpu", "float32")
    overflowing(getattr(model, part), block)
    file = folder_of_tiny / part / "diffusion_pytorch_model.safetensors"
    names = load_file(file)
    save_file({name: getattr(model, part).state_dict()[name].contiguous() for name in names}, file, {"format": "pt"})
    checked = dm.check(str(folder_of_tiny), quick=True, device="cpu")
    assert [line.what for line in checked.wrong] == ["float16"], str(checked)
    assert named in checked.wrong[0].wrong and "bfloat16" in checked.wrong[0].wrong
