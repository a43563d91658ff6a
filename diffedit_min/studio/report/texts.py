"""What the report says of each step: in plain words, as equations, and which functions do it.

What is a method's own it says itself (`Method.texts`), and so does a sampler (its `title` and `equation`). What is said
of masks and of DiffEdit's blend is said where the edit shows that it is so, whichever method made it.
"""

from collections.abc import Callable

from ...core import ddim
from ...core.coding import decode, encode
from ...core.diffedit import MapOptions
from ...core.guidance import classifier_free_guidance
from ...core.mask import binarise, difference_map, predictions, remove_extremes, rescale
from ...core.schedule import add_noise, x0_from_eps
from ...core.state import Sampler
from ...methods import Edit
from ...methods.help import Text, about
from ...networks.stable_diffusion import StableDiffusion
from ...pictures.picture import fit, fit_mask, psnr

# ---------------------------------------------------------------- what an edit shows by itself


def threshold_of(edit: Edit) -> float | None:
    """Where the mask was cut from the map: `mask_threshold` if that is so, else any number that gives this very mask;
    None if none does."""
    told = getattr(edit.options, "mask_threshold", None)
    if told is not None and edit.mask.equal(binarise(edit.mask_map[None], told)[0, 0]):
        return told
    outside, inside = edit.mask_map[~edit.mask], edit.mask_map[edit.mask]
    highest = outside.max().item() if len(outside) else 0.0
    return highest if len(inside) and highest < inside.min().item() else None


def blended(edit: Edit) -> bool:
    """Whether all that was decoded equals the encoding outside the mask, level by level: DiffEdit's step 3."""
    both = list(zip(edit.encoded, edit.decoded, strict=False))
    return edit.mask is not None and bool(both) and all(
        x.latent[..., ~edit.mask].equal(y.latent[..., ~edit.mask]) for x, y in both)


def straight(edit: Edit) -> bool:
    """Whether neighbouring states share their x0 and eps: by sampler, and if no noise is added on the way."""
    return getattr(edit.options.sampler, "straight", False) and getattr(edit.options, "eta", 0) == 0


# ---------------------------------------------------------------- the picture and the mask

PICTURE = Text(
    "The method works on latents: the VAE turns every small square of pixels into a few numbers, and numbers back into "
    "pixels. What that alone loses shows in the reconstruction; no edit of the latent keeps more of the picture.",
    ("x_0 = encode(picture)", "picture ≈ decode(x_0)"), (fit, StableDiffusion.encode, StableDiffusion.decode))


def predictions_text(n: int, t: int) -> Text:
    times = "once" if n == 1 else f"{n} times"
    return Text(
        f"The latent is noised {times}, to t = {t}. Each time the network predicts that noise twice: told the "
        "reference, and told the query. The two predictions look alike. They differ where the words make it see "
        "something else in the noise: each implies a picture of its own.",
        ("x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε,  ε ∼ N(0, 1)", "Δ = ε(x_t, t, query) − ε(x_t, t, reference)",
         "x̂_0 = (x_t − √(1 − ᾱ_t) ε(x_t, t, ·)) / √ᾱ_t"), (add_noise, predictions, x0_from_eps))


def mask_text(edit: Edit) -> Text:
    """Step 1 from the differences on, with the rules in force; of a map or a cut of the method's own, only that."""
    options, found_as_here = edit.options, hasattr(edit.mask_map, "made") and isinstance(edit.options, MapOptions)
    threshold, words, equations, functions = threshold_of(edit), "", (), ()
    if found_as_here:
        words = ("How large the differences are at each cell, on average, is the raw map. Its extreme values are cut "
                 "off, the rest is rescaled, to at most 1. ")
        equations, functions = map_equations(options), (difference_map, remove_extremes, rescale)
    else:
        words = f"{edit.method.name} makes its map in a way of its own, which its file tells. "
    if threshold is not None and threshold == getattr(options, "mask_threshold", None):
        words += "Where the map is above the threshold, the picture may change."
        name = "m″" if equations else "the map"
        return Text(words, (*equations, f"M = 1 where {name} > {threshold:g}"), (*functions, binarise))
    words += f"Which part of it becomes the mask is {edit.method.name}'s own rule."
    return Text(words, equations, (*functions, edit.method.run))


def map_equations(options: MapOptions) -> tuple[str, str, str]:
    """The rules of `difference_map`, `remove_extremes` and `rescale`."""
    size = {"l1": "mean_{channels} |Δ|", "l2": "√mean_{channels} Δ^2"}[options.mask_norm]
    raw = {"maps": f"m = mean_{{noises}} {size}", "differences": f"m = {size},  Δ averaged over noises first"}
    at = f"{options.mask_clip_at:g}"
    cut = {"mean": f"m′ = min(m, {at} · mean m)", "quantile": f"m′ = min(m, the {at}-quantile of m)", "none": "m′ = m"}
    scaled = {"minmax": "m″ = (m′ − min m′) / (max m′ − min m′)", "max": "m″ = m′ / max m′"}
    return raw[options.mask_average], cut[options.mask_clip], scaled[options.mask_rescale]


MASK_BY_HAND = Text("The mask was given by hand, white where the picture may change. So nothing was predicted to find "
                    "one, and there is no map.", (), (fit_mask,))


def mask_without_map(edit: Edit) -> Text:
    own = Text(f"{edit.method.name} finds its mask in a way of its own, which its file tells.", (), (edit.method.run,))
    return MASK_BY_HAND if "mask" in edit.settings["given"] else edit.method.texts.get("mask", own)


def no_mask(method: str) -> Text:
    return Text(f"{method} has no mask: every pixel may change.")


# ---------------------------------------------------------------- encoding and decoding

NO_CODING = Text("The mask is empty, so there was nothing to decode, and no need to encode: the input picture itself "
                 "is the result.")
GUIDED = "ε̃ = ε(x, t, ∅) + s (ε(x, t, query) − ε(x, t, ∅))"
MASKED = Text(
    "From the noisiest latent back to a picture, guided towards the query. After every step, what is outside the mask "
    "is put back on the encoding, at the same level. So nothing changes there, and what grows inside fits it.",
    ("y_k = x_k,  y_j = M · step(y_{j+1}, ε̃) + (1 − M) · x_j,  j = k − 1, …, 0", GUIDED), (classifier_free_guidance,))


def sampler_text(sampler: Sampler, direction: str) -> tuple[str, tuple[str, ...], tuple[Callable, ...]]:
    """A sampler's name, its equation if it says one, and the functions that go this way: "encode" or "decode"."""
    equation = getattr(sampler, "equation", "")
    return (getattr(sampler, "title", "") or type(sampler).__name__, (equation,) if equation else (),
            (getattr(sampler, direction), *((ddim.step,) if equation else ())))


def encoding_text(edit: Edit) -> Text:
    """Of the methods that walk to noise."""
    if not edit.encoded.made:       # not by `coding.encode`
        return Text(f"{edit.method.name} walks the latent towards noise, level by level, in a way of its own, which "
                    "its file tells. Decoding starts from the last of these latents.", (), (edit.method.run,))
    name, equations, functions = sampler_text(edit.options.sampler, "encode")
    text = edit.encoded.made[0]["text"]
    known = {edit.settings["reference"]: ("the reference", "reference"), "": ("the empty text", "∅")}
    told, prompt = known.get(text, ("a text of the method's own", "text"))
    kept = ", and what is outside the mask is taken from all of them" if blended(edit) else ""
    return Text(
        f"{name} run backwards walks the latent towards noise, level by level, told {told} and without "
        f"guidance. Decoding starts from the last of these latents{kept}.",
        (f"x_{{j+1}} = step(x_j, ε(x_j, t, {prompt})),  j = 0, …, k − 1", *equations), (encode, *functions))


def own_text(edit: Edit) -> Text:
    """Of a method that says nothing of this step."""
    return Text(f"{about(edit.method)} How it does this, its own file tells.", (), (edit.method.run,))


def start_text(edit: Edit) -> Text:
    """How a method begins that keeps no encoding."""
    return edit.method.texts.get("start", own_text(edit))


def decoding_text(edit: Edit) -> Text:
    """The method's own part, and the sampler's."""
    own = edit.method.texts.get("decode") or (MASKED if blended(edit) else own_text(edit))
    stochastic = hasattr(edit.options, "eta")       # its sampler is among the method's own functions
    name, equations, functions = ("", (), ()) if stochastic else sampler_text(edit.options.sampler, "decode")
    first = own.equations or ("y_{j−1} = step(y_j, ε̃)", GUIDED)
    run = () if edit.method.run in own.functions else (edit.method.run,)
    return Text(own.words, (*first, *equations), (*run, *own.functions, *((decode, *functions) if functions else ())))


CROOKED = ("What a step takes for the picture can't be told from these latents: with this sampler two neighbouring "
           "ones need not have it in common.")
RESULT = Text("The result against the input. Where their difference is black, nothing has changed.",
              ("PSNR = 10 log_{10} (1 / mean squared difference)",), (psnr,))
