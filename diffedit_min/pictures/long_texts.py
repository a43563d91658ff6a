"""Pillow refuses a PNG that holds very much text or a very large colour profile. Here it is read without them.

A PNG is a list of chunks: length (4 bytes), kind (4), data, checksum (4).
"""

import io
import os
import struct
import warnings
import zlib
from collections.abc import Collection
from typing import BinaryIO

LARGEST_PROFILE = 2**20                 # bytes; Pillow refuses a PNG with more, or with a longer compressed text
PNG = b"\x89PNG\r\n\x1a\n"             # the first bytes of each


def without_long_texts(path: str | os.PathLike, ours: Collection[str]) -> BinaryIO | None:
    """A PNG without its texts, except those named in `ours` that are not compressed, and without a very large profile.

    None if the file is not a PNG, or holds nothing of this.
    """
    kept, dropped = io.BytesIO(), False
    with open(path, "rb") as file:
        kept.write(PNG)
        if file.read(len(PNG)) != PNG:
            return None
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            chunk = file.read(length + 4)       # with the checksum
            if kind == b"iCCP" and _is_long(chunk.partition(b"\0")[2][1:]):
                warnings.warn(f"{os.fspath(path)!r} has a colour profile of more than {LARGEST_PROFILE:,} bytes, which "
                              "is left out: its colours may look different", stacklevel=4)
            elif kind == b"zTXt" or kind in (b"tEXt", b"iTXt") and not _is_named(ours, kind, chunk):
                pass
            else:
                kept.write(head + chunk)
                continue
            dropped = True
    return kept if dropped else None


def _is_named(ours: Collection[str], kind: bytes, chunk: bytes) -> bool:
    """Whether a text of a PNG has one of our names and is not compressed."""
    name, _, rest = chunk.partition(b"\0")
    return name.decode("latin-1") in ours and not (kind == b"iTXt" and rest[:1] == b"\1")


def _is_long(compressed: bytes) -> bool:
    """Whether more than LARGEST_PROFILE bytes come out of these. At most so many are unpacked."""
    unpacking = zlib.decompressobj()
    try:
        unpacking.decompress(compressed, LARGEST_PROFILE)
    except zlib.error:
        return False    # Pillow reads the picture without a damaged profile
    return bool(unpacking.unconsumed_tail)
