"""The photos of a folder."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from dual_image_clip.photos.formats import is_photo, why_not
from dual_image_clip.photos.reading import UnusableImageError, open_photo, require_file

RECORD_NAME = ".dual-image-clip.json"
"""Name of the file by which a folder of results is known; what is in it is no photo."""

_MOST_NAMED = 3
_MOST_BROKEN_PAGES = 100
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
    for path in photo_files(source, found) if source.is_dir() else [source]:
        if not is_photo_name(path):
            continue
        try:
            require_file(path)
        except UnusableImageError as error:
            found.unusable.append(UnusableFile(error.name, error.reason))
        else:
            found.photos.extend(_pages(path))
    return found


def require_photos(listing: PhotoList, source: str | Path) -> list[str]:
    """Refuses to work on nothing.

    Args:
        listing: What was found.
        source: Where.

    Returns:
        Photos, at least one.

    Raises:
        ValueError: There are none; some of the files that are of no use are named.
    """
    if not listing.photos:
        reasons = "".join(f"; {each.path} {each.reason}" for each in listing.unusable[:_MOST_NAMED])
        msg = f"no photos in {source} or its subfolders (such as .png, .jpg, .tif){reasons}"
        raise ValueError(msg)
    return listing.photos


def is_photo_name(path: Path) -> bool:
    """Whether a file is a photo by its name, be it one of those that can only be refused."""
    return is_photo(path.suffix) or why_not(path.suffix) is not None


def photo_files(folder: Path, found: PhotoList) -> Iterator[Path]:
    """Names the files of a folder and its subfolders that are photos by their names; none of them is opened.

    Args:
        folder: The folder.
        found: Is told which folders cannot be searched, and which hold results.

    Yields:
        Files in the order of their names, those of each folder once.
    """
    seen: set[str] = set()

    def pass_over(error: OSError) -> None:
        found.unusable.append(
            UnusableFile(str(error.filename), f"is a folder that cannot be searched ({error.strerror})")
        )

    for name, folders, files in os.walk(folder, followlinks=True, onerror=pass_over):
        # A link may lead back up, or where another has led.
        if (place := os.path.realpath(name)) in seen:
            folders.clear()
            continue
        seen.add(place)
        if RECORD_NAME in files and Path(name) != folder:
            found.results.append(name)
            folders.clear()
            continue
        folders.sort()
        yield from filter(is_photo_name, (Path(name) / each for each in sorted(files)))


def _pages(path: Path) -> list[str]:
    """Names of a file's pages; what cannot be opened is one photo, whose reading will fail with a reason."""
    pages = [0]
    with suppress(UnusableImageError), open_photo(path) as image:
        count = _num_pages(image)
        pages = [page for page in range(count) if count == 1 or not _is_reduced(image, page)] or [0]
    return [f"{path}#{page + 1}" if page else str(path) for page in pages]


def _num_pages(image: Any) -> int:
    """Number of pages, with the first that is broken; what is behind it cannot be found, but in TIFF."""
    if image.format == "MPO":
        # A phone's JPEG may hide others that are no photos.
        return 1
    if image.format == "PNG":
        return _num_frames(image)
    for _ in range(_MOST_BROKEN_PAGES if image.format == "TIFF" else 1):
        with suppress(Exception):
            return getattr(image, "n_frames", 1)
    return image.tell() + 2


def _num_frames(image: Any) -> int:
    """Frames of a PNG, whose own number of them need not be true."""
    for frame in range(image.n_frames):
        try:
            image.seek(frame)
        except Exception:
            return frame + 1
    return image.n_frames


def _is_reduced(image: Any, page: int) -> bool:
    """Whether a page of a TIFF file is another one's thumbnail."""
    if image.format != "TIFF":
        return False
    with suppress(Exception):
        image.seek(page)
        return bool(image.tag_v2.get(_SUBFILE_TYPE, 0) & _REDUCED)
    return False
