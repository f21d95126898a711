"""Regions of inspection: which pixels of a photo are looked at, drawn as a mask or given as polygons."""

import json
import math
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from dual_image_clip.photos import PhotoReader, UnusableImageError, file_of, find_photos, is_photo, read_mask

Polygon = tuple[tuple[float, float], ...]
"""Corners ``(x, y)``, from 0 at the left and the top to 1 at the right and the bottom."""

_WHITE = 128
_FEWEST_CORNERS = 3
# Masks are drawn in other sizes than photos have, and sides are rounded.
_ASPECT_TOLERANCE = 0.01
# A photo's mask is asked for when the photo is read and when it is scored; photos of a line have one size.
_MASKS_KEPT, _SIZES_KEPT = 4, 4
# Bits of a pixel's fraction that OpenCV draws with.
_FRACTION, _FINER = 8, 4


class RegionError(ValueError):
    """A region of inspection cannot be used, told in one line that names its file."""


class Regions(ABC):
    """Says which pixels of a photo are inspected.

    Attributes:
        source: File or folder that says so.
    """

    source: Path

    @abstractmethod
    def mask(self, name: str | None, size: tuple[int, int]) -> Tensor:
        """The pixels of a photo that are inspected.

        Args:
            name: The photo's file, or what its user calls it.
            size: Height and width to which the photo was resized.

        Returns:
            Boolean ``(H, W)``, at least one of which is true.

        Raises:
            UnusableImageError: There is no region for this photo.
        """

    @abstractmethod
    def require_fits(self, size: tuple[int, int], name: str | Path | None) -> None:
        """Refuses a photo that the region was not drawn for.

        Args:
            size: The photo's height and width.
            name: The photo; ``None`` where it has no name.

        Raises:
            UnusableImageError: It has another aspect, or there is no region for it.
        """


@dataclass(frozen=True)
class Polygons(Regions):
    """Everything inside at least one of some polygons, of photos of any aspect.

    Attributes:
        source: JSON file.
        polygons: The polygons.
        digest: Of the polygons.
    """

    source: Path
    polygons: tuple[Polygon, ...]
    digest: str

    def mask(self, name: str | None, size: tuple[int, int]) -> Tensor:
        """See :class:`Regions`."""
        del name
        # OpenCV counts every pixel that an outline runs through, so it is drawn finer than needed.
        canvas = np.zeros((_FINER * size[0], _FINER * size[1]), np.uint8)
        for polygon in self.polygons:
            # Its whole numbers are the centres of pixels.
            corners = np.array(polygon) * canvas.shape[::-1] - 0.5
            cv2.fillPoly(canvas, [np.round(corners * 2**_FRACTION).astype(np.int32)], 1, shift=_FRACTION)
        return _resized(canvas, size)

    def require_fits(self, size: tuple[int, int], name: str | Path | None) -> None:
        """Shares of width and height fit every photo."""


@dataclass(frozen=True)
class MaskPicture(Regions):
    """The white pixels of one picture, for all photos.

    Attributes:
        source: Image file.
        white: Its white pixels, boolean, ``(h, w)``.
        digest: Of the picture.
    """

    source: Path
    white: np.ndarray = field(repr=False, compare=False)
    digest: str

    def mask(self, name: str | None, size: tuple[int, int]) -> Tensor:
        """See :class:`Regions`."""
        del name
        return _picture_at(self, size)

    def require_fits(self, size: tuple[int, int], name: str | Path | None) -> None:
        """See :class:`Regions`."""
        _require_aspect(self.white.shape, size, self.source, name or "image")


@dataclass(frozen=True)
class MaskFolder(Regions):
    """A picture for each photo, of the photo's name with any suffix.

    Where several have the name, it is the one whose folders are called as the photo's are.

    Attributes:
        source: Folder of image files.
        pictures: Pictures by name without suffix.
    """

    source: Path
    pictures: dict[str, list[Path]] = field(repr=False, compare=False)

    def mask(self, name: str | None, size: tuple[int, int]) -> Tensor:
        """See :class:`Regions`."""
        return _resized(self._white(self._named(name)), size)

    def require_fits(self, size: tuple[int, int], name: str | Path | None) -> None:
        """See :class:`Regions`."""
        photo = self._named(name)
        _require_aspect(self._white(photo).shape, size, self._picture_of(photo), photo)

    def _named(self, name: str | Path | None) -> str | Path:
        if name is None:
            raise UnusableImageError("image", f"has no name by which its mask in {self.source} could be found")
        return name

    def _white(self, name: str | Path) -> np.ndarray:
        picture = self._picture_of(name)
        try:
            white = _white_of(picture, str(name), _changes(picture, file_of(name)[0]))
        except UnusableImageError as error:
            raise UnusableImageError(name, f"has a mask that cannot be used: {error}") from error
        if not white.any():
            raise UnusableImageError(name, f"has the mask {picture}, in which nothing is white: white is inspected")
        return white

    def _picture_of(self, name: str | Path) -> Path:
        photo = file_of(name)[0]
        found = self.pictures.get(photo.stem, [])
        if not found:
            raise UnusableImageError(name, f"has no mask in {self.source}, where {photo.stem}.png was expected")
        agreeing = [_common_end(photo.parent.parts, each.parent.parts) for each in found]
        if agreeing.count(max(agreeing)) > 1:
            both = " and ".join(
                str(each) for each, count in zip(found, agreeing, strict=True) if count == max(agreeing)
            )
            raise UnusableImageError(name, f"has several masks: {both}")
        return found[agreeing.index(max(agreeing))]


def load_regions(source: str | Path) -> Regions:
    """Reads regions of inspection.

    Args:
        source: A picture, white where photos are inspected, for all photos; a folder of such pictures that are called
            as the photos are; or a JSON file of polygons, ``{"polygons": [[[x, y], ...], ...]}``, in shares of the
            photo's width and height.

    Returns:
        The regions.

    Raises:
        RegionError: There is no such file or folder, it is nothing of the kind, or a region is empty.
    """
    path = Path(source)
    if not path.exists():
        msg = f"regions: there is no file or folder {path}"
        raise RegionError(msg)
    if path.is_dir():
        return _load_folder(path)
    if path.suffix.lower() == ".json":
        return _load_polygons(path)
    if not is_photo(path.suffix):
        msg = f"regions: {path} is neither a picture, nor a folder of pictures, nor a .json file of polygons"
        raise RegionError(msg)
    return _load_picture(path)


def _load_picture(path: Path) -> MaskPicture:
    try:
        white = _read_white(path)
    except UnusableImageError as error:
        msg = f"regions: {error}"
        raise RegionError(msg) from error
    if not white.any():
        msg = f"regions: nothing is white in {path}: white is inspected, black is not"
        raise RegionError(msg)
    return MaskPicture(path, white, sha256(path.read_bytes()).hexdigest())


def _load_folder(path: Path) -> MaskFolder:
    pictures: dict[str, list[Path]] = {}
    for each in map(Path, find_photos(path).photos):
        pictures.setdefault(each.stem, []).append(each)
    if not pictures:
        msg = f"regions: there are no pictures in {path}: one for each photo is expected, of the photo's name"
        raise RegionError(msg)
    return MaskFolder(path, pictures)


def _load_polygons(path: Path) -> Polygons:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"regions: {path} cannot be read as JSON: {error}"
        raise RegionError(msg) from error
    polygons = content.get("polygons") if isinstance(content, dict) else content
    if not isinstance(polygons, list) or not polygons:
        msg = f'regions: {path} has no polygons: {{"polygons": [[[0.1, 0.1], [0.9, 0.1], [0.5, 0.9]]]}} is one'
        raise RegionError(msg)
    checked = tuple(_polygon(each, f"polygon {number} of {path}") for number, each in enumerate(polygons, 1))
    return Polygons(path, checked, sha256(repr(checked).encode()).hexdigest())


def _polygon(corners: Any, name: str) -> Polygon:
    if not isinstance(corners, list) or len(corners) < _FEWEST_CORNERS:
        msg = f"regions: {name} must be a list of at least {_FEWEST_CORNERS} corners [x, y]"
        raise RegionError(msg)
    for corner in corners:
        # The truth values of JSON are no numbers.
        numbers = isinstance(corner, list) and [type(each) in {int, float} for each in corner] == [True, True]
        if not numbers or not all(0 <= each <= 1 for each in corner):
            msg = f"regions: {name} has the corner {corner}, which is not [x, y] within 0..1 of width and height"
            raise RegionError(msg)
    polygon = tuple((float(x), float(y)) for x, y in corners)
    if math.isclose(cv2.contourArea(np.array(polygon, np.float32)), 0, abs_tol=1e-9):
        msg = f"regions: {name} is empty: its corners enclose nothing"
        raise RegionError(msg)
    return polygon


@lru_cache(_SIZES_KEPT)
def _picture_at(picture: MaskPicture, size: tuple[int, int]) -> Tensor:
    return _resized(picture.white, size)


@lru_cache(_MASKS_KEPT)
def _white_of(picture: Path, photo: str, changes: tuple[int, ...]) -> np.ndarray:
    """The white pixels of a photo's mask, which is turned with the photo where that is a file."""
    del changes
    if not os.path.exists(file_of(photo)[0]):  # noqa: PTH110
        return _read_white(picture)
    return read_mask(picture, photo, _WHITE).numpy().astype(bool)


def _changes(*files: Path) -> tuple[int, ...]:
    """Times of the last changes of those files that are there."""
    return tuple(each.stat().st_mtime_ns for each in files if os.path.exists(each))  # noqa: PTH110


def _read_white(path: Path) -> np.ndarray:
    brightness = PhotoReader(value_range=None).read(path).mean(dim=0)
    return (brightness * 255 >= _WHITE).numpy()


def _resized(white: np.ndarray, size: tuple[int, int]) -> Tensor:
    shares = cv2.resize(white.astype(np.float32), (size[1], size[0]), interpolation=cv2.INTER_AREA)
    # A speck of a region is still one.
    return torch.from_numpy(shares >= min(0.5, shares.max()))


def _require_aspect(mask: tuple[int, ...], size: tuple[int, int], source: Path, name: str | Path) -> None:
    height, width = mask
    expected = width * size[0] / size[1]
    if abs(height - expected) > max(1, _ASPECT_TOLERANCE * expected):
        reason = (
            f"has {size[0]}×{size[1]} pixels (height×width), another aspect than its region {source} with "
            f"{height}×{width}"
        )
        raise UnusableImageError(name, reason)


def _common_end(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    count = 0
    for first, second in zip(reversed(one), reversed(other), strict=False):
        if first != second:
            break
        count += 1
    return count
