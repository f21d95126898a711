"""Labels and scales for predictions, with and without ground truth."""

import math
from collections import deque
from itertools import chain
from types import SimpleNamespace
from typing import Any

import torch
from anomalib.data import Batch, InferenceBatch
from anomalib.metrics import F1AdaptiveThreshold
from anomalib.post_processing import PostProcessor
from lightning import LightningModule, Trainer
from torch import Tensor
from torchmetrics.utilities.data import dim_zero_cat

from dual_image_clip.hooks.distributed import gather

# With fewer images, a median absolute deviation says nothing.
_FEWEST_IMAGES = 8
_MOST_IMAGES = 10_000
# Of a score's largest possible value: images that hardly differ are not told apart by their last digits.
_SMALLEST_DEVIATION = 0.01
# Makes the median absolute deviation of a normal distribution its standard deviation.
_DEVIATION_FACTOR = 1.4826


class AdaptiveThreshold(F1AdaptiveThreshold):
    """anomalib's adaptive threshold, in reasonable time and memory on several devices."""

    def compute(self) -> Tensor:  # type: ignore[override]
        """The threshold of the largest F1 score."""
        # Gathered from several processes, the pixels are one tensor, which anomalib would take apart pixel by pixel.
        self.target = [dim_zero_cat(self.target)]
        return super().compute()


class LabelFreePostProcessor(PostProcessor):
    """anomalib's post-processor, which also labels images where no ground truth has set a threshold.

    With ground truth (validation before a test), scores are scaled and thresholded as for every anomalib model.

    Without, scores and maps are divided by the largest value that they can take, so they lie in 0..1 and mean the same
    in every run; and an image is called anomalous when its score lies more than ``z_score`` robust standard deviations
    (1.4826 times the median absolute deviation) above the median of the images seen so far in the run. Its mask holds
    the pixels that lie as far above the median of the images' hottest pixels. As long as fewer than eight images were
    seen, none is called anomalous; the predictions that ``Engine.predict`` returns are labelled again at the end, with
    all images seen. On several devices each process sees its own images while it runs, and those of all at the end.

    Args:
        score_maximum: Largest score that the model can give.
        map_maximum: Largest value that the model's anomaly maps can have.
        threshold: Image scores (in 0..1, as predicted without ground truth) above it are anomalous, instead of any
            rule.
        z_score: Robust standard deviations above the median from which an image is anomalous.
        **kwargs: Arguments of :class:`anomalib.post_processing.PostProcessor`.

    Raises:
        ValueError: The threshold is outside 0..1.
    """

    def __init__(
        self,
        score_maximum: float = 1.0,
        map_maximum: float = 1.0,
        threshold: float | None = None,
        z_score: float = 3.5,
        **kwargs: Any,
    ) -> None:
        # Image and pixel scores have different scales here, so one's threshold does not serve the other.
        super().__init__(**{"enable_threshold_matching": False, **kwargs})
        if threshold is not None and not 0 <= threshold <= 1:
            msg = f"threshold must lie in 0..1, got {threshold}"
            raise ValueError(msg)
        self.score_maximum = score_maximum
        self.map_maximum = map_maximum
        self.threshold = threshold
        self.z_score = z_score
        self._scores: deque[float] = deque(maxlen=_MOST_IMAGES)
        self._peaks: deque[float] = deque(maxlen=_MOST_IMAGES)
        self._pixel_threshold_metric = AdaptiveThreshold(fields=["anomaly_map", "gt_mask"], strict=False)
        # With these limits the parent's normalisation is a division by the maximum, until validation has set others.
        self.image_min.fill_(0.0)
        self.image_max.fill_(score_maximum)
        self.pixel_min.fill_(0.0)
        self.pixel_max.fill_(map_maximum)

    @property
    def _checkpoint_config_keys(self) -> tuple[str, ...]:
        return (*super()._checkpoint_config_keys, "score_maximum", "map_maximum", "threshold", "z_score")

    def forget(self) -> None:
        """Forgets the images seen."""
        self._scores.clear()
        self._peaks.clear()

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts a run anew."""
        del trainer, pl_module
        self.forget()

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts a run anew."""
        del trainer, pl_module
        self.forget()

    def on_validation_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: LightningModule, outputs: Batch, *args: Any, **kwargs: Any
    ) -> None:
        """Collects the scores of a batch for thresholds and limits."""
        super().on_validation_batch_end(trainer, pl_module, outputs, *args, **kwargs)
        self._observe(outputs)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sets thresholds and limits; an explicit threshold wins over the one that ground truth gives."""
        super().on_validation_epoch_end(trainer, pl_module)
        self._share_observations()
        if self.threshold is not None:
            # anomalib has no public way to set it; `image_threshold` is a copy.
            self._image_threshold.fill_(self.threshold * self.score_maximum)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Labels the predictions that were kept once more, now that all images were seen."""
        del pl_module
        if not (self.enable_thresholding and torch.isnan(self.image_threshold)):
            return
        self._share_observations()
        limit = self.current_threshold()
        predictions: list[Any] = trainer.predict_loop.predictions or []
        # One list, or one for each data loader.
        for batch in chain.from_iterable(each if isinstance(each, list) else [each] for each in predictions):
            if isinstance(batch, Batch) and batch.pred_score is not None:
                batch.pred_label = batch.pred_score > limit.to(batch.pred_score)

    def current_threshold(self) -> Tensor:
        """The image score, as predicted, above which an image is called anomalous at this moment.

        Returns:
            Scalar in 0..1; 1, above which there is no score, as long as too few images were seen.
        """
        if not torch.isnan(self.image_threshold):
            return self.normalized_image_threshold
        limit: Any = SimpleNamespace(pred_score=torch.tensor(self._image_limit()).to(self.image_min), anomaly_map=None)
        if self.enable_normalization:
            self.normalize_batch(limit)
        return limit.pred_score.cpu()

    def can_label(self) -> bool:
        """Whether there is a threshold at this moment: a given one, ground truth's, or enough images for the rule."""
        known = not torch.isnan(self.image_threshold) or math.isfinite(self._image_limit())
        return self.enable_thresholding and bool(known)

    def post_process_batch(self, batch: Batch) -> None:
        """Scales and labels a batch of predictions.

        Args:
            batch: Batch with the scores and maps of the model.
        """
        self._observe(batch)
        for name, value in self._label_free(batch.pred_score, batch.anomaly_map).items():
            setattr(batch, name, value)
        super().post_process_batch(batch)

    def forward(self, predictions: InferenceBatch) -> InferenceBatch:
        """Scales and labels predictions that are made without a trainer; they do not count as images seen.

        Args:
            predictions: Scores and maps of the model.

        Returns:
            The same with labels and masks.
        """
        processed = super().forward(predictions)
        if not self.enable_thresholding:
            return processed
        label: Any = processed.pred_label
        mask: Any = processed.pred_mask
        if predictions.pred_score is not None:
            label_free = predictions.pred_score > self._image_limit()
            label = _choose(torch.isnan(self.image_threshold), label_free, label)
        if predictions.anomaly_map is not None:
            label_free = predictions.anomaly_map > self._pixel_limit()
            mask = _choose(torch.isnan(self.pixel_threshold), label_free, mask)
        return processed._replace(pred_label=label, pred_mask=mask)

    def _label_free(self, scores: Tensor | None, maps: Tensor | None) -> dict[str, Tensor]:
        """Label and mask, each where no ground truth has set a threshold for it."""
        found = {}
        if self.enable_thresholding and scores is not None and torch.isnan(self.image_threshold):
            found["pred_label"] = scores > self._image_limit()
        if self.enable_thresholding and maps is not None and torch.isnan(self.pixel_threshold):
            found["pred_mask"] = maps > self._pixel_limit()
        return found

    def _observe(self, batch: Batch) -> None:
        if batch.pred_score is not None:
            self._scores.extend(batch.pred_score.flatten().tolist())
        if batch.anomaly_map is not None:
            self._peaks.extend(batch.anomaly_map.flatten(1).amax(dim=1).tolist())

    def _share_observations(self) -> None:
        """Lets every process of a distributed run know the images that all have seen."""
        for seen in (self._scores, self._peaks):
            everything = gather(seen)
            seen.clear()
            seen.extend(everything)

    def _image_limit(self) -> float:
        if self.threshold is not None:
            return self.threshold * self.score_maximum
        return robust_limit(torch.tensor(self._scores), self.z_score, _SMALLEST_DEVIATION * self.score_maximum)

    def _pixel_limit(self) -> float:
        return robust_limit(torch.tensor(self._peaks), self.z_score, _SMALLEST_DEVIATION * self.map_maximum)


def _choose(condition: Tensor, labels: Tensor, others: Tensor) -> Tensor:
    """``torch.where`` for truth values, which an exported graph can hold and onnxruntime's own cannot."""
    return (condition & labels) | (~condition & others)


def robust_limit(values: Tensor, z_score: float, smallest_deviation: float) -> float:
    """The value from which another one would be an outlier.

    Args:
        values: Values seen, ``(n,)``.
        z_score: Robust standard deviations above the median.
        smallest_deviation: Least standard deviation that is assumed, for values that are all alike.

    Returns:
        The limit; infinity as long as there are fewer than eight values.
    """
    if len(values) < _FEWEST_IMAGES:
        return float("inf")
    median = values.quantile(0.5)
    deviation = _DEVIATION_FACTOR * (values - median).abs().quantile(0.5)
    return float(median + z_score * deviation.clamp(min=smallest_deviation))
