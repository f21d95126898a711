"""The callback that watches a prediction run and writes what it has found."""

import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch import Callback
from torch import Tensor

from dual_image_clip.callers import called_from
from dual_image_clip.hooks import LabelFreePostProcessor, UnusableFiles, evaluation_datasets, gather
from dual_image_clip.photos import UnusableFile
from dual_image_clip.prediction.batches import images_of, names_of
from dual_image_clip.prediction.heatmaps import HeatmapVisualizer
from dual_image_clip.prediction.html_report import write_report
from dual_image_clip.prediction.output_folder import OutputFolder
from dual_image_clip.prediction.predictions import Outcome, Prediction, csv_text, decide, on_one_line, rank, write_csv
from dual_image_clip.prediction.settings import settings_of, versions
from dual_image_clip.prediction.sketch import make_sketch

logger = logging.getLogger(__name__)

CSV_NAME = "predictions.csv"
REPORT_NAME = "report.html"
_MOST_NAMED = 5


class PredictionReport(Callback):
    """Writes ``predictions.csv`` and ``report.html`` at the end of a prediction, also of one that is interrupted.

    Its place is behind the post-processor, whose scores and labels it takes over, and behind the visualizer, whose
    heatmaps it names. The list is written first, and into a temporary folder where its own cannot take it.

    Args:
        folder: Where the files go. Without it, the trainer's folder, in which the heatmaps lie, too.

    Attributes:
        folder: See above.
        outcome: What the last run has found, on the main process; ``None`` before one.
        written: Files of the last run that were written: :data:`CSV_NAME` and :data:`REPORT_NAME`.
        failures: Files of the last run that could not be written, each with the reason.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.outcome: Outcome | None = None
        self.written: dict[str, Path] = {}
        self._output = OutputFolder(Path())
        self._predictions: list[Prediction] = []

    @property
    def failures(self) -> list[str]:
        """See the class."""
        return self._output.failures

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts a run anew.

        Args:
            trainer: The trainer.
            pl_module: Not used.

        Raises:
            OutputError: A file that was not written here is in the place of one, another run is writing there, or
                nothing can be written.
        """
        del pl_module
        self.outcome = None
        self.written = {}
        self._predictions = []
        self._output = OutputFolder(self.folder or Path(trainer.default_root_dir))
        self._output.claim((CSV_NAME, REPORT_NAME), main=trainer.is_global_zero)
        # Processes that have not looked yet must not find what another has written.
        trainer.strategy.barrier()
        # The stock command throws away what it returns.
        if called_from("anomalib.cli.cli", "_run_subcommand"):
            trainer.predict_loop.return_predictions = False

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keeps the scores of a batch and small pictures of its images."""
        del batch, dataloader_idx
        images = images_of(outputs, pl_module)
        for index, path in enumerate(names_of(outputs, batch_idx)):
            self._predictions.append(
                Prediction(
                    path=path,
                    score=float(outputs.pred_score[index]),
                    label=_label(outputs.pred_label, index),
                    num_references=outputs.num_references,
                    sketch=make_sketch(images[index], outputs.anomaly_map[index].squeeze()),
                    heatmap=self._heatmap_of(trainer, path),
                )
            )

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Writes the list, with the images of all processes."""
        # Every process has found the files that a whole folder has passed over.
        unusable = list(dict.fromkeys(gather(_passed_over(trainer))))
        predictions = gather(self._predictions)
        self._predictions = []
        if trainer.is_global_zero:
            self._write_list(trainer, pl_module, predictions, unusable)

    def on_predict_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Writes the report."""
        if trainer.is_global_zero:
            self._write_report(pl_module)
        self._output.release()

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        """Writes the files with what there is.

        Args:
            trainer: The trainer.
            pl_module: The model.
            exception: What ended the run, such as ``KeyboardInterrupt``.
        """
        del exception
        if not trainer.predicting:
            return
        if self._predictions and trainer.is_global_zero:
            self._write_list(trainer, pl_module, self._predictions, _passed_over(trainer))
        for each in _visualizers(trainer):
            each.complete(pl_module.post_processor)
            each.release()
        if self.outcome is not None:
            self._write_report(pl_module)
        self._output.release()

    def _write_list(
        self, trainer: Trainer, model: Any, predictions: list[Prediction], unusable: list[UnusableFile]
    ) -> None:
        post_processor = model.post_processor
        threshold = None
        if isinstance(post_processor, LabelFreePostProcessor):
            threshold = float(post_processor.current_threshold()) if post_processor.can_label() else None
            predictions = [each._replace(label=decide(each.score, threshold)) for each in predictions]
        self.outcome = Outcome(rank(predictions), threshold, unusable, _num_files(trainer))
        if not self._write(self._output, CSV_NAME, partial(write_csv, self.outcome)):
            self._write_list_elsewhere(self.outcome)

    def _write_list_elsewhere(self, outcome: Outcome) -> None:
        try:
            spare = OutputFolder(Path(tempfile.mkdtemp(prefix="dual-image-clip-")))
            written = self._write(spare, CSV_NAME, partial(write_csv, outcome))
        except OSError:
            written = False
        if not written:
            logger.error("The list could not be written anywhere. It is:\n%s", csv_text(outcome))

    def _write_report(self, model: Any) -> None:
        outcome: Any = self.outcome
        self._write(self._output, REPORT_NAME, partial(write_report, outcome, settings_of(model), versions()))
        for failure in self.failures:
            logger.error("%s", failure)
        if CSV_NAME in self.written and self.written[CSV_NAME].parent != self._output.folder:
            logger.error("The list is in %s instead.", self.written[CSV_NAME])
        _tell(outcome, self.written)

    def _write(self, output: OutputFolder, name: str, write: Callable[[Path], None]) -> bool:
        if written := output.write(name, write):
            self.written[name] = output.folder / name
        return written

    def _heatmap_of(self, trainer: Trainer, path: str) -> str:
        for each in _visualizers(trainer):
            if heatmap := each.heatmap_of(path):
                return _relative(heatmap, self._output.folder)
        return ""


def _relative(path: Path, folder: Path) -> str:
    try:
        return os.path.relpath(path, folder)
    except ValueError:
        # On another drive.
        return str(path)


def _visualizers(trainer: Trainer) -> list[HeatmapVisualizer]:
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return [each for each in callbacks if isinstance(each, HeatmapVisualizer)]


def _passed_over(trainer: Trainer) -> list[UnusableFile]:
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return [file for each in callbacks if isinstance(each, UnusableFiles) for file in each.passed_over]


def _num_files(trainer: Trainer) -> int:
    datasets = [each for each in evaluation_datasets(trainer) if hasattr(each, "__len__")]
    return sum(len(each) + len(getattr(each, "unusable", ())) for each in datasets)


def _label(labels: Tensor | None, index: int) -> str:
    if labels is None:
        return "undecided"
    return "anomalous" if labels[index] else "normal"


def _tell(outcome: Outcome, written: Mapping[str, Path]) -> None:
    if outcome.unusable:
        named = "".join(f"\n  {on_one_line(each.path)}: {each.reason}" for each in outcome.unusable[:_MOST_NAMED])
        more = len(outcome.unusable) - _MOST_NAMED
        logger.warning(
            "%d file(s) could not be used:%s%s",
            len(outcome.unusable),
            named,
            f"\n  and {more} more" if more > 0 else "",
        )
    logger.info("The ranked images: %s", " and ".join(map(str, written.values())))
