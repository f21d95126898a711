"""References for images that come before any other: those that are still to come."""

from collections.abc import Callable, Collection, Iterator
from typing import Any

from anomalib.data import ImageBatch
from lightning import Trainer
from torch import Tensor

from dual_image_clip.hooks.evaluation import evaluation_datasets
from dual_image_clip.hooks.image_files import UnusableImageError, restore_bit_depth
from dual_image_clip.hooks.unusable_files import read_item


class ImagesAhead:
    """Reads images of a data set that a trainer is working on.

    Args:
        trainer: A trainer with a run under way.
        dataloader_idx: Which of its data sets.
        present: Paths of the images that are not wanted.
        patch_size: Height and width of a patch in pixels, the least that an image must have.
        pre_process: Brings an image ``(1, 3, H, W)`` in 0..1 into the form that the model takes.
    """

    def __init__(
        self,
        trainer: Trainer,
        dataloader_idx: int,
        present: Collection[str],
        patch_size: tuple[int, int],
        pre_process: Callable[[Tensor], Tensor],
    ) -> None:
        self._trainer = trainer
        self._dataloader_idx = dataloader_idx
        self._present = present
        self._patch_size = patch_size
        self._pre_process = pre_process

    def __call__(self, count: int) -> Iterator[tuple[str, Tensor]]:
        """Reads the first usable ones.

        Args:
            count: How many, at most.

        Yields:
            Path and pre-processed image.
        """
        for item in self._usable_items():
            if count == 0:
                return
            if item.image_path in self._present:
                continue
            image = item.image.unsqueeze(0)
            restore_bit_depth(ImageBatch(image=image, image_path=[item.image_path]))
            yield item.image_path, self._pre_process(image)
            count -= 1

    def _usable_items(self) -> Iterator[Any]:
        datasets = evaluation_datasets(self._trainer)
        dataset = datasets[self._dataloader_idx] if self._dataloader_idx < len(datasets) else ()
        for index in range(len(dataset)):
            try:
                item = read_item(dataset, index, f"image {index}", self._patch_size)
            except UnusableImageError:
                # It is reported when its turn comes.
                continue
            if getattr(item, "image_path", None) is not None:
                yield item
