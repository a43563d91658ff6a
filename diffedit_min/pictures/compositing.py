"""Growing masks, keeping the input's pixels outside the mask, and editing only a part of a picture.

    from diffedit_min.pictures import compositing
    edit = dm.diffedit(model, picture, query)
    compositing.composite(picture, edit.image, edit.mask_image, feather=8)      # outside the mask: the input, exactly

    box = compositing.mask_box(mask, picture.size)                              # edit only the part around a mask,
    edit = dm.diffedit(model, picture.crop(box), query, mask=mask.crop(box))    # at full resolution
    compositing.put_back(picture, edit.image, box)

    grown = compositing.grow(edit.mask_image, 12)                               # another mask for the same encoding
    dm.diffedit(model, picture, query, mask=grown, encoded=edit.encoded)

A mask is a picture in which white (>= 128 of 255) means "edit". Sizes are (width, height) and boxes (left, top, right,
bottom), as in PIL; distances are in pixels.
"""

import numpy as np
from PIL import Image

from .picture import WHITE_FROM, Frame, fit_mask, mask_image
from .picture_files import to_rgb, upright

MARGIN = 32     # px; the least margin around a mask's box, so that the model sees what surrounds the edited part

Box = tuple[int, int, int, int]


# ---- masks


def at_size(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A mask of any size, resized to a picture of `size`: mode "L", 0 or 255.

    A pixel of the result is white if any white pixel of the mask falls into it.
    """
    frame = Frame(size, size, size)
    return mask_image(fit_mask(mask, frame, 1), frame, 1)


def grow(mask: Image.Image, pixels: int) -> Image.Image:
    """The mask grown by so many pixels on all sides, or shrunk if `pixels` is negative: mode "L", 0 or 255.

    The mask is not shrunk at the picture's border: a mask that is white all over stays so.
    """
    inside = _inside(mask)
    grown = distance(inside, pixels) <= pixels if pixels >= 0 else distance(~inside, -pixels) > -pixels
    return Image.fromarray(grown.astype(np.uint8) * 255)


def distance(to: np.ndarray, limit: int) -> np.ndarray:
    """The distance of each pixel to the nearest True pixel, from centre to centre: bool (H,W) -> float (H,W).

    It is inf where it is larger than `limit`.
    """
    height, width = to.shape
    limit = min(limit, height + width)
    rows, far = np.arange(height, dtype=np.int64)[:, None], limit + 1
    above = np.maximum.accumulate(np.where(to, rows, -far), axis=0)
    below = np.minimum.accumulate(np.where(to, rows, height + limit)[::-1], axis=0)[::-1]
    square = np.minimum(np.minimum(rows - above, below - rows), far) ** 2       # to the nearest True in the same column
    nearest = square.copy()
    for across in range(1, min(far, width)):                                    # and in the other columns
        nearest[:, across:] = np.minimum(nearest[:, across:], square[:, :-across] + across**2)
        nearest[:, :-across] = np.minimum(nearest[:, :-across], square[:, across:] + across**2)
    return np.where(nearest > limit**2, np.inf, np.sqrt(nearest))


def _inside(mask: Image.Image) -> np.ndarray:
    """Bool (H,W): where the mask is white."""
    return np.asarray(mask.convert("L")) >= WHITE_FROM


# ---- the input's pixels outside the mask


def composite(original: Image.Image, edited: Image.Image, mask: Image.Image, feather: int = 0) -> Image.Image:
    """`edited` inside the mask and `original` outside it, bit for bit. The mask may have any size.

        result = w edited + (1 - w) original,   w = min(1, d / (feather + 1)) inside the mask, 0 outside

    d is the distance to the nearest pixel outside the mask: the transition is `feather` pixels wide, all of it inside
    the mask. The result has the mode that `upright` gives the original: RGB, or RGBA if it can be transparent; the
    edited part is opaque. Raises ValueError if the pictures' sizes differ, or if feather is negative.
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
    """w after + (1 - w) before, for pixels uint8 (n, 3 or 4) and w (n, 1).

    Colours are also weighted by their opacity, so a transparent pixel's colour doesn't show.
    """
    opacities = [each[:, 3:] if each.shape[1] == 4 else np.full((1, 1), 255) for each in (before, after)]
    old, new = (1 - w) * opacities[0], w * opacities[1]
    colours = (old * before[:, :3] + new * after[:, :3]) / (old + new)
    whole = np.concatenate([colours, old + new], axis=1)[:, : before.shape[1]]
    return np.rint(whole).astype(np.uint8)


# ---- a part of a picture


def crop_box(left: int, top: int, width: int, height: int, size: tuple[int, int]) -> Box:
    """The box with this corner, width and height. Raises ValueError unless it lies inside a picture of `size`."""
    if min(left, top) < 0 or min(width, height) < 1 or left + width > size[0] or top + height > size[1]:
        raise ValueError(f"crop {left},{top},{width},{height} (left, top, width, height) does not lie in the picture, "
                         f"which has {size[0]} x {size[1]} pixels")
    return left, top, left + width, top + height


def mask_box(mask: Image.Image, size: tuple[int, int]) -> Box:
    """The box around the white part of a mask, in a picture of `size`, with a margin. The mask may have any size.

    The margin is a quarter of the box's longer side and at least `MARGIN` pixels; it ends at the picture's border.
    Raises ValueError if the mask is black all over.
    """
    box = at_size(mask, size).getbbox()
    if box is None:
        raise ValueError("there is nothing white in the mask to crop to")
    left, top, right, bottom = box
    margin = max(MARGIN, max(right - left, bottom - top) // 4)
    return max(0, left - margin), max(0, top - margin), min(size[0], right + margin), min(size[1], bottom + margin)


def put_back(picture: Image.Image, part: Image.Image, box: Box) -> Image.Image:
    """The picture with the inside of the box replaced by `part`; outside it stays as it is, bit for bit.

    The result is `upright`. Raises ValueError if the part does not have the box's size.
    """
    if part.size != (box[2] - box[0], box[3] - box[1]):
        raise ValueError(f"the part's size {part.size} is not that of the box {box}")
    whole = upright(picture)
    whole.paste(to_rgb(part), box)
    return whole
