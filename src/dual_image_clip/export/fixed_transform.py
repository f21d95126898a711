"""Pre-processing of images of one size, as tensor operations that an exported graph can hold.

anomalib leaves the antialiasing out of exported graphs, which changes every image that is made smaller: the anomaly
maps would not be those of the model that was exported.
"""

from typing import Any

import torch
from anomalib.pre_processing.utils.transform import get_exportable_transform
from torch import Tensor, nn
from torchvision.transforms.v2 import Compose, Resize, Transform
from torchvision.transforms.v2.functional import resize


class FixedResize(nn.Module):
    """``Resize`` for images of one size: ``rows · image · columnsᵀ``, with its interpolation and its antialiasing.

    Args:
        transform: What is done to images of any size.
        size: Height and width of the images.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, transform: Resize, size: tuple[int, int]) -> None:
        super().__init__()
        height, width = output_size(transform, size)

        def weights(length: int, new_length: int) -> Tensor:
            # What becomes of each unit vector is a column of the matrix.
            unit_vectors = torch.eye(length).unsqueeze(0)
            shape = [new_length, length]
            return resize(unit_vectors, shape, interpolation=transform.interpolation, antialias=transform.antialias)[0]

        self.register_buffer("rows", weights(size[0], height))
        self.register_buffer("columns", weights(size[1], width))

    def forward(self, images: Tensor) -> Tensor:
        """Resizes images, ``(B, C, H, W) -> (B, C, H', W')``."""
        # OpenVINO cannot compile a product with 16-bit weights on the right and a normalisation behind it.
        return (self.columns @ (self.rows @ images).mT).mT


def fixed_transform(transform: Transform | None, size: tuple[int, int]) -> nn.Module:
    """Makes a transform for images of one size exportable without changing what it does.

    Args:
        transform: Transform of images of any size, ``None`` for none.
        size: Height and width of the images.

    Returns:
        A module that does the same to images ``(B, C, H, W)`` of this size.
    """
    steps: list[Any] = []
    for step in _steps(transform):
        new_size = output_size(step, size)
        if not isinstance(step, Resize):
            steps.append(get_exportable_transform(step))
        elif new_size != size:
            steps.append(FixedResize(step, size))
        size = new_size
    return nn.Sequential(*steps)


def output_size(transform: Transform | None, size: tuple[int, int]) -> tuple[int, int]:
    """Size of transformed images.

    Args:
        transform: Transform, ``None`` for none.
        size: Height and width before it.

    Returns:
        Height and width behind it.
    """
    if transform is None:
        return size
    height, width = transform(torch.zeros(1, 3, *size)).shape[-2:]
    return height, width


def _steps(transform: Transform | None) -> list[Transform]:
    if transform is None:
        return []
    if isinstance(transform, Compose):
        return [step for part in transform.transforms for step in _steps(part)]
    return [transform]
