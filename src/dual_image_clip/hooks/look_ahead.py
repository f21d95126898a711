"""References for images that come before any other: those that are still to come."""

from collections.abc import Callable, Collection, Iterator
from typing import Any

from lightning import Trainer
from torch import Tensor

from dual_image_clip.hooks.evaluation import evaluation_datasets
from dual_image_clip.hooks.photo_data import read_item
from dual_image_clip.photos import PhotoReader, UnusableImageError


class ImagesAhead:
    """Reads images of a data set that a trainer is working on.

    Args:
        trainer: A trainer with a run under way.
        dataloader_idx: Which of its data sets.
        present: Names of the images that are not wanted.
        reader: Reads photos.
        pre_process: Brings an image ``(1, 3, H, W)`` in 0..1 into the form that the model takes.
    """

    def __init__(
        self,
        trainer: Trainer,
        dataloader_idx: int,
        present: Collection[str],
        reader: PhotoReader,
        pre_process: Callable[[Tensor], Tensor],
    ) -> None:
        self._trainer = trainer
        self._dataloader_idx = dataloader_idx
        self._present = present
        self._reader = reader
        self._pre_process = pre_process

    def __call__(self, count: int) -> Iterator[tuple[str, Tensor]]:
        """Reads the first usable ones.

        Args:
            count: How many, at most.

        Yields:
            Name and pre-processed image.
        """
        for item in self._usable_items():
            if count == 0:
                return
            if item.image_path not in self._present:
                yield item.image_path, self._pre_process(item.image.unsqueeze(0))
                count -= 1

    def _usable_items(self) -> Iterator[Any]:
        datasets = evaluation_datasets(self._trainer)
        dataset = datasets[self._dataloader_idx] if self._dataloader_idx < len(datasets) else ()
        for index in range(len(dataset)):
            try:
                item = read_item(dataset, index, self._reader)
            except UnusableImageError:
                # It is reported when its turn comes.
                continue
            if getattr(item, "image_path", None) is not None:
                yield item
