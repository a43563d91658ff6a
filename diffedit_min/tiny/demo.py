"""What `diffedit-min demo` shows: one edit of a drawn scene, beside the true answer, and how close it came."""

from PIL import Image

from ..drawing import overlay, strip
from ..methods import Edit
from ..picture import heat, psnr
from . import scenes
from .measures import cell_mask, iou


def demo_scenes(seed: int, change: str | None) -> tuple[scenes.Scene, scenes.Scene]:
    """A scene that the model was not trained on, and the true answer to a change of it."""
    if not 0 <= seed < len(scenes.TEST):
        raise ValueError(f"--seed must be from 0 to {len(scenes.TEST) - 1}, not {seed}")
    scene, fruits = scenes.sample(scenes.TEST[seed]), scenes.VALUES["fruit"]
    other = fruits[(fruits.index(scene.fruit) + 1) % len(fruits)]
    what, equals, value = (f"fruit={other}" if change is None else change).partition("=")
    if not equals:
        raise ValueError(f"--change {change!r} has no value: write it as what=value, for example fruit={other}")
    answer = scene.replace(**{what: value})
    if answer == scene:
        raise ValueError(f"--change {change!r} changes nothing: the picture shows {scene.caption}")
    return scene, answer


def demo_strip(edit: Edit, truth: Image.Image) -> Image.Image:
    """image | map | mask | edit | true answer"""
    where, mask = heat(edit.mask_map, edit.frame, edit.factor), overlay(edit.input, edit.mask_image)
    captions = [edit.settings["reference"], "difference map", "mask", edit.settings["query"], "true answer"]
    return strip([edit.input, where, mask, edit.image, truth], captions)


def demo_measures(edit: Edit, truth: Image.Image) -> list[str]:
    """The edit against the true answer, a line each."""
    region = scenes.changed(edit.input, truth)     # bool (H, W)
    overlap = iou(edit.mask.cpu().numpy(), cell_mask(region, edit.factor))
    rows_for = ", ".join(f"{label} {rows}" for label, rows in edit.rows_for.items())
    return [
        f"mask       {overlap:.2f} intersection over union with the region that truly changes",
        f"outside    {psnr(edit.image, edit.input, where=~region):.1f} dB PSNR against the input, outside that region",
        f"answer     {psnr(edit.image, truth):.1f} dB PSNR against the true answer",
        f"rows       {edit.rows} through the U-Net: {rows_for}",
    ]
