"""What a network predicts is measured: right for networks that have learnt something, undecided for those that haven't.

    python tests/test_asking.py     prints the table of weights.md, with the errors of each reading
"""

import json
import random
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoints import random_weights, small, write_configs, write_folder, write_single_file
from learnt import learnt, that_predicts
from PIL import Image
from torch import Tensor, nn

import diffedit_min as dm
from diffedit_min.core.schedule import READINGS
from diffedit_min.loading import TINY, load
from diffedit_min.loading.asking import Answer, ask
from diffedit_min.networks.unet import UNet

KINDS = tuple(READINGS)
SAID = "it seems to predict v_prediction: on a noised photograph the error of what it predicts is "


@pytest.fixture(scope="module")
def tiny() -> dm.StableDiffusion:
    return load("tiny", device="cpu")


def random_unet(tiny: dm.StableDiffusion, seed: int, init: str = "default") -> dm.StableDiffusion:
    """The embedded model with a U-Net of random weights: its VAE's latents are as they should be."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        unet = UNet(tiny.unet.config).eval()
        for weight in unet.parameters():
            if weight.ndim > 1 and init == "normal":
                weight.normal_(0, weight[0].numel() ** -0.5)
            elif weight.ndim > 1 and init == "small":
                weight.normal_(0, 0.02)
            elif weight.ndim > 1 and init == "xavier":
                nn.init.xavier_uniform_(weight.flatten(1))
    return replace(tiny, unet=unet)


class Multiple(nn.Module):
    """A "network" that puts out a multiple of its input: nothing is learnt in that."""

    def __init__(self, unet: UNet, by: float):
        super().__init__()
        self.config, self.conv_in, self.by = unet.config, unet.conv_in, by

    def forward(self, x: Tensor, *_: object) -> Tensor:
        return self.by * x


# ---------------------------------------------------------------- the answer


@pytest.mark.parametrize("kind", KINDS)
def test_one_row_shows_whether_there_is_a_contradiction(tiny, kind):
    assert ask(that_predicts(tiny, kind), abars=[0.4]).prediction_type == kind


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["tiny", "tiny-instruct"])
def test_a_trained_network_answers_what_it_predicts(name, kind):
    answer = ask(that_predicts(load(name, device="cpu"), kind))
    assert answer.prediction_type == kind
    assert answer.errors[kind] < 0.25 and min(answer.errors[other] for other in KINDS if other != kind) > 0.5


def test_the_answer_does_not_depend_on_what_the_model_says(tiny):
    said = [ask(replace(tiny, prediction_type=kind)) for kind in KINDS]
    assert said[0] == said[1] == said[2]


def test_errors_are_those_of_the_noise(tiny):
    """By hand: a network that puts out nothing has, read as epsilon, the noise's own variance as its error."""
    silent = ask(replace(tiny, unet=Multiple(tiny.unet, 0.0)))
    assert silent.errors["epsilon"] == pytest.approx(1, abs=0.05) and silent.prediction_type is None


@pytest.mark.parametrize("by", [-1.0, 0.0, 0.3, 0.5, 0.7, 1.0])
def test_a_multiple_of_the_input_is_no_prediction(tiny, by):
    answer = ask(replace(tiny, unet=Multiple(tiny.unet, by)))
    assert answer.prediction_type is None
    assert min(answer.errors.values()) > 0.95 * answer.scaling


@pytest.mark.parametrize("init", ["default", "normal", "small", "xavier"])
def test_random_weights_predict_nothing(tiny, init):
    assert ask(random_unet(tiny, 0, init)).prediction_type is None


def test_random_checkpoints_predict_nothing():
    """Their VAE is random too: its latents are almost zero, so that x_t is the noise, which is read off it."""
    assert ask(load("random", device="cpu")).prediction_type is None


@pytest.mark.parametrize("family", ["sd15", "sd15-inpainting", "sd21-768", "sdxl"])
def test_random_weights_of_each_family_predict_nothing(family, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)     # undecided is no contradiction
        model = load(write_folder(tmp_path, small(family)), device="cpu")
    assert ask(model).prediction_type is None


def test_the_answer_needs_both_limits():
    assert Answer({"epsilon": 0.2, "v_prediction": 0.6, "sample": 1.2}, 0.45).prediction_type == "epsilon"
    assert Answer({"epsilon": 0.2, "v_prediction": 0.3, "sample": 1.2}, 0.45).prediction_type is None
    assert Answer({"epsilon": 0.2, "v_prediction": 0.6, "sample": 1.2}, 0.2).prediction_type is None
    assert Answer(dict.fromkeys(KINDS, 0.0), 0.0).prediction_type is None


def crop_of_the_photograph(numbers: random.Random) -> Image.Image:
    side = numbers.randint(96, 384)
    left, top = numbers.randint(0, 384 - side), numbers.randint(0, 384 - side)
    picture = dm.pictures.photograph().crop((left, top, left + side, top + side))
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if numbers.random() < 0.5 else picture


@pytest.mark.slow
def test_no_wrong_answer_in_30_tries_of_trained_networks():
    numbers = random.Random(0)
    for seed in range(30):
        name, kind = numbers.choice(["tiny", "tiny-instruct"]), numbers.choice(KINDS)
        dtype = numbers.choice(["float32", "float32", "bfloat16", "float64"])
        model = that_predicts(load(name, device="cpu", dtype=dtype), kind)
        answer = ask(model, crop_of_the_photograph(numbers), seed)
        assert answer.prediction_type == kind, f"{seed}: {name}, {dtype}, {kind}: {answer}"


@pytest.mark.slow
def test_no_wrong_answer_in_30_tries_of_random_networks(tiny):
    numbers = random.Random(1)
    for seed in range(30):
        model = random_unet(tiny, seed, numbers.choice(["default", "normal", "small", "xavier"]))
        answer = ask(model, crop_of_the_photograph(numbers), seed)
        assert answer.prediction_type is None, f"{seed}: {answer}"


# ---------------------------------------------------------------- at load


@pytest.fixture(scope="module")
def learnt_v(tmp_path_factory) -> tuple[dict, dict[str, dict[str, Tensor]]]:
    """Configs and weights of a small checkpoint that predicts v, with a config that doesn't say it."""
    configs, weights = learnt("v_prediction", tmp_path_factory.mktemp("learnt"))
    configs["scheduler"].pop("prediction_type")
    return configs, weights


def test_a_file_of_sd2_is_asked(tmp_path, learnt_v):
    """Nothing in it says that it predicts v."""
    path = write_single_file(tmp_path / "x.safetensors", *learnt_v)
    config = write_configs(tmp_path / "config", learnt_v[0])
    assert load(path, config=config, device="cpu").prediction_type == "v_prediction"


def test_a_file_of_sd1_is_asked_too(tmp_path, learnt_v):
    """Published files of SD 1.x predict epsilon; but people also make such that don't."""
    configs, weights = learnt_v
    configs = {**configs, "text_encoder": {**configs["text_encoder"], "hidden_act": "quick_gelu"}}
    path, config = write_single_file(tmp_path / "x.ckpt", configs, weights), write_configs(tmp_path / "c", configs)
    assert load(path, config=config, device="cpu").prediction_type == "v_prediction"


def test_a_file_that_predicts_epsilon(tmp_path, tiny):
    """The embedded model in one file."""
    configs = {part: json.loads((TINY / part / "config.json").read_text()) for part in ("unet", "vae", "text_encoder")}
    weights = {"unet": tiny.unet.state_dict(), "vae": tiny.vae.state_dict(), "text_encoder": {
        f"text_model.{name.removeprefix('text_model.')}": weight
        for name, weight in tiny.text_encoder.state_dict().items() if "position_ids" not in name}}
    configs |= {"scheduler": {}, "index": {}}
    path, config = write_single_file(tmp_path / "x.ckpt", configs, weights), write_configs(tmp_path / "c", configs)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert load(path, config=config, device="cpu").prediction_type == "epsilon"


def file_and_config(folder: Path, family: str) -> tuple[Path, Path]:
    """Random weights of the family in one file, and a config that doesn't say what they predict."""
    configs = small(family)
    configs["scheduler"].pop("prediction_type", None)
    file = write_single_file(folder / "x.safetensors", configs, random_weights(configs))
    return file, write_configs(folder / "config", configs)


def test_random_weights_of_sd2_in_a_file_are_refused(tmp_path):
    file, config = file_and_config(tmp_path, "sd21-base")
    with pytest.raises(ValueError, match="nothing says whether it predicts epsilon or v, and its network doesn't show "
                                         "it: .* give prediction_type=epsilon .512-px models. or v_prediction"):
        load(file, config=config, device="cpu")
    model = load(file, config=config, device="cpu", prediction_type="v_prediction")
    assert model.prediction_type == "v_prediction"


def test_random_weights_of_sd1_in_a_file_are_warned_of(tmp_path):
    file, config = file_and_config(tmp_path, "sd15")
    with pytest.warns(UserWarning, match="nothing says what it predicts, and its network doesn't show it: .* epsilon, "
                                         "as is usual for this family: give prediction_type="):
        assert load(file, config=config, device="cpu").prediction_type == "epsilon"


def test_a_folder_that_says_something_else_is_warned_of(tmp_path, learnt_v):
    configs, weights = learnt_v
    for said, says in (({"prediction_type": "epsilon"}, "scheduler_config.json says"),
                       ({}, "scheduler_config.json, .* says")):
        folder = write_folder(tmp_path, {**configs, "scheduler": configs["scheduler"] | said}, weights)
        with pytest.warns(UserWarning, match=f"{says} that it predicts epsilon, but {SAID}") as caught:
            assert load(folder, device="cpu").prediction_type == "epsilon"
        assert str(caught[0].message).endswith("if edits look wrong, give prediction_type=v_prediction")
        assert caught[0].filename == __file__       # the line that called load


def test_the_option_is_warned_of_too(tmp_path, learnt_v):
    folder = write_folder(tmp_path, *learnt_v)
    with pytest.warns(UserWarning, match=f"the option prediction_type says that it predicts sample, but {SAID}"):
        assert load(folder, device="cpu", prediction_type="sample").prediction_type == "sample"


def test_what_is_said_rightly_is_silent(tmp_path, learnt_v):
    folder = write_folder(tmp_path, *learnt_v)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert load(folder, device="cpu", prediction_type="v_prediction").prediction_type == "v_prediction"


def test_a_broken_network_can_be_loaded_but_not_asked(tmp_path, learnt_v):
    """What says it decides then; where nothing does, the error is the network's."""
    configs, weights = learnt_v
    broken = {**weights, "unet": {**weights["unet"], "conv_out.bias": torch.full((4,), float("nan"))}}
    assert load(write_folder(tmp_path / "f", configs, broken), device="cpu").prediction_type == "epsilon"
    path = write_single_file(tmp_path / "x.safetensors", configs, broken)
    with pytest.raises(ValueError, match="^the U-Net at t=[0-9]+ gave numbers that are not finite, in float32: "):
        load(path, config=tmp_path / "f", device="cpu")


def table() -> None:
    """The table of weights.md."""
    models = {f"{name}, turned into one that predicts {kind}" if kind != "epsilon" else name:
              that_predicts(load(name, device="cpu"), kind) for name in ("tiny", "tiny-instruct") for kind in KINDS}
    tiny = load("tiny", device="cpu")
    models |= {f"random U-Net, {init}": random_unet(tiny, 0, init) for init in ("default", "normal")}
    for family in ("sd15", "sd21-base", "sd21-768", "sdxl"):
        with tempfile.TemporaryDirectory() as folder:
            models[f"{family}, narrow, random"] = load(write_folder(Path(folder), small(family)), device="cpu")
    for name, model in models.items():
        answer = ask(model)
        numbers = " | ".join(f"{answer.errors[kind]:.2f}" for kind in KINDS)
        print(f"| {name} | {numbers} | {answer.scaling:.2f} | {answer.prediction_type or 'unclear'} |")


if __name__ == "__main__":
    table()
