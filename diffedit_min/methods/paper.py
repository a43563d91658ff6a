"""DiffEdit as a method, and what a report says of it; the algorithm itself is in core/diffedit.py."""

from ..core.diffedit import DiffEditOptions, MapOptions, run
from ..core.guidance import classifier_free_guidance
from ..core.mask import difference_map, predictions, remove_extremes, rescale
from ..core.schedule import add_noise, x0_from_eps
from .help import GUIDED, Text
from .method import Method

# About a third of the rows; chosen on the embedded model's validation scenes (bench/README.md). With fewer steps, a
# ratio ends at a lower noise level, so the ratio is larger here.
FAST = {"steps": 14, "encoding_ratio": 0.9, "mask_samples": 4, "guidance_from": 0.5}

STEP = "Step {} of the paper, Section 3.2"
TWO_PREDICTIONS = Text(
    "The latent is noised, mask_samples times, with another noise each time. From each noised latent the network makes "
    "two noise predictions, one conditioned on the reference and one on the query. They look alike. They differ where "
    "the words make the network see something else in the noise: each implies a clean picture of its own.",
    ("x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε,  ε ∼ N(0, 1)", "Δ = ε(x_t, t, query) − ε(x_t, t, reference)",
     "x̂_0 = (x_t − √(1 − ᾱ_t) ε(x_t, t, ·)) / √ᾱ_t"), (add_noise, predictions, x0_from_eps),
    why="Why differences show where to edit: where both texts describe the picture equally well, both predictions are "
    "the same; they differ only where the query asks for something that the reference doesn't.",
    paper=STEP.format(1))
MASKED = Text(
    "From the noisiest latent back to a picture, guided towards the query. After every step, what is outside the mask "
    "is put back on the encoding, at the same level. So nothing changes there, and what grows inside fits it.",
    ("y_k = x_k,  y_j = M · step(y_{j+1}, ε̃) + (1 − M) · x_j,  j = k − 1, …, 0", GUIDED), (classifier_free_guidance,),
    why="Why the same level: both parts then hold equally much noise, so the network takes them for one picture; and "
    "at the last level, 0, what is put back is the picture's own latent.", paper=STEP.format(3))
ENCODED_NOT_NOISED = ("Why encode and not add noise: random noise hides the picture, and what it hides must be made up "
                      "again; an encoded latent still holds the picture, and decoding without a query brings it "
                      "back.")


def map_text(options: MapOptions) -> Text:
    """From the differences to the map, with the rules that these options choose."""
    size = {"l1": "mean_{channels} |Δ|", "l2": "√mean_{channels} Δ^2"}[options.mask_norm]
    raw = {"maps": f"m = mean_{{noises}} {size}", "differences": f"m = {size},  Δ averaged over noises first"}
    at = f"{options.mask_clip_at:g}"
    ceiling = {"mean": f"{at} · mean m", "quantile": f"the {at}-quantile of m", "none": "max m"}[options.mask_clip]
    cut = "m′ = m" if options.mask_clip == "none" else f"m′ = min(m, {ceiling})"
    scaled = {"ceiling": f"m″ = m′ / ({ceiling})", "max": "m″ = m′ / max m′",
              "minmax": "m″ = (m′ − min m′) / (max m′ − min m′)"}
    return Text(
        "How large the differences are at each cell, on average, is the raw map. Its extreme values are cut off, and "
        "the rest is rescaled to [0, 1].",
        (raw[options.mask_average], cut, scaled[options.mask_rescale]),
        (difference_map, remove_extremes, rescale),
        why="Why a binary mask, all or nothing: outside it every cell is put back exactly, and inside it nothing holds "
        "the edit back; a value in between would mix two different pictures.", paper=STEP.format(1))


diffedit = Method("diffedit", run, DiffEditOptions, presets={"fast": FAST},
                  uses=frozenset({"reference", "mask", "mask_map", "encoded"}),
                  texts={"predictions": TWO_PREDICTIONS, "decode": MASKED})
