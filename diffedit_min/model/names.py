"""From the names in a checkpoint to ours, and the proof that nothing is missing or left over.

The modules here carry the published folders' own names, so the rules are few: what older or newer libraries renamed.
"""

from collections.abc import Mapping

from torch import Tensor, nn

# VAE attention in files written before 2023 (all of SD 1.x and 2.x), and since.
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
SHOWN = 10      # names listed of each kind in an error


def unet_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """unet/: as it is."""
    return dict(state)


def vae_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """vae/: old attention names, whose linear layers may be stored as 1x1 convolutions."""
    renamed = {}
    for name, weight in state.items():
        path, _, leaf = name.rpartition(".")
        parent, _, layer = path.rpartition(".")
        if ".attentions." in name:
            name = f"{parent}.{OLD_ATTENTION.get(layer, layer)}.{leaf}"
            if leaf == "weight" and weight.ndim > 2:                    # (C, C, 1, 1) -> (C, C)
                weight = weight.flatten(1)
        renamed[name] = weight
    return renamed


def text_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """text_encoder/: with or without `text_model.` in front, and without the constant `position_ids`."""
    return {
        name.removeprefix("text_model."): weight
        for name, weight in state.items()
        if not name.endswith("position_ids")
    }


def load_strictly(module: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Copy the weights into the module if the set of names and every shape match exactly.

    Raises one ValueError that lists what is missing, unexpected or misshapen, and names the file `where`.
    """
    own = {name.removeprefix("text_model."): (name, tuple(p.shape)) for name, p in module.state_dict().items()}
    missing = [name for name in own if name not in weights]
    unexpected = [name for name in weights if name not in own]
    misshapen = [
        f"{name} {tuple(weights[name].shape)} instead of {shape}"
        for name, (_, shape) in own.items()
        if name in weights and tuple(weights[name].shape) != shape
    ]
    complaints = [
        f"{len(names)} {kind}: {', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''}"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen))
        if names
    ]
    if complaints:
        raise ValueError(f"{where} doesn't fit its config.json: {'; '.join(complaints)}")
    module.load_state_dict({own[name][0]: weight for name, weight in weights.items()})
