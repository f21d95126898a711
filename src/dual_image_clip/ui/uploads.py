"""Uploaded files: which of them are images that can be scored."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from dual_image_clip.hooks.image_files import UnreadableImageError, holds_a_patch, read_image_file

MOST_BYTES = 50 * 2**20
MOST_PIXELS = 100_000_000


class UnusableUploadError(ValueError):
    """An upload that cannot be scored; the message does not name it."""


def read_upload(path: Path, patch_size: tuple[int, int]) -> Tensor:
    """Reads an uploaded image, unless that would take too much memory.

    Args:
        path: Uploaded file.
        patch_size: Height and width of a patch in pixels, the least that an image must have.

    Returns:
        Image ``(3, H, W)`` in 0..1.

    Raises:
        UnusableUploadError: The file or the image is too large, it is smaller than a patch, or it cannot be decoded.
    """
    num_bytes = path.stat().st_size
    if num_bytes > MOST_BYTES:
        msg = f"has {num_bytes / 2**20:.0f} MB, more than {MOST_BYTES // 2**20} MB"
        raise UnusableUploadError(msg)
    height, width = _size(path)
    if height * width > MOST_PIXELS:
        msg = f"has {height}×{width} pixels, more than {MOST_PIXELS // 1_000_000} megapixels"
        raise UnusableUploadError(msg)
    if not holds_a_patch((height, width), patch_size):
        msg = f"has {height}×{width} pixels, less than one {patch_size[0]}×{patch_size[1]} patch"
        raise UnusableUploadError(msg)
    try:
        return read_image_file(path)
    except UnreadableImageError as error:
        msg = "cannot be read as an image: the file is damaged"
        raise UnusableUploadError(msg) from error


def _size(path: Path) -> tuple[int, int]:
    """Height and width as the file's head tells them, with nothing decoded."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except Image.DecompressionBombError as error:
        msg = f"has more than {MOST_PIXELS // 1_000_000} megapixels"
        raise UnusableUploadError(msg) from error
    except (OSError, SyntaxError, ValueError) as error:
        msg = "cannot be read as an image: the file is damaged or of another kind"
        raise UnusableUploadError(msg) from error


def display_names(paths: Sequence[str | Path]) -> list[str]:
    """Names of uploads without their folders, numbered where several are called the same.

    Args:
        paths: Uploaded files.

    Returns:
        Such as ``["a.png", "b.png", "a.png (2)"]``.
    """
    seen: Counter[str] = Counter()
    names = []
    for name in map(os.path.basename, paths):
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return names
