"""The 22 views of an image that AnoCLIP averages its class score over.

The published code (hq-deng/AnoVL, ``utils.py``) makes them; the papers do not list them: the image itself, eight small
rotations, eight shifts, its mirror image, a grey copy and three quarter turns. All are made from the normalised image.
"""

import math

import torch
import torch.nn.functional as F  # noqa: N812
from kornia.color import rgb_to_grayscale
from torch import Tensor

ROTATIONS = tuple(sign * sixteenths * math.pi / 16 for sixteenths in (1, 2, 3, 4) for sign in (-1, 1))
"""Angles of the small rotations in radians."""
SHIFTS = tuple((size * x, size * y) for size in (0.2, 0.1) for x in (-1, 1) for y in (-1, 1))
"""Shifts to the right and down, in half image widths and heights."""
QUARTER_TURNS = (1, 2, 3)
NUM_VIEWS = 1 + len(ROTATIONS) + len(SHIFTS) + 2 + len(QUARTER_TURNS)


def views(images: Tensor) -> Tensor:
    """Makes the views of a batch of images.

    What a rotation or shift brings in from outside is the mirrored image; values between pixels are bilinear.

    Args:
        images: Square images, ``(N, 3, S, S)``; CLIP-normalised, which matters to the grey copy only.

    Returns:
        The views, the image itself first, ``(N, 22, 3, S, S)``.

    Raises:
        ValueError: The images are not square.

    Example:
        >>> views(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 22, 3, 16, 16])
    """
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
        msg = f"images must have shape (N, 3, S, S), got {tuple(images.shape)}"
        raise ValueError(msg)
    maps = [
        *([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0]] for angle in ROTATIONS),
        *([[1, 0, -right], [0, 1, -down]] for right, down in SHIFTS),
    ]
    return torch.stack(
        [
            images,
            *(_resample(images, output_to_input) for output_to_input in maps),
            images.flip(-1),
            rgb_to_grayscale(images).expand_as(images),
            *(images.rot90(turns, (-2, -1)) for turns in QUARTER_TURNS),
        ],
        dim=1,
    )


def _resample(images: Tensor, output_to_input: list[list[float]]) -> Tensor:
    matrices = torch.tensor(output_to_input, dtype=images.dtype, device=images.device).expand(len(images), 2, 3)
    grid = F.affine_grid(matrices, list(images.shape), align_corners=True)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=True)
