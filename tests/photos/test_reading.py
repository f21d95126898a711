"""Photos of every kind, against values worked out by hand."""

import io
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dual_image_clip.photos import PhotoReader, UnusableImageError, file_of, image_to_tensor, photo_size
from dual_image_clip.photos.reading import MOST_PIXELS

HEIGHT, WIDTH = 30, 44
READER = PhotoReader((16, 16))


def pixels_of(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def deep_values(largest: int = 65535) -> np.ndarray:
    values = np.random.default_rng(0).integers(0, largest + 1, (HEIGHT, WIDTH))
    values[0, :2] = 0, largest
    return values


def save(image: Image.Image, path: Path, **options) -> Path:
    image.save(path, **options)
    return path


# Depth


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bits_are_read_at_full_depth(suffix, tmp_path):
    values = deep_values().astype(np.uint16)
    image = READER.read(save(Image.fromarray(values), tmp_path / f"deep.{suffix}"))
    expected = torch.from_numpy(values.astype(np.float64) / 65535).float()
    assert image.dtype == torch.float32
    torch.testing.assert_close(image, expected.expand(3, -1, -1), atol=1e-7, rtol=0)


def test_big_endian_sixteen_bits(tmp_path):
    image = Image.frombytes("I;16B", (WIDTH, HEIGHT), deep_values().astype(">u2").tobytes())
    expected = torch.from_numpy(deep_values() / 65535).float()
    torch.testing.assert_close(READER.read(save(image, tmp_path / "deep.tiff"))[0], expected, atol=1e-7, rtol=0)


def test_floats_lie_in_0_to_1(tmp_path):
    values = (deep_values() / 65535).astype(np.float32)
    image = READER.read(save(Image.fromarray(values), tmp_path / "float.tif"))
    torch.testing.assert_close(image[1], torch.from_numpy(values), atol=1e-7, rtol=0)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (
            deep_values(4095).astype(np.uint16),
            "has 16 bits, but no value above 4095, as if they were 12: set",
        ),
        (deep_values(255).astype(np.int32) * 65536, "has values from 0 to 1.67117e+07, more than 16 bits"),
        (deep_values(1000).astype(np.float32), "has values from 0 to 1000 instead of 0 to 1: set value_range"),
        (np.full((HEIGHT, WIDTH), np.nan, np.float32), "has values that are not numbers"),
        (np.where(deep_values() > 9, 0.5, np.inf).astype(np.float32), "has values from 0.5 to inf"),
    ],
    ids=["12 bits", "32 bits", "float", "nan", "inf"],
)
def test_values_that_fit_no_rule_are_refused_instead_of_clipped(values, reason, tmp_path):
    path = save(Image.fromarray(values), tmp_path / "deep.tif")
    with pytest.raises(UnusableImageError, match=re.escape(reason)):
        READER.read(path)


@pytest.mark.parametrize(("kind", "largest"), [(np.uint16, 4095), (np.int32, 255 * 65536), (np.float32, 1000)])
def test_a_value_range_says_what_becomes_0_and_1(kind, largest, tmp_path):
    path = save(Image.fromarray(deep_values(largest).astype(kind)), tmp_path / "deep.tif")
    image = PhotoReader(value_range=(0, largest)).read(path)
    torch.testing.assert_close(image[0], torch.from_numpy(deep_values(largest) / largest).float(), atol=1e-6, rtol=0)


def test_a_value_range_leaves_photos_of_8_bits_alone(tmp_path):
    path = save(Image.fromarray(pixels_of()), tmp_path / "a.png")
    assert torch.equal(PhotoReader(value_range=(0, 4095)).read(path), READER.read(path))


@pytest.mark.parametrize("value_range", [(1, 1), (2, 1), (0, float("nan"))])
def test_a_value_range_is_checked(value_range):
    with pytest.raises(ValueError, match="value_range must be two numbers"):
        PhotoReader(value_range=value_range)


# As a viewer shows it


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [(1, lambda a: a), (2, np.fliplr), (3, lambda a: np.rot90(a, 2)), (6, lambda a: np.rot90(a, -1)), (8, np.rot90)],
)
@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_exif_orientation(orientation, turned, suffix, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if suffix == "webp" else {}
    path = save(Image.fromarray(pixels_of()), tmp_path / f"a.{suffix}", exif=exif, **options)
    expected = torch.from_numpy(turned(pixels_of()).copy()).permute(2, 0, 1) / 255
    torch.testing.assert_close(READER.read(path), expected)
    assert READER.differs_from_stock(path) == (orientation != 1)


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_a_tiff_on_its_side(compression, tmp_path):
    grey = pixels_of()[..., 0]
    path = save(Image.fromarray(grey), tmp_path / "a.tif", compression=compression, tiffinfo={0x0112: 6})
    expected = torch.from_numpy(np.rot90(grey, -1).copy()) / 255
    torch.testing.assert_close(READER.read(path)[0], expected)
    assert photo_size(path) == (WIDTH, HEIGHT)


@pytest.mark.parametrize("orientation", [b"\0\x03\0\0\0\x01\0\x63\0\0", b"\0\x02\0\0\0\x026\0\0\0"], ids=["99", "text"])
def test_an_orientation_that_is_none_is_left_alone(orientation, tmp_path):
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12" + orientation + bytes(4)
    path = save(Image.fromarray(pixels_of()), tmp_path / "a.png", exif=exif)
    assert READER.read(path).shape == (3, HEIGHT, WIDTH)
    assert photo_size(path) == (HEIGHT, WIDTH)
    assert not READER.differs_from_stock(path)


def test_colours_under_transparency_are_laid_on_grey(tmp_path):
    shown = np.concatenate([pixels_of(), np.full((HEIGHT, WIDTH, 1), 255, np.uint8)], axis=2)
    shown[10:20, 10:20, 3] = 0
    hidden = shown.copy()
    hidden[10:20, 10:20, :3] = 255, 0, 0
    paths = [save(Image.fromarray(each), tmp_path / f"{name}.png") for name, each in (("a", shown), ("b", hidden))]
    first, second = map(READER.read, paths)
    assert torch.equal(first, second)
    assert (first[:, 10:20, 10:20] == 128 / 255).all()
    torch.testing.assert_close(first[:, :10], torch.from_numpy(pixels_of()).permute(2, 0, 1)[:, :10] / 255)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1", "CMYK", "YCbCr"])
def test_other_modes_are_what_pillow_shows(mode):
    image = Image.fromarray(pixels_of()).convert(mode)
    expected = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) / 255
    torch.testing.assert_close(image_to_tensor(image), expected)


# Pages


def test_every_page_is_a_photo(tmp_path):
    pages = [Image.fromarray(pixels_of(seed)) for seed in range(3)]
    path = save(pages[0], tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    for name, seed in ((path, 0), (f"{path}#1", 0), (f"{path}#2", 1), (f"{path}#3", 2)):
        torch.testing.assert_close(READER.read(name), torch.from_numpy(pixels_of(seed)).permute(2, 0, 1) / 255)
    with pytest.raises(UnusableImageError, match=r"a\.tif#4 cannot be read as an image"):
        READER.read(f"{path}#4")


def test_a_page_does_not_take_the_colours_of_the_first(tmp_path):
    grey = Image.fromarray(pixels_of()[..., 0])
    path = save(Image.fromarray(pixels_of()).convert("P"), tmp_path / "a.tif", save_all=True, append_images=[grey])
    torch.testing.assert_close(READER.read(f"{path}#2")[0], torch.from_numpy(pixels_of()[..., 0]) / 255)


def test_another_file_does_not_take_the_place_of_a_page(tmp_path):
    pages = [Image.fromarray(pixels_of(seed)) for seed in range(2)]
    path = save(pages[0], tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    (tmp_path / "a.tif#2").write_text("something else")
    torch.testing.assert_close(READER.read(f"{path}#2"), torch.from_numpy(pixels_of(1)).permute(2, 0, 1) / 255)


def test_a_file_may_have_such_a_name_itself(tmp_path):
    path = save(Image.fromarray(pixels_of()), tmp_path / "part#2", format="PNG")
    assert file_of(path) == (path, 0)
    assert READER.read(path).shape == (3, HEIGHT, WIDTH)


# What cannot be used


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels_of()).save(buffer, format=kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (encoded("JPEG")[: len(encoded("JPEG")) // 2], "truncated"),
        (b"not an image at all", "cannot identify image file"),
        (b"", "cannot identify image file"),
        (encoded("PNG")[:20], "cannot be read as an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\n", "cannot identify image file"),
        (None, "No such file"),
    ],
    ids=["cut", "text", "empty", "head", "program", "missing"],
)
def test_a_broken_file_is_named_with_a_reason(content, reason, tmp_path):
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnusableImageError, match=reason) as caught:
        READER.read(path)
    assert caught.value.name == str(path)
    assert str(caught.value).count("a.png") == 1


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["PNG", "JPEG", "TIFF", "GIF", "WEBP", "BMP"]), st.floats(0, 1), st.integers(0, 255))
def test_wherever_a_file_is_damaged_nothing_else_is_raised(tmp_path_factory, kind, end, byte):
    data = bytearray(encoded(kind))
    place = int(end * (len(data) - 1))
    path = tmp_path_factory.mktemp("damaged") / "a.png"
    for content in (data[:place], data[:place] + bytes([byte]) + data[place + 1 :]):
        path.write_bytes(content)
        try:
            image = READER.read(path)
        except UnusableImageError:
            continue
        assert torch.isfinite(image).all()
        assert image.min() >= 0
        assert image.max() <= 1


def test_a_name_that_no_file_can_have_is_told_so():
    with pytest.raises(UnusableImageError, match="File name too long"):
        READER.read("a" * 300 + ".png#2")


def test_an_opened_image_that_cannot_be_decoded_is_refused_as_a_file_is():
    image = Image.open(io.BytesIO(encoded("JPEG")[:900]))
    with pytest.raises(UnusableImageError, match=r"image cannot be read as an image .*truncated"):
        image_to_tensor(image)


def test_too_many_pixels_are_refused_by_the_head_of_the_file(tmp_path):
    side = int(MOST_PIXELS**0.5) + 2
    path = save(Image.new("1", (side, side)), tmp_path / "a.png")
    with pytest.raises(UnusableImageError, match="megapixels"):
        READER.read(path)


@pytest.mark.parametrize("patch_size", [(HEIGHT + 1, WIDTH), (HEIGHT, WIDTH + 1)], ids=["lower", "narrower"])
def test_a_smaller_photo_is_named(patch_size, tmp_path):
    path = save(Image.fromarray(pixels_of()), tmp_path / "a.png")
    patch = f"{patch_size[0]}×{patch_size[1]}"
    with pytest.raises(UnusableImageError, match=f"a.png has {HEIGHT}×{WIDTH} pixels, less than one {patch} patch"):
        PhotoReader(patch_size).read(path)
    assert PhotoReader((HEIGHT, WIDTH)).read(path).shape == (3, HEIGHT, WIDTH)


def test_a_strip_of_too_many_tiles_is_refused(tmp_path):
    long = save(Image.new("RGB", (20, 1281)), tmp_path / "long.png")
    with pytest.raises(UnusableImageError, match=r"long\.png has 1281×20 pixels, more than 64 square tiles"):
        READER.read(long)
    assert READER.read(save(Image.new("RGB", (20, 1280)), tmp_path / "a.png")).shape == (3, 1280, 20)


def test_the_error_survives_the_way_from_a_worker():
    error = pickle.loads(pickle.dumps(UnusableImageError("a.png", "is gone")))  # noqa: S301
    assert (str(error), error.name, error.reason) == ("a.png is gone", "a.png", "is gone")
