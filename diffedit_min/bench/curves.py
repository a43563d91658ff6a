"""Trade-off curves: one panel for each pair of columns, one curve for each method, one point for each setting."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..pictures.writing import replacing
from .metrics.base import Column
from .report import Line, Value

# Okabe and Ito's, which differ for colour-blind people too; markers tell curves apart without colour.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
MARKERS = "osD^vPX*"
# Where a label may stand, in points from its own: around it, nearest first, to the right and up before to the left.
PLACES = [(distance * math.cos(turn * math.pi / 8), 0.8 * distance * math.sin(turn * math.pi / 8))
          for distance in range(10, 80, 7) for turn in (1, 15, 7, 9, 3, 13, 5, 11, 0, 8, 4, 12)]


def draw(found: Sequence[Line], columns: dict[str, Column], panels: Sequence[tuple[str, str]], out: Path) -> list[Path]:
    """Write out/curves.png and out/curves.svg; nothing if no panel has a point with both of its columns."""
    pairs = [(columns[x], columns[y]) for x, y in panels if x in columns and y in columns]
    drawn = [pair for pair in pairs if any(point(line, *pair) for line in found)]
    if not drawn:
        return []

    def fill(axes: Sequence[Any]) -> None:
        for own, (x, y) in zip(axes, drawn, strict=True):
            panel(own, found, x, y)
        legends(axes)

    return save_figure(fill, len(drawn), out, "curves")


def legends(axes: Sequence[Any]) -> None:
    """Each curve is told of once, in the last panel that has it."""
    told: set[str] = set()
    for own in reversed(axes):
        new = {name: handle for handle, name in zip(*own.get_legend_handles_labels(), strict=True) if name not in told}
        if new:
            own.legend(new.values(), new, fontsize=8)
            told |= set(new)


def save_figure(fill: Callable[[Sequence[Any]], None], panels: int, out: Path, name: str) -> list[Path]:
    """Panels side by side, in two rows if they are more than three, as out/name.png and .svg.

    Equal panels make equal files: no dates, no random ids.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    high = 2 if panels > 3 else 1
    wide = math.ceil(panels / high)
    paths = [out / f"{name}.png", out / f"{name}.svg"]
    with matplotlib.rc_context({"svg.hashsalt": "diffedit_min", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(5.6 * wide, 4.6 * high), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(high, wide, squeeze=False).ravel()
        for empty in axes[panels:]:
            empty.remove()
        fill(axes[:panels])
        figure.draw_without_rendering()         # gives everything its place
        for own in axes[:panels]:
            spread_labels(own)
        for path in paths:
            with replacing(path) as file:
                figure.savefig(file, format=path.suffix[1:], dpi=150,
                               metadata={"Date": None} if path.suffix == ".svg" else {"Software": None})
    return paths


def panel(axes: Any, found: Sequence[Line], x: Column, y: Column) -> None:
    """Points with their labels and 95 % intervals, each curve's joined in the order of the settings."""
    for i, name in enumerate(dict.fromkeys(line.variant.name for line in found)):
        own = [line for line in found if line.variant.name == name]
        points = [(line, *both) for line in own if (both := point(line, x, y))]
        if not points:
            continue
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[(i + i // len(COLOURS)) % len(MARKERS)]
        xs, ys = [px.value for _, px, _ in points], [py.value for _, _, py in points]
        axes.errorbar(xs, ys, xerr=bars([px for _, px, _ in points]), yerr=bars([py for _, _, py in points]),
                      fmt="none", ecolor=colour, alpha=0.25)
        alone = len(points) == 1        # a point that others are compared with, and that must not hide below them
        axes.plot(xs, ys, color=colour, marker=marker, markersize=8 if alone else 4, linewidth=1.2, label=name,
                  zorder=3 if alone else 2)
        for line, px, py in points:
            axes.annotate(differing(line, own), (px.value, py.value), textcoords="offset points", xytext=(4, 4),
                          fontsize=7, color=colour, in_layout=False,
                          arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.4, "shrinkA": 0, "shrinkB": 0})
    axes.set_xlabel(f"{x.title}{arrow(x)}")
    axes.set_ylabel(f"{y.title}{arrow(y)}")
    axes.margins(0.08)
    axes.grid(alpha=0.25)


def spread_labels(axes: Any) -> None:
    """Move each point's label to the nearest place around its point where it hides no point and no other label."""
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

    renderer, frame, half = axes.figure.canvas.get_renderer(), axes.get_window_extent(), axes.figure.dpi / 36
    points = [axes.transData.transform(pair) for line in axes.lines for pair in line.get_xydata()]
    taken = [Bbox([[x - half, y - half], [x + half, y + half]]) for x, y in points]
    taken += [legend.get_window_extent(renderer) for legend in filter(None, [axes.get_legend()])]
    for label in axes.texts:
        label.set(ha="center", va="center")
        boxes = []
        for place in PLACES:
            label.set_position(place)
            boxes.append(Text.get_window_extent(label, renderer))       # without the line to its point
        hidden = [box.count_overlaps(taken) + (not frame.contains(*box.min) or not frame.contains(*box.max)) * 1000
                  for box in boxes]
        best = hidden.index(min(hidden))
        label.set_position(PLACES[best])
        taken.append(boxes[best])


def point(line: Line, x: Column, y: Column) -> tuple[Value, Value] | None:
    """Its place in a panel, if it has both values."""
    both = line.value(x), line.value(y)
    return both if all(math.isfinite(value.value) for value in both) else None


def bars(values: Sequence[Value]) -> list[list[float]]:
    """How far each interval reaches down and up; 0 where there is none."""
    reach = [(v.value - v.low, v.high - v.value) if math.isfinite(v.low + v.high) else (0.0, 0.0) for v in values]
    return [[max(0.0, down) for down, _ in reach], [max(0.0, up) for _, up in reach]]


def differing(line: Line, own: Sequence[Line]) -> str:
    """The values of the settings in which a curve's points differ."""
    options = line.variant.options
    return ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for name, value in options.items()
                     if len({str(other.variant.options.get(name)) for other in own}) > 1)


def arrow(column: Column) -> str:
    return {"higher": " (higher is better)", "lower": " (lower is better)"}.get(column.better, "")
