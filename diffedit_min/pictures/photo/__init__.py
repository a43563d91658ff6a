"""The photograph that comes with the package; README.md names its author and its licence (CC0)."""

from pathlib import Path

from PIL import Image

from ..picture_files import open_picture

CAPTION = "a cup of coffee on a wooden table"


def photograph() -> Image.Image:
    """The photograph of what `CAPTION` says, RGB, 384 x 384 px."""
    return open_picture(Path(__file__).parent / "coffee.jpg")
