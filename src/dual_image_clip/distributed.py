"""Several processes that share the images of one evaluation."""

from collections.abc import Sequence
from functools import partial
from typing import Any, TypeVar

import torch.distributed
from lightning import LightningModule, Trainer
from lightning.pytorch import Callback
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DistributedSampler

_T = TypeVar("_T")


class EachImageOnce(Callback):
    """Lets the processes of a distributed validation or test score each image exactly once.

    Lightning's sampler for them repeats images until every process has equally many, and warns that it does; repeated
    images would count twice in metrics and thresholds. Prediction repeats none.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Has the strategy correct the data loaders, the one place that all of them pass before their first batch.

        Args:
            trainer: The trainer.
            pl_module: Not used.
            stage: What the trainer is about to do.
        """
        del pl_module
        strategy = trainer.strategy
        # Outside training, DDP lets processes run different numbers of batches; sharded models would wait for ever.
        if stage in {"validate", "test"} and isinstance(strategy, DDPStrategy):
            corrected = partial(_without_repeats, process=strategy.process_dataloader)
            strategy.process_dataloader = corrected  # type: ignore[method-assign]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leaves the strategy as it was, for a model that comes after.

        Args:
            trainer: The trainer.
            pl_module: Not used.
            stage: Not used.
        """
        del pl_module, stage
        vars(trainer.strategy).pop("process_dataloader", None)


def _without_repeats(dataloader: Any, process: Any) -> Any:
    sampler = getattr(dataloader, "sampler", None)
    if isinstance(sampler, DistributedSampler):
        drop_repeats(sampler)
    return process(dataloader)


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


def gather(values: Sequence[_T]) -> list[_T]:
    """Puts together what every process has; all of them must call it.

    Args:
        values: Values of this process.

    Returns:
        Those of all processes, in their order; without other processes, the same.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return list(values)
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, list(values))
    return [value for part in parts for value in part]
