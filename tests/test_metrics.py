"""Run with `python -m pytest tests/test_metrics.py` from the repository's root; takes about 15 seconds.

The benchmark's metrics: against the libraries' own values on the same pictures, against formulas written anew, on
known answers; what isn't defined is nan; and files that are missing, wrong or harmful are refused in one line.
Networks have random weights. What needs torchvision and torch-fidelity is skipped without them.
"""

import io
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from diffedit_min.bench.datasets.item import Item
from diffedit_min.bench.metrics import FAMILIES, class_means, clip, inception, lpips, networks, pie
from diffedit_min.bench.metrics.base import Files, Shown
from diffedit_min.bench.metrics.pictures import white

NONE = Files()
QUERY = "a bowl of pears on marble"


def picture(seed=0, size=(48, 40)):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)


def unit(image):
    """(1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1)[None] / np.float32(255))


def box(*corners, size=(48, 40)):
    """A mask, white in a box."""
    mask = Image.new("L", size)
    mask.paste(255, corners)
    return mask


BOX = box(8, 4, 30, 20)


def shown(result=None, source=None, mask=BOX, query=QUERY, group="", name="a", **rest):
    item = Item(id=name, image=lambda: None, query=query, group=group)
    return Shown(item, source or picture(0), result or picture(1), None, mask, **rest)


def one_line(call, kind=ValueError):
    with pytest.raises(kind) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def patched(monkeypatch):
    """patched(url, path): `url`'s file is named as its sha256 says, as if it were published so; -> the new url."""

    def patch(url, path):
        name = re.sub(r"[0-9a-f]{8}\.pth$", f"{networks.sha256(path)[:8]}.pth", url)
        path.rename(path.with_name(name.rpartition("/")[2]))
        return name

    return patch


@pytest.fixture(autouse=True)
def no_cache(monkeypatch, tmp_path):
    """torch's cache is an empty folder."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))


# ---------------------------------------------------------------- families


def test_families_say_what_they_measure():
    for name, kind in FAMILIES.items():
        metric = kind(NONE)
        assert metric.columns, name
        for column in metric.columns:
            assert column.better in ("higher", "lower") and column.average in ("mean", "psnr")
            assert column.of_set == bool(metric.feature_name)
            assert column.average == "mean" or "dB" in column.title
    others = [column.name for name, kind in FAMILIES.items() if name != "scenes" for column in kind.columns]
    assert len(set(others)) == len(others)


def test_why_not_loads_nothing():
    code = """
import sys
from diffedit_min.bench.metrics import FAMILIES
from diffedit_min.bench.metrics.base import Files
for kind in FAMILIES.values():
    kind(Files()).why_not()
print(sorted({"transformers", "torchmetrics", "torchvision", "torch_fidelity", "diffusers"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


# ---------------------------------------------------------------- pictures and answers


def test_errors_by_hand():
    source, result = Image.new("RGB", (48, 40)), Image.new("RGB", (48, 40))
    result.paste((51, 0, 0), (0, 0, 48, 10))            # 0.2 in one channel of the upper quarter
    mask = box(0, 0, 48, 20)
    found = FAMILIES["pictures"](NONE).measure(shown(result, source, mask))
    assert found == {"changed": pytest.approx(0.04 / 3 / 4), "outside": 0}
    found = FAMILIES["pictures"](NONE).measure(shown(result, source, box(0, 20, 48, 40)))
    assert found["outside"] == pytest.approx(0.04 / 3 / 2)


def test_errors_are_those_of_torchmetrics_psnr():
    functional = pytest.importorskip("torchmetrics.functional.image")
    found = FAMILIES["pictures"](NONE).measure(shown())["changed"]
    expected = functional.peak_signal_noise_ratio(unit(picture(1)), unit(picture(0)), data_range=1.0).item()
    assert -10 * math.log10(found) == pytest.approx(expected, abs=1e-4)


def test_what_has_no_mask_or_no_answer_is_nan():
    for mask in (None, box(0, 0, 48, 40)):
        assert math.isnan(FAMILIES["pictures"](NONE).measure(shown(mask=mask))["outside"])
    assert all(map(math.isnan, FAMILIES["answers"](NONE).measure(shown()).values()))
    without_mask = Shown(shown().item, picture(0), picture(1), SimpleNamespace(mask_image=None), BOX, picture(2))
    found = FAMILIES["answers"](NONE).measure(without_mask)
    assert found.pop("answer") > 0 and all(map(math.isnan, found.values()))


def test_masks_by_hand():
    edit = SimpleNamespace(mask_image=box(0, 0, 24, 20))        # 480 pixels, 240 of them in the true mask's 960
    given = Shown(shown().item, picture(0), picture(1), edit, box(0, 10, 48, 30))
    found = FAMILIES["answers"](NONE).measure(given)
    assert found.pop("iou") == pytest.approx(240 / 1200)
    assert (found["precision"], found["recall"]) == (0.5, 0.25) and math.isnan(found["answer"])


def test_white_is_128_and_more():
    grey = Image.fromarray(np.array([[0, 127, 128, 255]], np.uint8))
    assert white(grey).tolist() == [[False, False, True, True]]


# ---------------------------------------------------------------- CLIPScore


@pytest.fixture(scope="module")
def clip_folder(random_clip):
    return random_clip(1)       # of this one, no cosine below is negative


class Tensors(torch.nn.Module):
    """A CLIPModel whose features are tensors, as torchmetrics expects; the transformers library's are objects now."""

    def __init__(self, model):
        super().__init__()
        self.model, self.config = model, model.config

    def get_image_features(self, pixel_values):
        return self.model.get_image_features(pixel_values=pixel_values).pooler_output

    def get_text_features(self, input_ids, attention_mask):
        return self.model.get_text_features(input_ids=input_ids, attention_mask=attention_mask).pooler_output


@torch.no_grad()
def torchmetrics_clip_score(folder, image, text):
    pytest.importorskip("torchmetrics")
    from torchmetrics.multimodal import CLIPScore
    from transformers import CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    model = Tensors(CLIPModel.from_pretrained(folder).eval())
    processor = CLIPProcessor(CLIPImageProcessor.from_pretrained(folder), CLIPTokenizer.from_pretrained(folder))
    bytes_ = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    return CLIPScore(lambda: (model, processor))(bytes_, text).item()


@pytest.mark.parametrize("size", [(48, 40), (20, 64)])
def test_clipscore_is_that_of_torchmetrics(clip_folder, size):
    metric = FAMILIES["clipscore"](Files(clip=str(clip_folder)))
    values = []
    for seed, text in ((1, QUERY), (3, "a bucket of lemons on the grass, and a basket of apples")):
        values.append(metric.measure(shown(picture(seed, size), picture(0, size), query=text))["clipscore"])
        assert values[-1] == pytest.approx(torchmetrics_clip_score(clip_folder, picture(seed, size), text), abs=2e-4)
    assert min(values) > 0 and len(set(values)) == 2


def test_the_empty_text_has_no_clipscore(clip_folder):
    assert math.isnan(clip.score(Files(clip=str(clip_folder)), picture(5), ""))


@pytest.mark.parametrize(("cosine", "expected"), [(0.25, 25.0), (-0.25, 0.0)])
def test_clipscore_is_not_below_0(cosine, expected, monkeypatch):
    vectors = SimpleNamespace(images=lambda _: torch.tensor([[1.0, 0.0]]),
                              texts=lambda _: torch.tensor([[cosine, (1 - cosine**2) ** 0.5]]))
    monkeypatch.setattr(clip, "network", lambda _: vectors)
    assert clip.score(Files(clip="."), picture(), QUERY) == pytest.approx(expected)


# ---------------------------------------------------------------- the middle square


@pytest.mark.parametrize(("size", "expected"), [((200, 100), (0.25, 0, 0.75, 1)), ((90, 270), (0, 1 / 3, 1, 2 / 3))])
def test_the_middle_square(size, expected):
    """On pictures whose red grows to the right and whose green grows downwards."""
    x, y = (np.linspace(0, 1, n) for n in size)
    grid = np.stack(np.broadcast_arrays(x[None, :], y[:, None], 0), axis=-1)
    found = np.asarray(networks.square(Image.fromarray((grid * 255).round().astype(np.uint8)), 256)) / 255
    assert found.shape == (256, 256, 3)
    corners = (found[:, 0, 0].mean(), found[0, :, 1].mean(), found[:, -1, 0].mean(), found[-1, :, 1].mean())
    assert corners == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("size", [(64, 64), (256, 256), (201, 499), (256, 257), (1000, 333)])
def test_the_square_is_torchvisions(size):
    transforms = pytest.importorskip("torchvision.transforms", exc_type=ImportError)
    image = picture(0, size)
    expected = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(256)])(image)
    assert np.array_equal(networks.square(image, 256), expected)


# ---------------------------------------------------------------- weights files


class Call:
    """Is pickled as a call of a function."""

    def __reduce__(self):
        return (os.mkdir, ("canary",))


URL = "https://example.org/models/net-01234567.pth"


def test_a_weights_file_is_found_and_read(tmp_path, patched):
    wanted = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)}
    path = tmp_path / "net.pth"
    torch.save(wanted, path)
    url = patched(URL, path)
    for files in (Files(weights=tmp_path), NONE):
        assert (networks.weights_file(files, url) is None) == (files == NONE)
    found = networks.read_weights(networks.weights_file(Files(weights=tmp_path), url), url)
    assert list(found) == list(wanted) and all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert networks.missing_weights(Files(weights=tmp_path), url) is None
    cache = tmp_path / "torch" / "checkpoints"
    cache.mkdir(parents=True)
    (tmp_path / url.rpartition("/")[2]).rename(cache / url.rpartition("/")[2])
    for files in (Files(weights=tmp_path), NONE):
        assert networks.weights_file(files, url).parent == cache


def test_missing_weights(tmp_path):
    cache = str(tmp_path / "torch" / "checkpoints")
    way_out = f"download {URL}, and give its folder as --metric-weights"
    assert networks.missing_weights(NONE, URL) == f"net-01234567.pth is not in {cache!r}: {way_out}"
    assert networks.missing_weights(Files(weights=tmp_path), URL) == (
        f"net-01234567.pth is not in {str(tmp_path)!r} or {cache!r}: {way_out}")


def test_weights_with_another_hash_are_refused(tmp_path):
    path = tmp_path / "net-01234567.pth"
    torch.save({"a": torch.ones(1)}, path)
    message = one_line(lambda: networks.read_weights(path, URL))
    assert message == (f"{str(path)!r} is not the published file: its sha256 begins with {networks.sha256(path)[:8]}, "
                       f"not 01234567: download {URL} again")
    assert one_line(lambda: networks.weights_said(path, URL)) == message, "about() says so before any work"


@pytest.mark.parametrize(("content", "expected"), [
    ({"a": torch.ones(1), "b": Call()}, "can't be read without posix.mkdir, which could run code, so it is refused"),
    ([torch.ones(1)], "holds a list instead of named tensors"),
])
def test_weights_that_would_run_code_are_refused(content, expected, tmp_path, patched, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "net.pth"
    torch.save(content, path)
    url = patched(URL, path)
    assert expected in one_line(lambda: networks.read_weights(networks.weights_file(Files(weights=tmp_path), url), url))
    assert not (tmp_path / "canary").exists()


# ---------------------------------------------------------------- why not


def test_missing_packages(monkeypatch):
    assert networks.missing_packages("torch", "numpy") is None
    assert networks.missing_packages("torch", "no_such_package", "nor_this") == (
        "it needs no-such-package and nor-this: pip install 'diffedit-min[bench-full]'")
    monkeypatch.setattr(networks, "find_spec", lambda name: None if name in ("torchvision", "torch_fidelity") else name)
    for name, absent in (("lpips", "torchvision"), ("pie_lpips", "torchvision"),
                         ("fid", "torchvision and torch-fidelity")):
        assert FAMILIES[name](NONE).why_not() == f"it needs {absent}: pip install 'diffedit-min[bench-full]'"


def test_missing_networks(monkeypatch, tmp_path):
    monkeypatch.setattr(networks, "find_spec", lambda name: name)
    for name, url in (("lpips", lpips.BACKBONES["alex"]), ("pie_lpips", lpips.BACKBONES["squeeze"]),
                      ("fid", inception.URL)):
        assert FAMILIES[name](NONE).why_not() == networks.missing_weights(NONE, url) != ""
        (tmp_path / url.rpartition("/")[2]).touch()
        assert FAMILIES[name](Files(weights=tmp_path)).why_not() is None
    means = tmp_path / "means.npz"
    made = ("make it with `python -m diffedit_min.bench.metrics.class_means --images FOLDER_OF_CLASS_FOLDERS --out "
            "means.npz`")
    csfid = FAMILIES["csfid"]
    assert csfid(Files(weights=tmp_path)).why_not() == f"it needs --class-means: {made}"
    assert csfid(Files(class_means=means)).why_not() == f"--class-means {str(means)!r} is no file: {made}"
    means.touch()
    assert csfid(Files(class_means=means)).why_not() == networks.missing_weights(NONE, inception.URL)
    assert csfid(Files(weights=tmp_path, class_means=means)).why_not() is None


MODELS = pytest.mark.parametrize(("name", "field", "lacking"), [
    ("pie_clip", "clip", "model.safetensors, preprocessor_config.json, tokenizer.json"),
    ("pie_structure", "dino", "model.safetensors"),
])


@MODELS
def test_models_that_are_missing(name, field, lacking, tmp_path):
    def why_not(model):
        return FAMILIES[name](Files(**{field: str(model)})).why_not()

    assert why_not("owner/there-is-none") == (
        f"'owner/there-is-none' is neither a folder nor in the Hub's cache: give --{field} a folder, or run "
        "`hf download owner/there-is-none`")
    nowhere = tmp_path / "nowhere"
    assert why_not(nowhere) == f"{str(nowhere)!r} is neither a folder nor in the Hub's cache: give --{field} a folder"
    (tmp_path / "config.json").touch()
    assert why_not(tmp_path) == f"{str(tmp_path)!r} lacks {lacking}: give --{field} a folder with it"
    for file in ("model.safetensors", "preprocessor_config.json", "vocab.json"):
        (tmp_path / file).touch()
    assert why_not(tmp_path) is None


@MODELS
def test_models_in_the_hubs_cache(name, field, lacking, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--owner--model"
    snapshot = repository / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123")
    (snapshot / "config.json").touch()
    metric = FAMILIES[name](Files(**{field: "owner/model"}))
    assert metric.why_not() == (f"'owner/model' lacks {lacking}: give --{field} a folder, or run `hf download "
                                "owner/model` with it")
    for file in ("model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
                 "preprocessor_config.json", "tokenizer.json"):
        (snapshot / file).touch()
    assert metric.why_not() is None and networks.model_folder("owner/model") == snapshot
    empty = "e3b0c442"      # the sha256 of nothing
    assert f"owner/model (weights {empty}+{empty})" in metric.about()


# ---------------------------------------------------------------- FID


def fid_by_hand(a, b):
    """In float64, by symmetric roots: tr (S S')^(1/2) = tr (S^(1/2) S' S^(1/2))^(1/2)."""
    (m, s), (n, t) = ((x.mean(axis=0), np.cov(x, rowvar=False)) for x in (a.astype(float), b.astype(float)))
    values, vectors = np.linalg.eigh(s)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ t @ root).clip(0)).sum()
    return ((m - n) ** 2).sum() + np.trace(s) + np.trace(t) - 2 * cross


@pytest.mark.parametrize(("count", "width"), [(60, 6), (5, 12)], ids=["many", "fewer than features"])
def test_fid_by_hand(count, width):
    pytest.importorskip("torchmetrics")
    rng = np.random.default_rng(0)
    a, b = (rng.normal(shift, 1 + shift, (count, width)).astype(np.float32) for shift in (0, 0.3))
    assert inception.fid(a, b) == pytest.approx(fid_by_hand(a, b), rel=1e-6)
    assert inception.fid(a, a) == pytest.approx(0, abs=1e-5)
    assert inception.fid(a, a + np.float32(2)) == pytest.approx(4 * width, rel=1e-5), "moved, not reshaped"


def test_fid_is_of_the_results_against_their_inputs():
    pytest.importorskip("torchmetrics")
    rng = np.random.default_rng(0)
    items = [shown(name=str(i)).item for i in range(9)]
    results = rng.normal(0, 1, (9, 4)).astype(np.float32)
    inputs = {str(i): rng.normal(1, 2, 4).astype(np.float32) for i in reversed(range(12))}
    metric = FAMILIES["fid"](NONE)
    expected = fid_by_hand(results, np.stack([inputs[str(i)] for i in range(9)]))
    assert metric.of_set(items, results, inputs) == {"fid": pytest.approx(expected, rel=1e-6)}
    assert math.isnan(metric.of_set(items[:1], results[:1], inputs)["fid"])
    assert math.isnan(metric.of_set([], results[:0], inputs)["fid"])


# ---------------------------------------------------------------- CSFID


def csfid_of(path, groups, features):
    items = [shown(name=str(i), group=group).item for i, group in enumerate(groups)]
    return FAMILIES["csfid"](Files(class_means=path)).of_set(items, np.array(features, np.float32), {})["csfid"]


@pytest.mark.filterwarnings("error")
def test_csfid_by_hand(tmp_path):
    """Class 7: mean (2, 1) against (0, 0), 5. Class 9: (0, 4) against (0, 1), 9. Classes weigh the same: 7."""
    np.savez(tmp_path / "means.npz", **{"7": np.zeros(2), "9": np.array([0.0, 1.0]), "unused": np.ones(2)})
    groups, features = ["7", "9", "7", "7"], [[0, 1], [0, 4], [3, 1], [3, 1]]
    assert csfid_of(tmp_path / "means.npz", groups, features) == 7
    assert csfid_of(tmp_path / "means.npz", ["7", "7"], [[1, 1], [-1, -1]]) == 0, "of means only"
    assert math.isnan(csfid_of(tmp_path / "means.npz", [], np.zeros((0, 2))))


def test_csfid_refuses(tmp_path):
    path = tmp_path / "means.npz"
    np.savez(path, **{"7": np.zeros(2)})
    assert one_line(lambda: csfid_of(path, ["8", "7", "9"], np.zeros((3, 2)))) == (
        "--class-means lacks 2 target classes, '8' first; it has '7': make it from folders named as the classes are")
    broken, array, objects = (tmp_path / f"{name}.npz" for name in ("broken", "array", "objects"))
    broken.write_text("no zip")
    with open(array, "wb") as file:
        np.save(file, np.zeros(3))
    np.savez(objects, **{"7": np.array([Call()], dtype=object)})
    for wrong in (broken, array, objects):
        assert one_line(lambda wrong=wrong: csfid_of(wrong, ["7"], np.zeros((1, 2)))) == (
            f"--class-means {str(wrong)!r} is no .npz file of arrays: make it with `python -m "
            "diffedit_min.bench.metrics.class_means`")


@pytest.fixture
def class_folders(tmp_path):
    """Two classes of pictures, and a file that is none of theirs."""
    for name, seeds in (("n02", range(3)), ("n01", range(3, 8))):
        (tmp_path / "real" / name).mkdir(parents=True)
        for seed in seeds:
            picture(seed).save(tmp_path / "real" / name / f"{seed}.{'JPEG' if seed % 2 else 'png'}")
    (tmp_path / "real" / "n01" / "notes.txt").touch()
    (tmp_path / "real" / "README").touch()
    return tmp_path / "real"


def run_class_means(images, out, *more):
    class_means.main(["--images", str(images), "--out", str(out), *more])


def test_class_means(class_folders, tmp_path, monkeypatch, capsys):
    """With the mean colour as the feature, in several batches."""
    monkeypatch.setattr(class_means, "BATCH", 2)
    monkeypatch.setattr(class_means, "why_not", lambda _: None)
    monkeypatch.setattr(class_means, "features", lambda _files, images, _device: np.stack(
        [np.asarray(image).mean(axis=(0, 1)).astype(np.float32) for image in images]))
    out = tmp_path / "means.npz"
    run_class_means(class_folders, out)
    found = inception.read_means(out)
    assert sorted(found) == ["n01", "n02"] and found["n01"].shape == (3,)
    expected = np.mean([np.asarray(Image.open(path)).mean(axis=(0, 1))
                        for path in (class_folders / "n01").glob("?.*")], axis=0)
    assert found["n01"] == pytest.approx(expected, rel=1e-5)
    run_class_means(class_folders, tmp_path / "numbered.npz", "--numbered")
    numbered = inception.read_means(tmp_path / "numbered.npz")
    assert sorted(numbered) == ["0", "1"] and numbered["0"] == pytest.approx(found["n01"], rel=1e-6)
    assert capsys.readouterr().out == ""


def test_class_means_refuses_and_leaves_the_old_file(class_folders, tmp_path, monkeypatch):
    out = tmp_path / "means.npz"
    assert one_line(lambda: run_class_means(class_folders, out), SystemExit).startswith("error: ")
    monkeypatch.setattr(class_means, "why_not", lambda _: None)
    monkeypatch.setattr(class_means, "features", lambda _files, images, _device: np.ones((len(list(images)), 3)))
    out.write_text("old")
    (class_folders / "n03").mkdir()
    for images, target, expected in (
        (tmp_path / "no", out, f"--images {str(tmp_path / 'no')!r} is no folder: "),
        (class_folders / "n01", out, f"--images {str(class_folders / 'n01')!r} has no pictures in folders: "),
        (class_folders, out, f"--images {str(class_folders)!r} has no pictures in 'n03': "),
        (class_folders, tmp_path / "no" / "x.npz", f"--out {str(tmp_path / 'no' / 'x.npz')!r} can't be written: "),
    ):
        said = one_line(lambda a=images, b=target: run_class_means(a, b), SystemExit)
        assert said.startswith(f"error: {expected}")
    (class_folders / "n03" / "broken.png").write_text("no picture")
    assert "broken.png" in one_line(lambda: run_class_means(class_folders, out), SystemExit)
    (class_folders / "n03" / "broken.png").unlink()
    picture().save(class_folders / "n03" / "0.png")

    def full(file, **_):
        file.write(b"half")
        raise OSError("the disk is full")

    monkeypatch.setattr(np, "savez", full)
    assert one_line(lambda: run_class_means(class_folders, out), SystemExit) == (
        f"error: {str(out)!r} can't be written (the disk is full): make room there, or choose another place")
    assert out.read_text() == "old" and not list(tmp_path.glob(".*"))


# ---------------------------------------------------------------- PIE-Bench


def masked(image, mask):
    """(1, 3, H, W) float32 in [0, 1], by NumPy: times 1 - mask."""
    kept = np.asarray(image).astype(np.float32) / 255 * (1 - white(mask).astype(np.float32))[:, :, None]
    return torch.from_numpy(kept.transpose(2, 0, 1))[None]


def test_pie_pictures_are_of_torchmetrics_and_count_all_pixels():
    functional = pytest.importorskip("torchmetrics.functional.image")
    found = FAMILIES["pie_pictures"](NONE).measure(shown())
    a, b = masked(picture(1), BOX), masked(picture(0), BOX)
    error = ((a - b).double() ** 2).mean().item()
    assert found["mse_unedited"] == pytest.approx(1e4 * error, rel=1e-5)
    assert found["psnr_unedited"] == pytest.approx(-10 * math.log10(error), abs=1e-4)
    ssim = functional.structural_similarity_index_measure(a, b, data_range=1.0).item()
    assert found["ssim_unedited"] == pytest.approx(100 * ssim, abs=1e-4)
    outside = FAMILIES["pictures"](NONE).measure(shown())["outside"]
    assert found["mse_unedited"] == pytest.approx(1e4 * outside * (~white(BOX)).mean(), rel=1e-5), "diluted"


def test_pie_pictures_of_an_unchanged_background():
    pytest.importorskip("torchmetrics")
    result = Image.composite(picture(1), picture(0), BOX)
    found = FAMILIES["pie_pictures"](NONE).measure(shown(result))
    assert found == {"psnr_unedited": math.inf, "mse_unedited": 0, "ssim_unedited": pytest.approx(100)}


def test_pie_is_nan_where_the_mask_is_full_or_empty(clip_folder):
    pytest.importorskip("torchmetrics")
    files = Files(clip=str(clip_folder))
    for mask in (None, box(0, 0, 48, 40)):
        assert all(map(math.isnan, FAMILIES["pie_pictures"](NONE).measure(shown(mask=mask)).values()))
        assert math.isnan(FAMILIES["pie_lpips"](NONE).measure(shown(mask=mask))["lpips_unedited"])
    for mask in (None, box(0, 0, 0, 0)):
        found = FAMILIES["pie_clip"](files).measure(shown(mask=mask))
        assert math.isnan(found["clip_edited"]) and not math.isnan(found["clip_whole"])
    assert not math.isnan(FAMILIES["pie_pictures"](NONE).measure(shown(mask=box(0, 0, 0, 0)))["psnr_unedited"])


def test_pie_clip_of_the_whole_and_of_the_edited_part(clip_folder):
    found = FAMILIES["pie_clip"](Files(clip=str(clip_folder))).measure(shown())
    only = Image.fromarray(np.uint8(np.asarray(picture(1)) * white(BOX)[:, :, None].astype(np.float64)))
    assert found["clip_whole"] == pytest.approx(torchmetrics_clip_score(clip_folder, picture(1), QUERY), abs=2e-4)
    assert found["clip_edited"] == pytest.approx(torchmetrics_clip_score(clip_folder, only, QUERY), abs=2e-4)
    assert found["clip_whole"] != found["clip_edited"]


@pytest.fixture(scope="module")
def dino_folder(tmp_path_factory):
    """A small random ViT with DINO's 12 layers and patches of 8 pixels. Keys differ from token to token."""
    from transformers import ViTConfig, ViTModel

    folder = tmp_path_factory.mktemp("dino")
    config = ViTConfig(hidden_size=24, intermediate_size=32, num_hidden_layers=12, num_attention_heads=2,
                       image_size=224, patch_size=8, initializer_range=0.2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def similarity_by_hand(folder, image):
    """From the hidden state before the last layer. Sizes are chosen so that resizing takes means of 2 x 2 pixels."""
    from transformers import ViTModel

    pixels = np.asarray(image).astype(np.float64).reshape(224, 2, -1, 2, 3).mean(axis=(1, 3))
    pixels = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    vit = ViTModel.from_pretrained(folder, add_pooling_layer=False).eval()
    with torch.no_grad():
        given = torch.from_numpy(pixels.transpose(2, 0, 1)[None]).float()
        states = vit(given, output_hidden_states=True, interpolate_pos_encoding=True).hidden_states
        projected = vit.layers[11].attention.k_proj(vit.layers[11].layernorm_before(states[11]))
    keys = projected[0].double().numpy()
    lengths = np.linalg.norm(keys, axis=1)
    return keys @ keys.T / (lengths[:, None] * lengths)


@pytest.mark.parametrize("size", [(448, 448), (640, 448)])
def test_structure_distance_by_hand(dino_folder, size):
    a, b = picture(0, size), picture(1, size)
    found = FAMILIES["pie_structure"](Files(dino=str(dino_folder))).measure(shown(b, a, None))["structure"]
    one, other = similarity_by_hand(dino_folder, a), similarity_by_hand(dino_folder, b)
    assert one.shape == (1 + size[0] // 16 * 28,) * 2
    assert found == pytest.approx(1000 * ((one - other) ** 2).mean(), rel=1e-3) and found > 0.01


def test_dino_sees_0_to_255_and_no_antialiasing():
    """Thin white lines, every fourth pixel: without antialiasing, of 896 to 224 pixels, only two of four are seen."""
    lines = np.zeros((896, 896, 3), np.uint8)
    lines[:, 0::4] = 255
    pixels = pie.dino_pixels(Image.fromarray(lines))
    expected = (torch.zeros(3) - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    assert pixels.shape == (1, 3, 224, 224) and torch.allclose(pixels[0, :, 5, 5], expected)
    white_, mean, std = pie.dino_pixels(Image.new("RGB", (224, 224), "white")), 0.485, 0.229
    assert white_[0, 0].unique().item() == pytest.approx((255 - mean) / std, rel=1e-6)


@pytest.mark.parametrize(("size", "expected"), [((512, 512), (224, 224)), ((480, 640), (298, 224)),
                                                ((1500, 500), (160, 480)), ((64, 48), (224, 298))])
def test_the_size_that_dino_sees(size, expected):
    assert tuple(pie.dino_pixels(picture(0, size)).shape[2:]) == expected


@pytest.mark.parametrize("size", [(333, 500), (1200, 300)])
def test_dinos_pixels_are_torchvisions(size):
    transforms = pytest.importorskip("torchvision.transforms", exc_type=ImportError)
    given = torch.from_numpy(np.array(picture(0, size)).astype(np.float32).transpose(2, 0, 1))[None]
    expected = transforms.Compose([
        transforms.Resize(224, max_size=480, antialias=False),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])(given)
    assert torch.allclose(pie.dino_pixels(picture(0, size)), expected, atol=1e-3)


def test_a_dino_that_is_not_whole_is_refused(dino_folder, tmp_path):
    from safetensors.torch import load_file, save_file
    from transformers import ViTConfig, ViTModel

    weights = load_file(dino_folder / "model.safetensors")
    del weights[sorted(weights)[-1]]
    ViTConfig.from_pretrained(dino_folder).save_pretrained(tmp_path)
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    start = f"--dino {str(tmp_path)!r} can't be read as a ViT model with weights in safetensors: "
    metric = FAMILIES["pie_structure"](Files(dino=str(tmp_path)))
    assert one_line(lambda: metric.measure(shown())) == f"{start}1 weights are missing"
    ViTModel(ViTConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2),
             add_pooling_layer=False).save_pretrained(tmp_path)
    assert one_line(lambda: metric.measure(shown())) == f"{start}it has 2 layers, and layer 11 is needed"


def test_loading_models_draws_no_bars(clip_folder, dino_folder, capsys):
    from transformers.utils import logging

    clip.network.cache_clear()
    pie.dino.cache_clear()
    drawn = logging.is_progress_bar_enabled()
    clip.network(clip_folder)
    pie.dino(dino_folder)
    assert "Loading weights" not in "".join(capsys.readouterr()) and logging.is_progress_bar_enabled() == drawn


def test_about_names_the_weights(clip_folder, dino_folder):
    files = Files(clip=str(clip_folder), dino=str(dino_folder))
    for name, folder in (("clipscore", clip_folder), ("pie_clip", clip_folder), ("pie_structure", dino_folder)):
        about = FAMILIES[name](files).about()
        assert f"{folder.name} (weights {networks.sha256(folder / 'model.safetensors')[:8]})" in about
        assert str(folder) not in about, "results don't depend on where it is"
    for name in ("pictures", "answers", "pie_pictures"):
        assert "\n" not in FAMILIES[name](NONE).about()


# ---------------------------------------------------------------- LPIPS, with torchvision


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    """Random weights of both networks, as torchvision's files have them: {net: path}."""
    models = pytest.importorskip("torchvision.models", exc_type=ImportError)
    pytest.importorskip("torchmetrics")
    folder, paths = tmp_path_factory.mktemp("backbones"), {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for net, build in (("alex", models.alexnet), ("squeeze", models.squeezenet1_1)):
            state = {name: torch.zeros(1).expand(value.shape) if name.startswith("classifier") else value
                     for name, value in build(weights=None).state_dict().items()}
            paths[net] = folder / f"{net}.pth"
            torch.save(state, paths[net])
    return paths


@pytest.fixture
def lpips_files(backbones, tmp_path, patched, monkeypatch):
    """Files with both networks, of which torchmetrics finds the same in torch's cache."""
    cache = tmp_path / "torch" / "checkpoints"
    cache.mkdir(parents=True)
    (tmp_path / "weights").mkdir()
    for net, path in backbones.items():
        (cache / lpips.BACKBONES[net].rpartition("/")[2]).write_bytes(path.read_bytes())
        (tmp_path / "weights" / path.name).write_bytes(path.read_bytes())
        monkeypatch.setitem(lpips.BACKBONES, net, patched(lpips.BACKBONES[net], tmp_path / "weights" / path.name))
    return Files(weights=tmp_path / "weights")


def torchmetrics_lpips(a, b, net):
    """torchmetrics' own call. It loads the backbone from torch's cache."""
    from torchmetrics.functional.image.lpips import learned_perceptual_image_patch_similarity

    return learned_perceptual_image_patch_similarity(a, b, net_type=net, normalize=True).item()


@pytest.mark.parametrize("size", [(48, 40), (300, 400)])
def test_lpips_is_that_of_torchmetrics(lpips_files, size):
    metric = FAMILIES["lpips"](lpips_files)
    found = metric.measure(shown(picture(1, size), picture(0, size), None))["lpips"]
    a, b = (unit(networks.square(picture(seed, size), 256)) for seed in (1, 0))
    assert found == pytest.approx(100 * torchmetrics_lpips(a, b, "alex"), rel=1e-5) and found > 0
    assert metric.measure(shown(picture(1, size), picture(1, size), None))["lpips"] == 0
    assert math.isnan(metric.measure(shown(picture(1, size), picture(0, size), None))["lpips_answer"])
    to_answer = metric.measure(shown(picture(1, size), picture(2, size), None, answer=picture(0, size)))
    assert to_answer["lpips_answer"] == found != to_answer["lpips"]
    assert metric.why_not() is None
    path = networks.weights_file(lpips_files, lpips.BACKBONES["alex"])
    assert f"{path.name} (weights {networks.sha256(path)[:8]})" in metric.about()


def test_pie_lpips_is_that_of_torchmetrics_with_squeezenet(lpips_files):
    mask = box(20, 20, 90, 60, size=(128, 96))
    a, b = (picture(seed, (128, 96)) for seed in (1, 0))
    found = FAMILIES["pie_lpips"](lpips_files).measure(shown(a, b, mask))["lpips_unedited"]
    expected = torchmetrics_lpips(masked(a, mask), masked(b, mask), "squeeze")
    assert found == pytest.approx(1000 * expected, rel=1e-5) and found > 0
    unchanged = Image.composite(a, b, mask)
    assert FAMILIES["pie_lpips"](lpips_files).measure(shown(unchanged, b, mask))["lpips_unedited"] == 0


def test_lpips_refuses_other_networks(backbones, tmp_path, patched, monkeypatch):
    wrong = [torch.load(backbones["squeeze"]), {**torch.load(backbones["alex"]), "features.0.weight": torch.ones(3)}]
    for i, state in enumerate(wrong):
        path = tmp_path / str(i) / "net.pth"
        path.parent.mkdir()
        torch.save(state, path)
        monkeypatch.setitem(lpips.BACKBONES, "alex", patched(lpips.BACKBONES["alex"], path))
        message = one_line(lambda folder=path.parent: FAMILIES["lpips"](Files(weights=folder)).measure(shown()))
        assert "holds other weights than LPIPS's alex network needs (" in message


def test_loading_a_network_draws_nothing(lpips_files):
    lpips.network.cache_clear()
    before = torch.get_rng_state()
    FAMILIES["lpips"](lpips_files).measure(shown())
    assert torch.equal(torch.get_rng_state(), before)


# ---------------------------------------------------------------- Inception, with torch-fidelity


@pytest.fixture(scope="module")
def inception_path(tmp_path_factory):
    """Random weights of Inception-v3."""
    pytest.importorskip("torchvision", exc_type=ImportError)
    pytest.importorskip("torchmetrics")
    extractor = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3").FeatureExtractorInceptionV3

    class Random(extractor):
        def load_state_dict(self, *_):
            pass

    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = Random("random", ["2048"], nothing).state_dict()
        for weight in state.values():
            if weight.ndim == 4:
                torch.nn.init.kaiming_normal_(weight)       # features would be 1e-8 with the library's own
    path = tmp_path_factory.mktemp("inception") / "net.pth"
    torch.save(state, path)
    return path


@pytest.fixture
def inception_files(inception_path, tmp_path, patched, monkeypatch):
    path = tmp_path / "inception.pth"
    path.symlink_to(inception_path)
    monkeypatch.setattr(inception, "URL", patched(inception.URL, path))
    return Files(weights=tmp_path)


def test_inception_features_are_those_of_torchmetrics_and_torch_fidelity(inception_files, inception_path):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torchmetrics.image.fid import NoTrainInceptionV3

    image = picture(0, (300, 280))
    found = FAMILIES["fid"](inception_files).feature(shown(image))
    assert found.shape == (2048,) and found.dtype == np.float32 and found.std() > 0.1
    bytes_ = networks.to_bytes(networks.square(image, 256))
    theirs = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(inception_path))
    with torch.no_grad():
        assert np.array_equal(found, theirs(bytes_)[0].numpy())
        large = networks.to_bytes(picture(0, (299, 299)))       # where neither library resizes
        original = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(inception_path))
        ours = inception.network(networks.weights_file(inception_files, inception.URL))
        assert torch.allclose(ours(large), original(large)[0], rtol=1e-5, atol=1e-5)


def test_fid_from_stored_features_is_torchmetrics_own(inception_files, inception_path):
    """Of the features' sums, which are all that it is made of; the root of 2048 x 2048 numbers takes seconds."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    theirs = FrechetInceptionDistance(feature=2048, feature_extractor_weights_path=str(inception_path))
    pictures = [picture(seed, (256, 256)) for seed in range(3)]
    theirs.update(torch.cat([networks.to_bytes(image) for image in pictures]), real=False)
    metric = FAMILIES["fid"](inception_files)
    stored = np.stack([metric.feature(shown(image)) for image in pictures]).astype(np.float64)
    assert np.allclose(stored.sum(axis=0), theirs.fake_features_sum, rtol=1e-5)
    assert np.allclose(stored.T @ stored, theirs.fake_features_cov_sum, rtol=1e-4)


def test_fid_and_csfid_share_their_feature(inception_files, class_folders, tmp_path):
    out = tmp_path / "means.npz"
    run_class_means(class_folders, out, "--metric-weights", str(inception_files.weights), "--batch", "3")
    metric = FAMILIES["csfid"](Files(weights=inception_files.weights, class_means=out))
    assert metric.feature_name == FAMILIES["fid"].feature_name and metric.why_not() is None
    real = [shown(Image.open(path).convert("RGB"), group="n01") for path in (class_folders / "n01").glob("?.*")]
    features = np.stack([metric.feature(one) for one in real])
    assert metric.of_set([one.item for one in real], features, {})["csfid"] == pytest.approx(0, abs=1e-9)
    moved = metric.of_set([one.item for one in real], features + np.float32(0.1), {})["csfid"]
    assert moved == pytest.approx(2048 * 0.01, rel=1e-4)
    assert networks.sha256(out)[:8] in metric.about()
    assert networks.sha256(networks.weights_file(inception_files, inception.URL))[:8] in metric.about()


@pytest.mark.parametrize("content", [Call(), {"fc.bias": Call()}, {"fc.bias": torch.ones(3)}])
def test_inception_refuses_code_and_other_weights(content, inception_files, tmp_path, patched, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "net.pth"
    torch.save(content, path)
    monkeypatch.setattr(inception, "URL", patched(inception.URL, path))
    message = one_line(lambda: FAMILIES["fid"](Files(weights=Path(tmp_path))).feature(shown()))
    assert "could run code" in message or "holds other weights than Inception-v3's" in message
    assert not (tmp_path / "canary").exists()
