"""Regions of inspection: outside them nothing is scored, and nothing serves as a reference."""

from typing import NamedTuple

import torch
from torch import Tensor

from dual_image_clip.method.pseudo_anomaly import covered_patches, patch_share
from dual_image_clip.method.tiling import TileLayout, split_into_tiles


class Inspected(NamedTuple):
    """What of a batch of images is inspected.

    Attributes:
        pixels: Pixels inside, boolean, ``(B, H, W)``, at least one in each image.
        patches: Patches that count: those of which at least half is inside, or where there is none, those with the
            largest share; boolean, ``(B, T · h, w)``, tiles one below the other.
    """

    pixels: Tensor
    patches: Tensor

    def some(self, rows: slice) -> "Inspected":
        """Some of the images."""
        return Inspected(self.pixels[rows], self.patches[rows])


def inspected_patches(pixels: Tensor, layout: TileLayout, patch_size: tuple[int, int]) -> Inspected:
    """Finds the patches that belong to a region of pixels.

    Args:
        pixels: Pixels inside, boolean, ``(B, H, W)``.
        layout: Tiles of the images.
        patch_size: Height and width of a patch.

    Returns:
        The pixels, and the patches of all tiles.
    """
    shares = patch_share(split_into_tiles(pixels.unsqueeze(1).float(), layout), patch_size)
    by_image = shares.unflatten(0, (-1, layout.num_tiles)).flatten(1, 2)
    return Inspected(pixels, covered_patches(by_image.flatten(1)).view_as(by_image))


def as_references(patch_tokens: Tensor, inspected: Inspected | None) -> Tensor:
    """Patch tokens of images as others are compared with them.

    A patch outside has one of the patches inside in its place, which is there already: the distance to the nearest of
    all is the distance to the nearest inside, and every image keeps its number of patches.

    Args:
        patch_tokens: Patch tokens ``(B, T · h, w, D)``.
        inspected: Patches that may be references; ``None`` for all.

    Returns:
        Patch tokens ``(B, T · h · w, D)``.
    """
    tokens = patch_tokens.flatten(1, 2)
    if inspected is None:
        return tokens
    inside = inspected.patches.flatten(1)
    first = inside.int().argmax(dim=1)
    stand_in = tokens.gather(1, first[:, None, None].expand(-1, 1, tokens.shape[2]))
    return torch.where(inside.unsqueeze(-1), tokens, stand_in)


def covered_inside(covered: Tensor, inspected: Inspected | None) -> Tensor:
    """Patches that a pseudo anomaly covers and that are inspected.

    Args:
        covered: Patches that it covers, boolean, ``(B, N)``.
        inspected: Patches that count; ``None`` for all.

    Returns:
        Boolean ``(B, N)``; all that it covers where it lies outside altogether, so that every image has some.
    """
    if inspected is None:
        return covered
    both = covered & inspected.patches.flatten(1)
    # Not `torch.where`, which graphs cannot hold for truth values.
    return both | (covered & ~both.any(dim=1, keepdim=True))
