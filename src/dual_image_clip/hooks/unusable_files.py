"""What becomes of a file that cannot be used: the one place that decides.

A prediction on a folder lists it and goes on. A validation or a test ends with a message that names it, because figures
without it would be wrong.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from anomalib.data import ImageBatch, PredictDataset
from lightning import LightningModule, Trainer
from lightning.pytorch.strategies import Strategy
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from dual_image_clip.hooks.data_loaders import ChangesDataLoaders
from dual_image_clip.hooks.evaluation import evaluated_image_paths
from dual_image_clip.hooks.image_files import (
    UnusableImageError,
    decoding,
    require_patch,
    restore_bit_depth,
    undecodable_images,
)

_MOST_NAMED = 5


class UnusableFile(NamedTuple):
    """A file that was passed over.

    Attributes:
        path: The file.
        reason: Why, in words.
    """

    path: str
    reason: str


class UnusableFiles(ChangesDataLoaders):
    """Lists files that cannot be decoded or are too small, or ends the run that must have them all.

    The 16-bit images of a batch are read anew, because the stock reader clips them.

    Args:
        patch_size: Height and width of a patch in pixels, the least that an image must have.

    Attributes:
        passed_over: Files that the prediction under way has left out.
    """

    def __init__(self, patch_size: tuple[int, int]) -> None:
        self.patch_size = patch_size
        self.passed_over: list[UnusableFile] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forgets the files of an earlier run; see :meth:`ChangesDataLoaders.setup`."""
        self.passed_over = []
        super().setup(trainer, pl_module, stage)

    def applies_to(self, strategy: Strategy, stage: str) -> bool:
        """Predictions; see :meth:`ChangesDataLoaders.applies_to`."""
        del strategy
        return stage == "predict"

    def changed(self, dataloader: Any) -> Any:
        """Usable batches in place of a folder's loader; see :meth:`ChangesDataLoaders.changed`."""
        if isinstance(dataloader, DataLoader) and isinstance(dataloader.dataset, PredictDataset):
            return UsableBatches(dataloader, self.patch_size, self.passed_over)
        return dataloader

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
        if not isinstance(batch, ImageBatch):
            return
        for path in filter(Path.is_file, map(Path, batch.image_path or [])):
            with Image.open(path) as image:
                require_patch((image.height, image.width), self.patch_size, path)
        restore_bit_depth(batch)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Replaces an error in reading by one that names the files.

        Args:
            trainer: The trainer, whose data sets are searched.
            pl_module: Not used.
            exception: What ended the run.

        Raises:
            UnusableImageError: A file of the data set cannot be decoded.
        """
        del pl_module
        if not isinstance(exception, OSError | SyntaxError | Image.DecompressionBombError):
            return
        broken = list(undecodable_images(evaluated_image_paths(trainer)))
        if broken:
            named = "".join(f"\n  {each}" for each in broken[:_MOST_NAMED])
            more = f"\n  and {len(broken) - _MOST_NAMED} more" if len(broken) > _MOST_NAMED else ""
            reason = f"cannot be used; replace or remove them:{named}{more}"
            raise UnusableImageError(f"{len(broken)} image file(s)", reason) from None


def read_item(dataset: Any, index: int, path: str, patch_size: tuple[int, int]) -> Any:
    """Reads an item of a data set.

    Args:
        dataset: An anomalib data set of images.
        index: Place of the item.
        path: Its file.
        patch_size: Height and width of a patch in pixels, the least that the image must have.

    Returns:
        The item.

    Raises:
        UnusableImageError: The file cannot be decoded, or the image is smaller than a patch.
    """
    with decoding(path):
        item = dataset[index]
    require_patch(item.image.shape[-2:], patch_size, path)
    return item


class UsableBatches:
    """Iterates the batches of a data loader without the files that cannot be used.

    Args:
        dataloader: Loader of a folder's images.
        patch_size: Height and width of a patch in pixels.
        passed_over: Gains the files that were left out.
    """

    def __init__(self, dataloader: DataLoader, patch_size: tuple[int, int], passed_over: list[UnusableFile]) -> None:
        self.dataset = dataloader.dataset
        self.sampler = dataloader.sampler
        self._passed_over = passed_over
        self._loader: DataLoader = DataLoader(
            _ItemOrReason(dataloader.dataset, patch_size),
            batch_sampler=dataloader.batch_sampler,
            collate_fn=partial(_collate_usable, dataloader.collate_fn),
            num_workers=dataloader.num_workers,
            pin_memory=dataloader.pin_memory,
            multiprocessing_context=dataloader.multiprocessing_context,
        )

    def __len__(self) -> int:
        """Batches, if every file can be used."""
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        """Batches of usable images, each read while the one before is scored; a batch without any is left out."""
        batches = iter(self._loader)
        with ThreadPoolExecutor(max_workers=1) as reader:
            ahead = reader.submit(next, batches, None)
            while (found := ahead.result()) is not None:
                ahead = reader.submit(next, batches, None)
                batch, unusable = found
                self._passed_over.extend(unusable)
                if batch is not None:
                    yield batch


class _ItemOrReason(Dataset):
    """A data set that gives :class:`UnusableFile` in place of an item that cannot be used."""

    def __init__(self, dataset: Any, patch_size: tuple[int, int]) -> None:
        self._dataset = dataset
        self._patch_size = patch_size

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Any:
        path = str(self._dataset.image_filenames[index])
        try:
            return read_item(self._dataset, index, path, self._patch_size)
        except UnusableImageError as error:
            return UnusableFile(path, error.reason)


def _collate_usable(collate: Callable[[list], Any], items: Sequence[Any]) -> tuple[Any, list[UnusableFile]]:
    usable = [item for item in items if not isinstance(item, UnusableFile)]
    unusable = [item for item in items if isinstance(item, UnusableFile)]
    return collate(usable) if usable else None, unusable
