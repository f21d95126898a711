"""Keeps back what libraries say that is wrong or of no use with this model, while it runs, and nothing of others'."""

import logging
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from traceback import walk_stack
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch import Callback
from rich.logging import RichHandler

from dual_image_clip.hooks.progress_bar import bar_in_place_of
from dual_image_clip.mistakes import is_running, run_this_package

_LIBRARIES = ("anomalib.", "lightning")
_KEPT_BACK = (
    "Initializing DualImageCLIP",
    "Loading the callbacks",
    "Found the dataset",
    # Its weights are loaded, and a folder has no validation set.
    "ckpt_path is not provided",
    "Running validation before predicting",
    # A second run of an engine meets the callbacks of the first, which are the same.
    "The following callbacks returned in `LightningModule.configure_callbacks`",
    "TPU available",
    "💡 Tip",
)
_WARNINGS_KEPT_BACK = (
    # A folder has no validation set, and a data set without masks no pixel metrics.
    r"Total length of `(list|PhotoBatches)` across ranks is zero",
    r"The ``compute`` method of metric \w+ was called before the ``update`` method",
    # Between libraries.
    r"'pin_memory' argument is set as true but no accelerator is found",
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
)


class PlainOutput:
    """Tells users what concerns them, once, and leaves standard output to results; for a Lightning module."""

    _trainer: Any

    @staticmethod
    def keep_back_log_messages() -> None:
        """Keeps back log messages of libraries about models of this package's.

        In anomalib's command, where each line comes twice, those on standard output are left out as well.
        """
        for name in list(logging.root.manager.loggerDict):
            if name.startswith(_LIBRARIES):
                logging.getLogger(name).addFilter(_concerns_the_user)
        if is_running():
            for logger in (logging.getLogger(), logging.getLogger("lightning.pytorch")):
                for handler in [each for each in logger.handlers if isinstance(each, RichHandler)]:
                    logger.removeHandler(handler)

    def configure_callbacks(self) -> Sequence[Callback]:
        """Adds one that keeps back warnings of libraries, and the bar in place of Lightning's own.

        Returns:
            These, and those of the module.
        """
        components: Any = super().configure_callbacks()  # type: ignore[misc]
        return [WarningsKeptBack(), *bar_in_place_of(getattr(self._trainer, "callbacks", ())), *components]


def _concerns_the_user(record: logging.LogRecord) -> bool:
    if not record.getMessage().startswith(_KEPT_BACK):
        return True
    return not run_this_package(frame for frame, _ in walk_stack(None))


class WarningsKeptBack(Callback):
    """Keeps back warnings of libraries from the beginning of a run to its end."""

    def __init__(self) -> None:
        self._filters = ExitStack()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begins."""
        del trainer, pl_module, stage
        self._filters.enter_context(warnings.catch_warnings())
        for message in _WARNINGS_KEPT_BACK:
            warnings.filterwarnings("ignore", message)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Ends; what was heard before is heard again."""
        del trainer, pl_module, stage
        self._filters.close()

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        """Ends; see :meth:`teardown`."""
        del trainer, pl_module, exception
        self._filters.close()
