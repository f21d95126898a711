"""How a photo is turned into pixels, and the one way to say that it cannot be.

- As a viewer shows it: turned as its EXIF orientation says, and colours under transparency laid on a neutral grey.
- Greyscale of more than 8 bits is divided by the largest value of its kind, 65535 for 16 bits; floats lie in 0..1.
  Another range has to be named. Without one, values that fit none of these are refused instead of clipped, and so is a
  16-bit photo without any value above 4095, which is most likely one of 12 bits that would come out black.
- A file of several pages is so many photos: ``a.tif`` is its first page, ``a.tif#2`` its second.
"""

import hashlib
import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor, to_dtype

from dual_image_clip.photos.formats import FORMATS, is_photo, register_optional, why_not

register_optional()
# Pillow warns of half the size that it refuses.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

MOST_PIXELS = 178_956_970
"""Pixels of the largest photo, 2 GB as a tensor: what Pillow calls a decompression bomb."""

_DEEP_MODES = {"I;16", "I;16B", "I;16L", "I;16N", "I", "F"}
_SIXTEEN_BITS, _TWELVE_BITS = 65535, 4095
_UPRIGHT, _FIRST_ON_ITS_SIDE = 1, 5
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# As many as the model takes; the short side of an image is that of a tile.
_MOST_TILES = 64
_NEUTRAL = (128, 128, 128, 255)


class UnusableImageError(ValueError):
    """An image cannot be scored.

    Args:
        name: The photo, or whatever else its user calls the image.
        reason: Why, in words that follow the name.
    """

    def __init__(self, name: str | Path, reason: str) -> None:
        super().__init__(str(name), reason)
        self.name = str(name)
        self.reason = reason

    def __str__(self) -> str:
        """The name and the reason."""
        return f"{self.name} {self.reason}"


class KnowsPhotos(Protocol):
    """Something that was made for some photos and not for others, such as regions of inspection."""

    def require_fits(self, size: tuple[int, int], name: str | Path | None) -> None:
        """Raises an :class:`UnusableImageError` for a photo of some height, width and name that it is not made for."""


@dataclass(frozen=True)
class PhotoReader:
    """Reads photos from files.

    Attributes:
        patch_size: Height and width of a patch in pixels, the least that a photo must have.
        value_range: Values of more than 8 bits that become 0 and 1, ``None`` for the rule above.
        regions: What every photo must fit, if anything.

    Raises:
        ValueError: The first value of the range is not below the second.
    """

    patch_size: tuple[int, int] = (1, 1)
    value_range: tuple[float, float] | None = None
    regions: KnowsPhotos | None = None

    def __post_init__(self) -> None:
        """Checks the values."""
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
            msg = f"value_range must be two numbers, the first below the second, got {self.value_range}"
            raise ValueError(msg)

    def read(self, name: str | Path) -> Tensor:
        """Reads a photo.

        Args:
            name: Image file, with ``#2`` behind it for its second page.

        Returns:
            Image ``(3, H, W)`` in 0..1.

        Raises:
            UnusableImageError: The file cannot be decoded or is too large, there is none, its values need a range, or
                the image is smaller than a patch.
        """
        with open_photo(name) as image:
            pixels = image_to_tensor(image, self.value_range, name)
        self.require_shape((pixels.shape[-2], pixels.shape[-1]), name)
        return pixels

    def require_shape(self, size: tuple[int, int], name: str | Path | None) -> None:
        """Refuses an image that is smaller than a patch, or a strip that would be cut into too many tiles.

        A smaller one, enlarged, would be scored on nothing.

        Args:
            size: Its height and width in pixels.
            name: What its user calls the image; ``None`` where it has no name.

        Raises:
            UnusableImageError: A side is shorter, one is more than 64 times the other, or the regions do not fit.
        """
        height, width = size
        if height < self.patch_size[0] or width < self.patch_size[1]:
            reason = f"has {height}×{width} pixels, less than one {self.patch_size[0]}×{self.patch_size[1]} patch"
            raise UnusableImageError(name or "image", reason)
        if max(size) > _MOST_TILES * min(size):
            reason = f"has {height}×{width} pixels, more than {_MOST_TILES} square tiles: cut it into parts"
            raise UnusableImageError(name or "image", reason)
        if self.regions is not None:
            self.regions.require_fits(size, name)

    def differs_from_stock(self, name: str | Path) -> bool:
        """Whether anomalib's own reader would give other pixels; it ignores depth, orientation and transparency.

        Args:
            name: Image file.

        Raises:
            UnusableImageError: The file cannot be decoded, there is none, or the image has a size that is refused.
        """
        with open_photo(name) as image:
            self.require_shape(_size_as_seen(image), name)
            turned = _orientation(image) != _UPRIGHT
            return bool(file_of(name)[1]) or turned or image.mode in _DEEP_MODES or image.has_transparency_data


def file_of(name: str | Path) -> tuple[Path, int]:
    """The file of a photo and the number of its page, from 0.

    Args:
        name: Such as ``a.tif`` or ``a.tif#2``; a file that has ``#2`` in its own name is that file, unless there is
            ``a.tif`` beside it.
    """
    path = Path(name)
    found = re.fullmatch(r"(.+)#([1-9][0-9]{0,8})", str(name), re.DOTALL)
    if found is None or not is_photo(Path(found[1]).suffix):
        return path, 0
    if os.path.lexists(path) and not os.path.lexists(found[1]):
        return path, 0
    return Path(found[1]), int(found[2]) - 1


def content_of(name: str | Path) -> tuple[str, int]:
    """What tells a photo from others, wherever it lies and whatever it is called.

    Args:
        name: Image file, with ``#2`` behind it for its second page.

    Returns:
        Digest of the file, and the page's number, from 0.

    Raises:
        OSError: It cannot be read.
    """
    path, page = file_of(name)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), page


@contextmanager
def open_photo(name: str | Path) -> Iterator[Image.Image]:
    """Opens a photo, and turns whatever is raised inside into one error.

    Args:
        name: Image file, with ``#2`` behind it for its second page.

    Yields:
        The photo, of which the head has been read.

    Raises:
        UnusableImageError: It cannot be decoded or is too large, or there is no such file.
    """
    with decoding(name):
        path, page = file_of(name)
        require_file(path, name)
        # Pillow maps a file that it opens itself into memory, and those on their side wrongly.
        with path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
            if page:
                _turn_to(image, page)
            require_size((image.height, image.width), name)
            yield image


def _turn_to(image: Image.Image, page: int) -> None:
    image.seek(page)
    if image.format == "TIFF" and image.mode != "P":
        # Pillow keeps that of the first page.
        image.palette = None


def require_file(path: Path, name: str | Path | None = None) -> None:
    """Refuses what is no photo before it is opened: a pipe would wait for somebody to write, a raw file has a preview.

    Args:
        path: The file.
        name: What its user calls the photo, else the path.

    Raises:
        UnusableImageError: It is no file or one of a camera's own format, or there is none.
    """
    if (reason := why_not(path.suffix)) is not None:
        raise UnusableImageError(name or path, reason)
    if os.path.islink(path) and not os.path.exists(path):  # noqa: PTH110, PTH114
        raise UnusableImageError(name or path, "is a link to a file that is not there")
    with decoding(name or path):
        if not stat.S_ISREG(path.stat().st_mode):
            raise UnusableImageError(name or path, "is no file")


def photo_size(name: str | Path) -> tuple[int, int]:
    """Height and width of a photo as it is seen, from the head of its file.

    Args:
        name: Image file, with ``#2`` behind it for its second page.

    Raises:
        UnusableImageError: As for :func:`open_photo`.
    """
    with open_photo(name) as image:
        return _size_as_seen(image)


def read_mask(path: str | Path, photo: str | Path, least: int = 1) -> Tensor:
    """Reads a mask of a photo, such as the ground truth, turned with it where it lies as the sensor does.

    Args:
        path: Image file of the mask.
        photo: The photo.
        least: Brightness from which a pixel counts, in 0..255; by default whatever is not black.

    Returns:
        Mask of 0 and 1, ``(H, W)``. Where its size does not tell how it lies, it is taken to lie as the photo is seen.

    Raises:
        UnusableImageError: One of the two cannot be decoded, or there is none.
    """
    with open_photo(photo) as image:
        seen, turn = _size_as_seen(image), _TURNS.get(_orientation(image))
    with open_photo(path) as image:
        mask = image.convert("L")
        if turn is not None and (mask.height, mask.width) == seen[::-1] != seen:
            mask = mask.transpose(turn)
        return (pil_to_tensor(mask)[0] >= least).to(torch.uint8)


@contextmanager
def decoding(name: str | Path) -> Iterator[None]:
    """Turns whatever is raised inside because a file cannot be decoded into one error.

    Args:
        name: The photo.

    Raises:
        UnusableImageError: It cannot be decoded, or there is no such file.
    """
    try:
        yield
    except UnusableImageError:
        raise
    except Image.DecompressionBombError as error:
        raise UnusableImageError(name, f"has more than {MOST_PIXELS // 1_000_000} megapixels") from error
    except Exception as error:
        # Pillow raises whatever comes of broken bytes, such as struct.error, KeyError or TypeError.
        raise UnusableImageError(name, f"cannot be read as an image ({_cause(error)})") from error


def _cause(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror is not None:
        return error.strerror
    if isinstance(error, UnidentifiedImageError):
        # Pillow's own message repeats the file.
        return "cannot identify image file"
    return " ".join(str(error).split()) or type(error).__name__


def require_size(size: tuple[int, int], name: str | Path) -> None:
    """Refuses an image that would take too much memory.

    Args:
        size: Height and width of the image in pixels.
        name: What its user calls the image.

    Raises:
        UnusableImageError: It has more than :data:`MOST_PIXELS`.
    """
    if size[0] * size[1] > MOST_PIXELS:
        reason = f"has {size[0]}×{size[1]} pixels, more than {MOST_PIXELS // 1_000_000} megapixels"
        raise UnusableImageError(name, reason)


def image_to_tensor(
    image: Image.Image, value_range: tuple[float, float] | None = None, name: str | Path = "image"
) -> Tensor:
    """Turns an image of any mode into a tensor.

    Args:
        image: The image.
        value_range: Values of more than 8 bits that become 0 and 1, ``None`` for the rule above.
        name: What its user calls the image.

    Returns:
        Image ``(3, H, W)`` in 0..1.

    Raises:
        UnusableImageError: It cannot be decoded or is too large, its values need a range, or are not finite.
    """
    require_size((image.height, image.width), name)
    with decoding(name):
        return _to_tensor(_upright(image), value_range, name)


def _upright(image: Image.Image) -> Image.Image:
    # Loading turns a TIFF, which says so by then.
    image.load()
    turn = _TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int:
    """As EXIF says; upright where that cannot be read or says nothing known, as viewers have it."""
    with suppress(Exception):
        orientation = image.getexif().get(ExifTags.Base.Orientation)
        return orientation if orientation in _TURNS else _UPRIGHT
    return _UPRIGHT


def _size_as_seen(image: Image.Image) -> tuple[int, int]:
    # Of a TIFF, Pillow tells the size as it is seen.
    known = ExifTags.Base.Orientation in getattr(image, "tag_v2", ())
    on_its_side = _orientation(image) >= _FIRST_ON_ITS_SIDE and not known
    return (image.width, image.height) if on_its_side else (image.height, image.width)


def _to_tensor(image: Image.Image, value_range: tuple[float, float] | None, name: str | Path) -> Tensor:
    if image.mode in _DEEP_MODES:
        values = np.asarray(image)
        if np.isnan(values).any() or (value_range and not np.isfinite(values).all()):
            raise UnusableImageError(name, "has values that are not numbers")
        low, high = value_range or _usual_range(values, name)
        shares = ((values.astype(np.float64) - low) / (high - low)).clip(0, 1)
        return torch.from_numpy(shares.astype(np.float32)).expand(3, -1, -1)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, _NEUTRAL), image)
    return to_dtype(pil_to_tensor(image.convert("RGB")), torch.float32, scale=True)


def _usual_range(values: NDArray, name: str | Path) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if values.dtype.kind == "f":
        if low >= 0 and high <= 1:
            return 0.0, 1.0
        fault = f"has values from {low:g} to {high:g} instead of 0 to 1"
    elif low < 0 or high > _SIXTEEN_BITS:
        fault = f"has values from {low:g} to {high:g}, more than 16 bits"
    elif 0 < high <= _TWELVE_BITS:
        fault = f"has 16 bits, but no value above {high:g}, as if they were 12"
    else:
        return 0.0, float(_SIXTEEN_BITS)
    raise UnusableImageError(name, f"{fault}: set value_range (command line: --value-range LOW HIGH)")
