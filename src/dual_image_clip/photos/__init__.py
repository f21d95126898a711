"""From a folder to pixels: which files are photos, and how each is read, the same at every entrance.

:mod:`~dual_image_clip.photos.reading` has the rule for values of more than 8 bits, orientation and transparency.
"""

from dual_image_clip.photos.formats import is_photo, why_not
from dual_image_clip.photos.in_memory import TooManyPixelsError, nowhere, read_bytes
from dual_image_clip.photos.listing import (
    RECORD_NAME,
    PhotoList,
    UnusableFile,
    find_photos,
    is_photo_name,
    photo_files,
    require_photos,
)
from dual_image_clip.photos.reading import (
    PhotoReader,
    UnusableImageError,
    content_of,
    decoding,
    file_of,
    image_to_tensor,
    open_photo,
    photo_size,
    read_mask,
)

__all__ = [
    "RECORD_NAME",
    "PhotoList",
    "PhotoReader",
    "TooManyPixelsError",
    "UnusableFile",
    "UnusableImageError",
    "content_of",
    "decoding",
    "file_of",
    "find_photos",
    "image_to_tensor",
    "is_photo",
    "is_photo_name",
    "nowhere",
    "open_photo",
    "photo_files",
    "photo_size",
    "read_bytes",
    "read_mask",
    "require_photos",
    "why_not",
]
