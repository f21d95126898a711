"""A progress bar that leaves standard output to results, and reaches its end."""

from collections.abc import Sequence
from typing import Any

import rich
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, RichProgressBar
from rich.markup import escape


def bar_in_place_of(callbacks: Sequence[Callback]) -> list[Callback]:
    """The bar to be used instead of Lightning's own, with its theme; none where a trainer has none or another."""
    given = [each for each in callbacks if type(each) is RichProgressBar]
    return [PhotoProgressBar(refresh_rate=each.refresh_rate, theme=each.theme) for each in given]


class PhotoProgressBar(RichProgressBar):
    """Lightning's progress bar on standard error; files that could not be used count as done at its end.

    Args:
        subject: What the photos of a prediction show, told beside the bar; empty for nothing.
        **arguments: Further ones of :class:`~lightning.pytorch.callbacks.RichProgressBar`.
    """

    def __init__(self, subject: str = "", **arguments: Any) -> None:
        super().__init__(**arguments, console_kwargs={"stderr": True})
        self.subject = subject

    @property
    def predict_description(self) -> str:
        """What the bar of a prediction is called."""
        return " ".join(filter(None, (super().predict_description, escape(self.subject))))

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Ends the bar of a validation."""
        super().on_validation_end(trainer, pl_module)
        self._end(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Ends the bar of a test."""
        super().on_test_end(trainer, pl_module)
        self._end(trainer, pl_module)

    def on_predict_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Ends the bar of a prediction."""
        super().on_predict_end(trainer, pl_module)
        self._end(trainer, pl_module)

    def _end(self, trainer: Trainer, pl_module: Any) -> None:
        if self.progress is not None:
            for task in self.progress.tasks:
                self.progress.update(task.id, completed=task.total)
        self.teardown(trainer, pl_module, "")
        self.progress = None
        # Lightning prints metrics on the console that the bar has used; they belong on standard output.
        rich.reconfigure()
