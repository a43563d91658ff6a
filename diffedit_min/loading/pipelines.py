"""What a folder's model_index.json says of the checkpoint: other kinds of model are refused by name.

It lists the parts of the pipeline that published the folder, each with its class: "unet": ["diffusers", "..."].
"""

from collections.abc import Collection, Mapping
from typing import Any

# The classes of each part that can be read. A part that is missing, or [null, null], is looked for among the files.
PARTS = {
    "unet": ("UNet2DConditionModel", "FlaxUNet2DConditionModel"),
    "vae": ("AutoencoderKL", "FlaxAutoencoderKL"),
    "text_encoder": ("CLIPTextModel", "CLIPTextModelWithProjection", "FlaxCLIPTextModel"),
    "text_encoder_2": ("CLIPTextModelWithProjection", "FlaxCLIPTextModelWithProjection"),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast", "TokenizersBackend"),
    "tokenizer_2": ("CLIPTokenizer", "CLIPTokenizerFast", "TokenizersBackend"),
}
FOREIGN = {"transformer": "a diffusion transformer (Stable Diffusion 3, FLUX, PixArt, ...)",
           "text_encoder_3": "Stable Diffusion 3", "prior": "a model in two stages (Kandinsky, Cascade)",
           "movq": "Kandinsky", "decoder": "a model in two stages (Kandinsky, Cascade)",
           "low_res_scheduler": "a model that enlarges pictures", "motion_adapter": "a video model",
           "image_normalizer": "unCLIP, which needs an image's embedding"}
# Parts of a pipeline's name -> what its U-Net is for, though it may have the same sizes as one that can be read.
OTHER_TASKS = {"Marigold": "a model that tells depth or normals from a picture", "Depth2Img": "SD 2's depth model",
               "Upscale": "a model that enlarges pictures", "UnCLIP": "unCLIP, which needs an image's embedding",
               "ImageVariation": "a model that takes a picture in place of a text",
               "PaintByExample": "a model that takes a picture in place of a text",
               "AudioLDM": "a model of sound", "MusicLDM": "a model of sound"}
SWITCHES = ("force_zeros_for_empty_prompt", "requires_aesthetics_score")


def check_index(index: Mapping[str, Any], where: str) -> None:
    """Raise ValueError, in one line that names the file `where`, the key and the value, for a model of another kind."""
    kind = index.get("_class_name")
    if not (kind is None or isinstance(kind, str)):
        raise ValueError(f"{where}: _class_name = {kind!r:.60} is not a name")
    name = kind or "its pipeline"
    for key in SWITCHES:
        if index.get(key) not in (None, True, False) or type(index.get(key)) is int:
            raise ValueError(f"{where}: {key} = {index[key]!r:.60} is not true or false")
    classes = {part: class_of(index, part, where) for part in (*PARTS, *FOREIGN)}
    for part, what in FOREIGN.items():
        if classes[part] is not None:
            raise ValueError(f"{where}: {name} has a {part}: it is {what}, and only Stable Diffusion 1, 2 and XL "
                             "can be read")
    for part, known in PARTS.items():
        if classes[part] not in (None, *known):
            raise ValueError(f"{where}: {name} has a {part} of class {classes[part]!r:.60}, which is not supported "
                             f"(only {known[0]})")
    for part, what in OTHER_TASKS.items():
        if part in name:
            raise ValueError(f"{where}: it is for {name}, so it is {what}, which can't be used here")
    if classes["text_encoder"] is None and class_of(index, "image_encoder", where):
        raise ValueError(f"{where}: {name} takes a picture in place of a text, so it can't be used here")
    if index.get("requires_aesthetics_score") or (classes["text_encoder"] is None and classes["text_encoder_2"]):
        raise ValueError(f"{where}: {name} has no first text encoder, as SD XL's refiner: give the base model")


def absent(index: Mapping[str, Any], listing: Collection[str], where: str) -> list[str]:
    """What a folder with these files lacks of SD XL's second text encoder, if nothing at all of it is there."""
    return [f"{part}/{file}" for part, file in (("text_encoder_2", "config.json"), ("tokenizer_2", "vocab.json"))
            if class_of(index, part, where) and not any(name.startswith(f"{part}/") for name in listing)]


def class_of(index: Mapping[str, Any], part: str, where: str) -> str | None:
    """The class of a part, for example "AutoencoderKL"; None if the pipeline has no such part."""
    entry = index.get(part)
    if entry is None or entry == [None, None]:
        return None
    if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], str)):
        raise ValueError(f"{where}: {part} = {entry!r:.60} is not a library and a class")
    return entry[1]
