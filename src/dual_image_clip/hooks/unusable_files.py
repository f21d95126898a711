"""Passes over files of a folder that cannot be scored, instead of ending the run at the first of them."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from anomalib.data import PredictDataset
from lightning import LightningModule, Trainer
from lightning.pytorch.strategies import Strategy
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from dual_image_clip.hooks.data_loaders import ChangesDataLoaders
from dual_image_clip.hooks.image_files import holds_a_patch
from dual_image_clip.prediction.predictions import UnusableFile


class SkipUnusableFiles(ChangesDataLoaders):
    """Lets a prediction on a folder leave out files that cannot be decoded or are too small.

    Args:
        patch_size: Height and width of a patch in pixels, the least that an image must have.
    """

    def __init__(self, patch_size: tuple[int, int]) -> None:
        self.patch_size = patch_size
        self.unusable: list[UnusableFile] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forgets the files of an earlier run; see :meth:`ChangesDataLoaders.setup`."""
        self.unusable = []
        super().setup(trainer, pl_module, stage)

    def applies_to(self, strategy: Strategy, stage: str) -> bool:
        """Predictions; see :meth:`ChangesDataLoaders.applies_to`."""
        del strategy
        return stage == "predict"

    def changed(self, dataloader: Any) -> Any:
        """Usable batches in place of a folder's loader; see :meth:`ChangesDataLoaders.changed`."""
        if isinstance(dataloader, DataLoader) and isinstance(dataloader.dataset, PredictDataset):
            return UsableBatches(dataloader, self.patch_size, self.unusable)
        return dataloader


class UsableBatches:
    """Iterates the batches of a data loader without the files that cannot be used.

    Args:
        dataloader: Loader of a folder's images.
        patch_size: Height and width of a patch in pixels.
        unusable: Gains the files that were passed over.
    """

    def __init__(self, dataloader: DataLoader, patch_size: tuple[int, int], unusable: list[UnusableFile]) -> None:
        self.dataset = dataloader.dataset
        self.sampler = dataloader.sampler
        self._unusable = unusable
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
                self._unusable.extend(unusable)
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
            item = self._dataset[index]
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            return UnusableFile(path, _reason(error, path))
        height, width = item.image.shape[-2:]
        if not holds_a_patch((height, width), self._patch_size):
            patch = "×".join(map(str, self._patch_size))
            return UnusableFile(path, f"has {height}×{width} pixels, less than one {patch} patch")
        return item


def _reason(error: Exception, path: str) -> str:
    if not isinstance(error, OSError) or error.strerror is None:
        # Pillow's message about a file that is no image repeats its path, which is told beside it.
        return str(error).replace(f" {path!r}", "") or type(error).__name__
    return error.strerror


def _collate_usable(collate: Callable[[list], Any], items: Sequence[Any]) -> tuple[Any, list[UnusableFile]]:
    usable = [item for item in items if not isinstance(item, UnusableFile)]
    unusable = [item for item in items if isinstance(item, UnusableFile)]
    return collate(usable) if usable else None, unusable
