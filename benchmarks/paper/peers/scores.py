"""What every peer hands back."""

from typing import NamedTuple

from torch import Tensor


class Scores(NamedTuple):
    """Anomaly scores of images; larger means more anomalous.

    Attributes:
        images: Score of each image, ``(N,)``.
        maps: Score of each pixel, ``(N, H, W)``.
    """

    images: Tensor
    maps: Tensor
