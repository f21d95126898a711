"""Labels and masks by thresholds that an exported file has as constants of their own, so that they can be changed."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from anomalib.data import InferenceBatch
from torch import Tensor, nn

from dual_image_clip.hooks import LabelFreePostProcessor, pixel_scores

_NEVER = 2.0


class Thresholds(NamedTuple):
    """What an exported file decides by, on the scale of its own scores and maps; its constants have these names.

    Attributes:
        threshold: Images with a score above it are anomalous.
        score_threshold: Pixels with a share of their image's score above it are anomalous, see
            :func:`~dual_image_clip.hooks.pixel_scores`; 2, above which there are none, where they have a threshold of
            their own.
        map_threshold: Pixels with a value of the anomaly map above it are anomalous; 2 where they have none of their
            own.
    """

    threshold: float
    score_threshold: float
    map_threshold: float


# Exporters make one of constants that are equal, so each is another number than any in a graph until that is made.
STAND_INS = Thresholds(0.7180339, 0.5671433, 0.3028775)
"""What stands for the thresholds while a graph is made, by which they are found in it."""


def thresholds_of(threshold: float, map_threshold: float | None) -> Thresholds:
    """What decides, given what a user says.

    Args:
        threshold: Images with a score above it are anomalous, in 0..1.
        map_threshold: Pixels with a value of the anomaly map above it are anomalous, in 0..1; without it, those whose
            share of their image's score lies above ``threshold``.

    Returns:
        The thresholds.

    Raises:
        ValueError: One is outside 0..1.
    """
    for name, value in (("threshold", threshold), ("map_threshold", map_threshold)):
        if value is not None and not 0 <= value <= 1:
            msg = f"{name} must lie in 0..1, got {value}"
            raise ValueError(msg)
    if map_threshold is None:
        return Thresholds(threshold, threshold, _NEVER)
    return Thresholds(threshold, _NEVER, map_threshold)


class Decision(nn.Module):
    """Scales predictions as a post-processor does, and labels them by thresholds that are constants of a graph.

    Each is compared with what a graph computes, so no exporter can fold it into another constant.

    Args:
        post_processor: Has the scales, and the thresholds at this moment.

    Attributes:
        stands_in: Whether :data:`STAND_INS` are in the place of the thresholds.
    """

    threshold: Tensor
    score_threshold: Tensor
    map_threshold: Tensor

    def __init__(self, post_processor: LabelFreePostProcessor) -> None:
        super().__init__()
        self.scales = post_processor
        self.stands_in = False
        pixels = float(post_processor.current_pixel_threshold()) if post_processor.has_pixel_threshold else None
        for name, value in thresholds_of(float(post_processor.current_threshold()), pixels)._asdict().items():
            self.register_buffer(name, torch.tensor(value))

    def forward(self, predictions: InferenceBatch) -> InferenceBatch:
        """Scales and labels predictions.

        Args:
            predictions: Scores and maps of the model.

        Returns:
            The same with labels and masks.
        """
        raw: Any = predictions
        scores, maps = self._scaled(raw.pred_score, raw.anomaly_map)
        shares, _ = self._scaled(pixel_scores(raw.pred_score, raw.anomaly_map), None)
        return InferenceBatch(
            pred_score=scores,
            pred_label=scores > self.threshold,
            anomaly_map=maps,
            pred_mask=(shares > self.score_threshold) | (maps > self.map_threshold),
        )

    @property
    def thresholds(self) -> Thresholds:
        """The thresholds."""
        return Thresholds(*(float(getattr(self, name)) for name in Thresholds._fields))

    def decide_by(self, thresholds: Thresholds) -> None:
        """Takes other thresholds.

        Args:
            thresholds: The thresholds.
        """
        for name, value in thresholds._asdict().items():
            getattr(self, name).fill_(value)

    @contextmanager
    def standing_in(self) -> Iterator[None]:
        """Puts :data:`STAND_INS` in the place of the thresholds for a while."""
        own, self.stands_in = self.thresholds, True
        self.decide_by(STAND_INS)
        try:
            yield
        finally:
            self.decide_by(own)
            self.stands_in = False

    def _scaled(self, scores: Tensor, maps: Tensor | None) -> tuple[Tensor, Any]:
        batch: Any = SimpleNamespace(pred_score=scores, anomaly_map=maps)
        if self.scales.enable_normalization:
            self.scales.normalize_batch(batch)
        return batch.pred_score, batch.anomaly_map
