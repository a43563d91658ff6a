"""What the report says of each step: in plain words, as equations, and which functions do it.

In an equation what follows _ or ^, a letter or a {group}, stands below or above: x_t, x_{t+1}.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..core.coding import decode, encode
from ..core.guidance import classifier_free_guidance
from ..core.mask import binarise, difference_map, predictions, remove_extremes, rescale
from ..core.schedule import add_noise, x0_from_eps
from ..methods import METHODS, invert
from ..methods.cycle_diffusion import dpm_encoder, replay
from ..methods.instruct_pix2pix import two_scale_guidance
from ..methods.local_blend import LocalBlend
from ..methods.null_text import tune as tune_null_text
from ..methods.prompt_to_prompt import EditedAttention, branches
from ..methods.unitune import tune as tune_unet
from ..model.stable_diffusion import StableDiffusion
from ..picture import fit, fit_mask, psnr
from ..samplers import bdia, belm, ddim, dpm_solver, edict, fixed_point
from ..samplers.stochastic import mean

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Text:
    """One step of an edit."""

    words: str
    equations: tuple[str, ...] = ()
    functions: tuple[Callable, ...] = ()


@dataclass(frozen=True)
class Sampler:
    """How a step is taken."""

    name: str
    equation: str
    functions: tuple[Callable, Callable]    # encode, decode
    options: frozenset[str] = frozenset()   # those that this sampler alone has
    straight: bool = False                  # whether neighbouring states share their x0 and eps (pictures.x0_of_step)


SAMPLERS = {
    "ddim": Sampler(
        "DDIM", "x_{to} = √ᾱ_{to} (x_{from} − √(1 − ᾱ_{from}) ε) / √ᾱ_{from} + √(1 − ᾱ_{to}) ε",
        (ddim.encode, ddim.decode), frozenset({"time"}), straight=True),
    "fixed_point": Sampler(
        "Fixed-point DDIM", "x_{to} = step(x_{from}, ε(x_{to}, t_{to})), solved for x_{to} by iteration",
        (fixed_point.encode, fixed_point.decode), frozenset({"iterations"}), straight=True),
    "edict": Sampler(
        "EDICT", "x̃ = step(x, ε(y)),  ỹ = step(y, ε(x̃)),  x′ = p x̃ + (1 − p) ỹ,  y′ = p ỹ + (1 − p) x′",
        (edict.encode, edict.decode), frozenset({"p"})),
    "bdia": Sampler(
        "BDIA", "z_{i−1} = step(z_i, to i − 1) + γ (z_{i+1} − step(z_i, to i + 1))",
        (bdia.encode, bdia.decode), frozenset({"gamma"})),
    "belm": Sampler(
        "O-BELM", "u_{i−1} = r^2 u_{i+1} + (1 − r^2) u_i − h_i (1 + r) ε(x_i, t_i)", (belm.encode, belm.decode)),
    "dpm_solver": Sampler(
        "DPM-Solver++ (2M)",
        "x̂_0 = D_{from} + (D_{from} − D_{before}) (λ_{to} − λ_{from}) / (2 (λ_{from} − λ_{before}))",
        (dpm_solver.encode, dpm_solver.decode), straight=True),
}


def sampler_of(settings: Settings) -> Sampler:
    """Methods without a choice of samplers use DDIM, or DDIM with noise."""
    return SAMPLERS[settings.get("sampler", "ddim")]


def straight(settings: Settings) -> bool:
    """Whether an edit's neighbouring states share their x0 and eps: by sampler, and if no noise is added on the way."""
    return sampler_of(settings).straight and settings.get("eta", 0) == 0


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


def mask_text(settings: Settings) -> Text:
    """Step 1 from the differences on, with the rules in force."""
    size = {"l1": "mean_{channels} |Δ|", "l2": "√mean_{channels} Δ^2"}[settings["mask_norm"]]
    raw = {"maps": f"m = mean_{{noises}} {size}", "differences": f"m = {size},  Δ averaged over noises first"}
    at, how = f"{settings['mask_clip_at']:g}", settings["mask_rescale"]
    cut = {"mean": f"m′ = min(m, {at} · mean m)", "quantile": f"m′ = min(m, the {at}-quantile of m)", "none": "m′ = m"}
    scaled = {"minmax": "m″ = (m′ − min m′) / (max m′ − min m′)", "max": "m″ = m′ / max m′"}
    return Text(
        "How large the differences are at each cell, on average, is the raw map. Its extreme values are cut off, the "
        "rest is rescaled, to at most 1, and where that is above the threshold, the picture may change.",
        (raw[settings["mask_average"]], cut[settings["mask_clip"]], scaled[how],
         f"M = 1 where m″ > {settings['mask_threshold']:g}"), (difference_map, remove_extremes, rescale, binarise))


MASK_BY_HAND = Text("The mask was given by hand, white where the picture may change. So nothing was predicted to find "
                    "one, and there is no map.", (), (fit_mask,))
MASK_BY_ATTENTION = Text("There is no map of noise differences: this mask is where the network attends to the words of "
                         "local_blend.", (), (LocalBlend.mask,))


def no_mask(method: str) -> Text:
    return Text(f"{method} has no mask: every pixel may change.")


# ---------------------------------------------------------------- encoding


def encoding_text(settings: Settings) -> Text:
    """Of the methods that walk to noise deterministically."""
    sampler, name = sampler_of(settings), settings["method"]
    empty = name in ("diffedit", "encode_decode")
    told, prompt = ("the empty text", "∅") if empty else ("the reference", "reference")
    kept = ", and what is outside the mask is taken from all of them" if name == "diffedit" else ""
    return Text(
        f"{sampler.name} run backwards walks the latent towards noise, level by level, told {told} and without "
        f"guidance. Decoding starts from the last of these latents{kept}.",
        (f"x_{{j+1}} = step(x_j, ε(x_j, t, {prompt})),  j = 0, …, k − 1", sampler.equation),
        (encode, sampler.functions[0], ddim.step))


NOISED = Text(
    "Nothing is encoded: the picture's latent is noised to level k at once. What the noise covers is forgotten.",
    ("x_k = √ᾱ_k x_0 + √(1 − ᾱ_k) ε,  ε ∼ N(0, 1)",), (add_noise,))
NO_CODING = Text("The mask is empty, so there was nothing to decode, and no need to encode: the input picture itself "
                 "is the result.")
STARTS = {
    "sdedit": NOISED,
    "unitune": Text(
        "A copy of the network first learns the picture under a rare word. Then the latent is noised to level k.",
        ("min_θ |ε − ε_θ(x_t, t, “rare word”)|^2", *NOISED.equations), (tune_unet, *NOISED.functions)),
    "cycle_diffusion": Text(
        "A stochastic sampler draws noise at every step. A random path from noise to the picture is made, and from it "
        "the noises are found with which the sampler would have taken it under the reference. (They are not kept.)",
        ("x_k ∼ q(x_k | x_0),  x_{j−1} ∼ q(x_{j−1} | x_j, x_0)", "e_j = (x_{j−1} − mean(x_j, reference)) / σ_j"),
        (dpm_encoder, mean)),
    "edit_friendly": Text(
        "The picture is noised to every level, each time with another noise. Between these the noises are found with "
        "which a stochastic sampler would go from one to the next under the reference. (They are not kept.)",
        ("x_j = √ᾱ_j x_0 + √(1 − ᾱ_j) e_j", "z_j = (x_{j−1} − mean(x_j, reference)) / σ_j"), (add_noise, mean)),
    "instruct_pix2pix": Text("Nothing is encoded: decoding starts from noise, and the network sees the picture's "
                             "latent at every step, in channels of its own.", ("x_N = ε ∼ N(0, 1)",)),
    "prompt_to_prompt": Text("There was no picture to encode: decoding starts from the seed's noise, and the reference "
                             "makes the input.", ("x_N = ε ∼ N(0, 1)",)),
}

# ---------------------------------------------------------------- decoding

GUIDED = "ε̃ = ε(x, t, ∅) + s (ε(x, t, query) − ε(x, t, ∅))"
PLAIN = Text("", ("y_{j−1} = step(y_j, ε̃)", GUIDED), (classifier_free_guidance,))
REPLAYED = Text(
    "From the noisiest latent down with the noises that were found, now told the query: what the words leave open "
    "stays as it was.", ("y_{j−1} = mean(y_j, query) + σ_j e_j", GUIDED), (replay, mean, classifier_free_guidance))
ATTENTION = "M̂ = M (the reference's attention) in the first steps, M* (the query's own) after"
BRANCHES = Text("", (ATTENTION, GUIDED), (branches, EditedAttention.edited))
DECODINGS = {       # by method: its own part
    "diffedit": Text(
        "From the noisiest latent back to a picture, guided towards the query. After every step, what is outside the "
        "mask is put back on the encoding, at the same level. So nothing changes there, and what grows inside fits it.",
        ("y_k = x_k,  y_j = M · step(y_{j+1}, ε̃) + (1 − M) · x_j,  j = k − 1, …, 0", GUIDED), PLAIN.functions),
    "sdedit": replace(PLAIN, words="From there back to a picture, guided towards the query. What the noise has left of "
                                   "the picture holds its coarse layout, nothing else does."),
    "encode_decode": replace(PLAIN, words="From the noisiest latent back to a picture, guided towards the query. "
                                          "This is DiffEdit without its mask."),
    "invert": Text("The same way back, told the same text. What differs from the picture at the end was lost by the "
                   "steps.", ("y_{j−1} = step(y_j, ε(y_j, t_j, reference))",)),
    "prompt_to_prompt": replace(BRANCHES, words=(
        "Reference and query are decoded side by side. In the first steps the query's branch, which is shown here, "
        "takes the reference's attention, which holds what goes where.")),
    "null_text": Text(
        "First an embedding of the empty text is tuned at each level until guided decoding returns to the picture. "
        "(The embeddings are not kept.) Then both branches are decoded with it, as in Prompt-to-Prompt; the query's is "
        "shown.", ("min over ∅_j of |x_{j−1} − step(z_j, ε̃(∅_j))|^2", ATTENTION),
        (tune_null_text, *BRANCHES.functions)),
    "negative_prompt_inversion": Text(
        "As Prompt-to-Prompt, with the reference in place of the empty text: then the reference's branch goes back the "
        "way that the encoding came. The query's branch is shown.",
        ("ε̃ = ε(x, t, reference) + s (ε(x, t, query) − ε(x, t, reference))", ATTENTION), BRANCHES.functions),
    "direct_inversion": replace(BRANCHES, words=(
        "As Prompt-to-Prompt, but the reference's branch is put back on the encoding at every level, so that it "
        "returns to the picture exactly. The query's branch is shown.")),
    "cycle_diffusion": REPLAYED,
    "edit_friendly": REPLAYED,
    "unitune": replace(PLAIN, words="From there back to a picture by the tuned copy, strongly guided towards “rare "
                                    "word, query”."),
    "instruct_pix2pix": Text(
        "From noise to a picture, with two guidances: towards the input picture I, and from there to what the "
        "instruction T asks for.", ("ε̃ = ε(∅, ∅) + s_I (ε(I, ∅) − ε(∅, ∅)) + s_T (ε(I, T) − ε(I, ∅))",),
        (two_scale_guidance, mean)),
}


OTHER = Text("How this method does it, its own file tells.")       # one of the reader's


def start_text(settings: Settings) -> Text:
    """How a method begins that keeps no encoding."""
    return STARTS.get(settings["method"], OTHER)


def decoding_text(settings: Settings) -> Text:
    """The method's own part, and the sampler's."""
    name, sampler = settings["method"], sampler_of(settings)
    text = DECODINGS.get(name, OTHER)
    run = [method.run for method in (invert, *METHODS.values()) if method.name == name]
    if "eta" in settings:       # a stochastic sampler, which is among the method's own functions
        return replace(text, functions=(*run, *text.functions))
    return Text(text.words, (*text.equations, sampler.equation),
                (*run, *text.functions, decode, sampler.functions[1], ddim.step))


CROOKED = ("What a step takes for the picture can't be told from these latents: on the way the sampler mixes two of "
           "them, or adds noise.")
RESULT = Text("The result against the input. Where their difference is black, nothing has changed.",
              ("PSNR = 10 log_{10} (1 / mean squared difference)",), (psnr,))
