"""Several processes that share the images of one evaluation."""

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch.distributed
from lightning import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch.utils.data import DistributedSampler

from dual_image_clip.hooks.data_loaders import ChangesDataLoaders

_T = TypeVar("_T")


class EachImageOnce(ChangesDataLoaders):
    """Lets the processes of a distributed validation or test score each image exactly once.

    Lightning's sampler for them repeats images until every process has equally many, and warns that it does; repeated
    images would count twice in metrics and thresholds. Prediction repeats none.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses to predict fewer images than processes; see :meth:`ChangesDataLoaders.setup`.

        Raises:
            ValueError: There are.
        """
        super().setup(trainer, pl_module, stage)
        if stage == "predict":
            # Lightning's sampler, which would only say that an assertion has failed, comes before any hook.
            for dataloader in _prediction_dataloaders(trainer):
                require_image_for_each(trainer.world_size, len(dataloader.dataset))

    def applies_to(self, strategy: Strategy, stage: str) -> bool:
        """Validation and test with DDP; see :meth:`ChangesDataLoaders.applies_to`."""
        # Outside training, DDP lets processes run different numbers of batches; sharded models would wait for ever.
        return stage in {"validate", "test"} and isinstance(strategy, DDPStrategy)

    def changed(self, dataloader: Any) -> Any:
        """The same data loader, its sampler without repeats; see :meth:`ChangesDataLoaders.changed`."""
        sampler = getattr(dataloader, "sampler", None)
        if isinstance(sampler, DistributedSampler):
            drop_repeats(sampler)
        return dataloader


def drop_repeats(sampler: DistributedSampler) -> None:
    """Makes a sampler give every image to one process only, so that some may have one image less than others.

    Args:
        sampler: Sampler that may repeat images; changed in place, to what Lightning's sampler for predictions does.

    Raises:
        ValueError: There are images, but fewer than processes.
    """
    dataset: Any = sampler.dataset
    total = len(dataset)
    require_image_for_each(sampler.num_replicas, total)
    # A smaller size is a sampler's that drops images, by its owner's wish.
    if sampler.total_size > total:
        sampler.total_size = total
        sampler.num_samples = len(range(sampler.rank, total, sampler.num_replicas))


def require_image_for_each(num_processes: int, num_images: int) -> None:
    """Refuses to share fewer images than there are processes; none at all can be shared, and are passed over.

    Args:
        num_processes: Number of processes, one for each device.
        num_images: Number of images of a data set.

    Raises:
        ValueError: A process would have none, so that the others wait for it for ever.
    """
    if 0 < num_images < num_processes:
        msg = f"{num_processes} processes cannot share {num_images} image(s): set devices to {num_images}"
        raise ValueError(msg)


def is_distributed() -> bool:
    """Whether several processes share this run."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def gather(values: Sequence[_T]) -> list[_T]:
    """Puts together what every process has; all of them must call it.

    Args:
        values: Values of this process.

    Returns:
        Those of all processes, in their order; without other processes, the same.
    """
    if not is_distributed():
        return list(values)
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, list(values))
    return [value for part in parts for value in part]


def _prediction_dataloaders(trainer: Trainer) -> Iterator[Any]:
    # Nothing public knows them before they are given samplers.
    found: Any = trainer.predict_loop._data_source.dataloader()
    found = found if isinstance(found, list) else [found]
    yield from (each for each in found if hasattr(getattr(each, "dataset", None), "__len__"))
