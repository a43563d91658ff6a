"""Run with `python -m pytest tests/test_text.py` from the repository's root; takes about 5 seconds.

Checks prompts on published tokenizers and the published configs, if they are there: DIFFEDIT_CONFIGS names a folder
with sd14, sd15, sd15-inpainting, sd21-base, sd21-768-v and sdxl-base, each a checkpoint's folder without its weights.
"""

import json
import os
from pathlib import Path

import pytest
from checkpoints import REAL, full_config

from diffedit_min.core.schedule import Schedule
from diffedit_min.networks.text import dropped_text, tokenize
from diffedit_min.networks.tokenizer import make_tokenizer
from diffedit_min.networks.unet import UNetConfig
from diffedit_min.networks.vae import VAEConfig

CONFIGS = Path(os.environ.get("DIFFEDIT_CONFIGS", "configs-are-not-here"))
published = pytest.mark.skipif(not CONFIGS.is_dir(), reason="DIFFEDIT_CONFIGS names no folder of published configs")
START, END = 49406, 49407
TOKENIZERS = {"sd14/tokenizer": END, "sd15/tokenizer": END, "sd21-base/tokenizer": 0, "sd21-768-v/tokenizer": 0,
              "sdxl-base/tokenizer": END, "sdxl-base/tokenizer_2": 0}       # and what they pad with


def ids(folder: str, prompt: str) -> list[int]:
    """Of the places before the padding, start and end left out."""
    tokenizer = make_tokenizer(CONFIGS / folder)
    row = tokenize(tokenizer, [prompt])[0].tolist()
    assert len(row) == 77 and row[0] == START
    end = row.index(END)
    assert set(row[end + 1 :]) <= {TOKENIZERS[folder]}
    return row[1:end]


@published
@pytest.mark.parametrize("folder", TOKENIZERS)
def test_prompts(folder):
    assert ids(folder, "") == []
    assert ids(folder, "a bowl of fruits") == ids(folder, "  A bowl\tof\nFRUITS ") == [320, 3814, 539, 13282]
    assert ids(folder, "a cat!") == ids(folder, "a cat") + [0 if TOKENIZERS[folder] == 0 else 256]


@published
@pytest.mark.parametrize("folder", TOKENIZERS)
def test_exclamation_marks_are_padding_in_sd_2(folder):
    assert ids(folder, "!!") == ([0, 0] if TOKENIZERS[folder] == 0 else [748])


@published
@pytest.mark.parametrize("folder", TOKENIZERS)
@pytest.mark.parametrize("words", [75, 76, 77, 300])
def test_long_prompts_are_cut_as_clip_cuts_them(folder, words):
    prompt = " ".join(["fruits"] * 75 + ["bowl"] * (words - 75))
    assert ids(folder, prompt) == [13282] * 75
    assert dropped_text(make_tokenizer(CONFIGS / folder), prompt).split() == ["bowl"] * (words - 75)


@published
@pytest.mark.parametrize("folder", TOKENIZERS)
@pytest.mark.parametrize("prompt", [
    "一碗水果放在木桌上", "🍎🍐🍋", "a\x00b\x07\x1b[0m", "naïve café", "\u202eabc", "a" * 5000,
])
def test_any_text_is_spelled_in_tokens(folder, prompt):
    """Bytes that are no whole word are tokens too; nothing is unknown, and the same text is the same tokens."""
    spelled = ids(folder, prompt)
    assert 0 < len(spelled) <= 75 and all(0 <= token < START for token in spelled)
    assert spelled == ids(folder, prompt) and spelled != ids(folder, "a bowl")


@published
@pytest.mark.parametrize(("folder", "family"), [
    ("sd14", "sd15"), ("sd15", "sd15"), ("sd15-inpainting", "sd15-inpainting"), ("sd21-base", "sd21-base"),
    ("sd21-768-v", "sd21-768"), ("sdxl-base", "sdxl"),
])
def test_the_families_of_these_tests_are_the_published_ones(folder, family):
    def read(name: str) -> dict:
        return json.loads((CONFIGS / folder / name).read_text())

    ours = REAL[family]
    assert UNetConfig.from_dict(read("unet/config.json")) == UNetConfig.from_dict(full_config("unet", ours["unet"]))
    assert VAEConfig.from_dict(read("vae/config.json")) == VAEConfig.from_dict(ours["vae"])
    scheduler = read("scheduler/scheduler_config.json")
    assert Schedule.from_config(scheduler) == Schedule.from_config(ours["scheduler"])
    assert scheduler.get("prediction_type", "epsilon") == ours["scheduler"].get("prediction_type", "epsilon")
    for part in ("text_encoder", "text_encoder_2"):
        if part in ours:
            theirs = read(f"{part}/config.json")
            assert {key: theirs.get(key) for key in ours[part]} == {**ours[part], "model_type": theirs["model_type"]}
    index = read("model_index.json")
    assert bool(index.get("force_zeros_for_empty_prompt")) == (family == "sdxl")
