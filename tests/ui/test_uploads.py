"""Uploads that can be scored, and those that cannot."""

import numpy as np
import pytest
from PIL import Image

from dual_image_clip.photos import PhotoReader, UnusableImageError
from dual_image_clip.ui.uploads import display_names, find_upload, read_upload
from tests.drawn_data import draw_plate, save

READER = PhotoReader((16, 16))


def test_good_image_is_read_as_it_is(tmp_path):
    plate, _ = draw_plate(0)
    pixels = read_upload(save(plate, tmp_path / "a.png"), READER)
    np.testing.assert_allclose(pixels.permute(1, 2, 0).numpy(), plate / 255, atol=1e-6)


def test_large_file_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate(51 * 2**20)
    with pytest.raises(UnusableImageError, match="51 MB, more than 50 MB"):
        read_upload(path, READER)


def test_image_of_too_many_pixels_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("was decoded"))
    path = tmp_path / "large.png"
    path.write_bytes(_png_head(14_000, 14_000))
    with pytest.raises(UnusableImageError, match="more than 178 megapixels"):
        read_upload(path, READER)


def _png_head(width: int, height: int) -> bytes:
    """A PNG that claims a size and ends there."""
    import struct
    import zlib

    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    checksum = struct.pack(">I", zlib.crc32(head))
    data = b"\x00\x00\x00\x01IDATx" + struct.pack(">I", zlib.crc32(b"IDATx"))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + checksum + data


def test_image_smaller_than_a_patch_is_refused(tmp_path):
    with pytest.raises(UnusableImageError, match="has 20×15 pixels, less than one 16×16 patch"):
        read_upload(save(np.zeros((20, 15, 3), np.uint8), tmp_path / "small.png"), READER)


def test_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "notes.png"
    path.write_text("no image")
    with pytest.raises(UnusableImageError, match="cannot be read as an image"):
        read_upload(path, READER)


def test_truncated_image_is_refused(tmp_path):
    path = save(draw_plate(0)[0], tmp_path / "a.png")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UnusableImageError, match="cannot be read as an image"):
        read_upload(path, READER)


def test_names_stay_apart():
    assert display_names(["/x/a.png", "/y/b.png", "/z/a.png"]) == ["a.png", "b.png", "a.png (2)"]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a.png", "/x/a.png"),
        ("a.png (2)", "/z/a.png"),
        ("b.tif", "/y/b.tif"),
        ("b.tif#12", "/y/b.tif#12"),
        ("a.png (3)", None),
        ("aXpng", None),
        ("b.tif#12 ", None),
    ],
)
def test_an_upload_is_found_by_its_name(name, found):
    assert find_upload(["/x/a.png", "/y/b.tif", "/z/a.png"], name) == found
