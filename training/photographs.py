"""Pieces of photographs as products: four near-alike ones, of which two carry the change that a drawn defect makes."""

from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.batches import IMAGES_PER_PRODUCT, Batch, resized, turned
from training.drawn_set import FamilyData

PHOTOGRAPHS = {
    "matplotlib": ("mpl-data/sample_data/grace_hopper.jpg",),
    "skimage": tuple(
        f"data/{name}"
        for name in (
            *("astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "clock_motion.png", "coffee.png"),
            *("coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "retina.jpg", "rocket.jpg"),
            "text.png",
        )
    ),
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
}
"""Files by the package that they come in; docs/embedded_checkpoint.md has their licences."""

_AREA = (0.02, 0.5)
_SMALLEST_SIDE = 48
_ALIGNED = 0.5
_SHIFT = 0.06
_NEIGHBOURHOOD = 1.6
_STRONGEST_CHANGE = 2.0
_FULL_SCALE = 255
NO_FAMILY = -1


def load_photographs() -> list[NDArray[np.uint8]]:
    """Reads all photographs.

    Returns:
        RGB, ``(H, W, 3)`` in 0..255 each.
    """
    paths = [Path(str(files(package))) / name for package, names in PHOTOGRAPHS.items() for name in names]
    return [np.asarray(Image.open(path).convert("RGB")) for path in paths]


def draw_pieces(
    photographs: list[NDArray[np.uint8]], data: list[FamilyData], products: int, size: int, rng: np.random.Generator
) -> Batch:
    """Draws a batch of pieces.

    Args:
        photographs: What they are cut from.
        data: The drawn training set, whose defects they get.
        products: Number of products.
        size: Side of the pieces.
        rng: Source of randomness.

    Returns:
        The batch. Its families are :data:`NO_FAMILY`.
    """
    images, masks = [], []
    for _ in range(products):
        pieces = _near_alike_pieces(photographs[rng.integers(len(photographs))], size, rng)
        for place, piece in enumerate(pieces):
            if place < IMAGES_PER_PRODUCT // 2:
                image, mask = piece, np.zeros((size, size), np.uint8)
            else:
                image, mask = _with_a_drawn_change(piece, data[rng.integers(len(data))], rng)
            images.append(image)
            masks.append(mask)
    pairs = np.tile(np.arange(IMAGES_PER_PRODUCT), (products, 1))
    return Batch(np.stack(images), np.stack(masks), np.full(products, NO_FAMILY), pairs, np.zeros(products, bool))


def _near_alike_pieces(photograph: NDArray[np.uint8], size: int, rng: np.random.Generator) -> list[NDArray[np.uint8]]:
    height, width = photograph.shape[:2]
    share = np.exp(rng.uniform(*np.log(_AREA)))
    side = int(np.clip(np.sqrt(share * height * width), _SMALLEST_SIDE, min(height, width)))
    # An object lies nearly at the same place every time, a texture anywhere near.
    room = _SHIFT * side if rng.random() < _ALIGNED else (_NEIGHBOURHOOD - 1) * side
    centre = [rng.uniform(0, length - side) for length in (height, width)]
    turn = int(rng.integers(8))
    pieces = []
    for _ in range(IMAGES_PER_PRODUCT):
        row, column = (
            int(np.clip(place + rng.uniform(-room, room), 0, length - side))
            for place, length in zip(centre, (height, width), strict=True)
        )
        pieces.append(resized(turned(photograph[row : row + side, column : column + side], turn), size))
    return pieces


def _with_a_drawn_change(
    piece: NDArray[np.uint8], family: FamilyData, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Adds what a drawn defect changes of its product; where that would leave the range, its opposite."""
    size = len(piece)
    product, pair = (rng.integers(count) for count in family.images.shape[:2])
    mask = family.masks[product, pair]
    rows, columns = np.nonzero(mask)
    target = rng.integers(len(rows))
    row, column = (
        int(np.clip(place[target] - rng.integers(size), 0, length - size))
        for place, length in zip((rows, columns), mask.shape, strict=True)
    )
    cut = np.s_[row : row + size, column : column + size]
    turn = int(rng.integers(8))
    good, defective = (turned(each[cut], turn).astype(np.float32) for each in family.images[product, pair])
    change = float(rng.uniform(1, _STRONGEST_CHANGE)) * (defective - good)
    shown = turned(mask[cut], turn)
    inside = piece[shown > 0].mean() + change[shown > 0].mean()
    if not 0 <= inside <= _FULL_SCALE:
        change = -change
    return (piece + change).round().clip(0, _FULL_SCALE).astype(np.uint8), shown
