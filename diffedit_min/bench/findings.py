"""What `check` finds: lines of one table, and pictures."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from PIL import Image

from ..pictures.drawing import strip


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    what: str
    found: str
    expected: str
    wrong: str = ""         # what is wrong and what to do about it; "" = nothing
    measured: bool = True   # False: there was nothing to compare

    @property
    def verdict(self) -> str:
        return self.wrong or ("ok" if self.measured else "-")


@dataclass
class Checked:
    """What `check` found. print() shows the table."""

    model: str
    device: str
    lines: list[Line] = field(default_factory=list)
    pictures: list[tuple[Image.Image, str]] = field(default_factory=list)       # with captions

    @property
    def wrong(self) -> list[Line]:
        """The lines that are not as they should be."""
        return [line for line in self.lines if line.wrong]

    @property
    def strip(self) -> Image.Image:
        """The pictures in a row."""
        return strip(*zip(*self.pictures, strict=True))

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {"model": self.model, "device": self.device, "ok": not self.wrong,
                "lines": [{**asdict(line), "verdict": line.verdict} for line in self.lines]}

    def __str__(self) -> str:
        widths = [max(len(getattr(line, name)) for line in self.lines) for name in ("what", "found", "expected")]
        rows = (f"{line.what:<{widths[0]}}  {line.found:<{widths[1]}}  {line.expected:<{widths[2]}}  {line.verdict}"
                for line in self.lines)
        return "\n".join([f"{self.model} on {self.device}: what was found, what is expected, and whether it is ok",
                          *(row.rstrip() for row in rows)])
