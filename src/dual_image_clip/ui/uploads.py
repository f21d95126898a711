"""Uploaded files: which of them are images that can be scored."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from dual_image_clip.hooks import UnusableImageError, decoding, read_image_file

MOST_BYTES = 50 * 2**20
MOST_PIXELS = 100_000_000


def read_upload(path: Path, patch_size: tuple[int, int]) -> Tensor:
    """Reads an uploaded image, unless that would take too much memory.

    Args:
        path: Uploaded file.
        patch_size: Height and width of a patch in pixels, the least that an image must have.

    Returns:
        Image ``(3, H, W)`` in 0..1.

    Raises:
        UnusableImageError: The file or the image is too large, it is smaller than a patch, or it cannot be decoded.
    """
    num_bytes = path.stat().st_size
    if num_bytes > MOST_BYTES:
        raise UnusableImageError(path, f"has {num_bytes / 2**20:.0f} MB, more than {MOST_BYTES // 2**20} MB")
    # The file's head tells the size, with nothing decoded.
    with decoding(path), Image.open(path) as image:
        width, height = image.size
    if height * width > MOST_PIXELS:
        reason = f"has {height}×{width} pixels, more than {MOST_PIXELS // 1_000_000} megapixels"
        raise UnusableImageError(path, reason)
    return read_image_file(path, patch_size)


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
