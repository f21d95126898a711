"""What becomes of files that cannot be used, as a callback; whole runs are in tests/integration/test_bad_input.py."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from anomalib.data import ImageBatch
from anomalib.data.utils import read_image

from dual_image_clip.hooks.image_files import UnusableImageError
from dual_image_clip.hooks.unusable_files import UnusableFiles
from tests.drawn_data import save
from tests.hooks.runs import Listed, trainer_with

HEIGHT, WIDTH = 30, 44


def batch_of(paths: list[Path], size: tuple[int, int] = (HEIGHT, WIDTH)) -> ImageBatch:
    """As a data loader delivers them."""
    images = [F.interpolate(read_image(path, as_tensor=True)[None], size, mode="bilinear") for path in paths]
    return ImageBatch(image=torch.cat(images), image_path=[str(path) for path in paths])


def call(policy: UnusableFiles, stage: str, batch) -> None:
    getattr(policy, f"on_{stage}_batch_start")(SimpleNamespace(), SimpleNamespace(), batch, 0)


stages = pytest.mark.parametrize("stage", ["validation", "test", "predict"])


@stages
def test_it_restores_the_bit_depth(stage, tmp_path):
    batch = batch_of(
        [save(np.linspace(0, 65535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH), tmp_path / "deep.png")]
    )
    call(UnusableFiles((16, 16)), stage, batch)
    assert batch.image.std() > 0.2


@stages
def test_it_refuses_images_smaller_than_a_patch(stage, tmp_path):
    batch = batch_of([save(np.zeros((HEIGHT, WIDTH, 3), np.uint8), tmp_path / "small.png")], size=(64, 64))
    with pytest.raises(ValueError, match=re.escape("small.png has 30×44 pixels")):
        call(UnusableFiles((32, 32)), stage, batch)


@stages
def test_it_lets_other_batches_pass(stage):
    tensor = torch.rand(2, 3, 8, 8)
    call(UnusableFiles((16, 16)), stage, tensor)
    call(UnusableFiles((16, 16)), stage, ImageBatch(image=tensor))


def broken_files(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"broken_{index}.png" for index in range(count)]
    for path in paths:
        path.write_bytes(b"")
    return [save(np.zeros((HEIGHT, WIDTH, 3), np.uint8), folder / "good.png"), *paths]


@pytest.mark.parametrize("error", [OSError("image file is truncated"), SyntaxError("broken PNG file")], ids=repr)
@pytest.mark.parametrize(("count", "named", "more"), [(1, 1, None), (5, 5, None), (8, 5, "and 3 more")])
def test_error_in_reading_names_the_files(error, count, named, more, tmp_path):
    trainer = trainer_with("predict", Listed(broken_files(tmp_path, count), "image_filenames"))
    with pytest.raises(UnusableImageError, match=rf"^{count} image file\(s\) cannot be used") as caught:
        UnusableFiles((16, 16)).on_exception(trainer, SimpleNamespace(), error)
    message = str(caught.value)
    assert message.count(".png cannot be read") == named
    assert "good.png" not in message
    assert ("more" in message) == bool(more)
    assert more is None or more in message


@pytest.mark.parametrize(("error", "broken"), [(OSError("disk full"), 0), (RuntimeError("out of memory"), 1)])
def test_other_errors_are_left_alone(error, broken, tmp_path):
    trainer = trainer_with("test", Listed(broken_files(tmp_path, broken), "samples"))
    UnusableFiles((16, 16)).on_exception(trainer, SimpleNamespace(), error)
