"""The callback that watches a prediction run and writes what it has found."""

import logging
from pathlib import Path
from typing import Any

from kornia.enhance import denormalize
from lightning import LightningModule, Trainer
from lightning.pytorch import Callback
from torch import Tensor

from dual_image_clip.hooks import LabelFreePostProcessor, UnusableFile, UnusableFiles, evaluation_datasets, gather
from dual_image_clip.prediction.html_report import write_report
from dual_image_clip.prediction.predictions import Outcome, Prediction, decide, printable, rank, write_csv
from dual_image_clip.prediction.settings import settings_of, versions
from dual_image_clip.prediction.sketch import make_sketch

logger = logging.getLogger(__name__)

CSV_NAME = "predictions.csv"
REPORT_NAME = "report.html"
_MOST_NAMED = 5


class PredictionReport(Callback):
    """Writes ``predictions.csv`` and ``report.html`` at the end of a prediction, also of one that is interrupted.

    Its place is behind the post-processor, whose scores and labels it takes over.

    Args:
        folder: Where the files go. Without it, the trainer's folder, in which anomalib draws its heatmaps, too.

    Attributes:
        folder: See above.
        outcome: What the last run has found, on the main process; ``None`` before one.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.outcome: Outcome | None = None
        self._predictions: list[Prediction] = []

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts a run anew."""
        del trainer, pl_module
        self.outcome = None
        self._predictions = []

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keeps the scores of a batch and small pictures of its images."""
        del trainer, batch, dataloader_idx
        model = pl_module.model
        images = denormalize(outputs.image, model.image_mean, model.image_std)
        paths = outputs.image_path or [f"image {batch_idx}.{index}" for index in range(len(images))]
        for index, path in enumerate(paths):
            self._predictions.append(
                Prediction(
                    path=path,
                    score=float(outputs.pred_score[index]),
                    label=_label(outputs.pred_label, index),
                    num_references=outputs.num_references,
                    sketch=make_sketch(images[index], outputs.anomaly_map[index].squeeze()),
                )
            )

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the files, with the images of all processes."""
        predictions, unusable = gather(self._predictions), gather(_passed_over(trainer))
        if trainer.is_global_zero:
            self._write(trainer, pl_module, predictions, unusable)
        self._predictions = []

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Writes the files with what there is.

        Args:
            trainer: The trainer.
            pl_module: The model.
            exception: What ended the run, such as ``KeyboardInterrupt``.
        """
        del exception
        if self._predictions and trainer.is_global_zero:
            self._write(trainer, pl_module, self._predictions, _passed_over(trainer))

    def _write(self, trainer: Trainer, model: Any, predictions: list[Prediction], unusable: list[UnusableFile]) -> None:
        post_processor = model.post_processor
        threshold = None
        if isinstance(post_processor, LabelFreePostProcessor):
            threshold = float(post_processor.current_threshold()) if post_processor.can_label() else None
            predictions = [each._replace(label=decide(each.score, threshold)) for each in predictions]
        total = sum(len(dataset) for dataset in evaluation_datasets(trainer) if hasattr(dataset, "__len__"))
        self.outcome = Outcome(rank(predictions), threshold, unusable, total)
        folder = self.folder or Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        # The list first: it is small, and what a second interruption must not cost.
        write_csv(self.outcome, folder / CSV_NAME)
        write_report(self.outcome, settings_of(model), versions(), folder / REPORT_NAME)
        _tell(self.outcome, folder)


def _passed_over(trainer: Trainer) -> list[UnusableFile]:
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return [file for each in callbacks if isinstance(each, UnusableFiles) for file in each.passed_over]


def _label(labels: Tensor | None, index: int) -> str:
    if labels is None:
        return "undecided"
    return "anomalous" if labels[index] else "normal"


def _tell(outcome: Outcome, folder: Path) -> None:
    if outcome.unusable:
        named = "".join(f"\n  {printable(each.path)}: {each.reason}" for each in outcome.unusable[:_MOST_NAMED])
        more = len(outcome.unusable) - _MOST_NAMED
        logger.warning(
            "%d file(s) could not be used:%s%s",
            len(outcome.unusable),
            named,
            f"\n  and {more} more" if more > 0 else "",
        )
    logger.info("The ranked images: %s and %s", folder / REPORT_NAME, folder / CSV_NAME)
