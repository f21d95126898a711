"""Names of the pictures that are drawn of photos: one for each, and telling which."""

import os
from collections.abc import Iterable, Sequence, Set
from pathlib import Path
from unicodedata import normalize

from anomalib.utils.path import generate_output_filename

PNG = frozenset((".png",))
DRAWABLE = PNG | {".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
"""Suffixes of pictures that any build of Pillow writes."""

# Bytes of a name.
_LONGEST = 255


def picture_names(
    photos: Iterable[str],
    dataset: str | None = None,
    category: str | None = None,
    formats: Set[str] = DRAWABLE,
    root: str | Path | None = None,
) -> dict[str, str]:
    """Names the pictures of photos, such as ``scratch/000.png``, no two alike on any file system.

    Args:
        photos: Paths, ``a.tif#2`` for the second page of a file.
        dataset: Name of a known data set. A photo below a folder of that name keeps its place there, as anomalib keeps
            it; others keep their place below the folder that all photos have in common.
        category: The data set's category.
        formats: Suffixes that may stay; others become PNG: ``a.tif#2.png``, ``b.heic.png``.
        root: A folder that holds all photos, to be taken in place of the innermost one.

    Returns:
        Relative names by photo.
    """
    photos = sorted(set(photos))
    below = common_folder(photos) if root is None else os.path.abspath(root)  # noqa: PTH100
    wanted: dict[str, Path] = {}
    for photo in photos:
        if dataset and dataset.lower() in map(str.lower, Path(photo).parent.parts):
            name = generate_output_filename(photo, "", dataset, category, mkdir=False)
        else:
            name = place_below(photo, below)
        wanted[photo] = _drawable(name, formats)
    # A folder may be called as the picture of a photo beside it is.
    taken = {_key(folder) for name in wanted.values() for folder in name.parents}
    return {photo: _unlike(name, taken).as_posix() for photo, name in wanted.items()}


def picture_name(photo: str, formats: Set[str] = DRAWABLE) -> str:
    """Names the picture of a photo of which it is not known with what others it comes: by its whole path."""
    return _drawable(place_below(photo, ""), formats).as_posix()


def common_folder(photos: Sequence[str]) -> str:
    """The innermost folder that holds all photos, as an absolute path; empty where there is none, as on two drives."""
    try:
        return os.path.commonpath([os.path.dirname(os.path.abspath(photo)) for photo in photos])  # noqa: PTH100, PTH120
    except ValueError:
        return ""


def place_below(photo: str, folder: str) -> Path:
    """Where a photo lies below a folder that holds it.

    Args:
        photo: Path.
        folder: Absolute path, or nothing for the photo's drive.

    Returns:
        Relative path without ``..``.
    """
    path = Path(os.path.abspath(photo))  # noqa: PTH100
    return path.relative_to(folder or path.anchor)


def _drawable(name: Path, formats: Set[str]) -> Path:
    return name if name.suffix.lower() in formats else _short(name.with_name(f"{name.name}.png"))


def _short(name: Path) -> Path:
    """A name that file systems take: of a longer one the end, which tells pages apart."""
    letters = os.fsencode(name.name)
    return name if len(letters) <= _LONGEST else name.with_name(letters[-_LONGEST:].decode(errors="ignore"))


def _unlike(name: Path, taken: set[str]) -> Path:
    """The name, or one with a number, that no file system takes for one of those taken."""
    candidate, count = name, 1
    while _key(candidate) in taken:
        count += 1
        candidate = _short(name.with_stem(f"{name.stem} ({count})"))
    taken.add(_key(candidate))
    return candidate


def _key(name: Path) -> str:
    return normalize("NFC", name.as_posix().casefold())
