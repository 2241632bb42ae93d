"""PNG of 16 bits with colors or alpha, of which Pillow reads only the upper bytes, and which it does not write."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pursuitnet.program.writable import write_whole

_RAW_MODES = {"RGB;16B": ("RGB;16B", "RGB;16L"), "RGBA;16B": ("RGBA;16B", "RGBA;16L"), "LA;16B": ("RGBA",)}
"""How Pillow unpacks these files, and how it returns all of their bytes: the upper ones and the lower ones of colors in
two passes, and gray with alpha as four bytes."""


def is_png16(image: Any) -> bool:
    """Return whether an open image of Pillow is a PNG of 16 bits with colors or alpha."""
    return image.format == "PNG" and bool(image.tile) and _raw_mode(image) in _RAW_MODES


def read_png16(path: Path) -> NDArray[np.uint16]:
    """Return the colors (H, W, 3) or the gray (H, W) of such a file, without its alpha channel."""
    from PIL import Image

    with Image.open(path) as image:
        modes = _RAW_MODES[_raw_mode(image)]
    parts: list[Any] = [_unpacked(path, mode) for mode in modes]
    if len(parts) == 1:
        return parts[0][..., 0] << 8 | parts[0][..., 1]
    return parts[0][..., :3] << 8 | parts[1][..., :3]


def write_png16(path: Path, pixels: NDArray[np.uint16]) -> None:
    """Write (H, W, 3) as a PNG with colors of 16 bits (ISO/IEC 15948); every row holds differences to the one above."""
    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels.astype(">u2")).view(np.uint8).reshape(height, -1)
    lines = np.full((height, 1 + rows.shape[1]), 2, np.uint8)  # 2: the filter "up"
    lines[:, 1:] = rows
    lines[1:, 1:] -= rows[:-1]
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)  # 16 bits, RGB
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes())), (b"IEND", b""))
    write_whole(path, b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks))


def _unpacked(path: Path, mode: str) -> NDArray[np.uint16]:
    """Return the bytes, as numbers to compute with, that Pillow's decoder unpacks in a raw mode."""
    from PIL import Image

    image: Any
    with Image.open(path) as image:
        tile = image.tile[0]
        image.tile = [tile._replace(args=mode) if hasattr(tile, "_replace") else (*tile[:3], mode)]  # since Pillow 11
        return np.array(image).astype(np.uint16)


def _raw_mode(image: Any) -> str:
    raw = image.tile[0][3]
    return raw if isinstance(raw, str) else str(raw[0])


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
