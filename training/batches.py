"""Batches of training images: four of each product, cut, turned and photographed anew."""

from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from open_clip.transform import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor

from dual_image_clip.method import PseudoAnomalyGenerator
from dual_image_clip.procedural import FAMILIES
from training.drawn_set import IMAGE_SIZE, FamilyData

IMAGES_PER_PRODUCT = 4
_TWINS = 0.4
_SMALLEST_CUT = 150
_NATIVE_SCALE = 0.5
_GREY = 0.25
_SWAPPED_COLOURS = 0.3
_INVERTED = 0.08
_NOISY = 0.5
_BLURRED = 0.1
_SHINING_THROUGH = (0.2, 0.5)
_FULL_SCALE = 255


class Batch(NamedTuple):
    """Images of some products: two good ones and two defective ones of each, in this order.

    Attributes:
        images: RGB, ``(P · 4, S, S, 3)`` in 0..255.
        masks: Where a defect shows, ``(P · 4, S, S)``, 0 or 255.
        families: Number of each product's family, ``(P,)``.
        pairs: Which product of its category an image shows; equal numbers are the very same one, ``(P, 4)``.
        copies: Whether a product's last image is the copy of a good one with a pseudo anomaly, ``(P,)``.
    """

    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    families: NDArray[np.int64]
    pairs: NDArray[np.int64]
    copies: NDArray[np.bool_]


def draw_batch(
    data: list[FamilyData],
    products: int,
    size: int,
    rng: np.random.Generator,
    strongest: float = 1.0,
    blended_share: float = 0.0,
) -> Batch:
    """Draws a batch.

    Args:
        data: The training set.
        products: Number of products.
        size: Side of the images.
        rng: Source of randomness.
        strongest: Largest factor by which a defect may be strengthened, 1 or more.
        blended_share: Share of the products that good ones of another family shine through, 0..1.

    Returns:
        The batch.
    """
    images = np.empty((products, IMAGES_PER_PRODUCT, size, size, 3), np.uint8)
    masks = np.zeros((products, IMAGES_PER_PRODUCT, size, size), np.uint8)
    families = rng.integers(len(data), size=products)
    pairs = np.empty((products, IMAGES_PER_PRODUCT), np.int64)
    for index, family in enumerate(families):
        blended = rng.random() < blended_share
        # What shines through also hides some of the defect.
        hidden = float(rng.uniform(*_SHINING_THROUGH)) if blended else 0.0
        pairs[index] = _draw_product(data[family], images[index], masks[index], rng, strongest / (1 - hidden))
        if blended:
            _blend(data[rng.integers(len(data))], images[index], pairs[index], hidden, rng)
    copies = np.zeros(products, bool)
    return Batch(images.reshape(-1, size, size, 3), masks.reshape(-1, size, size), families, pairs, copies)


def add_pseudo_anomalies(batch: Batch, share: float, rng: np.random.Generator) -> None:
    """Corrupts the last image of some products, in place, as the test-time adaptation does: a blob of foreign texture.

    They are easier to see than the drawn defects, which nothing can be learned from at first.

    Args:
        batch: The batch; the images to corrupt are replaced by a good one.
        share: Share of the products.
        rng: Source of randomness.
    """
    batch.copies[:] = rng.random(len(batch.families)) < share
    last = np.flatnonzero(batch.copies) * IMAGES_PER_PRODUCT + IMAGES_PER_PRODUCT - 1
    if not len(last):
        return
    good = batch.images[last - 2]
    clean = torch.from_numpy(good).permute(0, 3, 1, 2).float() / _FULL_SCALE
    pseudo = PseudoAnomalyGenerator(seed=int(rng.integers(2**62)))(clean)
    corrupted = (pseudo.images.permute(0, 2, 3, 1).numpy() * _FULL_SCALE).round().clip(0, _FULL_SCALE).astype(np.uint8)
    for index, before, after, mask in zip(last, good, corrupted, pseudo.masks[:, 0].numpy(), strict=True):
        count, blobs = cv2.connectedComponents(mask.astype(np.uint8))
        blob = blobs == rng.integers(1, count)
        batch.images[index] = np.where(blob[..., None], after, before)
        batch.masks[index] = blob * np.uint8(_FULL_SCALE)
    batch.pairs.reshape(-1)[last] = batch.pairs.reshape(-1)[last - 2]


def _draw_product(
    family: FamilyData, images: NDArray[np.uint8], masks: NDArray[np.uint8], rng: np.random.Generator, strongest: float
) -> NDArray[np.int64]:
    count, pairs_there = family.images.shape[:2]
    product = rng.integers(count)
    order = rng.permutation(pairs_there)
    twins = rng.random() < _TWINS
    chosen = np.concatenate([order[:2], order[:2] if twins else order[2:4]])
    size = images.shape[1]
    side = _cut_side(size, rng)
    turn = int(rng.integers(8))
    corners = [_corner(side, family.masks[product, pair], rng) for pair in chosen[2:]]
    if FAMILIES[family.name].is_object:
        # An object is compared with the same place of its like; a texture looks alike everywhere.
        corners = [corners[rng.integers(2)]] * 2
    elif not twins:
        corners = [*(_corner(side, None, rng) for _ in range(2)), *corners]
    for place, pair in enumerate(chosen):
        defective = place // 2
        mask = family.masks[product, pair]
        row, column = corners[place % len(corners)]
        cut = np.s_[row : row + side, column : column + side]
        good_image, defective_image = (each[cut] for each in family.images[product, pair])
        image = good_image
        if defective:
            image = strengthened(good_image, defective_image, mask[cut], float(rng.uniform(1, strongest)))
        images[place] = resized(turned(image, turn), size)
        if defective:
            masks[place] = resized(turned(mask[cut], turn), size)
    return chosen


def _blend(
    family: FamilyData, images: NDArray[np.uint8], pairs: NDArray[np.int64], share: float, rng: np.random.Generator
) -> None:
    """Lets a product of another family shine through, in place: together they look like neither."""
    product = rng.integers(len(family.images))
    size = images.shape[1]
    side = _cut_side(size, rng)
    turn = int(rng.integers(8))
    row, column = _corner(side, None, rng)
    for place, pair in enumerate(pairs):
        if not FAMILIES[family.name].is_object:
            row, column = _corner(side, None, rng)
        other = family.images[product, pair, 0, row : row + side, column : column + side]
        cv2.addWeighted(images[place], 1 - share, resized(turned(other, turn), size), share, 0, dst=images[place])


def strengthened(
    good: NDArray[np.uint8], defective: NDArray[np.uint8], mask: NDArray[np.uint8], factor: float
) -> NDArray[np.uint8]:
    """Makes a defect stand out more from the very same product without it.

    Args:
        good: The product without the defect, ``(S, S, 3)`` in 0..255.
        defective: The product with it.
        mask: Where it shows, ``(S, S)``, 0 or 255. Further away nothing changes.
        factor: Factor on the difference; 1 leaves it as it is.

    Returns:
        The product with a stronger defect.
    """
    if factor == 1:
        return defective
    near = cv2.blur(cv2.dilate(mask, np.ones((5, 5), np.uint8)), (5, 5)).astype(np.float32)[..., None] / _FULL_SCALE
    change = defective.astype(np.float32) - good
    return (defective + (factor - 1) * near * change).round().clip(0, _FULL_SCALE).astype(np.uint8)


def _cut_side(size: int, rng: np.random.Generator) -> int:
    if rng.random() < _NATIVE_SCALE:
        return size
    return int(rng.integers(min(size, _SMALLEST_CUT), IMAGE_SIZE + 1))


def _corner(side: int, mask: NDArray[np.uint8] | None, rng: np.random.Generator) -> tuple[int, int]:
    """Where to cut, so that a defect can be seen, if there is one."""
    room = IMAGE_SIZE - side + 1
    for _ in range(4):
        row, column = int(rng.integers(room)), int(rng.integers(room))
        if mask is None or cv2.countNonZero(mask[row : row + side, column : column + side]):
            break
    return row, column


def turned(image: NDArray[np.uint8], turn: int) -> NDArray[np.uint8]:
    """One of the eight ways to lay a square."""
    if turn & 1:
        image = image[::-1]
    if turn & 2:
        image = image[:, ::-1]
    return np.ascontiguousarray(image.swapaxes(0, 1) if turn & 4 else image)


def resized(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """A square image with sides of another size."""
    if len(image) == size:
        return image
    how = cv2.INTER_AREA if len(image) > size else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (size, size), interpolation=how), np.uint8)


def cover_of_patches(masks: NDArray[np.uint8], patch: int) -> Tensor:
    """Share of every patch that a defect covers, ``(B, S, S) -> (B, N)``."""
    area = F.avg_pool2d(torch.from_numpy(masks).unsqueeze(1).float() / _FULL_SCALE, patch)
    return area.flatten(1)


def photograph(images: NDArray[np.uint8], generator: torch.Generator) -> Tensor:
    """Takes the products' pictures with another camera each: colours, contrast, brightness, noise and focus.

    What tells two pictures of the same product apart stays small.

    Args:
        images: RGB, ``(P · 4, S, S, 3)`` in 0..255, four of each product.
        generator: Source of randomness.

    Returns:
        Images normalised for CLIP, ``(P · 4, 3, S, S)``.
    """
    count, size = len(images), images.shape[1]
    products = count // IMAGES_PER_PRODUCT

    def of_products(low: float, high: float) -> Tensor:
        values = torch.empty(products).uniform_(low, high, generator=generator)
        return values.repeat_interleave(IMAGES_PER_PRODUCT)

    def of_images(low: float, high: float) -> Tensor:
        return torch.empty(count).uniform_(low, high, generator=generator)

    def applies_to(share: float) -> Tensor:
        return of_products(0, 1) < share

    colours = torch.eye(3).repeat(count, 1, 1)
    swapped = colours[:, torch.randperm(3, generator=generator)]
    colours = torch.where(applies_to(_SWAPPED_COLOURS)[:, None, None], swapped, colours)
    colours[applies_to(_GREY)] = 1 / 3
    contrast = of_products(0.7, 1.25) * of_images(0.94, 1.06) * torch.where(applies_to(_INVERTED), -1.0, 1.0)
    brightness = 0.5 + of_products(-0.12, 0.12) + of_images(-0.03, 0.03)
    pixels = torch.from_numpy(images).view(count, size * size, 3).transpose(1, 2).float()
    scale = (colours * (contrast / _FULL_SCALE)[:, None, None]).contiguous()
    taken = torch.baddbmm((brightness - 0.5 * contrast)[:, None, None].expand(-1, 3, 1), scale, pixels)
    taken = taken.view(count, 3, size, size)
    strength = of_products(0, 0.05) * applies_to(_NOISY)
    taken += strength[:, None, None, None] * torch.empty_like(taken).normal_(generator=generator)
    blurred = applies_to(_BLURRED)
    if blurred.any():
        taken[blurred] = F.avg_pool2d(taken[blurred], 3, stride=1, padding=1, count_include_pad=False)
    mean, deviation = (torch.tensor(each).view(3, 1, 1) for each in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    return taken.clamp_(0, 1).sub_(mean).div_(deviation)
