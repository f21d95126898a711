"""What becomes of a file that cannot be used: the one place that decides.

A prediction on a folder lists it and goes on. A validation or a test ends with a message that names all of them,
because figures without them would be wrong.
"""

import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from traceback import walk_tb
from typing import Any

from anomalib.data import AnomalibDataset, PredictDataset
from lightning import LightningModule, Trainer
from lightning.pytorch.strategies import Strategy
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS

from dual_image_clip.callers import calls
from dual_image_clip.hooks.data_loaders import ChangesDataLoaders
from dual_image_clip.hooks.distributed import is_distributed
from dual_image_clip.hooks.photo_data import PhotoFolder, name_of, read_item, unusable_items, unusable_photos
from dual_image_clip.photos import PhotoReader, UnusableFile, UnusableImageError, is_photo

logger = logging.getLogger(__name__)

_MOST_NAMED = 5


class UnusableFiles(ChangesDataLoaders):
    """Reads the photos of a run, lists those that are of no use, or ends the run that must have them all.

    Args:
        reader: Reads photos.

    Attributes:
        passed_over: Files that the prediction under way has left out.
    """

    def __init__(self, reader: PhotoReader) -> None:
        self.reader = reader
        self.passed_over: list[UnusableFile] = []
        self._stage = ""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forgets the files of an earlier run; see :meth:`ChangesDataLoaders.setup`."""
        self.passed_over = []
        self._stage = stage
        super().setup(trainer, pl_module, stage)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Replaces what anomalib raises where a data set lists files that are not there by an error that names them.

        Args:
            trainer: Not used.
            pl_module: Not used.
            exception: What ended the run.

        Raises:
            UnusableImageError: There are such files; all that cannot be used are named.
        """
        del trainer, pl_module
        if isinstance(exception, FileNotFoundError):
            *_, (frame, _) = walk_tb(exception.__traceback__)
            if (names := getattr(frame.f_locals.get("samples"), "image_path", None)) is not None:
                raise _all_of(unusable_photos(names, self.reader)) from None

    def applies_to(self, strategy: Strategy, stage: str) -> bool:
        """Everything but training; see :meth:`ChangesDataLoaders.applies_to`."""
        del strategy
        return stage != "fit"

    def changed(self, dataloader: Any) -> Any:
        """Batches that are read here in place of a loader of photos; see :meth:`ChangesDataLoaders.changed`."""
        dataset = getattr(dataloader, "dataset", None)
        if not isinstance(dataloader, DataLoader) or not isinstance(
            dataset, PhotoFolder | PredictDataset | AnomalibDataset
        ):
            return dataloader
        if self._stage != "predict":
            if self._stage == "test" and isinstance(dataset, AnomalibDataset):
                _say_what_is_left_out(dataset)
            return PhotoBatches(dataloader, dataset, self.reader, passed_over=None)
        if isinstance(dataset, PredictDataset):
            dataset = _whole_folder(dataset)
        if isinstance(dataset, PhotoFolder):
            self.passed_over.extend(dataset.unusable)
            for folder in dataset.results:
                logger.warning("%s holds results of an earlier run and is left out.", folder)
        return PhotoBatches(dataloader, dataset, self.reader, self.passed_over)


def _say_what_is_left_out(dataset: AnomalibDataset) -> None:
    """Names the photos of formats that anomalib does not list, beside those that it does."""
    listed = {Path(name) for name in dataset.samples.image_path}
    beside = {file for folder in {name.parent for name in listed} for file in folder.iterdir()} - listed
    left_out = [file for file in sorted(beside) if is_photo(file.suffix) and file.suffix.lower() not in IMG_EXTENSIONS]
    if left_out:
        logger.warning(
            "%d photo(s) of formats that anomalib does not list are left out of the test, the first: %s",
            len(left_out),
            left_out[0],
        )


def _whole_folder(dataset: PredictDataset) -> PredictDataset | PhotoFolder:
    """The folder that anomalib has listed, with the formats that it does not know and without own results."""
    # Several processes have shared the list already.
    if is_distributed() or dataset.transform is not None:
        return dataset
    names = [str(name) for name in dataset.image_filenames]
    if (source := _asked_for()) and Path(names[0]).is_relative_to(source):
        return PhotoFolder(source)
    # A single one may have been all that was asked for.
    if len(names) == 1:
        return dataset
    return PhotoFolder(os.path.commonpath([os.path.dirname(name) for name in names]) or os.curdir)  # noqa: PTH120


def _asked_for() -> Path | None:
    """The folder or file that the engine was told to predict on; anomalib forgets it once it has listed it."""
    call = next(calls("anomalib.engine.engine", "predict"), None)
    source = None if call is None else call.f_locals["data_path"]
    return None if source is None else Path(source).resolve()


class PhotoBatches(DataLoader):
    """Iterates the batches of a data loader, read here, without the files that cannot be used.

    Args:
        dataloader: Loader of images.
        dataset: Its data set, or one to be read in its place.
        reader: Reads photos.
        passed_over: Gains the files that were left out; ``None`` where none may be.
    """

    def __init__(
        self, dataloader: DataLoader, dataset: Any, reader: PhotoReader, passed_over: list[UnusableFile] | None
    ) -> None:
        batches: dict[str, Any] = {"batch_sampler": dataloader.batch_sampler}
        if dataset is not dataloader.dataset:
            # Lightning hides it where it has replaced the sampler.
            batches = {"batch_size": getattr(dataloader.batch_sampler, "batch_size", 1)}
        super().__init__(
            ItemOrReason(dataset, reader),
            **batches,
            collate_fn=partial(_collate_usable, dataloader.collate_fn),
            num_workers=dataloader.num_workers,
            pin_memory=dataloader.pin_memory,
            multiprocessing_context=dataloader.multiprocessing_context,
        )
        self._photos = dataset
        self._reader = reader
        self._passed_over = passed_over

    def __iter__(self) -> Any:
        """Batches of usable images, each read while the one before is scored; a batch without any is left out.

        Raises:
            UnusableImageError: None may be left out, and one cannot be used; all are named.
        """
        batches = super().__iter__()
        with ThreadPoolExecutor(max_workers=1) as reader:
            ahead = reader.submit(next, batches, None)
            while (found := ahead.result()) is not None:
                ahead = reader.submit(next, batches, None)
                batch, unusable = found
                if unusable and self._passed_over is None:
                    raise _all_of(unusable_items(self._photos, self._reader))
                if self._passed_over is not None:
                    self._passed_over.extend(unusable)
                if batch is not None:
                    yield batch


class ItemOrReason(Dataset):
    """A data set that gives :class:`UnusableFile` in place of an item that cannot be used.

    Args:
        original: The data set.
        reader: Reads its photos.
    """

    def __init__(self, original: Any, reader: PhotoReader) -> None:
        self.original = original
        self._reader = reader

    def __len__(self) -> int:
        """Number of items."""
        return len(self.original)

    def __getitem__(self, index: int) -> Any:
        """An item, or why there is none."""
        try:
            return read_item(self.original, index, self._reader)
        except UnusableImageError as error:
            return UnusableFile(name_of(self.original, index), error.reason)


def _collate_usable(collate: Callable[[list], Any], items: Sequence[Any]) -> tuple[Any, list[UnusableFile]]:
    usable = [item for item in items if not isinstance(item, UnusableFile)]
    unusable = [item for item in items if isinstance(item, UnusableFile)]
    return collate(usable) if usable else None, unusable


def _all_of(unusable: Sequence[UnusableFile]) -> UnusableImageError:
    named = "".join(f"\n  {each.path} {each.reason}" for each in unusable[:_MOST_NAMED])
    more = f"\n  and {len(unusable) - _MOST_NAMED} more" if len(unusable) > _MOST_NAMED else ""
    return UnusableImageError(f"{len(unusable)} image file(s)", f"cannot be used; replace or remove them:{named}{more}")
