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
from dual_image_clip.hooks.evaluation import do_without_validation
from dual_image_clip.hooks.metrics import compared, pixels_inside

# With fewer images, a median absolute deviation says nothing.
_FEWEST_IMAGES = 8
_MOST_IMAGES = 10_000
# Of a score's largest possible value: images that hardly differ are not told apart by their last digits.
_SMALLEST_DEVIATION = 0.01
# Makes the median absolute deviation of a normal distribution its standard deviation.
_DEVIATION_FACTOR = 1.4826


class AdaptiveThreshold(F1AdaptiveThreshold):
    """anomalib's adaptive threshold for maps of any sizes, in reasonable time and memory on several devices."""

    def update(self, batch: Any) -> None:  # type: ignore[override]
        """Takes in a batch, its maps at the size of their masks, where they were inspected."""
        found = compared(batch, self.fields)
        if found.inspected is not None:
            kept = {field: pixels_inside(getattr(found, field), found.inspected) for field in self.fields}
            found = SimpleNamespace(**kept)
        super().update(found)

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
    (1.4826 times the median absolute deviation) above the median of the images seen so far in the run. As long as fewer
    than eight images were seen, none is called anomalous; the predictions that ``Engine.predict`` returns are labelled
    again at the end, with all images seen. On several devices each process sees its own images while it runs, and those
    of all at the end.

    Where no ground truth has set a threshold for pixels, that of the images serves them, too (see
    :func:`pixel_scores`): an image that is called anomalous has at least its hottest pixels in its mask, one that is
    not has an empty one, and in whatever order images come, equal ones with equal labels have equal masks.

    Args:
        score_maximum: Largest score that the model can give.
        map_maximum: Largest value that the model's anomaly maps can have.
        threshold: Scores of images and pixels (in 0..1, as predicted without ground truth) above it are anomalous,
            instead of any rule.
        map_threshold: Values of anomaly maps (in 0..1, as predicted without ground truth) above it are anomalous
            pixels, whatever the image's label; without it, ``threshold`` or the rule serves them.
        z_score: Robust standard deviations above the median from which an image is anomalous.
        **kwargs: Arguments of :class:`anomalib.post_processing.PostProcessor`.

    Raises:
        ValueError: A threshold is outside 0..1.
    """

    def __init__(
        self,
        score_maximum: float = 1.0,
        map_maximum: float = 1.0,
        threshold: float | None = None,
        z_score: float = 3.5,
        map_threshold: float | None = None,
        **kwargs: Any,
    ) -> None:
        # Image and pixel scores have different scales here, so one's threshold does not serve the other.
        super().__init__(**{"enable_threshold_matching": False, **kwargs})
        for name, value in (("threshold", threshold), ("map_threshold", map_threshold)):
            if value is not None and not 0 <= value <= 1:
                msg = f"{name} must lie in 0..1, got {value}"
                raise ValueError(msg)
        self.score_maximum = score_maximum
        self.map_maximum = map_maximum
        self.threshold = threshold
        self.map_threshold = map_threshold
        self.z_score = z_score
        self._scores: deque[float] = deque(maxlen=_MOST_IMAGES)
        self._pixel_threshold_metric = AdaptiveThreshold(fields=["anomaly_map", "gt_mask"], strict=False)
        # With these limits the parent's normalisation is a division by the maximum, until validation has set others.
        self.image_min.fill_(0.0)
        self.image_max.fill_(score_maximum)
        self.pixel_min.fill_(0.0)
        self.pixel_max.fill_(map_maximum)

    @property
    def _checkpoint_config_keys(self) -> tuple[str, ...]:
        return (
            *super()._checkpoint_config_keys,
            "score_maximum",
            "map_maximum",
            "threshold",
            "z_score",
            "map_threshold",
        )

    def forget(self) -> None:
        """Forgets the images seen."""
        self._scores.clear()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lets a datamodule that was told to have no validation images do without; the rule then labels."""
        del pl_module, stage
        do_without_validation(getattr(trainer, "datamodule", None))

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
            self._pixel_threshold.fill_(math.nan)
        if self.map_threshold is not None:
            self._pixel_threshold.fill_(self.map_threshold * self.map_maximum)

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
                self._label(batch, limit.to(batch.pred_score))

    def current_threshold(self) -> Tensor:
        """The score, as predicted, above which an image is called anomalous at this moment.

        Where no ground truth has set a threshold for pixels, it holds for :func:`pixel_scores` as well.

        Returns:
            Scalar in 0..1; 1, above which there is no score, as long as too few images were seen.
        """
        if not torch.isnan(self.image_threshold):
            return self.normalized_image_threshold
        limit: Any = SimpleNamespace(pred_score=torch.tensor(self._image_limit()).to(self.image_min), anomaly_map=None)
        if self.enable_normalization:
            self.normalize_batch(limit)
        return limit.pred_score.cpu()

    def current_pixel_threshold(self) -> Tensor:
        """What :meth:`comparable_maps` are compared with at this moment: pixels above it are anomalous.

        Returns:
            Scalar in 0..1.
        """
        if not torch.isnan(self.pixel_threshold):
            return self.normalized_pixel_threshold
        if self.map_threshold is not None:
            return torch.tensor(self.map_threshold)
        return self.current_threshold()

    def comparable_maps(self, scores: Tensor, maps: Tensor) -> Tensor:
        """Brings maps to the scale of :meth:`current_pixel_threshold`.

        Args:
            scores: Scores of images as predicted, ``(B,)``.
            maps: Their anomaly maps as predicted, ``(B, H, W)``.

        Returns:
            The maps where there is a threshold for them, else :func:`pixel_scores`.
        """
        return maps if self.has_pixel_threshold else pixel_scores(scores, maps)

    @property
    def has_pixel_threshold(self) -> bool:
        """Whether pixels have a threshold of their own, a given one or ground truth's."""
        return self.map_threshold is not None or not bool(torch.isnan(self.pixel_threshold))

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
        if self.enable_thresholding and batch.pred_score is not None:
            self._label(batch, self._limit())
        super().post_process_batch(batch)
        inspected = getattr(batch, "inspected", None)
        if inspected is not None and batch.anomaly_map is not None:
            # Ground truth's scale has another zero.
            batch.anomaly_map = batch.anomaly_map * inspected
            batch.pred_mask = None if batch.pred_mask is None else batch.pred_mask & inspected

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
        scores, maps = predictions.pred_score, predictions.anomaly_map
        label: Any = processed.pred_label
        mask: Any = processed.pred_mask
        if scores is not None:
            label = _choose(torch.isnan(self.image_threshold), scores > self._limit(), label)
        if scores is not None and maps is not None:
            mask = _choose(torch.isnan(self.pixel_threshold), self._mask(scores, maps, self._limit()), mask)
        return processed._replace(pred_label=label, pred_mask=mask)

    def _label(self, batch: Batch, limit: Tensor) -> None:
        """Sets label and mask, each where no ground truth has set a threshold for it."""
        scores: Any = batch.pred_score
        if torch.isnan(self.image_threshold):
            batch.pred_label = scores > limit
        if batch.anomaly_map is not None and torch.isnan(self.pixel_threshold):
            batch.pred_mask = self._mask(scores, batch.anomaly_map, limit)

    def _mask(self, scores: Tensor, maps: Tensor, limit: Tensor) -> Tensor:
        """Anomalous pixels of the model's own maps."""
        if self.map_threshold is not None:
            return maps > self.map_threshold * self.map_maximum
        return pixel_scores(scores, maps) > limit

    def _observe(self, batch: Batch) -> None:
        if batch.pred_score is not None:
            self._scores.extend(batch.pred_score.flatten().tolist())

    def _share_observations(self) -> None:
        """Lets every process of a distributed run know the images that all have seen."""
        everything = gather(self._scores)
        self._scores.clear()
        self._scores.extend(everything)

    def _limit(self) -> Tensor:
        """The model's score above which images are called anomalous, and pixels without a threshold of their own."""
        # A sensitivity moves anomalib's threshold within the range of scores.
        moved = self.image_threshold + (0.5 - self.image_sensitivity) * (self.image_max - self.image_min)
        return torch.where(torch.isnan(self.image_threshold), self._image_limit(), moved)

    def _image_limit(self) -> float:
        if self.threshold is not None:
            return self.threshold * self.score_maximum
        return robust_limit(torch.tensor(self._scores), self.z_score, _SMALLEST_DEVIATION * self.score_maximum)


def pixel_scores(scores: Tensor, maps: Tensor) -> Tensor:
    """Spreads the scores of images over their pixels, so that one threshold serves both.

    An image's score holds more than its map (Eq. 13 adds the class token's), so no value of the map alone belongs to a
    threshold of scores. Here each pixel has the share of the image's score that its map value has of the hottest one,
    s · A(x) / max A: the hottest has the score itself, and lies above a threshold exactly where the image does. That
    depends on no other image, and a graph can hold it.

    Args:
        scores: Scores of images, 0 or more, ``(B,)``.
        maps: Their anomaly maps, 0 or more, ``(B, H, W)``, on whatever scale.

    Returns:
        Scores of pixels ``(B, H, W)``, from 0 to the image's score; 0 where a map is empty.
    """
    hottest = maps.amax(dim=(-2, -1), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)
    return maps / hottest * scores[:, None, None]


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
