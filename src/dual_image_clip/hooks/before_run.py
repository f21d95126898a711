"""What can be told before a run begins: before anything is downloaded, and before other processes start."""

import os
from collections.abc import Sequence
from multiprocessing.context import get_spawning_popen
from pathlib import Path
from typing import Any

from anomalib.utils.path import create_versioned_dir
from lightning.pytorch import Callback
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher

from dual_image_clip.callers import called_from
from dual_image_clip.hooks.categories import require_known_category
from dual_image_clip.hooks.distributed import EachImageOnce

_SPAWNED = (
    'strategy "ddp_spawn" ends its processes after validation, and with them the thresholds that a test needs: set '
    'strategy to "ddp"'
)


class PreparesRun:
    """Settles what a run needs, and refuses one that could only go wrong; to be mixed into a Lightning module."""

    _trainer: Any

    def configure_callbacks(self) -> Sequence[Callback]:
        """Looks at the datamodule, which is about to download what is missing, and at the folder of results.

        Returns:
            Those of the module, and one that shares images among processes.

        Raises:
            ValueError: The datamodule has no such category.
        """
        datamodule = getattr(self._trainer, "datamodule", None)
        if category := getattr(datamodule, "category", None):
            require_known_category(type(datamodule), category, getattr(datamodule, "root", None))
        # A report that has a folder of its own stands for a run that writes nothing to the trainer's.
        given = getattr(self._trainer, "callbacks", [])
        if getattr(self._trainer, "is_global_zero", False) and not any(getattr(each, "folder", "") for each in given):
            make_latest(Path(self._trainer.default_root_dir))
        components: Any = super().configure_callbacks()  # type: ignore[misc]
        return [EachImageOnce(), *components]

    def __getstate__(self) -> Any:
        """Looks at where the module is sent to.

        Raises:
            ValueError: Lightning spawns a process with it.
        """
        if get_spawning_popen() is not None and called_from(_MultiProcessingLauncher.__module__):
            raise ValueError(_SPAWNED)
        return super().__getstate__()


def make_latest(folder: Path) -> None:
    """Makes a missing folder that is called ``latest`` as anomalib's training does: a link to a version beside it.

    anomalib's tests and predictions would write into a plain folder of that name, which ends later trainings.

    Args:
        folder: Any; others, and those that are there, stay as they are.
    """
    if folder.name == "latest" and not os.path.lexists(folder):
        create_versioned_dir(folder.parent)


def require_lasting_processes(strategy: Any) -> None:
    """Refuses a strategy that spawns processes for each part of a run.

    Args:
        strategy: Lightning's name of it, or whatever else a trainer was given.

    Raises:
        ValueError: It does.
    """
    if "spawn" in str(strategy):
        raise ValueError(_SPAWNED)
