"""A way to change the data loaders that a trainer has been given, wherever they come from."""

from abc import abstractmethod
from functools import partial
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch import Callback
from lightning.pytorch.strategies import Strategy


class ChangesDataLoaders(Callback):
    """Changes data loaders on their way through the strategy, which all of them pass before their first batch."""

    @abstractmethod
    def applies_to(self, strategy: Strategy, stage: str) -> bool:
        """Whether the data loaders of a run are to be changed.

        Args:
            strategy: The trainer's strategy.
            stage: What the trainer is about to do: ``"fit"``, ``"validate"``, ``"test"`` or ``"predict"``.

        Returns:
            True if they are.
        """

    @abstractmethod
    def changed(self, dataloader: Any) -> Any:
        """Changes a data loader.

        Args:
            dataloader: Whatever the trainer was given to iterate over.

        Returns:
            What to iterate over in its place; it may be the same object.
        """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Puts itself before the strategy's own processing.

        Args:
            trainer: The trainer.
            pl_module: Not used.
            stage: What the trainer is about to do.
        """
        del pl_module
        strategy = trainer.strategy
        if self.applies_to(strategy, stage):
            changed = partial(self._change_and_process, process=strategy.process_dataloader)
            strategy.process_dataloader = changed  # type: ignore[method-assign]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leaves the strategy as it was, for a model that comes after.

        Args:
            trainer: The trainer.
            pl_module: Not used.
            stage: Not used.
        """
        del pl_module, stage
        vars(trainer.strategy).pop("process_dataloader", None)

    def _change_and_process(self, dataloader: Any, process: Any) -> Any:
        return process(self.changed(dataloader))
