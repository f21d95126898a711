"""Photos that somebody sends, read from memory: a name that they come with is no file here."""

import io
import os
from pathlib import Path

from PIL import Image
from torch import Tensor

from dual_image_clip.photos.formats import FORMATS, why_not
from dual_image_clip.photos.reading import PhotoReader, UnusableImageError, decoding, image_to_tensor


class TooManyPixelsError(UnusableImageError):
    """An image has more pixels than its receiver takes."""


def read_bytes(content: bytes, name: str, reader: PhotoReader, most_pixels: int) -> Tensor:
    """Reads a photo from memory; of a file of several pages, the first.

    Args:
        content: The image file's content.
        name: What its sender calls it; no file of that name is looked for.
        reader: Says which values and sizes are taken.
        most_pixels: Pixels that it may have, looked at before it is decoded.

    Returns:
        Image ``(3, H, W)`` in 0..1.

    Raises:
        TooManyPixelsError: It has more pixels.
        UnusableImageError: It cannot be decoded, its values need a range, it is smaller than a patch, or there is no
            region of inspection for it.
    """
    if (reason := why_not(Path(name).suffix)) is not None:
        raise UnusableImageError(name, reason)
    limit = f"more than {most_pixels / 1_000_000:g} megapixels"
    with decoding(name):
        try:
            image = Image.open(io.BytesIO(content), formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise TooManyPixelsError(name, f"has {limit}") from error
        with image:
            if image.width * image.height > most_pixels:
                raise TooManyPixelsError(name, f"has {image.height}×{image.width} pixels, {limit}")
            pixels = image_to_tensor(image, reader.value_range, name)
    reader.require_shape((pixels.shape[-2], pixels.shape[-1]), nowhere(name))
    return pixels


def nowhere(name: str) -> str:
    """A path that ends in a name and cannot be that of a file, for what looks beside a photo or into it.

    Args:
        name: Without folders.
    """
    return f"{os.devnull}/{name}"
