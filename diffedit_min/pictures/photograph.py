"""The photograph that comes with the package; photo/README.md names its author and its licence (CC0)."""

from pathlib import Path

from PIL import Image

from .picture_files import open_picture

CAPTION = "a cup of coffee on a wooden table"


def photograph() -> Image.Image:
    """The photograph, RGB, 384 x 384 px: what `CAPTION` says."""
    return open_picture(Path(__file__).parent / "photo" / "coffee.jpg")
