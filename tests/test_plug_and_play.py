"""pytest tests/test_plug_and_play.py: Plug-and-Play, on random networks in float64."""

import pytest
import torch
from PIL import Image

import diffedit_min as dm
from diffedit_min.methods.plug_and_play import SourceAttention, SourceFeatures
from diffedit_min.networks.attention import Place
from diffedit_min.networks.blocks import BlockPlace
from diffedit_min.networks.unet import UNet, UNetConfig

FEW = {"steps": 6, "encoding_ratio": 0.8, "keep": "trace"}      # k = 5


@pytest.fixture(scope="module")
def image():
    return dm.tiny.scenes.sample(2_000_000_000).render(24)


def latents(edit):
    return torch.cat([state.latent for state in edit.decoded])


def test_with_nothing_put_in_it_is_encode_decode(model, image):
    plugged = dm.plug_and_play(model, image, "a b", feature_part=0.0, attention_part=0.0, **FEW)
    plain = dm.encode_decode(model, image, "a b", **FEW)
    assert (latents(plugged) - latents(plain)).abs().max() < 1e-11
    assert plugged.rows_for == {"encode": 5, "decode": 15}


@pytest.mark.parametrize("part", ["feature_part", "attention_part"])
def test_each_part_has_its_own_say_in_the_first_steps(model, image, part):
    """In so many of the steps, from the noisiest on: the states before the last injected step differ, not earlier."""
    none = {"feature_part": 0.0, "attention_part": 0.0}
    shorter, longer = (dm.plug_and_play(model, image, "a b", **{**FEW, **none, part: share}) for share in (0.4, 0.6))
    differ = [not torch.allclose(a.latent, b.latent, atol=1e-10) for a, b in
              zip(shorter.decoded, longer.decoded, strict=True)]         # by level, y_0 first
    assert differ == [True, True, True, False, False, False]       # 2 or 3 of 5 steps: the third reaches level 2


def test_what_is_put_in_is_the_encodings_at_the_same_level(model, image):
    """In the first step, told what the encoding was told, all rows are one: what is put in are their own features."""
    run = dm.Method("unguided", dm.plug_and_play.run, based_on=dm.plug_and_play, takes_query=False)
    plugged = run(model, image, "", guidance_scale=1.0, feature_part=1.0, attention_part=1.0, **FEW)
    plain = dm.invert(model, image, **FEW)
    assert (plugged.decoded[4].latent - plain.decoded[4].latent).abs().max() < 1e-11
    assert (plugged.decoded[3].latent - plain.decoded[3].latent).abs().max() > 1e-3       # y_4 is not x_4 any more


def test_another_pictures_layout_is_not_what_is_put_in(model, image):
    """The features are those of the picture at the same level: another picture's edit in the batch changes nothing."""
    other = Image.new("RGB", image.size, "red")
    alone = dm.plug_and_play(model, image, "a b", **FEW)
    first, _ = dm.plug_and_play(model, [image, other], "a b", **FEW)
    assert (latents(first) - latents(alone)).abs().max() < 1e-10


def test_where_it_is_put_in_stable_diffusion():
    """Layer 4 of the way up, and the self-attention of layers 4 to 11, as the authors' code has them."""
    with torch.device("meta"):
        names = [name for name, _ in UNet(UNetConfig()).named_modules()]
    blocks = [name for name in names if SourceFeatures(1).wants(BlockPlace(name, 8, 8))]
    attention = [name for name in names if name.endswith(("attn1", "attn2"))
                 and SourceAttention(1).wants(Place(name, name.endswith("attn2"), 8, 8))]
    assert blocks == ["up_blocks.1.resnets.1"]
    layers = [(1, 1), (1, 2), *((block, layer) for block in (2, 3) for layer in range(3))]
    assert attention == [f"up_blocks.{block}.attentions.{layer}.transformer_blocks.0.attn1" for block, layer in layers]
