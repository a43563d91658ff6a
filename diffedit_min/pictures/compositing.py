"""Masks grown and feathered, untouched pixels put back, and parts of a picture edited alone.

    edit = dm.diffedit(model, picture, query)
    from diffedit_min.pictures import compositing
    compositing.composite(picture, edit.image, edit.mask_image, feather=8)      # outside the mask, the input's bits

    box = compositing.mask_box(mask, picture.size)                              # the part around a mask, ...
    edit = dm.diffedit(model, picture.crop(box), query, mask=mask.crop(box))        # at full resolution
    compositing.put_back(picture, edit.image, box)

    grown = compositing.grow(edit.mask_image, 12)                               # another mask, the same encoding
    dm.diffedit(model, picture, query, mask=grown, encoded=edit.encoded)

Masks are pictures, white (>= 128 of 255) = edit. Sizes are (width, height), boxes (left, top, right, bottom), as in
PIL; distances are in pixels.
"""

import numpy as np
from PIL import Image

from .picture import WHITE_FROM, Frame, fit_mask, mask_image
from .picture_files import to_rgb, upright

MARGIN = 32     # px around a mask's box, at least: what is edited should be seen with what is around it

Box = tuple[int, int, int, int]


# ---- masks


def at_size(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A mask of any size laid over a picture of `size`: "L", 0 or 255. A pixel is white if any of the mask's in it is.
    """
    frame = Frame(size, size, size)
    return mask_image(fit_mask(mask, frame, 1), frame, 1)


def grow(mask: Image.Image, pixels: int) -> Image.Image:
    """The mask with all pixels that lie within `pixels` of it; negative: without those within as many of what is
    outside it. "L", 0 or 255. The picture's border is no edge: a white mask stays white.
    """
    inside = _inside(mask)
    grown = distance(inside, pixels) <= pixels if pixels >= 0 else distance(~inside, -pixels) > -pixels
    return Image.fromarray(grown.astype(np.uint8) * 255)


def distance(to: np.ndarray, limit: int) -> np.ndarray:
    """How far each pixel is from the nearest True one, centre to centre: bool (H,W) -> float (H,W); inf beyond limit.
    """
    height, width = to.shape
    limit = min(limit, height + width)
    rows, far = np.arange(height, dtype=np.int64)[:, None], limit + 1
    above = np.maximum.accumulate(np.where(to, rows, -far), axis=0)
    below = np.minimum.accumulate(np.where(to, rows, height + limit)[::-1], axis=0)[::-1]
    square = np.minimum(np.minimum(rows - above, below - rows), far) ** 2       # to the nearest in the same column
    nearest = square.copy()
    for across in range(1, min(far, width)):                                    # and in the columns beside it
        nearest[:, across:] = np.minimum(nearest[:, across:], square[:, :-across] + across**2)
        nearest[:, :-across] = np.minimum(nearest[:, :-across], square[:, across:] + across**2)
    return np.where(nearest > limit**2, np.inf, np.sqrt(nearest))


def _inside(mask: Image.Image) -> np.ndarray:
    return np.asarray(mask.convert("L")) >= WHITE_FROM


# ---- the input's own pixels outside the mask


def composite(original: Image.Image, edited: Image.Image, mask: Image.Image, feather: int = 0) -> Image.Image:
    """`edited` inside the mask, which may have any size, and `original` outside it, bit for bit.

        result = w edited + (1 - w) original,   w = min(1, d / (feather + 1)) inside the mask, 0 outside

    d: the distance to the nearest pixel outside the mask, so that the seam is softened inwards, over `feather` pixels.
    The result is as `upright` has the original: RGB, or RGBA if it can be transparent; what was edited is opaque.
    Raises ValueError if the pictures' sizes differ, or feather is negative.
    """
    if edited.size != original.size:
        raise ValueError(f"the edited picture's size {edited.size} is not the original's {original.size}")
    if feather < 0:
        raise ValueError(f"the feather must be 0 pixels or more, not {feather}")
    shown = upright(original)
    before, after = np.asarray(shown), np.asarray(to_rgb(edited).convert(shown.mode))
    inside = _inside(at_size(mask, original.size))
    result = np.where(inside[..., None], after, before)
    if feather:
        w = np.minimum(distance(~inside, feather + 1) / (feather + 1), 1)
        seam = inside & (w < 1)
        result[seam] = _mixed(before[seam], after[seam], w[seam][:, None])
    image = Image.fromarray(result)
    image.info = shown.info
    return image


def _mixed(before: np.ndarray, after: np.ndarray, w: np.ndarray) -> np.ndarray:
    """w after + (1 - w) before, uint8 (n, 3 or 4), w (n, 1): colours count as much as they are opaque."""
    opacities = [each[:, 3:] if each.shape[1] == 4 else np.full((1, 1), 255) for each in (before, after)]
    old, new = (1 - w) * opacities[0], w * opacities[1]
    colours = (old * before[:, :3] + new * after[:, :3]) / (old + new)
    whole = np.concatenate([colours, old + new], axis=1)[:, : before.shape[1]]
    return np.rint(whole).astype(np.uint8)


# ---- a part of a picture


def crop_box(left: int, top: int, width: int, height: int, size: tuple[int, int]) -> Box:
    """The box with that corner and those sides. Raises ValueError unless it lies in a picture of `size`."""
    if min(left, top) < 0 or min(width, height) < 1 or left + width > size[0] or top + height > size[1]:
        raise ValueError(f"crop {left},{top},{width},{height} (left, top, width, height) does not lie in the picture, "
                         f"which has {size[0]} x {size[1]} pixels")
    return left, top, left + width, top + height


def mask_box(mask: Image.Image, size: tuple[int, int]) -> Box:
    """The box around what is white in a mask of any size, laid over a picture of `size`, and a margin around it.

    The margin is a quarter of its longer side, but at least `MARGIN` pixels, as far as the picture goes.
    Raises ValueError for a black mask.
    """
    box = at_size(mask, size).getbbox()
    if box is None:
        raise ValueError("there is nothing white in the mask to crop to")
    left, top, right, bottom = box
    margin = max(MARGIN, max(right - left, bottom - top) // 4)
    return max(0, left - margin), max(0, top - margin), min(size[0], right + margin), min(size[1], bottom + margin)


def put_back(picture: Image.Image, part: Image.Image, box: Box) -> Image.Image:
    """The picture, as `upright` has it, with what is in the box replaced; what is outside stays, bit for bit.

    Raises ValueError if the part is not as large as the box.
    """
    if part.size != (box[2] - box[0], box[3] - box[1]):
        raise ValueError(f"the part's size {part.size} is not that of the box {box}")
    whole = upright(picture)
    whole.paste(to_rgb(part), box)
    return whole
