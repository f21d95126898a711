"""The paper's six metrics, by anomalib's implementations."""

import warnings

import torch
from anomalib.data import ImageBatch
from torch import Tensor

from benchmarks.paper.images import CategoryImages
from benchmarks.paper.peers.scores import Scores
from dual_image_clip.hooks import paper_metrics


def compute_metrics(scores: Scores, category: CategoryImages) -> dict[str, float]:
    """Measures scores against ground truth.

    Args:
        scores: Scores of all images of a category.
        category: The images.

    Returns:
        Fractions in 0..1 by metric; those of pixels only where there are masks.

    Raises:
        ValueError: A score is not finite.
    """
    if not (torch.isfinite(scores.images).all() and torch.isfinite(scores.maps).all()):
        msg = "some scores are not finite"
        raise ValueError(msg)
    metrics = paper_metrics()
    batch = ImageBatch(
        image=category.images,
        gt_label=category.labels,
        gt_mask=category.masks,
        pred_score=_to_unit_range(scores.images),
        anomaly_map=_to_unit_range(scores.maps),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for metric in metrics:
            metric.update(batch)
        found = {metric.name: metric.compute() for metric in metrics}
    return {name: float(value) for name, value in found.items() if value is not None}


def _to_unit_range(values: Tensor) -> Tensor:
    """Torchmetrics takes what lies outside 0..1 for logits; only the order of scores counts here."""
    low, high = values.aminmax()
    return ((values - low) / (high - low).clamp(min=1e-12)).cpu()
