"""The formats of photos, one list for all entrances."""

from importlib.util import find_spec

READABLE = frozenset(
    (
        *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".jp2", ".j2k", ".avif"),
        *(".ppm", ".pgm", ".pbm", ".pnm"),
    )
)
"""Suffixes of files that are read, in lower case."""

_HEIC = (".heic", ".heif")
_RAW = (".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".pef", ".raf", ".raw", ".rw2")
# By the time that this is asked, importing costs less than asking would.
_HAS_HEIC = find_spec("pillow_heif") is not None

FORMATS = (
    *("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "JPEG2000", "AVIF", "PPM"),
    *(("HEIF",) if _HAS_HEIC else ()),
)
"""What a file is read as, whatever its suffix; others of Pillow's are no photos, and one starts a program."""


def is_photo(suffix: str) -> bool:
    """Whether files of a suffix, such as ``".PNG"``, are read."""
    suffix = suffix.lower()
    return suffix in READABLE or (_HAS_HEIC and suffix in _HEIC)


def why_not(suffix: str) -> str | None:
    """Why photos of a suffix are not read, or ``None`` where it is none of photos."""
    suffix = suffix.lower()
    if suffix in _RAW:
        return "is a camera's raw file: develop it to TIFF or PNG first"
    if suffix in _HEIC and not _HAS_HEIC:
        return "is a HEIC picture: pip install pillow-heif, or save it as JPEG or PNG"
    return None


def register_optional() -> None:
    """Lets Pillow read HEIC where ``pillow-heif`` is installed."""
    if _HAS_HEIC:
        from pillow_heif import register_heif_opener

        register_heif_opener()
