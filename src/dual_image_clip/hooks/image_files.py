"""Image files that the stock reader does not handle well: 16-bit ones, and ones that cannot be read at all."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anomalib.data import ImageBatch
from lightning import LightningModule, Trainer
from lightning.pytorch import Callback
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor, resize, to_dtype

_SIXTEEN_BIT_MODES = {"I;16", "I;16B", "I;16L", "I;16N", "I"}
_DECODING_ERRORS = (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError)
_MOST_NAMED = 5


class UnreadableImageError(OSError):
    """One or more image files cannot be decoded."""


def restore_bit_depth(batch: ImageBatch) -> None:
    """Reads the 16-bit images of a batch again, because the stock reader clips them to white.

    Args:
        batch: Batch whose ``image`` ``(B, 3, H, W)`` in 0..1 is corrected in place; 16-bit values are divided by 65535.
    """
    images: Any = batch.image
    for index, path in enumerate(batch.image_path or []):
        image = read_sixteen_bit(path) if Path(path).is_file() else None
        if image is not None:
            images[index] = resize(image, list(images.shape[-2:]), antialias=True).to(images)


def read_sixteen_bit(path: str | Path) -> Tensor | None:
    """Reads an image if it is a 16-bit greyscale one.

    Args:
        path: Image file.

    Returns:
        Image ``(3, H, W)`` in 0..1, or ``None`` if it has 8 bits.
    """
    with Image.open(path) as image:
        return image_to_tensor(image) if image.mode in _SIXTEEN_BIT_MODES else None


def read_image_file(path: str | Path) -> Tensor:
    """Reads an image of any kind.

    Args:
        path: Image file.

    Returns:
        Image ``(3, H, W)`` in 0..1.

    Raises:
        UnreadableImageError: The file cannot be decoded, or there is none.
    """
    try:
        with Image.open(path) as image:
            return image_to_tensor(image)
    except _DECODING_ERRORS as error:
        msg = f"image file {path} cannot be read; replace or remove it: {error}"
        raise UnreadableImageError(msg) from error


def image_to_tensor(image: Image.Image) -> Tensor:
    """Turns an image of any mode into a tensor.

    Args:
        image: Grey ones of 16 bits are divided by 65535, all others become RGB.

    Returns:
        Image ``(3, H, W)`` in 0..1.
    """
    if image.mode in _SIXTEEN_BIT_MODES:
        values = np.asarray(image).astype(np.float32)
        return torch.from_numpy(values).clamp(0, 65535).div(65535).expand(3, -1, -1)
    return to_dtype(pil_to_tensor(image.convert("RGB")), torch.float32, scale=True)


def unreadable_images(paths: Iterable[str | Path]) -> Iterator[tuple[str, str]]:
    """Decodes image files and tells which fail.

    Args:
        paths: Image files.

    Yields:
        Path and reason of each file that cannot be decoded.
    """
    for path in paths:
        try:
            with Image.open(path) as image:
                image.load()
        except _DECODING_ERRORS as error:
            yield str(path), str(error)


def holds_a_patch(size: tuple[int, int], patch_size: tuple[int, int]) -> bool:
    """Whether an image is large enough; a smaller one, enlarged, would be scored on nothing.

    Args:
        size: Height and width of the image in pixels.
        patch_size: Those of a patch.

    Returns:
        Whether neither side is shorter.
    """
    return size[0] >= patch_size[0] and size[1] >= patch_size[1]


def require_patch_sized(paths: Iterable[str | Path], patch_size: tuple[int, int]) -> None:
    """Refuses images that are smaller than a patch.

    Args:
        paths: Image files; those that do not exist are passed over.
        patch_size: Height and width of a patch in pixels.

    Raises:
        ValueError: An image is smaller.
    """
    patch_height, patch_width = patch_size
    for path in filter(Path.is_file, map(Path, paths)):
        with Image.open(path) as image:
            width, height = image.size
        if not holds_a_patch((height, width), patch_size):
            msg = f"{path} has {height}×{width} pixels, less than one {patch_height}×{patch_width} patch; remove it"
            raise ValueError(msg)


class ImageFileGuard(Callback):
    """Looks after image files: 16-bit ones are read anew, and those that cannot be used are named.

    Args:
        patch_size: Height and width of a patch in pixels, the least that an image must have.
    """

    def __init__(self, patch_size: tuple[int, int]) -> None:
        self.patch_size = patch_size

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, *args: Any) -> None:
        """Checks and corrects the images of a batch."""
        del trainer, pl_module, args
        self._check(batch)

    def on_test_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, *args: Any) -> None:
        """Checks and corrects the images of a batch."""
        del trainer, pl_module, args
        self._check(batch)

    def on_predict_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, *args: Any) -> None:
        """Checks and corrects the images of a batch."""
        del trainer, pl_module, args
        self._check(batch)

    def _check(self, batch: Any) -> None:
        if isinstance(batch, ImageBatch):
            require_patch_sized(batch.image_path or [], self.patch_size)
            restore_bit_depth(batch)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Replaces an error in reading by one that names the files.

        Args:
            trainer: The trainer, whose data sets are searched.
            pl_module: Not used.
            exception: What ended the run.

        Raises:
            UnreadableImageError: A file of the data set cannot be decoded.
        """
        del pl_module
        if not isinstance(exception, OSError | SyntaxError | Image.DecompressionBombError):
            return
        broken = list(unreadable_images(evaluated_image_paths(trainer)))
        if broken:
            named = "".join(f"\n  {path}: {reason}" for path, reason in broken[:_MOST_NAMED])
            more = f"\n  and {len(broken) - _MOST_NAMED} more" if len(broken) > _MOST_NAMED else ""
            msg = f"{len(broken)} image file(s) cannot be read; replace or remove them:{named}{more}"
            raise UnreadableImageError(msg) from None


def evaluation_datasets(trainer: Trainer) -> list[Any]:
    """The data sets that a trainer is validating, testing or predicting with.

    Args:
        trainer: A trainer with a run under way.

    Returns:
        Data sets, possibly none.
    """
    loaders = {
        "validate": trainer.val_dataloaders,
        "test": trainer.test_dataloaders,
        "predict": trainer.predict_dataloaders,
    }.get(str(trainer.state.fn.value) if trainer.state.fn else "", [])
    loaders = loaders if isinstance(loaders, list | tuple) else [loaders]
    return [loader.dataset for loader in loaders if hasattr(loader, "dataset")]


def evaluated_image_paths(trainer: Trainer) -> list[str]:
    """Image files of the data sets that a trainer is working on.

    Args:
        trainer: A trainer with a run under way.

    Returns:
        Paths, in the order of the data sets.
    """
    paths: list[str] = []
    for dataset in evaluation_datasets(trainer):
        if hasattr(dataset, "image_filenames"):
            paths += [str(path) for path in dataset.image_filenames]
        elif hasattr(dataset, "samples"):
            paths += [str(path) for path in dataset.samples["image_path"]]
    return paths
