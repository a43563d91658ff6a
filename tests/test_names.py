"""Run with `python -m pytest tests/test_names.py` from the repository's root; takes about 2 seconds.

Checks the way from a checkpoint's names to ours, and that nothing missing, left over or misshapen passes.
"""

import pytest
import torch
from torch import Tensor, nn

from diffedit_min.model.names import load_strictly, text_weights, unet_weights, vae_weights


class Small(nn.Module):
    """Twelve tensors named a.0.weight, ..., b.bias."""

    def __init__(self):
        super().__init__()
        self.a = nn.ModuleList(nn.Linear(2, 3) for _ in range(5))
        self.b = nn.Linear(2, 4)


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: torch.randn_like(weight) for name, weight in module.state_dict().items()}


def refusal(module: nn.Module, weights: dict[str, Tensor]) -> str:
    """The message, after checking that it is one line and that the module was left as it was."""
    before = {name: weight.clone() for name, weight in module.state_dict().items()}
    with pytest.raises(ValueError) as error:
        load_strictly(module, weights, "unet/x.safetensors")
    assert all(torch.equal(weight, before[name]) for name, weight in module.state_dict().items())
    assert "\n" not in str(error.value)
    return str(error.value)


def test_unet_names_stay():
    weights = {"mid_block.attentions.0.proj_out.weight": torch.zeros(2, 2, 1, 1), "conv_in.bias": torch.zeros(2)}
    assert unet_weights(weights) == weights


@pytest.mark.parametrize("side", ["encoder", "decoder"])
@pytest.mark.parametrize("trailing", [(), (1,), (1, 1)])
def test_the_vaes_old_attention(side, trailing):
    path, matrix, vector = f"{side}.mid_block.attentions.0", torch.randn(4, 4), torch.randn(4)
    for old, new in (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")):
        state = {f"{path}.{old}.weight": matrix.reshape(4, 4, *trailing), f"{path}.{old}.bias": vector}
        renamed = vae_weights(state)
        assert set(renamed) == {f"{path}.{new}.weight", f"{path}.{new}.bias"}
        assert torch.equal(renamed[f"{path}.{new}.weight"], matrix)
        assert torch.equal(renamed[f"{path}.{new}.bias"], vector)


def test_the_vaes_new_names_stay():
    convolution = torch.zeros(4, 4, 1, 1)
    state = {f"encoder.mid_block.attentions.0.{name}": torch.zeros(4)
             for name in ("group_norm.weight", "group_norm.bias", "to_q.bias", "to_out.0.bias")}
    state |= {name: convolution for name in ("quant_conv.weight", "encoder.mid_block.resnets.0.conv1.weight")}
    assert vae_weights(state) == state and vae_weights(vae_weights(state)) == state


def test_text_names():
    weight, positions = torch.zeros(2), torch.arange(3)
    for prefix in ("", "text_model."):
        state = {f"{prefix}final_layer_norm.bias": weight, f"{prefix}embeddings.position_ids": positions}
        assert text_weights(state) == {"final_layer_norm.bias": weight}


def test_weights_are_copied():
    module = Small()
    weights = weights_of(module)
    load_strictly(module, weights, "f")
    assert all(torch.equal(weight, weights[name]) for name, weight in module.state_dict().items())


def test_a_module_with_the_prefix_takes_names_without_it():
    """As the text encoder of older releases of transformers has it."""
    module = nn.ModuleDict({"text_model": nn.Linear(2, 2)})
    load_strictly(module, {"weight": torch.ones(2, 2), "bias": torch.zeros(2)}, "f")
    assert torch.equal(module["text_model"].weight, torch.ones(2, 2))


def test_each_kind_of_misfit_is_named():
    weights = weights_of(Small())
    weights["b.wait"] = weights.pop("b.weight")
    weights["a.0.bias"] = torch.zeros(4)
    assert refusal(Small(), weights) == (
        "unet/x.safetensors doesn't fit its config.json: 1 missing: b.weight; 1 unexpected: b.wait; "
        "1 misshapen: a.0.bias (4,) instead of (3,)"
    )


def test_one_kind_alone():
    weights = weights_of(Small())
    extra = {**weights, "c": torch.zeros(1)}
    assert refusal(Small(), extra) == "unet/x.safetensors doesn't fit its config.json: 1 unexpected: c"
    del weights["b.bias"]
    assert refusal(Small(), weights) == "unet/x.safetensors doesn't fit its config.json: 1 missing: b.bias"


@pytest.mark.parametrize(("count", "shown", "more"), [(10, 10, ""), (11, 10, ", ..."), (12, 10, ", ...")])
def test_only_ten_of_many_are_listed(count, shown, more):
    names = list(weights_of(Small()))
    assert len(names) == 12
    present = {name: weight for name, weight in weights_of(Small()).items() if name in names[count:]}
    listed = ", ".join(names[:shown])
    expected = f"unet/x.safetensors doesn't fit its config.json: {count} missing: {listed}{more}"
    assert refusal(Small(), present) == expected


def test_a_scalar_or_an_empty_file_is_no_match():
    assert "12 missing" in refusal(Small(), {})
    assert "1 misshapen: b.bias () instead of (4,)" in refusal(
        Small(), {**weights_of(Small()), "b.bias": torch.tensor(1.0)}
    )
