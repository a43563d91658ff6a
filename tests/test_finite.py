"""NaN and overflow are an error where they first appear, never "nothing to change was found"."""

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import diffedit_min as dm
from diffedit_min.core.ddim import DDIM
from diffedit_min.core.mask import binarise, difference_map
from diffedit_min.loading import load
from diffedit_min.networks.finite import NotFinite, check_output, finite

PICTURE, MASK = Image.new("RGB", (32, 32), (90, 120, 60)), torch.ones(8, 8)
WORDS = {"query": "a bowl of apples", "reference": "a bowl of pears"}
NETWORKS = {"the U-Net at t=": "unet", "the VAE's encoder": "vae.encoder", "the VAE's decoder": "vae.decoder",
            "the text encoder": "texts.0.encoder"}


def part(model: dm.StableDiffusion, path: str) -> nn.Module:
    for name in path.split("."):
        model = model[int(name)] if name.isdigit() else getattr(model, name)
    return model


def damaged(path: str, dtype: str = "float32") -> dm.StableDiffusion:
    """A random model with one NaN among the weights of that network: in the bias of its last layer that has one."""
    model = load("random", device="cpu", dtype=dtype)
    bias = [weight for name, weight in part(model, path).named_parameters() if name.endswith("bias")][-1]
    bias.view(-1)[0] = float("nan")
    return model


def overflowing(path: str) -> dm.StableDiffusion:
    """A random model in float16: its weights are finite, but what goes through that network is above 65,504."""
    model = load("random", device="cpu", dtype="float16")
    layers = [each for each in part(model, path).modules() if isinstance(each, nn.Conv2d | nn.Linear)]
    if path == "texts.0.encoder":
        layers = [each for each in layers if each.out_features > each.in_features][-1:]
    layers[-1].weight.fill_(60_000)
    layers[-1].bias.fill_(60_000)
    assert all(finite(weight) for weight in part(model, path).parameters())
    return model


def edit(model: dm.StableDiffusion, picture: object = PICTURE, **options: object) -> dm.Edit:
    return dm.diffedit(model, picture, **{**WORDS, "steps": 4, "mask_samples": 1, **options})


# ---------------------------------------------------------------- each network


@pytest.mark.parametrize("name", NETWORKS)
def test_a_nan_among_the_weights(name):
    with pytest.raises(NotFinite) as error:
        edit(damaged(NETWORKS[name]), mask=MASK)
    message = str(error.value)
    assert message.startswith(name) and "not finite, in float32: its weights are not finite (" in message
    assert message.endswith("diffedit-min info MODEL --verify shows; or a tuning went wrong") and "\n" not in message


@pytest.mark.parametrize("name", NETWORKS)
def test_an_overflow_in_float16(name):
    with pytest.raises(NotFinite) as error:
        edit(overflowing(NETWORKS[name]), mask=MASK)
    assert str(error.value).startswith(name)
    assert str(error.value).endswith("in float16: numbers inside it are above 65,504: use dtype bfloat16 or float32")


def test_the_mask_is_not_empty_but_an_error():
    """The U-Net's numbers are first seen while the mask is made, at its noise level."""
    with pytest.raises(NotFinite, match="^the U-Net at t=500 gave"):
        edit(damaged("unet"))


def test_the_same_weights_are_right_in_the_dtypes_that_the_message_names():
    model = load("random", device="cpu", dtype="float16")
    model.unet.conv_in.weight.fill_(60_000)         # a norm follows: so the output is of a usual size
    model.unet.conv_in.bias.fill_(60_000)
    with pytest.raises(NotFinite, match="use dtype bfloat16 or float32"):
        edit(model)
    for dtype in (torch.bfloat16, torch.float32):
        for network in (model.unet, model.vae, model.text_encoder):
            network.to(dtype)
        edit(model)


def test_a_network_that_overflows_in_float32():
    """Then float32 is not the way out."""
    model = load("random", device="cpu")
    model.unet.conv_out.weight.fill_(3e38)
    with pytest.raises(NotFinite, match="in float32: its files are damaged or of another model: diffedit-min info"):
        edit(model)


def test_what_goes_in_is_named(model):
    x = torch.zeros(2, 4, 4, 4, dtype=torch.float64)
    x[1, 0, 0, 0] = float("inf")
    for call, network in ((lambda: model.eps(x, 7, model.embed(["", ""])), "the U-Net at t=7"),
                          (lambda: model.decode(x), "the VAE's decoder")):
        with pytest.raises(NotFinite, match=f"^{network} .*: the latents that went in were not finite") as error:
            call()
        assert (error.value.rows, error.value.of) == ([1], 2)
    with pytest.raises(NotFinite, match="the prompts' embeddings that went in were not finite already"):
        model.eps(x[:1], 7, model.embed([""]).tokens * float("nan"))
    with pytest.raises(NotFinite, match="^the VAE's encoder .*: the pixels that went in were not finite already"):
        model.encode(torch.full((1, 3, 32, 32), float("nan")))


def test_latents_that_are_too_large():
    """Between steps they are kept in at least float32. In half precision a network can't take all of that range."""
    model = load("random", device="cpu", dtype="float16")
    with pytest.raises(NotFinite, match="the latents that went in reach 1e.05, far above what is usual, so what made"):
        model.eps(torch.full((1, 4, 4, 4), 1e5), 7, model.embed([""]))
    with pytest.raises(NotFinite, match="the latents that went in reach .*far above what is usual"):
        edit(load("random", device="cpu"), mask=MASK, guidance_scale=1e30)


def test_a_tuning_that_goes_wrong():
    model = load("random", device="cpu")
    with pytest.raises(ValueError, match="^the tuning went wrong at step 2: give a smaller learning_rate than 1e.20 "):
        dm.unitune(model, PICTURE, "a bowl of apples", steps=4, tuning_steps=3, batch=1, learning_rate=1e20)
    with pytest.raises(NotFinite, match="the prompts' embeddings that went in reach .*far above what is usual"):
        dm.null_text(model, PICTURE, **WORDS, steps=4, iterations=3, learning_rate=1e30)
    with pytest.raises(NotFinite, match="its weights are not finite"):      # before any tuning
        dm.unitune(damaged("unet"), PICTURE, "a bowl of apples", steps=4, tuning_steps=3, batch=1)


def test_a_caller_s_attend_is_named_too(model):
    class Spoilt:
        def wants(self, place):
            return True

        def __call__(self, q, k, v, place):
            return q * float("nan")

    with pytest.raises(NotFinite, match="or attend or features returned such numbers"):
        model.eps(torch.zeros(1, 4, 4, 4, dtype=torch.float64), 7, model.embed([""]), attend=Spoilt())


def test_the_check_sees_every_number():
    for value in (float("nan"), float("inf"), -float("inf")):
        for place in (0, 13, 59):
            out = torch.zeros(3, 4, 5)
            out.view(-1)[place] = value
            with pytest.raises(NotFinite) as error:
                check_output(out, nn.Identity(), "it", {})
            assert error.value.rows == [place // 20]
    check_output(torch.full((4, 9), 60_000.0, dtype=torch.float16), nn.Identity(), "it", {})    # the sum overflows


def test_gradients_pass_through_the_check(model):
    x = torch.randn(1, 4, 4, 4, dtype=torch.float64, requires_grad=True)
    model.eps(x, 7, model.embed([""])).sum().backward()
    assert x.grad.abs().sum() > 0


# ---------------------------------------------------------------- which picture


class SpoiltRow(nn.Module):
    """A VAE's encoder that fails for pictures that are white."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Tensor) -> Tensor:
        is_white = (pixels == 1).flatten(1).all(dim=1)[:, None, None, None]
        return torch.where(is_white, torch.nan, self.encoder(pixels))


def test_the_picture_is_named():
    model = load("random", device="cpu")
    model.vae.encoder = SpoiltRow(model.vae.encoder)
    white, wide = Image.new("RGB", (32, 32), "white"), Image.new("RGB", (32, 16))
    with pytest.raises(NotFinite, match=r"^the VAE's encoder .* \(picture 3 of 4\)$"):
        edit(model, [PICTURE, wide, white, PICTURE])
    with pytest.raises(NotFinite, match=r"the VAE's encoder .* \(picture 1, 2 of 2\)$"):
        edit(model, [white, white])
    with pytest.raises(NotFinite) as error:
        edit(model, white)
    assert "(picture" not in str(error.value)


# ---------------------------------------------------------------- what isn't a network


def test_predictions_of_one_s_own():
    eps = torch.randn(2, 3, 4, 5, 5)
    for value in (float("nan"), float("inf")):
        spoilt = eps.clone()
        spoilt[1, 2, 0, 0, 0] = value
        for pair in ((spoilt, eps), (eps, spoilt)):
            for average in ("maps", "differences"):
                with pytest.raises(ValueError, match="the noise predictions hold numbers that are not finite"):
                    difference_map(*pair, average=average)


def test_a_map_of_one_s_own(model):
    mask_map = torch.rand(1, 8, 8)
    mask_map[0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="the map of differences holds NaN"):
        binarise(mask_map)
    with pytest.raises(ValueError, match="the map of differences holds NaN"):
        edit(model, mask_map=mask_map[0])


@pytest.mark.parametrize("field", ["latent", "mask_map", "source"])
def test_the_outcome_of_one_s_own_method(model, field):
    def run(task, options):
        spoilt = {"latent": task.x0, "mask_map": task.x0[:, 0] * 0, "source": task.x0}
        spoilt[field] = spoilt[field] * float("nan")
        return dm.Outcome(**spoilt)

    method = dm.Method("spoilt", run, remakes=True)
    with pytest.raises(ValueError, match=f"spoilt: Outcome.{field} holds numbers that are not finite"):
        method(model, PICTURE, "a bowl of apples")


def test_a_sampler_of_one_s_own(model):
    """Its latents are seen by the next network."""
    class Spoilt:
        def encode(self, eps_fn, x0, levels):
            yield from DDIM().encode(eps_fn, x0, levels)

        def decode(self, eps_fn, state, levels, blend=None):
            yield from DDIM().decode(lambda x, t: eps_fn(x, t) * float("nan"), state, levels, blend)

    with pytest.raises(NotFinite, match="the latents that went in were not finite already, so what made them is wrong"):
        edit(model, sampler=Spoilt(), mask=MASK)


# ---------------------------------------------------------------- the command


@pytest.mark.parametrize("command", [("edit",), ("mask",), ("invert",)])
def test_the_command_ends_with_an_error_and_writes_nothing(call_command, tmp_path, copied, command):
    weights = load_file(file := copied / "unet/diffusion_pytorch_model.safetensors")
    save_file({**weights, "conv_out.bias": weights["conv_out.bias"] * float("nan")}, file, {"format": "pt"})
    PICTURE.save(tmp_path / "in.png")
    words = [] if command == ("invert",) else ["--query", "a bowl of apples", "--reference", "a bowl of pears"]
    before = set(tmp_path.iterdir())
    result = call_command(*command, "in.png", *words, "--model", copied, "--device", "cpu", "-o", "steps=4")
    assert result.code == 1 and set(tmp_path.iterdir()) == before
    assert result.err.startswith("error: the U-Net at t=") and "not finite, in float32: its weights are" in result.err
