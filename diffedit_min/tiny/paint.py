"""Painting a scene: `paint(scene, size)` paints everything from the wall at the back to the front of the container.

Coordinates are in units of the picture: x to the right and y down, both in [0, 1]. A canvas is a (3, n, n) float32
array with colours in [0, 1], several times finer than the picture that is returned. Every function here keeps the
three rules of `scenes`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from .scene import Contents, Fruit

FLATNESS = 0.27  # height / width of every horizontal circle, which shows how steeply the viewer looks down
INNER_RIM = 0.93  # radius of the lip's inner edge, in rim half-widths
SHADOW_WIDTH = 0.80  # radius of the contact shadow, in rim half-widths; the same for all containers
FINE = 192  # a canvas has at least this many pixels per side


def paint(scene: Contents, size: int) -> Image.Image:
    """The picture of a scene, RGB, size x size pixels; it looks the same at every size.

    Raises ValueError for a size below 16.
    """
    if size < 16:
        raise ValueError(f"size must be at least 16, not {size}")
    factor = max(2, -(-FINE // size))
    canvas = np.empty((3, size * factor, size * factor), np.float32)
    # The container's body comes last, since it hides the lower part of the heap.
    for paint_layer in (_paint_wall, _paint_ground, _paint_opening, _paint_heap, _paint_body):
        paint_layer(canvas, scene)
    canvas *= 255 * scene.strength
    pixels = np.clip(canvas, 0, 255).astype(np.uint8).transpose(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(pixels)).reduce(factor)


def _rgb(red: float, green: float, blue: float) -> np.ndarray:
    """A colour, (3, 1, 1), each channel in [0, 1]."""
    return np.array([red, green, blue], np.float32).reshape(3, 1, 1)


def _mix(a: np.ndarray, b: np.ndarray, amount: np.ndarray) -> np.ndarray:
    """Colour a where the amount (h, w) is 0, colour b where it is 1, a mixture in between."""
    return a + (b - a) * amount


def _smoothstep(x: np.ndarray) -> np.ndarray:
    """0 where x <= 0, 1 where x >= 1, and a smooth rise in between."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def _patch(canvas: np.ndarray, left: float, top: float, right: float, bottom: float) -> tuple[np.ndarray, ...]:
    """The part of a canvas inside a box, as a view (c, h, w), with the x (1, w) and y (h, 1) of its pixels."""
    n = canvas.shape[1]
    x0, y0 = max(int(left * n), 0), max(int(top * n), 0)
    x1, y1 = min(int(right * n) + 2, n), min(int(bottom * n) + 2, n)
    centres = (np.arange(n, dtype=np.float32) + 0.5) / n
    return canvas[:, y0:y1, x0:x1], centres[None, x0:x1], centres[y0:y1, None]


def _phases(scene: Contents, name: str) -> list[float]:
    """Four random numbers in [-1, 1] for the texture called `name`; they depend on the scene's seed and it only."""
    return np.random.default_rng([scene.seed, zlib.crc32(name.encode())]).uniform(-1, 1, 4).tolist()


def _lit(normal: tuple[np.ndarray, ...], scene: Contents, gloss: float) -> tuple[np.ndarray, np.ndarray]:
    """Diffuse factor and specular highlight, each (h, w), of a surface with these unit normals (x, y, z)."""
    (lx, ly, lz), (nx, ny, nz) = scene.light, normal
    diffuse = 0.42 + 0.72 * np.maximum(nx * lx + ny * ly + nz * lz, 0)
    norm = (lx * lx + ly * ly + (lz + 1) ** 2) ** 0.5  # the half vector is halfway between light and viewer
    half = np.maximum((nx * lx + ny * ly + nz * (lz + 1)) / norm, 0)
    for _ in range(3):  # this gives the 8th power, faster than `**`
        half *= half
    return diffuse, gloss * half**3


def _paint_wall(canvas: np.ndarray, scene: Contents) -> None:
    """A plain wall, softly lit on the side that the light comes from."""
    view, x, y = _patch(canvas, 0, 0, 1, scene.horizon)
    away = (x - 0.5 - 0.35 * scene.light[0]) ** 2 + (y - 0.15) ** 2
    view[:] = _rgb(*scene.wall) * (1.1 - 0.55 * away)


def _paint_ground(canvas: np.ndarray, scene: Contents) -> None:
    """The surface in perspective, with the container's shadow on it."""
    view, x, y = _patch(canvas, 0, scene.horizon, 1, 1)
    depth = y - (scene.horizon - 0.45)  # lines into the depth meet well above the horizon
    across = (x - 0.5) / depth
    # In true perspective, far rows would be thinner than this, and thinner than a pixel of the picture.
    along = np.log(depth)
    colour = SURFACES[scene.surface](across, along, _phases(scene, scene.surface))

    foot, base = SHADOW_WIDTH * scene.half_width, scene.rim + scene.height
    slide = -0.35 * scene.light[0] * foot  # the shadow falls away from the light
    contact = ((x - scene.centre) / foot) ** 2 + ((y - base) / (FLATNESS * 1.3 * foot)) ** 2
    cast = ((x - scene.centre - 2 * slide) / (1.35 * foot)) ** 2 + ((y - base - 0.01) / (FLATNESS * 1.7 * foot)) ** 2
    shade = (1 - 0.36 * np.exp(-contact * contact * 0.5)) * (1 - 0.28 * np.exp(-cast))
    shade *= 0.92 + 0.2 * (y - scene.horizon)
    view[:] = colour * shade


def _wooden_table(across: np.ndarray, along: np.ndarray, phases: list[float]) -> np.ndarray:
    """Planks that run towards the horizon, in slightly different browns, with dark joints."""
    plank = across / 0.27 + 0.5 + 0.1 * phases[0]
    tone = 0.5 + 0.5 * np.sin(2.4 * np.floor(plank))
    joint = np.exp(-(((plank - np.round(plank)) * 13) ** 2))
    grain = np.sin(38 * across + 2.2 * np.sin(5 * along + phases[1]))
    colour = _mix(_rgb(0.56, 0.33, 0.16), _rgb(0.66, 0.41, 0.21), tone + 0.16 * grain)
    return colour * (1 - 0.33 * joint)


def _marble(across: np.ndarray, along: np.ndarray, phases: list[float]) -> np.ndarray:
    """Slabs of a light, cool grey with a few soft veins."""
    bend = 0.9 * np.sin(4 * across + 5 * along + phases[0]) + 0.5 * np.sin(9 * across - 3 * along + phases[1])
    vein = np.exp(-((np.sin(5 * across + 4.5 * along + bend + 0.3 * phases[2]) * 3.5) ** 2))
    column, row = across / 0.62 + 0.5, along / 0.34
    joint = np.maximum(np.exp(-(((column - np.round(column)) * 34) ** 2)),
                       np.exp(-(((row - np.round(row)) * 17) ** 2)))
    return _mix(_rgb(0.83, 0.86, 0.91), _rgb(0.66, 0.70, 0.77), np.maximum(0.75 * vein, 0.6 * joint))


def _grass(across: np.ndarray, along: np.ndarray, phases: list[float]) -> np.ndarray:
    """A lawn mown in bands that get thinner towards the horizon, with faint tufts."""
    band = 0.5 + 0.5 * np.tanh(3 * np.sin(2 * np.pi * along / 0.3 + 0.3 * phases[0]))
    tufts = (np.sin(41 * across + 9 * along + 2 * np.sin(12 * along) + phases[1])
             * np.sin(25 * along + 2 * np.sin(7 * across) + phases[2]))
    return _mix(_rgb(0.27, 0.50, 0.15), _rgb(0.38, 0.62, 0.22), 0.15 + 0.7 * band + 0.28 * tufts)


def _sand(across: np.ndarray, along: np.ndarray, phases: list[float]) -> np.ndarray:
    """Light yellow with wavy ripples."""
    ripple = np.sin(2 * np.pi * along / 0.17 + 1.1 * np.sin(5 * across + phases[0])
                    + 0.5 * np.sin(11 * across + phases[1]))
    return _mix(_rgb(0.86, 0.74, 0.47), _rgb(0.95, 0.86, 0.60), 0.5 + 0.42 * ripple)


def _checked_cloth(across: np.ndarray, along: np.ndarray, phases: list[float]) -> np.ndarray:
    """A red and pink check; pink instead of white, so that it differs from marble and sand."""
    columns = np.tanh(4 * np.sin(2 * np.pi * (across / 0.3 + 0.1 * phases[0])))
    rows = np.tanh(4 * np.sin(2 * np.pi * (along / 0.26 + 0.1 * phases[1])))
    return _mix(_rgb(0.80, 0.15, 0.20), _rgb(0.96, 0.62, 0.66), 0.5 + 0.25 * (columns + rows))


# Each function gives the colour (3, h, w) at across (h, w) and along (h, 1), with four phases in [-1, 1].
SURFACES = {
    "wooden table": _wooden_table, "marble": _marble, "grass": _grass, "sand": _sand, "checked cloth": _checked_cloth,
}


class ContainerKind(NamedTuple):
    """How one kind of container looks."""

    outline: Callable[[np.ndarray], np.ndarray]  # half-width at heights 0 (rim, where it is 1) to 1 (base)
    paint: Callable[[np.ndarray, np.ndarray], np.ndarray]  # colour at angle (radians) and height
    lip: np.ndarray  # its colour
    gloss: float


def _glaze(angle: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Blue with a light band, and darker at the foot."""
    band = _smoothstep((0.13 - np.abs(down - 0.30)) * 25)
    foot = _smoothstep((down - 0.86) * 25)
    return _mix(_rgb(0.16, 0.36, 0.72), _rgb(0.90, 0.94, 0.94), band) * (1 - 0.3 * foot)


def _wicker(angle: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Woven strands: each one is light where it passes over a stake, dark where it passes under the next one."""
    row = down * 4.5
    over = np.cos(angle * 5 + np.pi * np.floor(row))
    bulge = np.sin(np.pi * (row - np.floor(row)))
    return _mix(_rgb(0.48, 0.30, 0.13), _rgb(0.88, 0.68, 0.40), 0.15 + bulge * (0.45 + 0.4 * over))


def _metal(angle: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Grey with two light hoops, two dark grooves, and reflections."""
    hoops = np.exp(-(((down - 0.24) * 17) ** 2)) + np.exp(-(((down - 0.74) * 17) ** 2))
    grooves = np.exp(-(((down - 0.36) * 20) ** 2)) + np.exp(-(((down - 0.86) * 20) ** 2))
    sheen = np.cos(angle * 4)
    return _rgb(0.56, 0.60, 0.63) * (1 + 0.14 * sheen + 0.24 * hoops - 0.22 * grooves)


CONTAINERS = {
    "bowl": ContainerKind(lambda t: np.maximum(np.sqrt(1 - 0.72 * t**2.2), 0.6 * (t > 0.86)),
                          _glaze, _rgb(0.50, 0.66, 0.88), 0.5),
    "basket": ContainerKind(lambda t: 1 - 0.06 * t - 0.10 * t * t, _wicker, _rgb(0.74, 0.54, 0.29), 0.05),
    "bucket": ContainerKind(lambda t: 1 - 0.28 * t, _metal, _rgb(0.74, 0.78, 0.81), 0.4),
}


def _container_patch(canvas: np.ndarray, scene: Contents) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The part of the canvas with the container; its x and y are in rim half-widths from the rim's middle."""
    left, right = scene.centre - scene.half_width, scene.centre + scene.half_width
    sag = FLATNESS * scene.half_width
    view, x, y = _patch(canvas, left, scene.rim - sag, right, scene.rim + scene.height + sag)
    return view, (x - scene.centre) / scene.half_width, (y - scene.rim) / scene.half_width


def _paint_opening(canvas: np.ndarray, scene: Contents) -> None:
    """The whole lip of the container, and its dark inside."""
    view, x, y = _container_patch(canvas, scene)
    lip = CONTAINERS[scene.container].lip
    distance = x * x + (y / FLATNESS) ** 2
    np.copyto(view, lip * 0.8, where=distance < 1)
    np.copyto(view, lip * 0.3, where=distance < INNER_RIM**2)


def _paint_body(canvas: np.ndarray, scene: Contents) -> None:
    """The outside of the container, and the front half of its lip."""
    view, x, y = _container_patch(canvas, scene)
    kind = CONTAINERS[scene.container]
    height = scene.height / scene.half_width
    level = np.clip(y / height, 0, 1)
    half_width = kind.outline(level)
    sine = np.clip(x / half_width, -1, 1)
    cosine = np.sqrt(1 - sine * sine)
    # The front of every horizontal circle hangs down in the picture, so a pixel shows a point from further up.
    down = (y - FLATNESS * half_width * cosine) / height
    inside = (np.abs(x) < half_width) & (down > 0) & (down < 1) & (y > 0)

    step = 0.05  # large enough to smooth the corner at the foot of a bowl
    narrowing = kind.outline(np.maximum(level - step, 0)) - kind.outline(np.minimum(level + step, 1))
    slope = np.clip(narrowing / (2 * step * height), 0, 1.2)
    length = np.sqrt(1 + slope * slope)
    diffuse, shine = _lit((sine / length, slope / length, cosine / length), scene, kind.gloss)
    colour = kind.paint(np.arcsin(sine), down) * (diffuse * (1.08 - 0.2 * level)) + shine
    np.copyto(view, colour, where=inside)

    distance = x * x + (y / FLATNESS) ** 2
    near_lip = (distance < 1) & (distance >= INNER_RIM**2) & (y > 0)
    np.copyto(view, kind.lip * (0.85 + 0.25 * diffuse), where=near_lip)


class FruitKind(NamedTuple):
    """How one kind of fruit looks: a solid of revolution around an axis."""

    profile: Callable[[np.ndarray], np.ndarray]  # the squared radius at q on the axis, from -1 (stalk) to 1
    length: float  # half the axis, in units of `Fruit.radius`
    lie: float  # radians by which the axis leans, in addition to `Fruit.tilt`
    skin: np.ndarray  # its colour
    gloss: float
    stalk: bool


def _pear_profile(q: np.ndarray) -> np.ndarray:
    return (1 - q * q) * (0.40 + 0.48 * _smoothstep((q + 0.75) / 1.2)) ** 2


def _lemon_profile(q: np.ndarray) -> np.ndarray:
    return 0.56 * np.maximum(1 - (q / 0.88) ** 2, 0) + 0.045 * (1 - q**4)


FRUITS = {
    "apples": FruitKind(lambda q: (1 - q * q) * (1.02 - 0.22 * q), 0.97, 0.0, _rgb(0.80, 0.07, 0.09), 0.55, True),
    "pears": FruitKind(_pear_profile, 1.28, 0.0, _rgb(0.58, 0.74, 0.16), 0.3, True),
    "oranges": FruitKind(lambda q: 1 - q * q, 1.0, 0.0, _rgb(0.98, 0.52, 0.04), 0.25, False),
    "lemons": FruitKind(_lemon_profile, 1.22, 1.2, _rgb(0.98, 0.86, 0.12), 0.35, False),
    "plums": FruitKind(lambda q: 0.76 * (1 - q * q), 1.08, 0.5, _rgb(0.37, 0.12, 0.42), 0.3, False),
}


def _paint_heap(canvas: np.ndarray, scene: Contents) -> None:
    """The fruits, from the back to the front; each one shades the fruits behind it, but never the wall."""
    painted = np.zeros_like(canvas[:1], bool)
    for index, fruit in enumerate(scene.heap):
        _paint_fruit(canvas, painted, scene, fruit, leaf=index % 2 == 0)


def _paint_fruit(canvas: np.ndarray, painted: np.ndarray, scene: Contents, fruit: Fruit, leaf: bool) -> None:
    """One fruit. `painted` (1, n, n) marks the pixels of all fruits so far; this fruit's pixels are added to it."""
    kind = FRUITS[scene.fruit]
    radius = fruit.radius * scene.half_width
    middle_x, middle_y = scene.centre + fruit.x * scene.half_width, scene.rim + fruit.y * scene.half_width
    reach = 1.5 * radius
    box = middle_x - reach, middle_y - reach, middle_x + reach, middle_y + reach
    view, x, y = _patch(canvas, *box)
    behind = _patch(painted, *box)[0]
    x, y = (x - middle_x) / radius, (y - middle_y) / radius
    view *= np.where(behind, 1 - 0.45 * _smoothstep(1.75 - 1.15 * (x * x + (y - 0.1) ** 2)), 1)

    # The solid is p^2 + z^2 = profile(q), so its normal is (p, -profile'(q) / 2, z), made a unit vector.
    lean = fruit.tilt + (kind.lie if fruit.x >= 0 else -kind.lie)
    cos, sin = float(np.cos(lean)), float(np.sin(lean))
    p, q = cos * x + sin * y, (cos * y - sin * x) / kind.length  # across and along the axis
    along = np.clip(q, -1, 1)
    squared = kind.profile(along) - p * p
    z = np.sqrt(np.maximum(squared, 0))
    fall = (kind.profile(along - 0.02) - kind.profile(along + 0.02)) / (0.08 * kind.length)
    length = np.sqrt(p * p + fall * fall + z * z) + 1e-6
    normal = (cos * p - sin * fall) / length, (sin * p + cos * fall) / length, z / length
    diffuse, shine = _lit(normal, scene, kind.gloss)
    diffuse *= 0.75 + 0.25 * normal[2]  # darker edges, where fruits touch
    inside = (squared > 0) & (np.abs(q) < 1)
    np.copyto(view, _skin(scene.fruit, p, q, z) * diffuse + shine, where=inside)
    behind |= inside

    if kind.stalk:
        np.copyto(view, _rgb(0.34, 0.22, 0.10), where=(np.abs(p - 0.08 * q) < 0.085) & (np.abs(q + 1) < 0.2))
    if kind.stalk and leaf:
        blade = ((p - 0.34) / 0.32) ** 2 + ((q + 1.08 + 0.3 * (p - 0.34)) / 0.13) ** 2
        np.copyto(view, _rgb(0.24, 0.52, 0.16) * (0.8 + 0.4 * p), where=blade < 1)


def _skin(name: str, p: np.ndarray, q: np.ndarray, z: np.ndarray) -> np.ndarray:
    """The colour of a fruit's skin at a point of its front: p across the axis, q along it, z towards the viewer."""
    skin = FRUITS[name].skin
    if name == "apples":
        hollow = np.exp(-((p / 0.3) ** 2) - ((q + 0.88) / 0.17) ** 2)
        return _mix(skin, _rgb(0.86, 0.30, 0.12), _smoothstep(-0.2 - q)) * (1 - 0.6 * hollow)
    if name == "oranges":
        navel = 0.8 * np.exp(-((p - 0.1) ** 2 + (q + 0.55) ** 2) * 40)
        return _mix(skin * (1 + 0.09 * np.sin(9 * p) * np.sin(9 * q)), _rgb(0.36, 0.42, 0.10), navel)
    if name == "plums":
        bloom, seam = 0.4 * _smoothstep(0.6 - p - q), np.exp(-(((p - 0.35 * z) * 9) ** 2))
        return _mix(skin, _rgb(0.56, 0.42, 0.68), bloom) * (1 - 0.35 * seam)
    return skin
