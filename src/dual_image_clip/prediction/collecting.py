"""The callback that watches a prediction run and keeps what it has found."""

import os
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch import Callback
from torch import Tensor

from dual_image_clip.hooks import LabelFreePostProcessor, UnusableFiles, evaluation_datasets, gather
from dual_image_clip.photos import UnusableFile
from dual_image_clip.prediction.batches import images_of, names_of, size_of
from dual_image_clip.prediction.deciding import decide_all
from dual_image_clip.prediction.heatmaps import HeatmapVisualizer
from dual_image_clip.prediction.predictions import Outcome, Prediction, rank
from dual_image_clip.prediction.sketch import make_sketch


class CollectsPredictions(Callback):
    """Keeps what a prediction finds, also one that is interrupted. It writes no file.

    Its place is behind the post-processor, whose scores and labels it takes over, and behind the visualizer, whose
    heatmaps it names.

    Args:
        folder: What heatmaps are named relative to. Without it, the trainer's folder.
        product: What all photos of the run show, where it is one of several.
        min_area: Pixels of the photo that a defect must have at least.

    Attributes:
        folder: See above.
        product: See above.
        min_area: See above.
        outcome: What the last run has found, on the main process; ``None`` before one.
    """

    def __init__(self, folder: Path | None = None, product: str = "", min_area: int = 0) -> None:
        self.folder = folder
        self.product = product
        self.min_area = min_area
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
        del batch, dataloader_idx
        images = images_of(outputs, pl_module)
        for index, path in enumerate(names_of(outputs, batch_idx)):
            anomaly_map = outputs.anomaly_map[index].squeeze()
            self._predictions.append(
                Prediction(
                    path=path,
                    score=float(outputs.pred_score[index]),
                    label=_label(outputs.pred_label, index),
                    num_references=outputs.num_references,
                    sketch=make_sketch(images[index], anomaly_map),
                    heatmap=self._heatmap_of(trainer, path),
                    product=self.product,
                    size=size_of(path, anomaly_map),
                )
            )

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Puts together what was found in the images of all processes."""
        # Every process has found the files that a whole folder has passed over.
        unusable = list(dict.fromkeys(gather(_passed_over(trainer))))
        predictions = gather(self._predictions)
        self._predictions = []
        if trainer.is_global_zero:
            self.conclude(trainer, pl_module, predictions, unusable)

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        """Puts together what there is, and completes the heatmaps.

        Args:
            trainer: The trainer.
            pl_module: The model.
            exception: What ended the run, such as ``KeyboardInterrupt``.
        """
        del exception
        if not trainer.predicting:
            return
        if self._predictions and trainer.is_global_zero:
            self.conclude(trainer, pl_module, self._predictions, _passed_over(trainer))
        for each in _visualizers(trainer):
            each.complete(pl_module.post_processor)
            each.release()

    def conclude(
        self, trainer: Trainer, model: Any, predictions: list[Prediction], unusable: list[UnusableFile]
    ) -> None:
        """Decides on each image by the thresholds that hold at the end, finds its defects, and sets ``outcome``.

        Args:
            trainer: The trainer.
            model: The model.
            predictions: One for each image that was scored.
            unusable: Files that were passed over.
        """
        post_processor = model.post_processor
        threshold = None
        if isinstance(post_processor, LabelFreePostProcessor):
            predictions, threshold = decide_all(predictions, post_processor, self.min_area)
        self.outcome = Outcome(rank(predictions), {self.product: threshold}, unusable, _num_files(trainer))

    def _heatmap_of(self, trainer: Trainer, path: str) -> str:
        for each in _visualizers(trainer):
            if heatmap := each.heatmap_of(path):
                return _relative(heatmap, self.folder or Path(trainer.default_root_dir))
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
