import io
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from anomalib.data import ImageBatch
from anomalib.data.utils import read_image
from PIL import Image

from dual_image_clip.hooks.image_files import (
    UnusableImageError,
    read_image_file,
    read_sixteen_bit,
    require_patch,
    restore_bit_depth,
    undecodable_images,
)

HEIGHT, WIDTH = 30, 44


def sixteen_bit_values(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 65536, (HEIGHT, WIDTH), dtype=np.uint16)


def save_sixteen_bit(path: Path, seed: int = 0) -> Path:
    Image.fromarray(sixteen_bit_values(seed)).save(path)
    return path


def save_eight_bit(path: Path, mode: str = "RGB", seed: int = 0) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def batch_of(paths: list[Path], size: tuple[int, int] = (HEIGHT, WIDTH)) -> ImageBatch:
    """As a data loader delivers them."""
    images = [F.interpolate(read_image(path, as_tensor=True)[None], size, mode="bilinear") for path in paths]
    return ImageBatch(image=torch.cat(images), image_path=[str(path) for path in paths])


eight_bit_modes = pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1"])


# 16 bits


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bit_image_is_read_at_full_depth(suffix, tmp_path):
    path = save_sixteen_bit(tmp_path / f"deep.{suffix}")
    image = read_sixteen_bit(path)
    expected = torch.from_numpy(sixteen_bit_values().astype(np.float64) / 65535).float()
    assert image.dtype == torch.float32
    torch.testing.assert_close(image, expected.expand(3, -1, -1), atol=1e-7, rtol=0)


def test_big_endian_sixteen_bit_image_is_read_at_full_depth(tmp_path):
    data = sixteen_bit_values().astype(">u2").tobytes()
    Image.frombytes("I;16B", (WIDTH, HEIGHT), data).save(tmp_path / "deep.tiff")
    expected = torch.from_numpy(sixteen_bit_values().astype(np.float64) / 65535).float()
    torch.testing.assert_close(read_sixteen_bit(tmp_path / "deep.tiff")[0], expected, atol=1e-7, rtol=0)


def test_darkest_and_brightest_value(tmp_path):
    Image.fromarray(np.array([[0, 65535]], dtype=np.uint16)).save(tmp_path / "deep.png")
    assert read_sixteen_bit(str(tmp_path / "deep.png")).tolist() == [[[0.0, 1.0]]] * 3


@eight_bit_modes
def test_eight_bit_image_is_not_read_anew(mode, tmp_path):
    assert read_sixteen_bit(save_eight_bit(tmp_path / "image.png", mode)) is None


def test_stock_reader_alone_would_lose_the_image(tmp_path):
    # The reason for all this; where it fails, restore_bit_depth is no longer needed.
    image = read_image(save_sixteen_bit(tmp_path / "deep.png"), as_tensor=True)
    assert (image == 1).float().mean() > 0.9


@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (15, 22), (64, 64), (47, 31)], ids=str)
def test_right_images_of_a_batch_are_restored(size, tmp_path):
    deep = {1: save_sixteen_bit(tmp_path / "b.png", seed=1), 3: save_sixteen_bit(tmp_path / "d.png", seed=3)}
    paths = [deep.get(index) or save_eight_bit(tmp_path / f"{index}.png", seed=index) for index in range(5)]
    batch = batch_of(paths, size)
    before = batch.image.clone()
    restore_bit_depth(batch)
    assert batch.image.shape == (5, 3, *size)
    for index in range(5):
        if index in deep:
            full = torch.from_numpy(sixteen_bit_values(index).astype(np.float32) / 65535)[None, None]
            expected = F.interpolate(full, size, mode="bilinear", antialias=True)[0].expand(3, -1, -1)
            torch.testing.assert_close(torch.as_tensor(batch.image[index]), expected, atol=1e-5, rtol=0)
        else:
            assert torch.equal(batch.image[index], before[index])


@eight_bit_modes
def test_eight_bit_batch_is_left_alone(mode, tmp_path):
    batch = batch_of([save_eight_bit(tmp_path / f"{index}.png", mode, index) for index in range(3)])
    before = batch.image.clone()
    restore_bit_depth(batch)
    assert torch.equal(batch.image, before)


@pytest.mark.parametrize("image_path", [None, ["camera 1", "camera 2"]], ids=["no paths", "no files"])
def test_images_that_are_no_files_are_left_alone(image_path):
    images = torch.rand(2, 3, 8, 8)
    batch = ImageBatch(image=images.clone(), image_path=image_path)
    restore_bit_depth(batch)
    assert torch.equal(batch.image, images)


# Broken files


def encoded(format_: str) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, format=format_)
    return buffer.getvalue()


BROKEN = {
    "truncated.jpg": (encoded("JPEG")[: len(encoded("JPEG")) // 2], "truncated"),
    "truncated.png": (encoded("PNG")[: len(encoded("PNG")) // 2], "truncated"),
    "text.png": (b"not an image at all", "cannot identify image file"),
    "zero.png": (b"", "cannot identify image file"),
    "header_only.png": (encoded("PNG")[:20], "."),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_file_is_found_with_a_reason(name, tmp_path):
    content, reason = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    (error,) = undecodable_images([tmp_path / name])
    assert error.name == str(tmp_path / name)
    assert re.search(reason, error.reason)


def test_missing_file_is_found(tmp_path):
    (error,) = undecodable_images([tmp_path / "gone.png"])
    assert error.name == str(tmp_path / "gone.png")
    assert "No such file" in error.reason


def test_broken_files_are_found_among_good_ones_in_order(tmp_path):
    paths = []
    for index, (name, (content, _)) in enumerate(BROKEN.items()):
        (tmp_path / name).write_bytes(content)
        paths += [save_eight_bit(tmp_path / f"good_{index}.png"), str(tmp_path / name)]
    paths.append(save_sixteen_bit(tmp_path / "deep.png"))
    assert [Path(error.name).name for error in undecodable_images(paths)] == list(BROKEN)


@eight_bit_modes
def test_sound_files_are_not_reported(mode, tmp_path):
    assert list(undecodable_images([save_eight_bit(tmp_path / "image.png", mode)])) == []


@pytest.mark.parametrize("format_", ["PNG", "JPEG"])
def test_wherever_a_file_is_cut_nothing_else_is_raised(format_, tmp_path):
    data = encoded(format_)
    path = tmp_path / "cut"
    found = 0
    for end in range(0, len(data), max(1, len(data) // 100)):
        path.write_bytes(data[:end])
        found += len(list(undecodable_images([path])))
    assert found > 90


# Small images


@pytest.mark.parametrize("patch_size", [(HEIGHT, WIDTH), (16, 16), (HEIGHT, 1)], ids=str)
def test_images_as_large_as_a_patch_are_accepted(patch_size, tmp_path):
    require_patch((HEIGHT, WIDTH), patch_size)
    assert read_image_file(save_eight_bit(tmp_path / "image.png"), patch_size).shape == (3, HEIGHT, WIDTH)


@pytest.mark.parametrize("patch_size", [(HEIGHT + 1, WIDTH), (HEIGHT, WIDTH + 1)], ids=["lower", "narrower"])
def test_smaller_image_is_named(patch_size, tmp_path):
    path = save_eight_bit(tmp_path / "image.png")
    expected = (
        rf"{re.escape(str(path))} has {HEIGHT}×{WIDTH} pixels, less than one {patch_size[0]}×{patch_size[1]} patch"
    )
    with pytest.raises(UnusableImageError, match=expected):
        read_image_file(path, patch_size)


def test_the_error_survives_the_way_from_a_worker():
    error = pickle.loads(pickle.dumps(UnusableImageError("a.png", "is gone")))  # noqa: S301
    assert (str(error), error.name, error.reason) == ("a.png is gone", "a.png", "is gone")
