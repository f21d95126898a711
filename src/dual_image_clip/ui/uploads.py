"""Uploaded files: which of them are images that can be scored."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from dual_image_clip.photos import PhotoReader, UnusableImageError, decoding, file_of

MOST_BYTES = 50 * 2**20


def read_upload(path: str | Path, reader: PhotoReader) -> Tensor:
    """Reads an uploaded image, unless the file is too large for a page that many use.

    Args:
        path: Uploaded file, or a page of it.
        reader: Reads it.

    Returns:
        Image ``(3, H, W)`` in 0..1.

    Raises:
        UnusableImageError: The file is too large, or it cannot be used.
    """
    with decoding(path):
        num_bytes = file_of(path)[0].stat().st_size
    if num_bytes > MOST_BYTES:
        raise UnusableImageError(path, f"has {num_bytes / 2**20:.0f} MB, more than {MOST_BYTES // 2**20} MB")
    return reader.read(path)


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


def find_upload(paths: Sequence[str | Path], name: str) -> str | None:
    """Finds the upload that is shown under a name.

    Args:
        paths: Uploaded files.
        name: One of :func:`display_names`, with ``#2`` behind it for the second page of a file.

    Returns:
        File, with its page; ``None`` where there is none.
    """
    for path, shown in zip(paths, display_names(paths), strict=True):
        if found := re.fullmatch(f"{re.escape(shown)}(#[0-9]+)?", name):
            return f"{path}{found[1] or ''}"
    return None
