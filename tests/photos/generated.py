"""Folders of files as users have them, sound and broken, drawn by Hypothesis."""

import io
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from PIL import Image, ImageCms

PATCH = 16
_MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB", "I;16", "I;16B", "I", "F"),
    "JPEG": ("L", "RGB", "CMYK"),
    "GIF": ("1", "L", "P"),
    "WEBP": ("RGB", "RGBA"),
    "BMP": ("1", "L", "P", "RGB"),
    "JPEG2000": ("L", "LA", "RGB", "RGBA"),
    "AVIF": ("RGB", "RGBA"),
    "PPM": ("1", "L", "RGB"),
}
_SUFFIXES = {"JPEG": ".jpg", "JPEG2000": ".jp2"}
_WITH_PAGES = ("TIFF", "GIF", "WEBP", "PNG")
_WITH_EXIF = ("PNG", "TIFF", "JPEG", "WEBP", "AVIF")
_WITH_BROKEN_EXIF = ("PNG", "JPEG", "WEBP")
_WITH_PROFILE = ("PNG", "TIFF", "JPEG", "WEBP", "AVIF")
_DEEP = {"I;16": np.uint16, "I;16B": ">u2", "I": np.int32, "F": np.float32}
_ORIENTATION = 0x0112
_BROKEN_EXIF = (
    b"",
    b"nothing",
    b"Exif\0\0II*\0\xff\xff\xff\xff",
    b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(range(40)),
)
_ODD_ORIENTATIONS = (0, 9, 65535)
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@dataclass(frozen=True)
class Picture:
    """A picture file.

    Attributes:
        kind: Format, as Pillow calls it.
        pages: Mode, width and height of each page.
        exif: Orientation, or bytes that are no EXIF; ``None`` for none.
        profile: Colour profile, which may be none.
        transparent: Whether a palette has transparency.
        compressed: Whether a TIFF is.
        cut: Share of the file that is left.
        flipped: Places, as shares of the file, of bytes that are turned.
    """

    kind: str
    pages: tuple[tuple[str, int, int], ...]
    exif: int | bytes | None = None
    profile: bytes | None = None
    transparent: bool = False
    compressed: bool = False
    cut: float = 1.0
    flipped: tuple[float, ...] = ()

    @property
    def is_sound(self) -> bool:
        return self.cut == 1 and not self.flipped

    @property
    def is_lossless(self) -> bool:
        """Whether a file holds the very pixels of :attr:`images`."""
        return self.kind in ("PNG", "TIFF", "BMP", "PPM") and not self.transparent

    @property
    def images(self) -> list[Image.Image]:
        """The pages as they were before they were saved."""
        return [_draw(mode, (width, height), seed) for seed, (mode, width, height) in enumerate(self.pages)]

    def encoded(self) -> bytes:
        images = self.images
        options: dict = {}
        if len(images) > 1:
            options |= {"save_all": True, "append_images": images[1:], "duration": 50}
        if isinstance(self.exif, bytes):
            options["exif"] = self.exif
        elif self.exif is not None:
            exif = Image.Exif()
            exif[_ORIENTATION] = self.exif
            options["exif"] = exif
        if self.profile is not None:
            options["icc_profile"] = self.profile
        if self.transparent and images[0].mode == "P":
            options["transparency"] = bytes(range(0, 256, 4)) if self.kind == "PNG" else 3
        if self.compressed and self.kind == "TIFF" and self.exif not in _ODD_ORIENTATIONS:
            options["compression"] = "tiff_lzw"
        if self.kind == "WEBP":
            options["lossless"] = True
        file = io.BytesIO()
        images[0].save(file, self.kind, **options)
        return self._damaged(file.getvalue())

    def _damaged(self, content: bytes) -> bytes:
        damaged = bytearray(content)
        for place in self.flipped:
            damaged[int(place * (len(damaged) - 1))] ^= 0xFF
        return bytes(damaged[: int(self.cut * len(damaged))])


def _draw(mode: str, size: tuple[int, int], seed: int) -> Image.Image:
    generator = np.random.default_rng(seed)
    width, height = size
    if mode in _DEEP:
        values = generator.integers(0, 65536, (height, width))
        # The rule of 12 bits is not the subject here.
        values[0, 0] = 65535
        if mode == "F":
            values = values / 65535
        if mode == "I;16B":
            return Image.frombytes(mode, size, values.astype(">u2").tobytes())
        return Image.fromarray(values.astype(_DEEP[mode]))
    pixels = Image.fromarray(generator.integers(0, 256, (height, width, 4), dtype=np.uint8))
    if mode == "LAB":
        return Image.frombytes(mode, size, pixels.convert("RGB").tobytes())
    return pixels if mode == "RGBA" else pixels.convert("RGB").convert(mode)


def _png_head(width: int, height: int) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


NO_PICTURES = (
    b"",
    b"\0",
    b"not a picture",
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff\xe0",
    b"GIF89a\xff\xff\xff\xff\0\0\0;",
    b"II*\0\x08\0\0\0\0\0\0\0\0\0",
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\nshowpage\n%%EOF\n",
    b"BM" + bytes(60),
    _png_head(1, 1),
    _png_head(20_000, 20_000),
    _png_head(2**31 - 1, 2**31 - 1),
    _png_head(13_000, 13_000),
    bytes(range(256)) * 8,
)


@dataclass(frozen=True)
class File:
    """Something with a name in a folder.

    Attributes:
        name: Path below the folder.
        content: A picture, any bytes, or ``"fifo"``, ``"gone"`` for a link to nothing, ``"circle"`` for a link to
            itself, ``"above"`` for one to the folder, ``"folder"`` for an empty folder.
    """

    name: str
    content: Picture | bytes | str

    def write(self, folder: Path) -> None:
        path = folder / self.name
        path.parent.mkdir(parents=True, exist_ok=True)
        match self.content:
            case Picture():
                path.write_bytes(self.content.encoded())
            case bytes():
                path.write_bytes(self.content)
            case "fifo":
                os.mkfifo(path)
            case "gone":
                path.symlink_to("gone/to/nowhere.png")
            case "circle":
                path.symlink_to(path.name)
            case "above":
                path.symlink_to(folder)
            case "folder":
                path.mkdir()


_NAMES = (
    *("a", "b", "c", "ü", "写真", "with space", "-dash", "a#2", "a.tif#2", "50%", "%41", "'quote'", '"double"'),
    *("line\nbreak", "<b>html</b>", "&amp;", "x" * 200, ".hidden", "..two", "a.b.c", "tab\t", "{brace}", "back\\slash"),
    *("new\r", "~", "$HOME", "*", "?", "a;b", "\udcff", "👍", "a\u0301", "á", "A", "n" * 249),
)
_FOLDERS = ("", "", "below/", "below/x.png/", "other dir/", ".hidden/", "<i>/", "x.gif.png/")
_PICTURE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".tif", ".tiff", ".gif", ".webp", ".bmp", ".jp2", ".avif", ".ppm"),
    *(".PNG", ".TIF", ".JPG", ".Gif"),
)
_OTHER_SUFFIXES = ("", ".txt", ".png#2", ".png.bak", ".heic", ".NEF")


def _sides() -> st.SearchStrategy[tuple[int, int]]:
    short, long = st.integers(1, 40), st.integers(1, 300)
    return st.one_of(
        st.tuples(st.integers(PATCH, 80), st.integers(PATCH, 80)),
        st.tuples(short, long),
        st.tuples(long, short),
        st.sampled_from([(1, 1), (PATCH, 64 * PATCH), (64 * PATCH + 1, PATCH), (1, 300), (PATCH - 1, 40)]),
    )


@st.composite
def pictures(draw: st.DrawFn, damaged: bool = True) -> Picture:
    """Pictures, half of them damaged unless that is not wanted."""
    kind = draw(st.sampled_from(sorted(_MODES)))
    count = draw(st.sampled_from((1, 1, 1, 2, 3))) if kind in _WITH_PAGES else 1
    # Pillow writes no other animations as PNG, and no pages of two byte orders.
    several = {"PNG": ("RGB", "RGBA"), "TIFF": tuple(mode for mode in _MODES["TIFF"] if mode != "I;16B")}
    modes = st.sampled_from(several.get(kind, _MODES[kind]) if count > 1 else _MODES[kind])
    # Pillow's writer of AVIF crashes on long pictures.
    size = (40, 30) if kind == "AVIF" else draw(_sides())
    pages = [(draw(modes), *size)]
    for _ in range(count - 1):
        # Frames share a canvas and a mode, pages share nothing.
        pages.append((draw(modes), *draw(_sides())) if kind == "TIFF" else pages[0])
    damage = draw(st.sampled_from(("none", "none", "cut", "flipped"))) if damaged else "none"
    places = st.floats(0, 1, exclude_max=True)
    orientations = st.integers(1, 8) | st.sampled_from(_ODD_ORIENTATIONS)
    if kind in _WITH_BROKEN_EXIF:
        orientations |= st.sampled_from(_BROKEN_EXIF)
    return Picture(
        kind,
        tuple(pages),
        exif=draw(st.none() | orientations) if kind in _WITH_EXIF else None,
        profile=draw(st.sampled_from((None, None, PROFILE, b"no profile"))) if kind in _WITH_PROFILE else None,
        transparent=draw(st.booleans()),
        compressed=draw(st.booleans()),
        cut=draw(places) if damage == "cut" else 1.0,
        flipped=tuple(draw(st.lists(places, min_size=1, max_size=4))) if damage == "flipped" else (),
    )


@st.composite
def files(draw: st.DrawFn, content: st.SearchStrategy | None = None) -> File:
    """Files of any content under any name."""
    name = draw(st.sampled_from(_FOLDERS)) + draw(st.sampled_from(_NAMES))
    specials = st.sampled_from(("fifo", "gone", "circle", "above", "folder"))
    body = draw(content if content is not None else pictures() | st.sampled_from(NO_PICTURES) | specials)
    suffix = st.sampled_from((*_PICTURE_SUFFIXES, *_OTHER_SUFFIXES))
    if isinstance(body, Picture):
        own = _SUFFIXES.get(body.kind, f".{body.kind.lower()}")
        suffix = st.sampled_from((own, own, own.upper())) | suffix
    return File(name + draw(suffix), body)


def folders(max_size: int = 6, content: st.SearchStrategy | None = None) -> st.SearchStrategy[list[File]]:
    """Contents of a folder, no two under the same name."""
    return st.lists(files(content), min_size=1, max_size=max_size, unique_by=lambda file: file.name)


def write_folder(folder: Path, contents: list[File]) -> list[File]:
    """Writes what can be written side by side; a name may be too long or that of a folder.

    Returns:
        What was written.
    """
    folder.mkdir(parents=True)
    written = []
    for file in contents:
        with suppress(OSError):
            file.write(folder)
            written.append(file)
    return written


def bytes_below(folder: Path) -> dict[str, bytes]:
    """All regular files below a folder."""
    return {str(path): path.read_bytes() for path in _regular(folder)}


def _regular(folder: Path) -> Iterator[Path]:
    for root, _, names in os.walk(folder):
        yield from (path for path in (Path(root) / name for name in names) if path.is_file())
