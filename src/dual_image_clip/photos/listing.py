"""The photos of a folder."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from dual_image_clip.photos.formats import SEVERAL_PAGES, is_photo, why_not
from dual_image_clip.photos.reading import DECODING_ERRORS

RECORD_NAME = ".dual-image-clip.json"
"""Name of the file by which a folder of results is known; what is in it is no photo."""

_REDUCED = 1
_SUBFILE_TYPE = 254


class UnusableFile(NamedTuple):
    """A file that was passed over.

    Attributes:
        path: The file.
        reason: Why, in words.
    """

    path: str
    reason: str


class PhotoList(NamedTuple):
    """What there is in a folder.

    Attributes:
        photos: Photos in the order of their names, ``a.tif#2`` for the second page of a file.
        unusable: Files that are photos, but of no use.
        results: Folders of results of earlier runs, which were not searched.
    """

    photos: list[str]
    unusable: list[UnusableFile]
    results: list[str]


def find_photos(source: str | Path) -> PhotoList:
    """Finds the photos of a folder and its subfolders, linked ones included.

    Args:
        source: Folder, or a single file.

    Returns:
        Photos and files that are of no use; other files are left out.

    Raises:
        FileNotFoundError: There is no such folder or file.
    """
    source = Path(source)
    if not source.exists():
        msg = f"there is no folder or file {source}"
        raise FileNotFoundError(msg)
    found = PhotoList([], [], [])
    for path in [source] if source.is_file() else _files(source, found.results):
        reason = "is a link to a file that is not there" if not path.exists() else why_not(path.suffix)
        if not is_photo(path.suffix) and why_not(path.suffix) is None:
            continue
        if reason is not None:
            found.unusable.append(UnusableFile(str(path), reason))
        else:
            found.photos.extend(_pages(path))
    return found


def _files(folder: Path, results: list[str]) -> Iterator[Path]:
    """Files of a folder and its subfolders in the order of their names, each folder once."""
    seen: set[str] = set()
    for name, folders, files in os.walk(folder, followlinks=True):
        if RECORD_NAME in files and Path(name) != folder:
            results.append(name)
            folders.clear()
            continue
        # A link may lead back up.
        seen.add(os.path.realpath(name))
        folders[:] = sorted(each for each in folders if os.path.realpath(Path(name) / each) not in seen)
        yield from (Path(name) / each for each in sorted(files))


def _pages(path: Path) -> list[str]:
    """Names of a file's pages; what cannot be opened is one photo, whose reading will fail with a reason."""
    if path.suffix.lower() not in SEVERAL_PAGES:
        return [str(path)]
    try:
        with Image.open(path) as image:
            count = getattr(image, "n_frames", 1)
            pages = [page for page in range(count) if not _is_reduced(image, page)] if count > 1 else [0]
    except DECODING_ERRORS:
        pages = [0]
    return [f"{path}#{page + 1}" if page else str(path) for page in pages]


def _is_reduced(image: Image.Image, page: int) -> bool:
    """Whether a page of a TIFF file is another one's thumbnail."""
    if image.format != "TIFF":
        return False
    image.seek(page)
    return bool(image.tag_v2.get(_SUBFILE_TYPE, 0) & _REDUCED)  # type: ignore[attr-defined]
