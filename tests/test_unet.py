"""Run with `python -m pytest tests/test_unet.py` from the repository's root; takes about 10 seconds.

Checks the U-Net alone: reading its config, sizes of the published ones, the seams for attention and for residual
blocks, the recorder of attention maps, rows and times.
(That it computes what diffusers' computes is in test_parity.py.)
"""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from diffedit_min.networks import attention as attention_module
from diffedit_min.networks import bands, stable_diffusion
from diffedit_min.networks.attention import AttentionRecorder, FeedForward, Place, attention_in_tiles, attention_maps
from diffedit_min.networks.blocks import BlockPlace, ResnetBlock
from diffedit_min.networks.unet import NEUTRAL, Summary, UNet, UNetConfig, sinusoids

# unet/config.json as published, but for _class_name and the like.
SD1 = {
    "act_fn": "silu", "attention_head_dim": 8, "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False, "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "downsample_padding": 1, "flip_sin_to_cos": True, "freq_shift": 0, "in_channels": 4, "layers_per_block": 2,
    "mid_block_scale_factor": 1, "norm_eps": 1e-05, "norm_num_groups": 32, "out_channels": 4, "sample_size": 64,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}
SD2 = {
    **SD1, "attention_head_dim": [5, 10, 20, 20], "cross_attention_dim": 1024, "dual_cross_attention": False,
    "num_class_embeds": None, "only_cross_attention": False, "sample_size": 96, "upcast_attention": True,
    "use_linear_projection": True,
}
BK_SDM_TINY = {
    **SD1, "block_out_channels": [320, 640, 1280], "down_block_types": ["CrossAttnDownBlock2D"] * 3,
    "up_block_types": ["CrossAttnUpBlock2D"] * 3, "layers_per_block": 1, "mid_block_type": None,
    "upcast_attention": False, "use_linear_projection": False,
}
SDXL = {
    **SD2, "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280], "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "projection_class_embeddings_input_dim": 2816, "sample_size": 128, "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"], "upcast_attention": False,
}
# Two levels, of which the second has no attention on its way down and up, but in the middle.
SMALL = {
    "block_out_channels": [16, 32], "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"], "layers_per_block": 1, "attention_head_dim": [2, 4],
    "cross_attention_dim": 12, "norm_num_groups": 8, "sample_size": 8,
}


def small_unet(dtype: torch.dtype = torch.float64, **changes: object) -> UNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet(UNetConfig.from_dict({**SMALL, **changes}))
    return unet.to(dtype).eval().requires_grad_(False)


def inputs(dtype: torch.dtype = torch.float64, rows: int = 3) -> tuple[Tensor, Tensor]:
    """Latents (B, 4, 8, 12), not square so that height and width can't be mixed up, and a context (B, 5, 12)."""
    random = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 4, 8, 12, generator=random, dtype=torch.float64)
    context = torch.randn(rows, 5, 12, generator=random, dtype=torch.float64)
    return x.to(dtype), context.to(dtype)


def difference(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape and a.dtype == b.dtype
    return (a - b).abs().max().item()


# ---------------------------------------------------------------- the config


@pytest.mark.parametrize("raw", [SD1, SD2, SDXL, BK_SDM_TINY, SMALL],
                         ids=["sd1", "sd2", "sdxl", "bk-sdm-tiny", "small"])
def test_published_configs_are_read_field_by_field(raw):
    config = UNetConfig.from_dict(raw)
    for key, value in raw.items():
        if hasattr(config, key):
            assert getattr(config, key) == (tuple(value) if isinstance(value, list) else value), key
    assert hash(config) == hash(UNetConfig.from_dict(dict(raw)))        # frozen through and through


def test_an_empty_config_is_sd1s():
    assert UNetConfig.from_dict({}) == UNetConfig.from_dict(SD1)


@pytest.mark.parametrize("key", sorted(NEUTRAL))
def test_a_switch_that_the_network_leaves_out_is_refused(key):
    for value in NEUTRAL[key]:
        expected = UNetConfig(**{key: value}) if hasattr(UNetConfig, key) else UNetConfig()
        assert UNetConfig.from_dict({key: value}) == expected
    with pytest.raises(ValueError) as error:
        UNetConfig.from_dict({key: "odd"}, "x/unet/config.json")
    off = " or ".join(map(repr, NEUTRAL[key]))
    assert str(error.value) == f"x/unet/config.json: {key} = 'odd' is not supported (only {off})"


def test_the_message_of_a_refused_switch():
    with pytest.raises(ValueError) as error:
        UNetConfig.from_dict({**SD1, "addition_embed_type": "text_image"})
    assert str(error.value) == (
        "unet/config.json: addition_embed_type = 'text_image' is not supported (only None or 'text_time')"
    )


@pytest.mark.parametrize(("changes", "message"), [
    ({"up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"]},
     "f: up_block_types ('CrossAttnUpBlock2D', 'UpBlock2D') do not mirror "
     "down_block_types ('CrossAttnDownBlock2D', 'DownBlock2D')"),
    ({"down_block_types": ["AttnDownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "AttnUpBlock2D"]},
     "f: down_block_types holds 'AttnDownBlock2D'; known are CrossAttnDownBlock2D and DownBlock2D"),
    ({"mid_block_type": "UNetMidBlock2D"}, "f: mid_block_type 'UNetMidBlock2D' is not known"),
    ({"block_out_channels": [16, 32, 32]}, "f: down_block_types and block_out_channels differ in length"),
    ({"down_block_types": "DownBlock2D"}, "f: down_block_types = 'DownBlock2D' is not a list of names"),
    ({"up_block_types": [1, 2]}, "f: up_block_types = [1, 2] is not a list of names"),
    ({"norm_eps": 0}, "f: norm_eps = 0 is not a number between 0 and 1"),
    ({"norm_num_groups": 12}, "f: a level of 16 channels can't be divided into 12 groups"),
    ({"norm_num_groups": 32}, "f: a level of 16 channels can't be divided into 32 groups"),
    ({"in_channels": 0}, "f: in_channels = 0 is not supported (only whole numbers from 1 to 1024)"),
    ({"in_channels": 4.0}, "f: in_channels = 4.0 is not supported (only whole numbers from 1 to 1024)"),
    ({"out_channels": True}, "f: out_channels = True is not supported (only whole numbers from 1 to 1024)"),
    ({"block_out_channels": [16, -32]},
     "f: block_out_channels = (16, -32) is not supported (only whole numbers from 1 to 16384)"),
    ({"layers_per_block": 17}, "f: layers_per_block = 17 is not supported (only whole numbers from 1 to 16)"),
    ({"sample_size": [64, 64.5]},
     "f: sample_size = (64, 64.5) is not supported (only whole numbers from 1 to 4096)"),
    ({"transformer_layers_per_block": [1, 65]},
     "f: transformer_layers_per_block = (1, 65) is not supported (only whole numbers from 1 to 64)"),
    ({"transformer_layers_per_block": [1]},
     "f: transformer_layers_per_block (1,) and block_out_channels differ in length"),
    ({"block_out_channels": [], "down_block_types": [], "up_block_types": []},
     "f: block_out_channels = () is not supported (only whole numbers from 1 to 16384)"),
    ({"block_out_channels": [16] * 17, "down_block_types": ["DownBlock2D"] * 17, "up_block_types": ["UpBlock2D"] * 17},
     f"f: block_out_channels = {repr((16,) * 17)[:60]} is not supported (only whole numbers from 1 to 16384)"),
])
def test_other_refused_configs(changes, message):
    with pytest.raises(ValueError) as error:
        UNetConfig.from_dict({**SMALL, **changes}, "f")
    assert str(error.value) == message


def test_null_is_a_value_for_the_middle_only():
    assert UNetConfig.from_dict({**SMALL, "mid_block_type": None}).mid_block_type is None
    assert UNetConfig.from_dict(SMALL).mid_block_type == "UNetMidBlock2DCrossAttn"
    assert UNetConfig.from_dict({"upcast_attention": None, "sample_size": None}) == UNetConfig()
    assert small_unet(mid_block_type=None).mid_block is None


def test_num_attention_heads_goes_over_attention_head_dim():
    assert UNetConfig.from_dict({**SMALL, "num_attention_heads": 4}).heads == (4, 4)
    assert UNetConfig.from_dict({**SMALL, "num_attention_heads": [4, 8]}).heads == (4, 8)
    assert UNetConfig.from_dict({**SMALL, "num_attention_heads": None}).heads == (2, 4)


def test_heads_by_level():
    assert UNetConfig.from_dict(SD1).heads == (8, 8, 8, 8)
    assert UNetConfig.from_dict(SD2).heads == (5, 10, 20, 20)
    assert UNetConfig.from_dict(BK_SDM_TINY).heads == (8, 8, 8)


@pytest.mark.parametrize(("raw", "parameters", "tensors"), [
    (SD1, 859_520_964, 686), (SD2, 865_910_724, 686), (BK_SDM_TINY, 323_384_964, 358),
    (SDXL, 2_567_463_684, 1680),
], ids=["sd1", "sd2", "bk-sdm-tiny", "sdxl"])
def test_published_sizes(raw, parameters, tensors):
    with torch.device("meta"):
        unet = UNet(UNetConfig.from_dict(raw))
    assert sum(p.numel() for p in unet.parameters()) == parameters
    assert len(unet.state_dict()) == tensors


# ---------------------------------------------------------------- the network


def test_sizes_that_cannot_be_halved_are_refused():
    unet = small_unet(block_out_channels=[16, 16, 32], attention_head_dim=2,
                      down_block_types=["DownBlock2D"] * 3, up_block_types=["UpBlock2D"] * 3)
    _, context = inputs(rows=1)
    assert unet.config.multiple == 4
    for height, width in ((8, 10), (6, 8), (2, 2)):
        with pytest.raises(ValueError) as error:
            unet(torch.zeros(1, 4, height, width, dtype=torch.float64), 1, context)
        assert str(error.value) == f"latents of {height}x{width}: the U-Net needs sides that are multiples of 4"


@pytest.mark.parametrize("changes", [
    {}, {"use_linear_projection": True}, {"mid_block_type": None}, {"layers_per_block": 2}, {"in_channels": 9},
    {"block_out_channels": [16, 32, 32, 32], "down_block_types": ["CrossAttnDownBlock2D"] * 4,
     "up_block_types": ["CrossAttnUpBlock2D"] * 4, "attention_head_dim": 2},
])
def test_the_output_has_the_inputs_shape(changes):
    unet, (x, context) = small_unet(**changes), inputs()
    x = x.repeat(1, 3, 1, 1)[:, : unet.config.in_channels]
    for height, width in ((8, 8), (8, 16), (24, 8)):
        out = unet(x.repeat(1, 1, 3, 3)[:, :, :height, :width], 500, context)
        assert out.shape == (3, 4, height, width) and out.isfinite().all()


@pytest.mark.parametrize("linear", [False, True])
def test_a_row_is_the_same_alone_and_in_a_batch(linear):
    unet, (x, context) = small_unet(use_linear_projection=linear), inputs()
    together = unet(x, 431, context)
    for i in range(3):
        assert difference(unet(x[i : i + 1], 431, context[i : i + 1]), together[i : i + 1]) <= 1e-12


@pytest.mark.parametrize("changes", [{}, {"attention_head_dim": [1, 2], "transformer_layers_per_block": 2},
                                     {"down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
                                      "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"]}])
@pytest.mark.parametrize("m", [1, 2, 3])
def test_rows_that_share_x_are_what_they_are_apart(changes, m):
    unet, (x, _) = small_unet(**changes), inputs(rows=2)
    context = torch.randn(2 * m, 5, SMALL["cross_attention_dim"], dtype=x.dtype)
    together = unet(x, 431, context)
    assert together.shape[0] == 2 * m
    for i in range(2 * m):
        apart = unet(x[i % 2 : i % 2 + 1], 431, context[i : i + 1])
        assert difference(together[i : i + 1], apart) <= 1e-12


def test_rows_that_share_x_share_what_comes_before_the_text():
    unet, (x, _), seen = small_unet(), inputs(rows=2), {}
    first, second = unet.down_blocks[0].resnets[0], unet.mid_block.resnets[0]
    hooks = [module.register_forward_pre_hook(lambda module, args: seen.update({module: len(args[0])}))
             for module in (first, second)]
    unet(x, 431, torch.randn(4, 5, SMALL["cross_attention_dim"], dtype=x.dtype))
    for hook in hooks:
        hook.remove()
    assert seen == {first: 2, second: 4}


def test_whoever_watches_attention_sees_all_rows():
    unet, (x, _), seen = small_unet(), inputs(rows=2), []

    class Watch:
        def wants(self, place):
            return True

        def __call__(self, q, k, v, place):
            seen.append(len(q))
            return torch.nn.functional.scaled_dot_product_attention(q, k, v)

    context = torch.randn(4, 5, SMALL["cross_attention_dim"], dtype=x.dtype)
    assert difference(unet(x, 431, context, Watch()), unet(x, 431, context)) <= 1e-12
    assert set(seen) == {4}


@pytest.mark.parametrize(("n", "L", "tile"), [(16, 16, 1), (9, 77, 100), (64, 5, 7), (64, 5, 64), (9, 77, 10**6)])
def test_attention_in_tiles_is_attention(n, L, tile):
    q, k, v = (torch.randn(2, cells, 3, 8, dtype=torch.float64).transpose(1, 2) for cells in (n, L, L))
    whole = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    assert difference(attention_in_tiles(q, k, v, tile), whole) <= 1e-12


def test_attention_in_bfloat16_on_a_cpu_runs_in_tiles(monkeypatch):
    calls = []
    monkeypatch.setattr(attention_module, "attention_in_tiles", lambda q, k, v: calls.append(q.dtype) or q)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        attention_module.attention(*(torch.zeros(1, 2, 4, 8, dtype=dtype) for _ in range(3)))
    assert calls == [torch.bfloat16]


def test_the_time_as_waves_of_cosines_then_sines():
    by_hand = [[math.cos(t / 10_000 ** (i / 3)) for i in range(3)] + [math.sin(t / 10_000 ** (i / 3)) for i in range(3)]
               for t in (0, 7, 999)]
    found = sinusoids(torch.tensor([0, 7, 999]), 6).double()
    assert difference(found, torch.tensor(by_hand, dtype=torch.float64)) < 1e-3


def test_norms_have_the_published_epsilons():
    """1e-5 in residual blocks and at the end, 1e-6 before attention."""
    for name, module in small_unet().named_modules():
        if isinstance(module, torch.nn.GroupNorm):
            assert module.eps == (1e-6 if name.endswith(".norm") else 1e-5), name


def test_the_feed_forward_is_gated_by_its_second_half():
    ff, (x, _) = FeedForward(4).double(), inputs()
    x = x[..., :4]
    a, b = (x @ ff.net[0]["proj"].weight.T + ff.net[0]["proj"].bias).split(16, dim=-1)
    gated = a * b * (1 + torch.erf(b / 2**0.5)) / 2
    assert difference(ff(x), gated @ ff.net[2].weight.T + ff.net[2].bias) < 1e-12


def test_transformer_blocks_in_a_row():
    deep, (x, context), attend = small_unet(transformer_layers_per_block=[1, 3]), inputs(), Explicit([])
    assert [len(block.attentions[0].transformer_blocks) for block in (deep.down_blocks[0], deep.mid_block)] == [1, 3]
    out = deep(x, 431, context, attend)
    middle = [place.name for place in attend.asked if place.name.startswith("mid_block") and place.cross]
    assert middle == [f"mid_block.attentions.0.transformer_blocks.{i}.attn2" for i in range(3)]
    for block in deep.mid_block.attentions[0].transformer_blocks:
        kept = block.ff.net[2].bias.clone()
        block.ff.net[2].bias += 0.5
        assert difference(deep(x, 431, context), out) > 1e-4
        block.ff.net[2].bias.copy_(kept)
    plain, told = UNetConfig.from_dict(SMALL), UNetConfig.from_dict({**SMALL, "transformer_layers_per_block": [1, 1]})
    assert plain.at_each_level("transformer_layers_per_block") == told.at_each_level("transformer_layers_per_block")


TEXT_TIME = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8,
             "projection_class_embeddings_input_dim": 10 + 6 * 8}


def test_the_summary_and_each_of_the_six_sizes_matter():
    unet, (x, context) = small_unet(**TEXT_TIME), inputs()
    pooled = torch.randn(3, 10, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    sizes = torch.tensor([[512, 768, 0, 16, 256, 384]]).repeat(3, 1)
    out = unet(x, 431, context, summary=Summary(pooled, sizes))
    assert torch.equal(out, unet(x, 431, context, summary=Summary(pooled.clone(), sizes.clone())))
    for i in range(10):
        changed = pooled.clone()
        changed[1, i] += 1
        other = unet(x, 431, context, summary=Summary(changed, sizes))
        assert difference(other[1], out[1]) > 1e-6 and difference(other[[0, 2]], out[[0, 2]]) <= 1e-12
    seen = []
    for i in range(6):
        changed = sizes.clone()
        changed[1, i] += 64
        other = unet(x, 431, context, summary=Summary(pooled, changed))
        assert difference(other[1], out[1]) > 1e-6 and difference(other[[0, 2]], out[[0, 2]]) <= 1e-12
        seen.append(other[1])
    assert all(difference(a, b) > 1e-6 for a in seen for b in seen if a is not b)
    assert difference(unet(x, 431, context, summary=Summary(pooled, sizes)),
                      unet(x, 20, context, summary=Summary(pooled, sizes))) > 1e-6


def test_rows_of_a_summary():
    summary = Summary(torch.randn(5, 3), torch.arange(30).reshape(5, 6))
    parts = [summary[:2], summary[2:4], summary[4:6]]
    assert [len(part.pooled) for part in parts] == [2, 2, 1]
    assert torch.equal(torch.cat([part.pooled for part in parts]), summary.pooled)
    assert torch.equal(torch.cat([part.sizes for part in parts]), summary.sizes)


def test_time_as_int_as_tensor_and_one_each():
    unet, (x, context) = small_unet(), inputs()
    for t in (0, 431, 999):
        assert torch.equal(unet(x, t, context), unet(x, torch.tensor(t), context))
        assert difference(unet(x, t, context), unet(x, torch.tensor([t, t, t]), context)) <= 1e-12
    mixed = unet(x, torch.tensor([1, 500, 999]), context)
    for i, t in enumerate((1, 500, 999)):
        assert difference(unet(x, t, context)[i], mixed[i]) <= 1e-12
    assert difference(unet(x, 1, context), unet(x, 2, context)) > 1e-4


def test_every_input_matters_and_none_is_changed():
    unet, (x, context) = small_unet(), inputs()
    kept = x.clone(), context.clone()
    out = unet(x, 431, context)
    assert difference(out, unet(x, 431, context.flip(0))) > 1e-4
    assert difference(out, unet(x.flip(0), 431, context)) > 1e-4
    assert torch.equal(x, kept[0]) and torch.equal(context, kept[1])


# ---------------------------------------------------------------- the seam for attention

# All attentions of SMALL in the order in which they run, with the size of the feature map on latents of 8 x 12.
PLACES = [
    Place(f"{block}.transformer_blocks.0.{attention}", attention == "attn2", *size)
    for block, size in (
        ("down_blocks.0.attentions.0", (8, 12)), ("mid_block.attentions.0", (4, 6)),
        ("up_blocks.1.attentions.0", (8, 12)), ("up_blocks.1.attentions.1", (8, 12)),
    )
    for attention in ("attn1", "attn2")
]


class Explicit:
    """softmax(q k^T / sqrt d) v written out, at the places that `chosen` holds; remembers what it was asked."""

    def __init__(self, chosen: list[Place]):
        self.chosen, self.asked, self.called, self.dtypes, self.heads = chosen, [], [], set(), {}

    def wants(self, place: Place) -> bool:
        self.asked.append(place)
        return place in self.chosen

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, place: Place) -> Tensor:
        self.called.append(place)
        self.dtypes |= {q.dtype, k.dtype, v.dtype}
        self.heads[place.name] = q.shape[1]
        assert q.shape[2] == place.height * place.width
        assert k.shape[2] == v.shape[2] == (5 if place.cross else q.shape[2])
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(dim=-1)
        return weights @ v


@pytest.mark.parametrize("changes", [
    {}, {"use_linear_projection": True}, {"upcast_attention": True},
], ids=["conv", "linear", "upcast"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)], ids=str)
def test_attention_written_out_gives_the_same(changes, dtype, tolerance):
    unet, (x, context), attend = small_unet(dtype, **changes), inputs(dtype), Explicit(PLACES)
    assert difference(unet(x, 431, context, attend), unet(x, 431, context)) <= tolerance
    assert attend.called == PLACES and attend.dtypes == {dtype}


def test_wants_is_asked_once_for_each_attention_with_its_place():
    unet, (x, context), attend = small_unet(), inputs(), Explicit([])
    assert torch.equal(unet(x, 431, context, attend), unet(x, 431, context))
    assert attend.asked == PLACES and attend.called == []
    modules = dict(unet.named_modules())
    assert all(isinstance(modules[place.name], nn.Module) for place in PLACES)


def test_attend_is_called_only_where_it_wants():
    unet, (x, context) = small_unet(), inputs()
    for chosen in (PLACES[1::2], PLACES[2:3], PLACES[-1:]):
        attend = Explicit(chosen)
        assert difference(unet(x, 431, context, attend), unet(x, 431, context)) <= 1e-12
        assert attend.asked == PLACES and attend.called == chosen


def test_heads_by_level_reach_attention():
    unet, (x, context), attend = small_unet(), inputs(), Explicit(PLACES)
    unet(x, 431, context, attend)
    assert [attend.heads[place.name] for place in PLACES] == [2, 2, 4, 4, 2, 2, 2, 2]


@pytest.mark.parametrize("index", range(len(PLACES)))
def test_what_attend_returns_is_used(index):
    class Nothing(Explicit):
        def __call__(self, q: Tensor, k: Tensor, v: Tensor, place: Place) -> Tensor:
            return torch.zeros_like(q)

    unet, (x, context) = small_unet(), inputs()
    assert difference(unet(x, 431, context, Nothing([PLACES[index]])), unet(x, 431, context)) > 1e-4


def test_upcast_attention_is_in_float32_when_the_network_is_in_half():
    for upcast, seen in ((True, torch.float32), (False, torch.bfloat16)):
        unet, attend = small_unet(torch.bfloat16, upcast_attention=upcast), Explicit(PLACES)
        x, context = inputs(torch.bfloat16)
        assert unet(x, 431, context, attend).dtype == torch.bfloat16
        assert attend.dtypes == {seen}


@pytest.mark.parametrize(("change", "message"), [
    ({"attention_head_dim": (2,)}, "attention_head_dim (2,) and block_out_channels differ in length"),
    ({"attention_head_dim": 7}, "a level of 16 channels can't be split into 7 heads"),
    ({"layers_per_block": (1, 2)}, "layers_per_block = (1, 2) is not supported (only whole numbers from 1 to 16)"),
    ({"in_channels": (4, 4)}, "in_channels = (4, 4) is not supported (only whole numbers from 1 to 1024)"),
])
def test_configs_that_cannot_be_built(change, message):
    levels = {"block_out_channels": (16, 32), "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D")}
    with pytest.raises(ValueError) as error:
        UNetConfig(**{**levels, "attention_head_dim": 2, "norm_num_groups": 8, **change})
    assert str(error.value) == message


# ---------------------------------------------------------------- the seam for residual blocks

# All residual blocks of SMALL in the order in which they run, with the size of the feature map on latents of 8 x 12.
BLOCKS = [BlockPlace(f"{block}.resnets.{i}", *size) for block, count, size in (
    ("down_blocks.0", 1, (8, 12)), ("down_blocks.1", 1, (4, 6)), ("mid_block", 2, (4, 6)),
    ("up_blocks.0", 2, (4, 6)), ("up_blocks.1", 2, (8, 12)),
) for i in range(count)]


class Look:
    """Remembers what it is asked and given, at the places that `chosen` holds, and returns `change` of it."""

    def __init__(self, chosen: list[BlockPlace] = BLOCKS, change: Callable[[Tensor], Tensor] = lambda x: x):
        self.chosen, self.change, self.asked, self.called, self.given, self.copies = chosen, change, [], [], {}, {}

    def wants(self, place: BlockPlace) -> bool:
        self.asked.append(place)
        return place in self.chosen

    def __call__(self, x: Tensor, place: BlockPlace) -> Tensor:
        self.called.append(place)
        self.given[place.name], self.copies[place.name] = x, x.clone()
        return self.change(x)


@pytest.fixture
def in_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every convolution works on two rows of cells at a time."""
    monkeypatch.setattr(bands, "LARGE", 0)
    monkeypatch.setattr(bands, "BAND", 1)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_features_returned_as_they_came_change_nothing(checkpointing):
    unet, (x, context), look = small_unet(), inputs(), Look()
    plain = unet(x, 431, context)
    assert torch.equal(unet(x, 431, context, features=look, checkpointing=checkpointing), plain)
    assert len(look.given) == len(BLOCKS)
    for name, given in look.given.items():
        assert torch.equal(given, look.copies[name]), f"{name} was changed after it was seen"


def test_features_in_bands(in_bands):
    unet, (x, context), look = small_unet(), inputs(), Look()
    assert torch.equal(unet(x, 431, context, features=look), unet(x, 431, context))
    assert all(torch.equal(given, look.copies[name]) for name, given in look.given.items())
    nothing, zeroed = Look(BLOCKS[-1:], torch.zeros_like), with_zeros(unet, BLOCKS[-1].name)
    assert difference(unet(x, 431, context, features=nothing), zeroed(x, 431, context)) <= 1e-12


@pytest.mark.parametrize("changes", [{}, {"layers_per_block": 2}, {"mid_block_type": None}])
def test_every_residual_block_is_seen_once(changes):
    unet, (x, context), look = small_unet(**changes), inputs(), Look()
    modules = {name: module for name, module in unet.named_modules() if isinstance(module, ResnetBlock)}
    fine = ("down_blocks.0", "up_blocks.1")
    in_order = sorted(modules)                                      # down, mid, up; fewer than ten of each
    look.chosen = [BlockPlace(name, *((8, 12) if name.startswith(fine) else (4, 6))) for name in in_order]
    assert changes or look.chosen == BLOCKS
    unet(x, 431, context, features=look)
    assert look.asked == look.called == look.chosen
    for place in look.chosen:
        shape = (3, modules[place.name].conv2.out_channels, place.height, place.width)
        assert look.given[place.name].shape == shape


def test_features_are_called_only_where_they_want():
    unet, (x, context) = small_unet(), inputs()
    plain = unet(x, 431, context)
    for chosen in ([], BLOCKS[2:3], BLOCKS[1::2]):
        look = Look(chosen, torch.zeros_like)
        assert torch.equal(unet(x, 431, context, features=look), plain) == (not chosen)
        assert look.asked == BLOCKS and look.called == chosen


def with_zeros(unet: UNet, name: str) -> UNet:
    """A copy in which the last convolution of one residual block gives nothing."""
    zeroed = copy.deepcopy(unet)
    for parameter in zeroed.get_submodule(name).conv2.parameters():
        parameter.zero_()
    return zeroed


@pytest.mark.parametrize("place", BLOCKS, ids=lambda place: place.name)
def test_no_features_are_a_last_convolution_of_zeros(place):
    unet, (x, context) = small_unet(), inputs()
    out = unet(x, 431, context, features=Look([place], torch.zeros_like))
    assert torch.equal(out, with_zeros(unet, place.name)(x, 431, context))
    assert difference(out, unet(x, 431, context)) > 1e-4


def test_features_are_what_the_last_convolution_gave():
    unet, (x, context), look, seen = small_unet(), inputs(), Look(), {}
    for place in BLOCKS:        # a copy, as what is added to it is added in place
        unet.get_submodule(place.name).conv2.register_forward_hook(
            lambda module, args, out, name=place.name: seen.update({name: out.clone()}))
    unet(x, 431, context, features=look)
    assert all(torch.equal(look.given[place.name], seen[place.name]) for place in BLOCKS)


@pytest.mark.parametrize("m", [1, 2, 3])
def test_features_see_all_rows_in_their_order(m):
    """All rows, then all again: row i is latent i % B under prompt i, in the first block as in the last."""
    unet, (x, _), look = small_unet(), inputs(rows=2), Look()
    context = torch.randn(2 * m, 5, SMALL["cross_attention_dim"], dtype=x.dtype)
    assert difference(unet(x, 431, context, features=look), unet(x, 431, context)) <= 1e-12
    for i in range(2 * m):
        alone = Look()
        unet(x[i % 2 : i % 2 + 1], 431, context[i : i + 1], features=alone)
        for name, given in look.given.items():
            assert len(given) == 2 * m
            assert difference(given[i : i + 1], alone.given[name]) <= 1e-12, name


@pytest.mark.parametrize("place", BLOCKS, ids=lambda place: place.name)
def test_the_first_rows_features_for_all(place):
    """As a view, as expand gives it: in it nothing can be added in place."""
    unet, (x, context) = small_unet(), inputs()
    view, whole = Look([place], lambda x: x[:1].expand_as(x)), Look([place], lambda x: x[:1].repeat(3, 1, 1, 1))
    out = unet(x, 431, context, features=view)
    assert torch.equal(out, unet(x, 431, context, features=whole))
    assert difference(out[:1], unet(x, 431, context)[:1]) <= 1e-12 < difference(out[1:], unet(x, 431, context)[1:])


def test_features_and_gradients_with_checkpointing():
    """What features change, gradients see, and they are the same when the inside of layers is computed again."""
    unet, (x, context), grads = small_unet(), inputs(), []
    for checkpointing, change in ((False, lambda x: x), (False, torch.tanh), (True, torch.tanh)):
        start, text, look = x.clone().requires_grad_(), context.clone().requires_grad_(), Look(change=change)
        out = unet(start, 431, text, features=look, checkpointing=checkpointing)
        assert look.called == BLOCKS
        out.square().sum().backward()
        assert len(look.called) == (2 if checkpointing else 1) * len(BLOCKS)
        grads.append((start.grad, text.grad))
    for other, plain, again in zip(*grads, strict=True):
        assert difference(plain, again) <= 1e-12 < difference(plain, other)


def test_features_see_all_rows_of_eps(model, monkeypatch):
    """As attend does: the batch does not run in parts."""
    random = torch.Generator().manual_seed(0)
    x, context = torch.randn(3, 4, 8, 8, generator=random, dtype=torch.float64), model.embed(["", "a", "b"] * 2)
    monkeypatch.setattr(stable_diffusion, "CELLS_AT_ONCE", 64)
    look = Look()
    look.chosen = [BlockPlace("up_blocks.1.resnets.1", 8, 8)]
    out = model.eps(x, 431, context, features=look)
    assert look.called == look.chosen and len(look.given["up_blocks.1.resnets.1"]) == 6
    assert difference(out, model.eps(x, 431, context)) <= 1e-12
    look.change = torch.zeros_like
    assert difference(model.eps(x, 431, context, features=look), out) > 1e-4


# ---------------------------------------------------------------- the recorder of attention maps


def hooked(unet: UNet) -> dict[str, Tensor]:
    """What the queries' and keys' projections give, by their modules' paths: filled when the network runs."""
    seen = {}
    for name, module in unet.named_modules():
        if name.endswith((".to_q", ".to_k")):
            module.register_forward_hook(lambda module, args, out, name=name: seen.update({name: out}))
    return seen


@pytest.mark.parametrize("changes", [{}, {"attention_head_dim": 4, "transformer_layers_per_block": 2}])
def test_recorded_maps_are_the_softmax_by_hand(changes):
    """One number of the softmax after another, from what the projections gave."""
    unet, (x, context), recorder = small_unet(**changes), inputs(), AttentionRecorder(lambda place: True)
    plain, seen = unet(x, 431, context), hooked(unet)
    assert difference(unet(x, 431, context, recorder), plain) <= 1e-12
    assert len(recorder.maps) == len(seen) / 2 > 0
    for name, maps in recorder.maps.items():
        heads = unet.get_submodule(name).heads
        assert maps.shape[1] == heads
        for head in range(heads):
            q, k = (part.chunk(heads, dim=2)[head] for part in (seen[f"{name}.to_q"], seen[f"{name}.to_k"]))
            weights = torch.exp(torch.einsum("bnd,bld->bnl", q, k) / q.shape[2] ** 0.5)
            assert difference(maps[:, head], weights / weights.sum(dim=2, keepdim=True)) <= 1e-12


def test_by_default_cross_attention_is_recorded_in_the_networks_order():
    unet, (x, context), recorder = small_unet(), inputs(), AttentionRecorder()
    unet(x, 431, context, recorder)
    cross = [place for place in PLACES if place.cross]
    assert list(recorder.maps) == [place.name for place in cross]
    for place, heads in zip(cross, (2, 4, 2, 2), strict=True):
        maps = recorder.maps[place.name]
        assert maps.shape == (3, heads, place.height * place.width, 5) and maps.dtype == torch.float64
        assert (maps.sum(dim=3) - 1).abs().max() <= 1e-12
        assert recorder.places[place.name] == place


def test_chosen_places_are_recorded():
    unet, (x, context) = small_unet(), inputs()
    recorder = AttentionRecorder(lambda place: not place.cross and place.height == 4)
    unet(x, 431, context, recorder)
    assert list(recorder.maps) == [PLACES[2].name]
    assert recorder.maps[PLACES[2].name].shape == (3, 4, 24, 24)


@pytest.mark.parametrize("m", [1, 2, 3])
def test_recorded_rows_are_in_their_order(m):
    unet, (x, _), recorder = small_unet(), inputs(rows=2), AttentionRecorder(lambda place: True)
    context = torch.randn(2 * m, 5, SMALL["cross_attention_dim"], dtype=x.dtype)
    assert difference(unet(x, 431, context, recorder), unet(x, 431, context)) <= 1e-12
    for i in range(2 * m):
        alone = AttentionRecorder(lambda place: True)
        unet(x[i % 2 : i % 2 + 1], 431, context[i : i + 1], alone)
        for name, maps in recorder.maps.items():
            assert len(maps) == 2 * m
            assert difference(maps[i : i + 1], alone.maps[name]) <= 1e-12


def test_several_calls_are_averaged():
    unet, (x, context), together, each = small_unet(), inputs(), AttentionRecorder(), []
    for t in (900, 500, 20):
        alone = AttentionRecorder()
        unet(x, t, context, alone)
        unet(x, t, context, together)
        each.append(alone)
    assert list(together.maps) == list(alone.maps) and set(together.calls.values()) == {3}
    for name, maps in together.maps.items():
        assert difference(maps, sum(alone.maps[name] for alone in each) / 3) <= 1e-15
        assert difference(maps, each[-1].maps[name]) > 1e-6


def test_calls_of_other_rows_are_not_averaged():
    unet, (x, context), recorder = small_unet(), inputs(), AttentionRecorder()
    unet(x, 431, context, recorder)
    for rows in (x[:1], x.repeat(2, 1, 1, 1)):
        with pytest.raises(ValueError) as error:
            unet(rows, 431, context.repeat(2, 1, 1)[: len(rows)], recorder)
        assert str(error.value) == (
            f"{PLACES[1].name}: maps of ({len(rows)}, 2, 96, 5) after maps of (3, 2, 96, 5): only calls with the same "
            "rows and sizes can be averaged")


def test_recording_keeps_no_graph_and_leaves_gradients_alone():
    unet, (x, context), grads = small_unet(), inputs(), []
    for attend in (None, AttentionRecorder(lambda place: True)):
        start = x.clone().requires_grad_()
        (unet(start, 431, context, attend) + unet(start, 20, context, attend)).square().sum().backward()
        grads.append(start.grad)
    assert difference(*grads) <= 1e-12
    assert not any(maps.requires_grad for maps in attend.maps.values())


def test_maps_of_a_network_in_half_are_in_float32():
    unet, recorder = small_unet(torch.bfloat16), AttentionRecorder()
    x, context = inputs(torch.bfloat16)
    assert unet(x, 431, context, recorder).dtype == torch.bfloat16
    for maps in recorder.maps.values():
        assert maps.dtype == torch.float32 and (maps.sum(dim=3) - 1).abs().max() <= 1e-6
    large = torch.full((1, 1, 4, 8), 120.0, dtype=torch.float16)        # 8 * 120**2 is more than float16 can hold
    assert torch.equal(attention_maps(large, large), torch.full((1, 1, 4, 4), 0.25))


def test_the_mean_over_heads_and_places():
    unet, (x, context), recorder = small_unet(), inputs(), AttentionRecorder()
    unet(x, 431, context, recorder)
    fine = [maps.mean(dim=1).mT.reshape(3, 5, 8, 12) for maps in recorder.maps.values() if maps.shape[2] == 96]
    (coarse,) = (maps.mean(dim=1).mT.reshape(3, 5, 4, 6) for maps in recorder.maps.values() if maps.shape[2] == 24)
    grown = torch.nn.functional.interpolate(coarse, (8, 12), mode="bilinear", align_corners=False)
    assert len(fine) == 3
    assert difference(recorder.mean((8, 12)), (sum(fine) + grown) / 4) <= 1e-15
    small = [maps.unflatten(3, (3, -1)).unflatten(2, (2, -1)).mean(dim=(3, 5)) for maps in (*fine, coarse)]
    assert difference(recorder.mean((2, 3)), sum(small) / 4) <= 1e-15       # of 4 x 4 and of 2 x 2 cells
    for size in ((8, 12), (4, 6), (2, 3), (64, 96)):
        mean = recorder.mean(size)
        assert mean.shape == (3, 5, *size) and (mean.sum(dim=1) - 1).abs().max() <= 1e-12


def test_a_mean_needs_maps_over_the_same_tokens():
    unet, (x, context) = small_unet(), inputs()
    nothing, everything = AttentionRecorder(), AttentionRecorder(lambda place: True)
    unet(x, 431, context, everything)
    for recorder, lengths in ((nothing, "none"), (everything, "[5, 24, 96]")):
        with pytest.raises(ValueError) as error:
            recorder.mean((8, 12))
        assert str(error.value) == f"a mean needs maps over the same tokens, not over {lengths}"
