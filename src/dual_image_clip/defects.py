"""Where an image is anomalous: connected regions of its anomaly map, in pixels of the photo."""

import math
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor

# Values that are kept of a map for so many of its pixels in a row. Maps are bilinear between the centres of patches,
# mostly of 16 pixels; of three values for a patch, one lies on its centre.
_KEPT, _OF = 3, 16
# An outline is simplified by at most a pixel, and a short one by less: shares of its length and of its area.
_MOST_ASIDE, _ASIDE, _AREA_CHANGE = 1.0, 0.0025, 0.02


class Defect(NamedTuple):
    """A connected region of pixels above the threshold, in coordinates of the photo as a viewer shows it.

    Pixels that touch at a corner are connected.

    Attributes:
        box: Left, top, width and height in pixels.
        contour: Corners ``(x, y)`` of the polygon around it, on the edges of pixels: from 0 to the photo's width and
            height. Where the region has holes, the polygon runs around them, too. It is true to about a pixel.
        area: Number of pixels, without holes.
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


def small_map(anomaly_map: Tensor) -> Tensor:
    """What is kept of an anomaly map: enough to find its defects in, and little enough to keep it for thousands.

    Args:
        anomaly_map: Map ``(H, W)``.

    Returns:
        Its values at every third of a patch, in half precision on the CPU, ``(h, w)``: 4 kB of 240 × 240 pixels.
    """
    size = [math.ceil(side * _KEPT / _OF) for side in anomaly_map.shape]
    return F.interpolate(anomaly_map[None, None].float(), size, mode="bilinear")[0, 0].half().cpu()


def find_defects(scores: Tensor, threshold: float, size: tuple[int, int], min_area: int = 0) -> tuple[Defect, ...]:
    """Finds the regions above a threshold.

    There is at least one, before small ones are left out, exactly where a score lies above the threshold.

    Args:
        scores: Scores of pixels in 0..1, ``(h, w)``, such as those of a :func:`small_map`.
        threshold: Pixels with a score above it are anomalous.
        size: Height and width of the photo, to which the scores are resized bilinearly.
        min_area: Pixels of the photo that a region must have at least.

    Returns:
        Defects, the highest largest score first.
    """
    scores = scores.float().cpu()
    if not scores.max() > threshold:
        return ()
    full, (left, top) = _around_hot(scores, threshold, size)
    # The hottest place of the map lies between pixels of the photo: the nearest stand for it.
    full[full == full.max()] = float(scores.max())
    _, labels, statistics, _ = cv2.connectedComponentsWithStats((full > threshold).astype(np.uint8), connectivity=8)
    found = []
    for label, (x, y, width, height, area) in enumerate(statistics.tolist()):
        # The first is everything else.
        if label == 0 or area < min_area:
            continue
        place = np.s_[y : y + height, x : x + width]
        region = labels[place] == label
        values = full[place][region]
        found.append(
            Defect(
                box=(left + x, top + y, width, height),
                contour=tuple((left + x + column, top + y + row) for column, row in _polygon(region).tolist()),
                area=area,
                share=area / (size[0] * size[1]),
                largest=float(values.max()),
                mean=float(values.mean(dtype=np.float64)),
            )
        )
    return tuple(sorted(found, key=lambda defect: -defect.largest))


def _around_hot(scores: Tensor, threshold: float, size: tuple[int, int]) -> tuple[NDArray, tuple[int, int]]:
    """The scores at the size of the photo, as far as they can lie above the threshold, and the place of that part."""
    hot = scores > threshold
    rows, columns = _weights(scores.shape[0], size[0]), _weights(scores.shape[1], size[1])
    rows, top = _of_use(rows, hot.any(dim=1))
    columns, left = _of_use(columns, hot.any(dim=0))
    return (rows @ scores @ columns.T).numpy(), (left, top)


def _weights(length: int, wanted: int) -> Tensor:
    """What each pixel of a map's side adds to each of the photo's, bilinearly: ``(wanted, length)``."""
    each = torch.eye(length)[None, None]
    return F.interpolate(each, (wanted, length), mode="bilinear", align_corners=False, antialias=True)[0, 0]


def _of_use(weights: Tensor, hot: Tensor) -> tuple[Tensor, int]:
    """The weights from the first of the photo's pixels that a hot one has a part in to the last, and the first."""
    touched = (weights[:, hot] > 0).any(dim=1).nonzero()
    first, last = int(touched[0]), int(touched[-1])
    return weights[first : last + 1], first


def _polygon(region: NDArray) -> NDArray:
    """Corners ``(x, y)`` of the polygon around a connected region ``(h, w)``, on the edges of pixels."""
    # OpenCV's outlines run through the centres of pixels. With four for each, those of the finer ones map to edges.
    fine = region.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    (centres,), _ = cv2.findContours(fine, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    exact = cv2.approxPolyDP((centres + 1) // 2, 0, closed=True)
    aside = min(_MOST_ASIDE, _ASIDE * cv2.arcLength(exact, closed=True))
    simple = cv2.approxPolyDP(exact, aside, closed=True)
    area = cv2.contourArea(exact)
    # A thin one would lose itself.
    return (simple if abs(cv2.contourArea(simple) - area) <= _AREA_CHANGE * area else exact)[:, 0]
