"""Run: python -m pytest tests/test_refusals.py

The table in weights.md of what is read, read with a warning, or refused: every row is built here and loaded, and the
table holds exactly the rows of `CASES`. To add a row: a line in the table, and a `Case` with the same first column.
"""

import json
import re
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import checkpoints
import pytest
import torch
from safetensors.torch import load_file, save_file

from diffedit_min import loading
from diffedit_min.loading.layout import SCHEDULER

TABLE = Path(__file__).parent.parent / "weights.md"
UNET = "unet/diffusion_pytorch_model.safetensors"


class Case(NamedTuple):
    """One way to meet a row of the table."""

    title: str                          # the row's first column
    outcome: str                        # its second: "read", "warned" or "refused"
    make: Callable[[Path], Any]         # writes it into an empty folder -> its path, or (path, options of `load`)
    message: str = ""                   # a part of the warning or of the refusal


# ---------------------------------------------------------------- builders


@cache
def weights_of(family: str) -> dict[str, dict[str, torch.Tensor]]:
    return checkpoints.random_weights(checkpoints.small(family))


def folder(path: Path, family: str = "sd15", scheduler: dict[str, Any] | None = None, **index: Any) -> Path:
    """A small folder; scheduler and index: entries of its configs."""
    made = checkpoints.write_folder(path / "folder", checkpoints.small(family), weights_of(family))
    for file, entries in ((SCHEDULER, scheduler or {}), ("model_index.json", index)):
        change_json(made / file, **entries)
    return made


def change_json(path: Path, **entries: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def changed(path: Path, family: str = "sd15", file: str = UNET, **entries: Any) -> Path:
    """A small folder with entries of one of its configs, or of its weights, replaced."""
    made = folder(path, family)
    if file.endswith(".json"):
        change_json(made / file, **entries)
    else:
        save_file({**load_file(made / file), **entries}, made / file)
    return made


def without(made: Path, *files: str) -> Path:
    for file in files:
        (made / file).unlink()
    return made


def single(
    path: Path, family: str = "sd15", name: str = "x.safetensors", add: dict[str, torch.Tensor] | None = None,
    metadata: dict[str, str] | None = None, rename: Callable[[str], str | None] = lambda name: name,
) -> tuple[Path, dict[str, Any]]:
    """A small checkpoint in one file, with names replaced (None: left out), then `add`ed tensors and metadata.

    Its configs are in a folder beside it, whose scheduler says nothing of the prediction.
    """
    configs = checkpoints.small(family)
    state = checkpoints.original_state(configs, weights_of(family))
    state = {new: weight.clone().contiguous() for old, weight in state.items() if (new := rename(old))} | (add or {})
    file = path / name
    torch.save(state, file) if file.suffix == ".ckpt" else save_file(state, file, metadata)
    configs["scheduler"].pop("prediction_type", None)
    return file, {"config": checkpoints.write_configs(path / "configs", configs)}


def tensors_in(path: Path, *names: str) -> Path:
    save_file({name: torch.zeros(2, 2) for name in names}, path / "x.safetensors")
    return path / "x.safetensors"


def bytes_in(path: Path, data: bytes, name: str = "x.safetensors") -> Path:
    (path / name).write_bytes(data)
    return path / name


def cut_off(path: Path) -> Path:
    file, _ = single(path)
    return bytes_in(path, file.read_bytes()[:-1])


def with_code(path: Path) -> Path:
    torch.save({"a": Path("x")}, path / "x.ckpt")
    return path / "x.ckpt"


NAN, HUGE = torch.full((4,), torch.nan, dtype=torch.float16), torch.full((4,), 1e30)

# ---------------------------------------------------------------- the rows

FOLDER = "a folder with `.safetensors` or `.bin` files, whole or in shards, old or new names"
OTHER = "a web page, a Git LFS pointer, a picture, an archive, ... in place of weights"
ADDITION = "a LoRA, a ControlNet, a textual inversion"

CASES = [
    Case(FOLDER, "read", folder),
    Case("a folder that lacks needed files", "refused", lambda path: without(folder(path), "vae/config.json"),
         "is not a complete checkpoint folder; missing: vae/config.json"),
    Case("weights that don't fit the config", "refused", lambda path: changed(path, extra=torch.zeros(1)),
         "doesn't fit its config.json: 1 unexpected: extra"),
    Case("a file that is cut off or damaged", "refused", cut_off, "is not a whole safetensors file"),
    Case(OTHER, "refused", lambda path: bytes_in(path, b"<html><body>404</body></html>"), "looks like a web page"),
    Case(ADDITION, "refused", lambda path: tensors_in(path, "lora_unet_x.lora_down.weight"), "looks like a LoRA"),
    Case(ADDITION, "refused", lambda path: tensors_in(path, "control_model.x"), "looks like a ControlNet"),
    Case(ADDITION, "refused", lambda path: tensors_in(path, "emb_params"), "looks like a textual inversion"),
    Case("one network of a folder", "refused", lambda path: folder(path) / UNET, "looks like a U-Net alone"),
    Case("a pickle with more than tensors", "refused", with_code, "which could run code, so it is refused"),
    Case("a config with a switch that the networks here don't have, or an impossible size", "refused",
         lambda path: changed(path, file="unet/config.json", class_embed_type="timestep"),
         "class_embed_type = 'timestep' is not supported"),
    Case("NaN or infinite numbers, found when weights are converted", "refused",
         lambda path: changed(path, **{"conv_out.bias": NAN}), "conv_out.bias holds NaN or infinite numbers"),
    Case("numbers too large for float16", "refused",
         lambda path: (changed(path, **{"conv_out.bias": HUGE}), {"dtype": "float16"}), "too large for float16"),
]


# ---------------------------------------------------------------- the tests


def table() -> list[tuple[str, str]]:
    """The first two columns of weights.md's table."""
    rows = TABLE.read_text(encoding="utf-8").partition("| what | is | why, and what to do |\n|---|---|---|\n")[2]
    return [tuple(row.strip("|").split(" | ")[:2]) for row in re.match(r"(\|.*\n)*", rows)[0].splitlines()]


def test_the_table_has_a_row_for_every_case_and_no_other():
    rows = [(title.strip(), outcome.strip()) for title, outcome in table()]
    assert len(rows) == len(set(rows)) and dict.fromkeys(rows) == dict.fromkeys((c.title, c.outcome) for c in CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.outcome}: {case.message or case.title}")
def test_a_row(case, tmp_path):
    made = case.make(tmp_path)
    path, options = made if isinstance(made, tuple) else (made, {})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if case.outcome == "refused":
            with pytest.raises(ValueError) as error:
                loading.load(path, device="cpu", **options)
            said = str(error.value)
        else:
            model = loading.load(path, device="cpu", **options)
            assert model.unet.conv_in.weight.device.type == "cpu"
            said = "; ".join(str(warning.message) for warning in caught)
    assert len(caught) == (case.outcome == "warned")
    assert case.message in said and "\n" not in said
