"""Where an image is anomalous: connected regions of its anomaly map, in pixels of the photo."""

from typing import NamedTuple

import cv2
import numpy as np
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


class Defect(NamedTuple):
    """A connected region of pixels above the threshold, in coordinates of the photo as a viewer shows it.

    Attributes:
        box: Left, top, width and height in pixels.
        contour: Corners ``(x, y)`` of its outline, in pixels.
        area: Number of pixels.
        share: Share of the photo's pixels, in 0..1.
        largest: Largest score of its pixels, in 0..1.
        mean: Mean score of its pixels, in 0..1.
    """

    box: tuple[int, int, int, int]
    contour: tuple[tuple[int, int], ...]
    area: int
    share: float
    largest: float
    mean: float


def find_defects(scores: Tensor, threshold: float, size: tuple[int, int], min_area: int = 0) -> tuple[Defect, ...]:
    """Finds the regions above a threshold.

    Args:
        scores: Scores of pixels in 0..1, ``(h, w)``.
        threshold: Pixels with a score above it are anomalous.
        size: Height and width of the photo, to which the scores are resized bilinearly.
        min_area: Pixels of the photo that a region must have at least.

    Returns:
        Defects, the highest largest score first.
    """
    full = F.interpolate(scores[None, None].float(), size, mode="bilinear", align_corners=False)[0, 0].cpu().numpy()
    mask = (full > threshold).astype(np.uint8)
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    found = []
    for label in range(1, count):
        left, top, width, height, area = (int(value) for value in statistics[label])
        if area < min_area:
            continue
        part = labels[top : top + height, left : left + width] == label
        values = full[top : top + height, left : left + width][part]
        outlines, _ = cv2.findContours(
            part.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=(left, top)
        )
        contour = tuple((int(x), int(y)) for x, y in outlines[0][:, 0])
        share = area / (size[0] * size[1])
        found.append(
            Defect((left, top, width, height), contour, area, share, float(values.max()), float(values.mean()))
        )
    return tuple(sorted(found, key=lambda defect: -defect.largest))
