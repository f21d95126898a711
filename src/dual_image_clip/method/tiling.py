"""Non-square images: overlapping square tiles and their way back (supplement, section 1)."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

# A 1:64 image is a strip of noise or a mistake; it would silently cost 64 tower passes.
MAX_TILES = 64


class TileLayout(NamedTuple):
    """Where the tiles of an image lie.

    Attributes:
        image_size: Height and width of the image in pixels.
        tile_size: Height and width of a tile in pixels.
        corners: Top left corner ``(y, x)`` of each tile, row by row.
    """

    image_size: tuple[int, int]
    tile_size: tuple[int, int]
    corners: tuple[tuple[int, int], ...]

    @property
    def num_tiles(self) -> int:
        """Number of tiles."""
        return len(self.corners)


def tile_layout(image_size: tuple[int, int], tile_size: tuple[int, int]) -> TileLayout:
    """Covers an image with as few evenly spaced tiles as possible.

    A side that is not longer than the tile is not cut, so that an image no larger than a tile is its own only tile.

    Args:
        image_size: Height and width of the image in pixels.
        tile_size: Largest height and width of a tile in pixels.

    Returns:
        The layout.

    Raises:
        ValueError: The image would need more than 64 tiles.
    """
    size = (min(image_size[0], tile_size[0]), min(image_size[1], tile_size[1]))
    rows, columns = (_evenly_spaced(length, tile) for length, tile in zip(image_size, size, strict=True))
    if len(rows) * len(columns) > MAX_TILES:
        msg = (
            f"an image of {image_size[0]}×{image_size[1]} pixels needs {len(rows) * len(columns)} tiles of "
            f"{size[0]}×{size[1]}, more than {MAX_TILES}: crop it, or resize it with another pre_processor"
        )
        raise ValueError(msg)
    return TileLayout(image_size, size, tuple((y, x) for y in rows for x in columns))


def split_into_tiles(images: Tensor, layout: TileLayout) -> Tensor:
    """Cuts images into tiles.

    Args:
        images: Images ``(B, C, H, W)`` of the layout's size.
        layout: Where the tiles lie.

    Returns:
        Tiles ``(B · T, C, h, w)``, all tiles of the first image first.
    """
    height, width = layout.tile_size
    tiles = [images[..., y : y + height, x : x + width] for y, x in layout.corners]
    return torch.stack(tiles, dim=1).flatten(0, 1)


def merge_tiles(tiles: Tensor, layout: TileLayout) -> Tensor:
    """Puts tiles back into images; where they overlap, their mean is taken.

    Args:
        tiles: Tiles ``(B · T, h, w)`` in the order of :func:`split_into_tiles`.
        layout: Where the tiles lie.

    Returns:
        Maps ``(B, H, W)``.
    """
    height, width = layout.tile_size
    tiles = tiles.unflatten(0, (-1, layout.num_tiles))
    total = tiles.new_zeros(tiles.shape[0], *layout.image_size)
    covered = tiles.new_zeros(layout.image_size)
    for index, (y, x) in enumerate(layout.corners):
        total[:, y : y + height, x : x + width] += tiles[:, index]
        covered[y : y + height, x : x + width] += 1
    return total / covered


def _evenly_spaced(length: int, tile: int) -> list[int]:
    count = math.ceil(length / tile)
    if count == 1:
        return [0]
    return [round(index * (length - tile) / (count - 1)) for index in range(count)]
