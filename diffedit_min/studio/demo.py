"""What `diffedit-min demo` shows: one edit of a drawn scene, beside the true answer, and how close it came."""

from PIL import Image

from ..bench.measures import cell_mask, iou
from ..methods import Edit
from ..pictures.drawing import overlay, strip
from ..pictures.picture import heat, psnr
from ..tiny import scenes


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
