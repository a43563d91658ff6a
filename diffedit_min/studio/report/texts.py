"""What the report says of each step: in plain words, as equations, and which functions do it.

A method's own steps are told in its own words (`Method.texts`), a sampler by its `title` and `equation`. What an edit
shows by itself is told in DiffEdit's words, whichever method made it.
"""

from dataclasses import replace

from ...core import ddim
from ...core.coding import decode, encode
from ...core.mask import binarise
from ...core.state import Sampler
from ...methods import Edit
from ...methods.help import Text, about
from ...methods.paper import ENCODED_NOT_NOISED, STEP, diffedit, map_text
from ...networks.stable_diffusion import StableDiffusion
from ...pictures.picture import fit, fit_mask, psnr

PICTURE = Text(
    "The method works on latents: the VAE turns every small square of pixels into a few numbers, and numbers back into "
    "pixels. What that alone loses shows in the reconstruction; no edit of the latent keeps more of the picture.",
    ("x_0 = encode(picture)", "picture ≈ decode(x_0)"), (fit, StableDiffusion.encode, StableDiffusion.decode),
    why="Why latents: they have far fewer numbers than the picture, so every step takes far less time.")
MASK_BY_HAND = Text("The mask was given by hand, white where the picture may change. So nothing was predicted to find "
                    "one, and there is no map.", (), (fit_mask,))
NO_CODING = Text("The mask is empty, so there was nothing to decode, and no need to encode: the input picture itself "
                 "is the result.")
CROOKED = ("The predicted clean image can't be computed from these latents: with this sampler two neighbouring ones "
           "need not share it.")
RESULT = Text("The result against the input. Where their difference is black, nothing has changed. How alike two "
              "pictures are is told by the PSNR.", ("PSNR = 10 log_{10} (1 / mean squared difference)",), (psnr,))


# ---------------------------------------------------------------- what an edit shows by itself


def threshold_of(edit: Edit) -> float | None:
    """Where the mask was cut from the map: `mask_threshold`, or another number that gives this very mask; None if none
    does."""
    outside, inside = edit.mask_map[~edit.mask], edit.mask_map[edit.mask]
    highest = outside.max() if len(outside) else edit.mask_map.new_zeros(())
    told = getattr(edit.options, "mask_threshold", highest)
    for cut in (told, highest):
        if (highest <= cut) and (inside > cut).all():
            return float(cut)
    return None


def blended(edit: Edit) -> bool:
    """Whether all that was decoded equals the encoding outside the mask, level by level: DiffEdit's step 3."""
    both = list(zip(edit.encoded, edit.decoded, strict=False))
    return edit.mask is not None and bool(both) and all(
        x.latent[..., ~edit.mask].equal(y.latent[..., ~edit.mask]) for x, y in both)


def straight(edit: Edit) -> bool:
    """Whether neighbouring states share their x0 and eps: by sampler, and if no noise is added on the way."""
    return getattr(edit.options.sampler, "straight", False) and getattr(edit.options, "eta", 0) == 0


# ---------------------------------------------------------------- texts of sections


def own_text(edit: Edit, step: str) -> Text:
    """What the method says of "start", "encode", "mask" or "decode"; where it says nothing, what it is."""
    silent = Text(f"{about(edit.method)} How it does this, its own file tells.", (), (edit.method.run,))
    return edit.method.texts.get(step, silent)


def mask_text(edit: Edit) -> Text:
    """Step 1 from the differences on, with the rules in force; of another mask, where it comes from."""
    name, run = edit.method.name, edit.method.run
    if edit.mask is None:
        return Text(f"{name} has no mask: every pixel may change.")
    if "mask" in edit.settings["given"]:
        return MASK_BY_HAND
    if edit.mask_map is None:
        return own_text(edit, "mask")
    text, m = own_text(edit, "mask"), "the map"
    if hasattr(edit.mask_map, "made"):      # by `find_map`
        text, m = map_text(edit.options), "m″"
    cut = threshold_of(edit)
    if cut is not None and cut == getattr(edit.options, "mask_threshold", None):
        return replace(text, words=f"{text.words} Where the map is above the threshold, the picture may change.",
                       equations=(*text.equations, f"M = 1 where {m} > {cut:g}"), functions=(*text.functions, binarise))
    return replace(text, words=f"{text.words} Which part of it becomes the mask is {name}'s own rule.",
                   functions=tuple(dict.fromkeys((*text.functions, run))))


def sampler_text(sampler: Sampler) -> Text:
    """A sampler's name, its equation if it says one, and the step that this is written in."""
    title, equation = getattr(sampler, "title", type(sampler).__name__), getattr(sampler, "equation", "")
    return Text(title, (equation,), (ddim.step,)) if equation else Text(title)


def encoding_text(edit: Edit) -> Text:
    """Of the methods that walk to noise."""
    if not edit.encoded.made:       # not by `coding.encode`
        return own_text(edit, "encode")
    text = edit.encoded.made[0]["text"]
    known = {edit.settings["reference"]: ("the reference", "reference"), "": ("the empty text", "∅")}
    told, prompt = known.get(text, ("a text of the method's own", "text"))
    sampler = sampler_text(edit.options.sampler)
    return Text(
        f"{sampler.words} run backwards walks the latent towards noise, level by level, conditioned on {told} and "
        f"without guidance. Decoding starts from the last of these latents.",
        (f"x_{{j+1}} = step(x_j, ε(x_j, t, {prompt})),  j = 0, …, k − 1", *sampler.equations),
        (encode, edit.options.sampler.encode, *sampler.functions),
        why=ENCODED_NOT_NOISED, paper=STEP.format(2) if blended(edit) and text == "" else "")


def decoding_text(edit: Edit) -> Text:
    """The method's own part, and the sampler's."""
    own = diffedit.texts["decode"] if blended(edit) and "decode" not in edit.method.texts else own_text(edit, "decode")
    functions = tuple(dict.fromkeys((edit.method.run, *own.functions)))
    if hasattr(edit.options, "eta"):        # its sampler is among the method's own functions
        return replace(own, functions=functions)
    sampler = sampler_text(edit.options.sampler)
    return replace(own, equations=(*own.equations, *sampler.equations),
                   functions=(*functions, decode, edit.options.sampler.decode, *sampler.functions))
