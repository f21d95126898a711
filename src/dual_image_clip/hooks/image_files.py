"""Reading image files, and the one way to say that one cannot be used."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anomalib.data import ImageBatch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor, resize, to_dtype

_SIXTEEN_BIT_MODES = {"I;16", "I;16B", "I;16L", "I;16N", "I"}
DECODING_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow and the stock reader raise where a file is no image, or a damaged one."""


class UnusableImageError(ValueError):
    """An image cannot be scored.

    Args:
        name: The file, or whatever else its user calls the image.
        reason: Why, in words that follow the name.
    """

    def __init__(self, name: str | Path, reason: str) -> None:
        super().__init__(str(name), reason)
        self.name = str(name)
        self.reason = reason

    def __str__(self) -> str:
        """The name and the reason."""
        return f"{self.name} {self.reason}"


@contextmanager
def decoding(path: str | Path) -> Iterator[None]:
    """Turns whatever is raised inside because a file cannot be decoded into one error.

    Args:
        path: The file.

    Raises:
        UnusableImageError: It cannot be decoded, or there is none.
    """
    try:
        yield
    except UnusableImageError:
        raise
    except DECODING_ERRORS as error:
        raise UnusableImageError(path, f"cannot be read as an image ({_cause(error, path)})") from error


def _cause(error: Exception, path: str | Path) -> str:
    if isinstance(error, OSError) and error.strerror is not None:
        return error.strerror
    # Pillow's message about a file that is no image repeats its path, which is told beside it.
    return str(error).replace(f" {str(path)!r}", "") or type(error).__name__


def require_patch(size: tuple[int, int], patch_size: tuple[int, int], name: str | Path = "image") -> None:
    """Refuses an image that is smaller than a patch; enlarged, it would be scored on nothing.

    Args:
        size: Height and width of the image in pixels.
        patch_size: Those of a patch.
        name: What its user calls the image.

    Raises:
        UnusableImageError: A side is shorter.
    """
    if size[0] < patch_size[0] or size[1] < patch_size[1]:
        reason = f"has {size[0]}×{size[1]} pixels, less than one {patch_size[0]}×{patch_size[1]} patch"
        raise UnusableImageError(name, reason)


def read_image_file(path: str | Path, patch_size: tuple[int, int] = (1, 1)) -> Tensor:
    """Reads an image of any kind.

    Args:
        path: Image file.
        patch_size: Height and width of a patch in pixels, the least that the image must have.

    Returns:
        Image ``(3, H, W)`` in 0..1.

    Raises:
        UnusableImageError: The file cannot be decoded, there is none, or the image is smaller than a patch.
    """
    with decoding(path), Image.open(path) as image:
        require_patch((image.height, image.width), patch_size, path)
        return image_to_tensor(image)


def image_to_tensor(image: Image.Image) -> Tensor:
    """Turns an image of any mode into a tensor.

    Args:
        image: Grey ones of 16 bits are divided by 65535, all others become RGB.

    Returns:
        Image ``(3, H, W)`` in 0..1.
    """
    if image.mode in _SIXTEEN_BIT_MODES:
        values = np.asarray(image).astype(np.float32)
        return torch.from_numpy(values).clamp(0, 65535).div(65535).expand(3, -1, -1)
    return to_dtype(pil_to_tensor(image.convert("RGB")), torch.float32, scale=True)


def restore_bit_depth(batch: ImageBatch) -> None:
    """Reads the 16-bit images of a batch again, because the stock reader clips them to white.

    Args:
        batch: Batch whose ``image`` ``(B, 3, H, W)`` in 0..1 is corrected in place; 16-bit values are divided by 65535.
    """
    images: Any = batch.image
    for index, path in enumerate(batch.image_path or []):
        image = read_sixteen_bit(path) if Path(path).is_file() else None
        if image is not None:
            images[index] = resize(image, list(images.shape[-2:]), antialias=True).to(images)


def read_sixteen_bit(path: str | Path) -> Tensor | None:
    """Reads an image if it is a 16-bit greyscale one.

    Args:
        path: Image file.

    Returns:
        Image ``(3, H, W)`` in 0..1, or ``None`` if it has 8 bits.
    """
    with Image.open(path) as image:
        return image_to_tensor(image) if image.mode in _SIXTEEN_BIT_MODES else None


def undecodable_images(paths: Iterable[str | Path]) -> Iterator[UnusableImageError]:
    """Decodes image files and tells which fail.

    Args:
        paths: Image files.

    Yields:
        An error for each file that cannot be decoded.
    """
    for path in paths:
        try:
            with decoding(path), Image.open(path) as image:
                image.load()
        except UnusableImageError as error:
            yield error
