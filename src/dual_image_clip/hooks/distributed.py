"""Several processes that share the images of one evaluation."""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch.distributed
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch.utils.data import DistributedSampler

from dual_image_clip.hooks.data_loaders import ChangesDataLoaders

_T = TypeVar("_T")


class EachImageOnce(ChangesDataLoaders):
    """Lets the processes of a distributed validation or test score each image exactly once.

    Lightning's sampler for them repeats images until every process has equally many, and warns that it does; repeated
    images would count twice in metrics and thresholds. Prediction repeats none.
    """

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
        ValueError: There are fewer images than processes.
    """
    dataset: Any = sampler.dataset
    total = len(dataset)
    if total < sampler.num_replicas:
        msg = f"{sampler.num_replicas} processes cannot share {total} image(s): set devices to {max(1, total)}"
        raise ValueError(msg)
    # A smaller size is a sampler's that drops images, by its owner's wish.
    if sampler.total_size > total:
        sampler.total_size = total
        sampler.num_samples = len(range(sampler.rank, total, sampler.num_replicas))


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
