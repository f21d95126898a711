"""The callback that writes what a prediction run has found."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer

from dual_image_clip.callers import called_from
from dual_image_clip.photos import UnusableFile
from dual_image_clip.prediction.collecting import CollectsPredictions
from dual_image_clip.prediction.predictions import Prediction
from dual_image_clip.prediction.result_files import ResultFiles
from dual_image_clip.prediction.settings import settings_of


class PredictionReport(CollectsPredictions):
    """Writes :class:`ResultFiles` at the end of a prediction, also of one that is interrupted.

    The list is written first, and into a temporary folder where its own cannot take it.

    Args:
        folder: Where the files go. Without it, the trainer's folder, in which the heatmaps lie, too.
        min_area: Pixels of the photo that a defect must have at least.
    """

    def __init__(self, folder: Path | None = None, min_area: int = 0) -> None:
        super().__init__(folder, min_area=min_area)
        self._files = ResultFiles(folder or Path())

    @property
    def written(self) -> Mapping[str, Path]:
        """Files of the last run that were written, by their names."""
        return self._files.written

    @property
    def failures(self) -> list[str]:
        """Files of the last run that could not be written, each with the reason."""
        return self._files.failures

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts a run anew.

        Args:
            trainer: The trainer.
            pl_module: Not used.

        Raises:
            OutputError: A file that was not written here is in the place of one, another run is writing there, or
                nothing can be written.
        """
        super().on_predict_start(trainer, pl_module)
        self._files = ResultFiles(self.folder or Path(trainer.default_root_dir))
        self._files.claim(main=trainer.is_global_zero)
        # Processes that have not looked yet must not find what another has written.
        trainer.strategy.barrier()
        # The stock command throws away what it returns.
        if called_from("anomalib.cli.cli", "_run_subcommand"):
            trainer.predict_loop.return_predictions = False

    def conclude(
        self, trainer: Trainer, model: Any, predictions: list[Prediction], unusable: list[UnusableFile]
    ) -> None:
        """Writes the list, besides what :meth:`CollectsPredictions.conclude` does."""
        super().conclude(trainer, model, predictions, unusable)
        if self.outcome is not None:
            self._files.write_list(self.outcome)

    def on_predict_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Writes the report."""
        del trainer
        self._finish(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        """Writes the files with what there is.

        Args:
            trainer: The trainer.
            pl_module: The model.
            exception: What ended the run, such as ``KeyboardInterrupt``.
        """
        super().on_exception(trainer, pl_module, exception)
        if trainer.predicting:
            self._finish(pl_module)

    def _finish(self, model: Any) -> None:
        if self.outcome is not None:
            self._files.write_report(self.outcome, settings_of(model))
        self._files.release()
