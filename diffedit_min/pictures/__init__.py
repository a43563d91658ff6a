"""Pictures: their files, fitting them to a network and back, masks, compositing, drawing, settings in a file."""

from . import compositing, drawing
from .photo import photograph
from .picture import Frame, fit, fit_mask, heat, mask_image, psnr, to_image, to_pixels, unfit
from .picture_files import open_mask, open_picture, open_upright, replacing, save, to_rgb

__all__ = ["Frame", "compositing", "drawing", "fit", "fit_mask", "heat", "mask_image", "open_mask", "open_picture",
           "open_upright", "photograph", "psnr", "replacing", "save", "to_image", "to_pixels", "to_rgb", "unfit"]
