"""Run with `python -m pytest tests/test_vae.py` from the repository's root; takes about 5 seconds.

Checks the autoencoder alone: reading its config, sizes of the published one, shapes, rows, and where it pads.
(That it computes what diffusers' computes is in test_parity.py.)
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from diffedit_min.networks import bands
from diffedit_min.networks.blocks import Downsample, Upsample
from diffedit_min.networks.vae import NEUTRAL, VAE, VAEConfig

# vae/config.json of SD 1.x and 2.x as published, but for _class_name and the like.
PUBLISHED = {
    "act_fn": "silu", "block_out_channels": [128, 256, 512, 512], "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3, "latent_channels": 4, "layers_per_block": 2, "norm_num_groups": 32, "out_channels": 3,
    "sample_size": 512, "up_block_types": ["UpDecoderBlock2D"] * 4,
}
SMALL = {"block_out_channels": [8, 8, 16], "layers_per_block": 1, "norm_num_groups": 4, "latent_channels": 5}


@pytest.fixture(scope="module")
def vae() -> VAE:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return VAE(VAEConfig.from_dict(SMALL)).double().eval().requires_grad_(False)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


# ---------------------------------------------------------------- the config


def test_the_published_config_is_read_field_by_field():
    config = VAEConfig.from_dict(PUBLISHED)
    for key, value in PUBLISHED.items():
        if hasattr(config, key):
            assert getattr(config, key) == (tuple(value) if isinstance(value, list) else value), key
    assert config.scaling_factor == 0.18215 and config.factor == 8
    assert config == VAEConfig.from_dict({}) == VAEConfig.from_dict({**PUBLISHED, "scaling_factor": None})
    assert VAEConfig.from_dict({**PUBLISHED, "scaling_factor": 0.13025}).scaling_factor == 0.13025


@pytest.mark.parametrize("key", sorted(NEUTRAL))
def test_a_switch_that_the_network_leaves_out_is_refused(key):
    for value in NEUTRAL[key]:
        assert VAEConfig.from_dict({key: value}) == VAEConfig()
    with pytest.raises(ValueError) as error:
        VAEConfig.from_dict({key: "odd"}, "x/vae/config.json")
    off = " or ".join(map(repr, NEUTRAL[key]))
    assert str(error.value) == f"x/vae/config.json: {key} = 'odd' is not supported (only {off})"


def test_the_message_of_a_refused_switch():
    with pytest.raises(ValueError) as error:
        VAEConfig.from_dict({**PUBLISHED, "shift_factor": 0.1159})
    assert str(error.value) == "vae/config.json: shift_factor = 0.1159 is not supported (only None or 0)"


@pytest.mark.parametrize(("key", "known"), [
    ("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D"),
])
def test_other_blocks_are_refused(key, known):
    with pytest.raises(ValueError) as error:
        VAEConfig.from_dict({**PUBLISHED, key: [known, "AttnBlock2D", known, known]}, "f")
    assert str(error.value) == f"f: {key} holds 'AttnBlock2D'; only '{known}' is supported"


def test_published_sizes():
    with torch.device("meta"):
        vae = VAE(VAEConfig.from_dict(PUBLISHED))
    assert sum(p.numel() for p in vae.parameters()) == 83_653_863
    assert len(vae.state_dict()) == 248


# ---------------------------------------------------------------- the network


@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 24), (40, 8)])
def test_shapes(vae, height, width):
    assert vae.config.factor == 4
    mean, log_variance = vae.encode(random(2, 3, height, width))
    assert mean.shape == log_variance.shape == (2, 5, height // 4, width // 4)
    assert vae.decode(mean).shape == (2, 3, height, width)


def test_a_row_is_the_same_alone_and_in_a_batch(vae):
    pixels, latents = random(3, 3, 16, 24), random(3, 5, 4, 6)
    together, decoded = torch.cat(vae.encode(pixels), dim=1), vae.decode(latents)
    for i in range(3):
        only = slice(i, i + 1)
        assert (torch.cat(vae.encode(pixels[only]), dim=1) - together[only]).abs().max() <= 1e-12
        assert (vae.decode(latents[only]) - decoded[only]).abs().max() <= 1e-12


def test_the_log_variance_is_bounded(vae):
    for bias, bound in ((1e3, 20.0), (-1e3, -30.0)):
        moved = VAE(vae.config).double()
        moved.load_state_dict(vae.state_dict())
        moved.quant_conv.bias.data.add_(bias)
        assert (moved.encode(random(1, 3, 8, 8))[1] == bound).all()


# ---------------------------------------------------------------- changes of size


def picking(layer: Downsample | Upsample, row: int, column: int) -> Downsample | Upsample:
    """The layer as one that copies: its kernel is 1 at (row, column) from a channel to itself, else 0."""
    layer = layer.double()
    layer.conv.weight.data.zero_()
    layer.conv.bias.data.zero_()
    for channel in range(layer.conv.in_channels):
        layer.conv.weight.data[channel, channel, row, column] = 1
    return layer.requires_grad_(False)


def test_the_vae_pads_right_and_bottom():
    """The kernel's first tap falls on the cells 0, 2, 4, ...; padded on all sides it would be -1, 1, 3, ..."""
    x = random(1, 2, 8, 12)
    assert torch.equal(picking(Downsample(2, pad_right_bottom=True), 0, 0)(x), x[:, :, ::2, ::2])
    shifted = picking(Downsample(2, pad_right_bottom=True), 2, 2)(x)
    assert torch.equal(shifted, F.pad(x, (0, 1, 0, 1))[:, :, 2::2, 2::2])
    assert (shifted[:, :, -1] == 0).all() and (shifted[..., -1] == 0).all()


def test_the_unet_pads_all_sides():
    x = random(1, 2, 8, 12)
    assert torch.equal(picking(Downsample(2, pad_right_bottom=False), 1, 1)(x), x[:, :, ::2, ::2])
    shifted = picking(Downsample(2, pad_right_bottom=False), 0, 0)(x)
    assert (shifted[:, :, 0] == 0).all() and (shifted[..., 0] == 0).all()
    assert torch.equal(shifted[:, :, 1:, 1:], x[:, :, 1:-1:2, 1:-1:2])


def test_the_encoders_own_downsamplers_pad_right_and_bottom(vae):
    x = random(1, 8, 8, 12)
    resizes = [layer for block in vae.encoder.down_blocks for layer in block.downsamplers]
    assert len(resizes) == 2
    for layer in resizes:
        expected = F.conv2d(F.pad(x, (0, 1, 0, 1)), layer.conv.weight, layer.conv.bias, stride=2)
        assert (layer(x) - expected).abs().max() <= 1e-12


def test_norms_have_the_published_epsilon(vae):
    assert {module.eps for module in vae.modules() if isinstance(module, torch.nn.GroupNorm)} == {1e-6}


def test_upsampling_repeats_cells():
    x = random(1, 2, 3, 4)
    assert torch.equal(picking(Upsample(2), 1, 1)(x), x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))


def test_sides_that_are_no_multiple_are_refused():
    vae = VAE(VAEConfig(block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4))
    with pytest.raises(ValueError, match="^pictures of 8x7: the VAE needs sides that are multiples of 2$"):
        vae.encode(torch.zeros(1, 3, 8, 7))


# ---------------------------------------------------------------- large feature maps


@pytest.mark.parametrize("band", [1, 3000, 20_000])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_in_bands_it_is_the_same(vae, monkeypatch, band, dtype, tolerance):
    monkeypatch.setattr(bands, "LARGE", 10**9)
    vae = copy.deepcopy(vae).to(dtype)
    latents, pixels = random(2, 5, 6, 10).to(dtype), random(2, 3, 24, 20).to(dtype)
    whole = vae.decode(latents), vae.encode(pixels)[0]
    monkeypatch.setattr(bands, "LARGE", 0)
    monkeypatch.setattr(bands, "BAND", band)
    for apart, together in zip((vae.decode(latents), vae.encode(pixels)[0]), whole, strict=True):
        assert (apart - together).abs().max() <= tolerance
        assert not torch.equal(apart, together)     # it did take the other way


def test_bands_keep_the_layout(vae, monkeypatch):
    monkeypatch.setattr(bands, "LARGE", 0)
    monkeypatch.setattr(bands, "BAND", 20_000)
    conv, x = vae.decoder.up_blocks[0].resnets[0].conv1, random(1, 16, 8, 8)
    for layout in (torch.channels_last, torch.contiguous_format):
        made = bands.conv_in_bands(conv, None, x.contiguous(memory_format=layout))
        assert made.is_contiguous(memory_format=layout)
        assert (made - conv(x)).abs().max() <= 1e-12
