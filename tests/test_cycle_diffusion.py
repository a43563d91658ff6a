"""Run with `python -m pytest tests/test_cycle_diffusion.py` from the repository's root; takes about 10 seconds.

CycleDiffusion and edit-friendly DDPM inversion: the picture comes back under its own text, the noises are those of the
formulas, and both methods are what their papers' loops are. Directional CLIP similarity against CLIPModel's own
features, and the trial that it chooses. Random weights in float64.
"""

import dataclasses
import math
import shutil
from itertools import combinations, pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import diffedit_min as dm
from diffedit_min import testing as kit
from diffedit_min.core.guidance import Rows
from diffedit_min.core.schedule import Schedule, generator, levels_used, standard_noise
from diffedit_min.methods import edit_friendly
from diffedit_min.methods.cycle_diffusion import dpm_encoder, replay
from diffedit_min.methods.directional_clip import DirectionalClip
from diffedit_min.samplers.stochastic import sigma

CYCLE, FRIENDLY = dm.METHODS["cycle_diffusion"], dm.METHODS["edit_friendly"]
BOTH = pytest.mark.parametrize("method", [CYCLE, FRIENDLY], ids=["cycle_diffusion", "edit_friendly"])
QUERY, REFERENCE = "a bowl of pears", "a bowl of apples"
SD = Schedule.from_config({})


def picture(seed=0, size=(32, 32)):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize(size, Image.BICUBIC)


def edited(method, model, image=None, query=QUERY, reference=REFERENCE, **options):
    """The final latent (1, C, h, w), with all steps on the way by stage."""
    ends, stages = [], {}

    def keep(latents):
        ends.append(latents)
        return decode(latents)

    decode = model.decode
    watched = dataclasses.replace(model)
    watched.decode = keep
    method(watched, image or picture(), query, reference, **{"steps": 8, **options},
           on_step=lambda step: stages.setdefault(step.stage, []).append(step))
    return ends[-1], stages


def latent_of(model, image=None):
    with torch.no_grad():
        return model.encode(dm.pictures.to_pixels(image or picture()))


def distance(a, b):
    return ((a - b).norm() / b.norm()).item()


def noise_of(latent, seed, stream, index):
    """One picture's (1, C, h, w)."""
    return torch.randn(latent.shape[1:], generator=generator(seed, stream, index))[None].to(latent)


def guided(model, text, scale, negative=""):
    """eps(x, t) in plain lines."""
    context, empty = model.embed([text]), model.embed([negative])

    def eps_fn(x, t):
        return (1 - scale) * model.eps(x, t, empty) + scale * model.eps(x, t, context)

    return eps_fn


def steps_down(model, steps, ratio, eta):
    """From noise to clean: (j, t, abar_j, abar_{j-1}, sigma_j), after the sampler's paper."""
    k = math.floor(ratio * steps + 0.5)
    levels = model.schedule.levels(steps)[: k + 1]
    for j in range(k, 0, -1):
        a, b = levels[j].abar, levels[j - 1].abar
        yield j, levels[j].t, a, b, eta * math.sqrt((1 - b) / (1 - a) * (1 - a / b))


def mean_by_hand(x, eps, a, b, s):
    return math.sqrt(b) * (x - math.sqrt(1 - a) * eps) / math.sqrt(a) + math.sqrt(1 - b - s**2) * eps


# ---------------------------------------------------------------- the picture comes back


@pytest.mark.parametrize(("scale", "eta"), [(7.5, 0.1), (1.0, 1.0)])
@BOTH
def test_equal_prompts_and_guidance_return_the_picture(method, scale, eta, model):
    same = {"guidance_scale": scale, "source_guidance_scale": scale, "eta": eta}
    latent, _ = edited(method, model, query=REFERENCE, **same)
    assert distance(latent, latent_of(model)) <= 1e-12
    other, _ = edited(method, model, query=QUERY, **same)
    assert distance(other, latent_of(model)) > 1e-3, "another text changes it"


@BOTH
def test_unequal_guidance_does_not_return_it(method, model):
    latent, _ = edited(method, model, query=REFERENCE, guidance_scale=3.0, source_guidance_scale=1.0)
    assert distance(latent, latent_of(model)) > 1e-3


@BOTH
def test_the_negative_prompt_is_on_both_sides(method, model):
    same = {"guidance_scale": 5.0, "source_guidance_scale": 5.0, "negative_prompt": "grass"}
    latent, _ = edited(method, model, query=REFERENCE, **same)
    assert distance(latent, latent_of(model)) <= 1e-12
    told, plain = edited(method, model, **same)[0], edited(method, model, **{**same, "negative_prompt": ""})[0]
    assert distance(told, plain) > 1e-4


@BOTH
def test_ratio_zero_gives_the_picture(method, model):
    image = picture(3)
    edit = method(model, image, QUERY, REFERENCE, steps=8, encoding_ratio=0.0)
    latent, stages = edited(method, model, image, encoding_ratio=0.0)
    assert torch.equal(latent, latent_of(model, image))
    assert edit.rows == 0 and stages == {}


@BOTH
def test_a_small_ratio_changes_less(method, model):
    x0 = latent_of(model)
    few, many = (distance(edited(method, model, encoding_ratio=ratio)[0], x0) for ratio in (0.25, 1.0))
    assert few < many


# ---------------------------------------------------------------- both loops by hand


@pytest.mark.parametrize(("scale", "source_scale", "eta", "ratio"), [(3.0, 1.0, 0.1, 0.7), (1.0, 2.0, 1.0, 1.0),
                                                                     (0.0, 5.0, 0.5, 0.4)])
def test_cycle_diffusion_is_the_papers_loop(model, scale, source_scale, eta, ratio):
    """Written in lockstep: each noise is used as soon as it is found."""
    x0 = latent_of(model)
    source, target = guided(model, REFERENCE, source_scale), guided(model, QUERY, scale)
    x = y = None
    with torch.no_grad():
        for j, t, a, b, s in steps_down(model, 8, ratio, eta):
            if x is None:
                x = y = math.sqrt(a) * x0 + math.sqrt(1 - a) * noise_of(x0, 5, "cycle 0", j)
            e = (x - math.sqrt(a) * x0) / math.sqrt(1 - a)
            below = math.sqrt(b) * x0 + math.sqrt(1 - b - s**2) * e + s * noise_of(x0, 5, "cycle 0", j - 1)
            below = below if j > 1 else x0
            z = (below - mean_by_hand(x, source(x, t), a, b, s)) / s
            x, y = below, mean_by_hand(y, target(y, t), a, b, s) + s * z
    latent, _ = edited(CYCLE, model, seed=5, guidance_scale=scale, source_guidance_scale=source_scale, eta=eta,
                       encoding_ratio=ratio)
    assert distance(latent, y) <= 1e-12


@pytest.mark.parametrize("zero_last", [False, True])
@pytest.mark.parametrize(("scale", "source_scale", "eta", "ratio"), [(15.0, 3.5, 1.0, 0.64), (1.0, 2.0, 0.3, 1.0)])
def test_edit_friendly_is_the_papers_loop(model, scale, source_scale, eta, ratio, zero_last):
    x0 = latent_of(model)
    source, target = guided(model, REFERENCE, source_scale), guided(model, QUERY, scale)
    steps = list(steps_down(model, 8, ratio, eta))
    x = {j: math.sqrt(a) * x0 + math.sqrt(1 - a) * noise_of(x0, 5, "edit-friendly", j) for j, _, a, _, _ in steps}
    x[0] = x0
    y = x[steps[0][0]]
    with torch.no_grad():
        for j, t, a, b, s in steps:
            z = (x[j - 1] - mean_by_hand(x[j], source(x[j], t), a, b, s)) / s
            y = mean_by_hand(y, target(y, t), a, b, s) + (0 if zero_last and j == 1 else s * z)
    latent, _ = edited(FRIENDLY, model, seed=5, guidance_scale=scale, source_guidance_scale=source_scale, eta=eta,
                       encoding_ratio=ratio, zero_last_noise=zero_last)
    assert distance(latent, y) <= 1e-12


# ---------------------------------------------------------------- CycleDiffusion's encoder


def drained(steps):
    """The latents on the way, and the generator's result."""
    seen = []
    while True:
        try:
            seen.append(next(steps).latent)
        except StopIteration as done:
            return seen, done.value


def encoder(eps_fn, x0, levels, eta, trial=0, seed=0):
    deviations = [sigma(eta, left, reached) for reached, left in reversed(list(pairwise(levels)))]
    task = SimpleNamespace(x0=x0, seeds=(seed,) * len(x0))
    return *drained(dpm_encoder(eps_fn, task, levels, deviations, trial)), deviations


def latents(side=8, seed=1, count=2):
    return torch.randn(count, 4, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("eta", [0.1, 1.0])
def test_the_noises_replay_the_path(eta):
    """On another network: through every latent of the path, not only to its end."""
    eps_fn, x0, levels = kit.random_eps_fn(0), latents(), SD.levels(20)[:15]
    path, code, deviations = encoder(eps_fn, x0, levels, eta)
    assert len(path) == len(code[1]) == 14 and torch.equal(path[-1], x0)
    again, (end,) = drained(replay(eps_fn, code, levels, deviations))
    for ours, theirs in zip(again, path, strict=True):
        assert distance(ours, theirs) <= 1e-12
    assert torch.equal(end.latent, again[-1]) and (end.index, end.level) == (0, levels[0])
    _, states = drained(replay(eps_fn, code, levels, deviations, "trace"))
    assert [state.index for state in states] == list(range(15)) and torch.equal(states[-1].latent, code[0])
    assert all(torch.equal(state.latent, made) for state, made in zip(states[-2::-1], again, strict=True))
    others, _ = drained(replay(kit.random_eps_fn(0, text=1), code, levels, deviations))
    assert all(distance(ours, theirs) > 1e-6 for ours, theirs in zip(others, path, strict=True))


@pytest.mark.parametrize("eta", [0.1, 1.0])
def test_the_path_is_drawn_from_the_posterior(eta):
    """q(x_{j-1} | x_j, x_0) of section 4.1 in arXiv:2010.02502: mean and deviation over many cells, five sigma."""
    x0, levels = latents(64, count=1), SD.levels(10)
    path, (start, _), _ = encoder(lambda x, t: torch.zeros_like(x), x0, levels, eta)
    first = (start - levels[-1].abar ** 0.5 * x0) / (1 - levels[-1].abar) ** 0.5        # x_k ~ q(x_k | x_0)
    normals, x = [first], start
    for (reached, left), below in zip(reversed(list(pairwise(levels))[1:]), path[:-1], strict=True):
        a, b = left.abar, reached.abar
        beta = 1 - a / b
        variance = eta**2 * (1 - b) / (1 - a) * beta
        if eta == 1:        # Eq. (7) of arXiv:2006.11239
            mean = b**0.5 * beta / (1 - a) * x0 + (a / b) ** 0.5 * (1 - b) / (1 - a) * x
        else:
            mean = b**0.5 * x0 + ((1 - b - variance) / (1 - a)) ** 0.5 * (x - a**0.5 * x0)
        normals.append((below - mean) / variance**0.5)
        x = below
    assert len(normals) == 10
    check_independent_normals(normals)


def check_independent_normals(normals):
    n = normals[0].numel()
    for z in normals:
        assert abs(z.mean()) < 5 / n**0.5 and abs(z.var() - 1) < 5 * (2 / n) ** 0.5
    for one, other in combinations(normals, 2):
        assert abs((one * other).mean()) < 5 / n**0.5, "distinct noises"


def test_each_trial_has_its_own_stream():
    x0, levels = latents(), SD.levels(10)[:8]
    starts = [encoder(kit.random_eps_fn(0), x0, levels, 0.1, trial)[1][0] for trial in (0, 1, 2)]
    for trial, start in enumerate(starts):
        noise = standard_noise(x0, (0, 0), f"cycle {trial}", 7)
        assert distance(start, levels[7].abar ** 0.5 * x0 + (1 - levels[7].abar) ** 0.5 * noise) <= 1e-14


# ---------------------------------------------------------------- edit-friendly's noises


def spied_code(monkeypatch):
    """A list into which edit_friendly's codes come: x_k, and z_k, ..., z_1."""
    codes = []

    def spy(eps_fn, code, *rest):
        codes.append(code)
        return replay(eps_fn, code, *rest)

    monkeypatch.setattr(edit_friendly, "replay", spy)
    return codes


def code_of(model, monkeypatch, **options):
    """x_k, z_k, ..., z_1, and the steps of the encoding."""
    codes = spied_code(monkeypatch)
    _, stages = edited(FRIENDLY, model, **options)
    return *codes[0], stages["encode"]


def test_the_noised_pictures_are_independent_of_each_other(model, monkeypatch):
    """Each level's is its own, made from the picture: no path."""
    image = picture(size=(128, 128))
    x0 = latent_of(model, image)
    assert x0.shape == (1, 4, 32, 32)
    start, _, steps = code_of(model, monkeypatch, image=image, size=128, seed=2, encoding_ratio=0.5)
    x = [start, *(step.latent for step in steps)][::-1]         # x_0, ..., x_4
    assert len(x) == 5 and torch.equal(x[0], x0)
    noises = []
    for j, level in enumerate(model.schedule.levels(8)[1:5], start=1):
        noises.append((x[j] - level.abar**0.5 * x0) / (1 - level.abar) ** 0.5)
        assert (noises[-1] - noise_of(x0, 2, "edit-friendly", j)).abs().max() <= 1e-12
    check_independent_normals(noises)


def test_the_last_noise_can_be_zero(model, monkeypatch):
    """Then the picture does not come back: what is missing is sigma_1 z_1."""
    same = {"query": REFERENCE, "guidance_scale": 3.5, "source_guidance_scale": 3.5}
    _, noises, _ = code_of(model, monkeypatch, **same)
    start, zeroed, _ = code_of(model, monkeypatch, zero_last_noise=True, **same)
    assert all(torch.equal(a, b) for a, b in zip(noises[:-1], zeroed[:-1], strict=True))
    assert not zeroed[-1].any() and noises[-1].any()
    latent, x0 = edited(FRIENDLY, model, zero_last_noise=True, **same)[0], latent_of(model)
    assert distance(latent, x0) > 1e-3
    clean, first = model.schedule.levels(8)[:2]
    missing = ((1 - clean.abar) / (1 - first.abar) * (1 - first.abar / clean.abar)) ** 0.5 * noises[-1]
    assert distance(latent + missing, x0) <= 1e-12


def test_edit_friendly_noises_are_larger_than_the_samplers(monkeypatch):
    """The reason for the method. With the best possible network, for latents like the one edited."""
    x0, levels, best = latents(32, count=1), SD.levels(20), kit.gaussian_eps(0.0, 1.0, SD)
    _, (_, of_path), _ = encoder(best, x0, levels, 1.0)
    codes, network = spied_code(monkeypatch), SimpleNamespace(schedule=SD, eps=lambda x, t, context: best(x, t))
    task = SimpleNamespace(model=network, x0=x0, seeds=(0,), rows=Rows(), query="", reference="", negative="",
                           keep="result")
    settings = FRIENDLY.options(steps=20, encoding_ratio=1.0, guidance_scale=1.0, source_guidance_scale=1.0)
    drained(FRIENDLY.run(task, settings))
    for ours, theirs in list(zip(codes[0][1], of_path, strict=True))[:15]:      # the clean end is harder for both
        assert 0.9 < theirs.var() < 1.4 and ours.var() > 3


# ---------------------------------------------------------------- rows, batches, seeds, progress


@pytest.mark.parametrize(("scale", "source_scale", "a_level"), [(3.0, 1.0, 3), (3.0, 3.5, 4), (1.0, 1.0, 2),
                                                                (0.0, 3.5, 3)])
@BOTH
def test_rows(method, scale, source_scale, a_level, model):
    k = levels_used(0.7, 8)
    edit = method(model, picture(), QUERY, REFERENCE, steps=8, encoding_ratio=0.7, guidance_scale=scale,
                  source_guidance_scale=source_scale)
    assert edit.rows == a_level * k and edit.backward_rows == 0


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(("change", "message"), [
    ({"eta": 1.5}, "eta must be above 0 and at most 1, not 1.5"),
    ({"eta": 0}, "eta must be above 0 and at most 1, not 0.0"),
    ({"eta": float("nan")}, "eta must be above 0 and at most 1, not nan"),
    ({"source_guidance_scale": -1}, "source_guidance_scale must be at least 0, not -1.0"),
    ({"source_guidance_scale": float("inf")}, "source_guidance_scale must be a finite number, not inf"),
    ({"encoding_ratio": 1.5}, "encoding_ratio must be from 0 to 1, not 1.5"),
])
@BOTH
def test_bad_options(method, change, message, model):
    with pytest.raises(ValueError) as error:
        method(model, picture(), QUERY, REFERENCE, **change)
    assert str(error.value) == message


@pytest.mark.parametrize(("method", "change", "message"), [
    (CYCLE, {"trials": 0}, "trials must be from 1 to 1000, not 0"),
    (CYCLE, {"trials": 3}, "trials = 3 needs clip=, a CLIP model's folder or Hub id, to choose by"),
    (CYCLE, {"reference": " "}, "cycle_diffusion needs a reference: a caption of the input picture"),
    (FRIENDLY, {"reference": ""}, "edit_friendly needs a reference: a caption of the input picture"),
    (CYCLE, {"image": None}, "cycle_diffusion needs a picture to edit"),
    (FRIENDLY, {"mask": picture()}, "edit_friendly takes no mask"),
])
def test_other_refusals(method, change, message, model):
    with pytest.raises(ValueError) as error:
        method(model, **{"image": picture(), "query": QUERY, "reference": REFERENCE, **change})
    assert str(error.value) == message


@BOTH
def test_a_step_without_noise_is_refused(method, model):
    clean = dataclasses.replace(model, schedule=dataclasses.replace(model.schedule, clean_abar=1.0))
    with pytest.raises(ValueError) as error:
        method(clean, picture(), QUERY, REFERENCE, steps=8)
    assert str(error.value) == ("the step from t = 1 has zero variance, so its noise can't be found: it needs a "
                                "schedule whose clean level is not quite clean (set_alpha_to_one: false)")


# ---------------------------------------------------------------- CLIP


@pytest.fixture(scope="module")
def clip_folder(random_clip):
    return random_clip(0)


def clip_by_hand(folder, before, after, source, target):
    """One picture (3, H, W) in [-1, 1] and one text each: CLIPModel's own features, PIL's pictures, NumPy's cosine."""
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    clip, tokenizer = CLIPModel.from_pretrained(folder).eval(), CLIPTokenizer.from_pretrained(folder)
    process = CLIPImageProcessor.from_pretrained(folder)

    def features(of, **inputs):
        with torch.no_grad():
            found = of(**inputs)
        vector = getattr(found, "pooler_output", found)[0].double().numpy()
        return vector / np.linalg.norm(vector)

    def image(pixels):
        grid = np.round((pixels.numpy().transpose(1, 2, 0) + 1) * 127.5).clip(0, 255).astype(np.uint8)
        return features(clip.get_image_features, **process(Image.fromarray(grid), return_tensors="pt"))

    def text(words):
        return features(clip.get_text_features, **tokenizer(words, return_tensors="pt"))

    change, wanted = image(after) - image(before), text(target) - text(source)
    return change @ wanted / np.linalg.norm(change) / np.linalg.norm(wanted)


def pixels_of(*seeds):
    return torch.cat([dm.pictures.to_pixels(picture(seed, (40, 32))) for seed in seeds])


def test_directional_similarity_is_that_of_clips_own_features(clip_folder):
    """Texts of different lengths and pictures in one batch, each as if it were alone."""
    before, after = pixels_of(0, 1, 2), pixels_of(3, 4, 5)
    source = [REFERENCE, "plums", "a basket of three red apples on the sand"]
    target = [QUERY, "a bucket of plums in the grass", "sand"]
    score = DirectionalClip(str(clip_folder)).similarity(before, after, source, target)
    assert score.shape == (3,) and score.device.type == "cpu" and not score.requires_grad
    for i in range(3):
        expected = clip_by_hand(clip_folder, before[i], after[i], source[i], target[i])
        assert 1e-3 < abs(expected) and abs(score[i].item() - expected) <= 2e-5


def test_directional_similarity_is_a_direction(clip_folder):
    clip, (before, after) = DirectionalClip(str(clip_folder)), (pixels_of(0), pixels_of(1))
    score = clip.similarity(before, after, [REFERENCE], [QUERY]).item()
    assert 1e-3 < abs(score) <= 1
    assert clip.similarity(after, before, [REFERENCE], [QUERY]).item() == pytest.approx(-score, abs=1e-6)
    assert clip.similarity(before, after, [QUERY], [REFERENCE]).item() == pytest.approx(-score, abs=1e-6)
    assert clip.similarity(before, before, [REFERENCE], [QUERY]).item() == 0, "nothing changed"
    assert clip.similarity(before, after, [QUERY], [QUERY]).item() == 0, "nothing was asked for"


def test_clip_sees_pictures_in_any_dtype_and_out_of_range(clip_folder):
    clip, pixels = DirectionalClip(str(clip_folder)), pixels_of(0, 1)
    wide = pixels.double() + 0.5 * pixels.sign()
    assert torch.equal(clip.images(wide), clip.images(wide.clamp(-1, 1).float()))
    assert torch.allclose(clip.images(pixels).norm(dim=1), torch.ones(2))
    assert torch.allclose(clip.texts([QUERY, "plums " * 200]).norm(dim=1), torch.ones(2)), "long texts are cut off"


def scores_of_trials(model, image, query, seed, count, folder, options):
    """Each trial made alone: its code is of the stream "cycle i"."""
    x0, clip = latent_of(model, image), DirectionalClip(str(folder))
    levels = model.schedule.levels(options["steps"])[: levels_used(options["encoding_ratio"], options["steps"]) + 1]
    found = []
    with torch.no_grad():
        source, target = guided(model, REFERENCE, 1.0), guided(model, query, options["guidance_scale"])
        for trial in range(count):
            _, code, deviations = encoder(source, x0, levels, options["eta"], trial, seed)
            _, (end,) = drained(replay(target, code, levels, deviations))
            score = clip.similarity(dm.pictures.to_pixels(image), model.decode(end.latent), [REFERENCE], [query])
            found.append((score.item(), end.latent))
    return found


def test_the_trial_with_the_highest_similarity_is_kept(model, clip_folder):
    seed = 3
    options = {"steps": 6, "encoding_ratio": 0.7, "guidance_scale": 3.0, "eta": 1.0}
    images, queries = [picture(0), picture(1)], [QUERY, "a basket of plums"]
    latent, stages = edited(CYCLE, model, images, queries, seed=[seed, seed + 1], trials=4, clip=str(clip_folder),
                            **options)
    for i in range(2):
        found = scores_of_trials(model, images[i], queries[i], seed + i, 4, clip_folder, options)
        scores = sorted(score for score, _ in found)
        assert scores[-1] - scores[-2] > 1e-5, "a clear winner, or this test says nothing"
        best = max(range(4), key=lambda trial: found[trial][0])
        distances = [distance(latent[i : i + 1], y) for _, y in found]
        assert distances[best] <= 1e-12 and min(distances[:best] + distances[best + 1 :]) > 1e-3, f"picture {i}"
    assert [(step.index, step.total) for step in stages["trials"]] == [(i, 4) for i in range(1, 5)]
    assert len(stages["encode"]) == len(stages["decode"]) == 4 * 4


def test_rows_of_trials(model, clip_folder):
    few = {"steps": 5, "encoding_ratio": 0.6, "clip": str(clip_folder)}
    edit = CYCLE(model, picture(), QUERY, REFERENCE, trials=3, **few)
    assert edit.rows == 3 * 3 * 3 and edit.settings["clip"] == str(clip_folder)
    alone = CYCLE(model, picture(), QUERY, REFERENCE, trials=1, **few)
    plain = CYCLE(model, picture(), QUERY, REFERENCE, **{**few, "clip": ""})
    assert alone.rows == plain.rows == 3 * 3 and alone.image.tobytes() == plain.image.tobytes()


def without_safetensors(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def without_the_pictures_half(folder):
    """As a text encoder's own folder has it."""
    kept = {name: value for name, value in load_file(folder / "model.safetensors").items() if "vision" not in name}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


def without_tokenizer(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()


def without_anything(folder):
    shutil.rmtree(folder)


@pytest.mark.parametrize("damage", [without_safetensors, without_the_pictures_half, without_tokenizer,
                                    without_anything])
def test_a_clip_that_is_not_whole_is_refused_in_one_line(damage, model, clip_folder, tmp_path):
    folder = Path(shutil.copytree(clip_folder, tmp_path / "clip"))
    damage(folder)
    with pytest.raises(ValueError) as error:
        CYCLE(model, picture(), QUERY, REFERENCE, steps=4, trials=2, clip=str(folder))
    message = str(error.value)
    assert message.startswith(f"clip {str(folder)!r} can't be read as a CLIP model with weights in safetensors: ")
    assert "\n" not in message and error.value.__suppress_context__
