"""Whatever lies in a folder: each picture is read, or listed with a reason, and nothing else happens."""

import tempfile
from pathlib import Path

import torch
from anomalib.data.utils import read_image
from hypothesis import given, settings
from torch import Tensor

from dual_image_clip.photos import (
    PhotoReader,
    UnusableFile,
    UnusableImageError,
    file_of,
    find_photos,
    image_to_tensor,
    photo_size,
)
from dual_image_clip.photos.formats import is_photo, why_not
from tests.photos.generated import PATCH, File, Picture, bytes_below, folders, write_folder

READER = PhotoReader((PATCH, PATCH))


def read_all(folder: Path) -> tuple[dict[str, Tensor], list[UnusableFile]]:
    listing = find_photos(folder)
    read, unusable = {}, listing.unusable
    for name in listing.photos:
        try:
            read[name] = READER.read(name)
        except UnusableImageError as error:
            unusable.append(UnusableFile(error.name, error.reason))
    return read, unusable


def turned(pixels: Tensor, orientation: object) -> Tensor:
    """An image ``(3, H, W)`` as its EXIF orientation says."""
    if orientation in (2, 3, 7, 8):
        pixels = pixels.flip(2)
    if orientation in (3, 4, 6, 7):
        pixels = pixels.flip(1)
    return pixels.transpose(1, 2) if orientation in (5, 6, 7, 8) else pixels


def looks_like_a_picture(file: File) -> bool:
    suffix = Path(file.name).suffix
    return file.content not in ("folder", "above") and (is_photo(suffix) or why_not(suffix) is not None)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(folders())
def test_each_picture_is_read_or_listed(contents):
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "photos"
        written = write_folder(folder, contents)
        before = bytes_below(folder)
        read, unusable = read_all(folder)
        assert bytes_below(folder) == before
        for file in unusable:
            assert len(file.reason.splitlines()) == 1, file
            assert scratch not in file.reason, file
        names = [*read, *(file.path for file in unusable)]
        assert len(set(names)) == len(names)
        assert {str(file_of(name)[0]) for name in names} == {
            str(folder / file.name) for file in written if looks_like_a_picture(file)
        }
        for name, pixels in read.items():
            require_pixels(name, pixels)
        for file in written:
            if isinstance(file.content, Picture) and is_photo(Path(file.name).suffix):
                path = str(folder / file.name)
                require_pages(file.content, path, read, [file.path for file in unusable])


def require_pixels(name: str, pixels: Tensor) -> None:
    assert pixels.dtype == torch.float32
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    assert photo_size(name) == pixels.shape[1:]
    if not READER.differs_from_stock(name):
        assert torch.equal(pixels, read_image(name, as_tensor=True))


def require_pages(picture: Picture, path: str, read: dict[str, Tensor], unusable: list[str]) -> None:
    """Each page is there; of a file that was cut, as many as can be found, and a word of the rest."""
    pages = [path, *(f"{path}#{number}" for number in range(2, len(picture.pages) + 1))]
    found = {name for name in (*read, *unusable) if file_of(name)[0] == Path(path)}
    if picture.is_sound:
        assert found == set(pages)
        assert [name in read for name in pages] == [is_usable(size) for _, *size in picture.pages]
    # Frames are said to have ended where a GIF has.
    elif not picture.flipped and picture.kind != "GIF":
        assert found == set(pages) or found & set(unusable)
    if picture.is_sound and picture.is_lossless:
        for name, image in zip(pages, picture.images, strict=True):
            if name in read:
                assert torch.equal(read[name], turned(image_to_tensor(image), picture.exif)), name


def is_usable(size: list[int]) -> bool:
    return min(size) >= PATCH and max(size) <= 64 * min(size)
