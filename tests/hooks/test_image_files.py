import io
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from anomalib.data import ImageBatch
from anomalib.data.utils import read_image
from PIL import Image

from dual_image_clip.hooks.image_files import (
    ImageFileGuard,
    UnreadableImageError,
    evaluated_image_paths,
    evaluation_datasets,
    read_sixteen_bit,
    require_patch_sized,
    restore_bit_depth,
    unreadable_images,
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
    ((path, why),) = unreadable_images([tmp_path / name])
    assert path == str(tmp_path / name)
    assert re.search(reason, why)


def test_missing_file_is_found(tmp_path):
    ((path, why),) = unreadable_images([tmp_path / "gone.png"])
    assert path == str(tmp_path / "gone.png")
    assert "No such file" in why


def test_broken_files_are_found_among_good_ones_in_order(tmp_path):
    paths = []
    for index, (name, (content, _)) in enumerate(BROKEN.items()):
        (tmp_path / name).write_bytes(content)
        paths += [save_eight_bit(tmp_path / f"good_{index}.png"), str(tmp_path / name)]
    paths.append(save_sixteen_bit(tmp_path / "deep.png"))
    assert [Path(path).name for path, _ in unreadable_images(paths)] == list(BROKEN)


@eight_bit_modes
def test_sound_files_are_not_reported(mode, tmp_path):
    assert list(unreadable_images([save_eight_bit(tmp_path / "image.png", mode)])) == []


@pytest.mark.parametrize("format_", ["PNG", "JPEG"])
def test_wherever_a_file_is_cut_nothing_else_is_raised(format_, tmp_path):
    data = encoded(format_)
    path = tmp_path / "cut"
    found = 0
    for end in range(0, len(data), max(1, len(data) // 100)):
        path.write_bytes(data[:end])
        found += len(list(unreadable_images([path])))
    assert found > 90


# Small files


@pytest.mark.parametrize("patch_size", [(HEIGHT, WIDTH), (16, 16), (HEIGHT, 1)], ids=str)
def test_images_as_large_as_a_patch_are_accepted(patch_size, tmp_path):
    require_patch_sized([save_eight_bit(tmp_path / "image.png"), tmp_path / "gone.png"], patch_size)


@pytest.mark.parametrize("patch_size", [(HEIGHT + 1, WIDTH), (HEIGHT, WIDTH + 1)], ids=["lower", "narrower"])
def test_smaller_image_is_named(patch_size, tmp_path):
    path = save_eight_bit(tmp_path / "image.png")
    expected = rf"{re.escape(str(path))} has {HEIGHT}×{WIDTH} pixels, less than one {patch_size[0]}×{patch_size[1]}"
    with pytest.raises(ValueError, match=expected):
        require_patch_sized([str(path)], patch_size)


# The callback


def call(guard: ImageFileGuard, stage: str, batch) -> None:
    getattr(guard, f"on_{stage}_batch_start")(SimpleNamespace(), SimpleNamespace(), batch, 0)


stages = pytest.mark.parametrize("stage", ["validation", "test", "predict"])


@stages
def test_guard_restores_the_bit_depth(stage, tmp_path):
    batch = batch_of([save_sixteen_bit(tmp_path / "deep.png")])
    call(ImageFileGuard((16, 16)), stage, batch)
    assert batch.image.std() > 0.2


@stages
def test_guard_refuses_images_smaller_than_a_patch(stage, tmp_path):
    batch = batch_of([save_eight_bit(tmp_path / "small.png")], size=(64, 64))
    with pytest.raises(ValueError, match=re.escape("small.png has 30×44 pixels")):
        call(ImageFileGuard((32, 32)), stage, batch)


@stages
def test_guard_lets_other_batches_pass(stage):
    tensor = torch.rand(2, 3, 8, 8)
    call(ImageFileGuard((16, 16)), stage, tensor)
    call(ImageFileGuard((16, 16)), stage, ImageBatch(image=tensor))


class Listed:
    """A data set as far as its paths are concerned."""

    def __init__(self, paths: list[Path], attribute: str) -> None:
        setattr(self, attribute, paths if attribute == "image_filenames" else {"image_path": paths})


def trainer_with(stage: str, *datasets, as_list: bool = True) -> SimpleNamespace:
    loaders = [SimpleNamespace(dataset=dataset) for dataset in datasets]
    trainer = SimpleNamespace(
        val_dataloaders=[],
        test_dataloaders=[],
        predict_dataloaders=[],
        state=SimpleNamespace(fn=SimpleNamespace(value=stage)),
    )
    name = {"validate": "val", "test": "test", "predict": "predict"}[stage]
    setattr(trainer, f"{name}_dataloaders", loaders if as_list else loaders[0])
    return trainer


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_paths_of_the_stage_under_way_are_found(stage):
    first, second = Listed(["a.png"], "samples"), Listed([Path("b.png"), Path("c.png")], "image_filenames")
    assert evaluation_datasets(trainer_with(stage, first, second)) == [first, second]
    assert evaluated_image_paths(trainer_with(stage, first, second)) == ["a.png", "b.png", "c.png"]
    assert evaluated_image_paths(trainer_with(stage, second, as_list=False)) == ["b.png", "c.png"]


def test_no_data_sets_without_a_run():
    trainer = trainer_with("test", Listed(["a.png"], "samples"))
    trainer.state.fn = None
    assert evaluation_datasets(trainer) == []


def broken_files(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"broken_{index}.png" for index in range(count)]
    for path in paths:
        path.write_bytes(b"")
    return [save_eight_bit(folder / "good.png"), *paths]


@pytest.mark.parametrize("error", [OSError("image file is truncated"), SyntaxError("broken PNG file")], ids=repr)
@pytest.mark.parametrize(("count", "named", "more"), [(1, 1, None), (5, 5, None), (8, 5, "and 3 more")])
def test_error_in_reading_names_the_files(error, count, named, more, tmp_path):
    trainer = trainer_with("predict", Listed(broken_files(tmp_path, count), "image_filenames"))
    with pytest.raises(UnreadableImageError, match=rf"^{count} image file\(s\) cannot be read") as caught:
        ImageFileGuard((16, 16)).on_exception(trainer, SimpleNamespace(), error)
    message = str(caught.value)
    assert message.count(".png: ") == named
    assert "good.png" not in message
    assert ("more" in message) == bool(more)
    assert more is None or more in message


@pytest.mark.parametrize(("error", "broken"), [(OSError("disk full"), 0), (RuntimeError("out of memory"), 1)])
def test_other_errors_are_left_alone(error, broken, tmp_path):
    trainer = trainer_with("test", Listed(broken_files(tmp_path, broken), "samples"))
    ImageFileGuard((16, 16)).on_exception(trainer, SimpleNamespace(), error)
