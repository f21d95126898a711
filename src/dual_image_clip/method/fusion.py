"""From maps of patches to the score and the anomaly map of an image, Eq. 6, 12 and 13."""

from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from dual_image_clip.method.checks import require_at_least
from dual_image_clip.method.inspected import Inspected
from dual_image_clip.method.tiling import TileLayout, merge_tiles


@dataclass(frozen=True)
class ScoreWeights:
    """The weights of Eq. 12 and 13 with the paper's values (section 4.1).

    Attributes:
        lambda_1: Weight of the visual map A^V in the anomaly map.
        lambda_2: Weight of the text map in the anomaly map: of A^T, or where nothing is adapted of A^L, whose weight in
            Eq. 6 is 1.
        lambda_3: Weight of the class token's text score in the image score.
        lambda_4: Weight of the largest visual patch score in the image score.
        lambda_5: Weight of the largest text patch score in the image score.
        peak_share: What "largest" means in the image score: the mean of so large a share of an image's patches, the
            highest ones; see :func:`peak`. 0 for the paper's maximum.

    Raises:
        ValueError: A weight is negative, all of the map or of the score are 0, or the share is not in 0..1.
    """

    lambda_1: float = 1.0
    lambda_2: float = 1.5
    lambda_3: float = 1.0
    lambda_4: float = 1.0
    lambda_5: float = 1.0
    peak_share: float = 0.0

    def __post_init__(self) -> None:
        """Checks the values."""
        require_at_least(0, **asdict(self))
        if self.peak_share > 1:
            msg = f"peak_share must be at most 1, got {self.peak_share}"
            raise ValueError(msg)
        if self.map_maximum == 0 or self.score_maximum == 0:
            msg = "lambda_1 and lambda_2 must not both be 0, nor lambda_3, lambda_4 and lambda_5 all"
            raise ValueError(msg)

    @property
    def map_maximum(self) -> float:
        """Largest value that Eq. 12 can take: A^V is at most 2 and A^T at most 1."""
        return 2 * self.lambda_1 + self.lambda_2

    @property
    def score_maximum(self) -> float:
        """Largest value that Eq. 13 can take."""
        return self.lambda_3 + 2 * self.lambda_4 + self.lambda_5


class FusedScores(NamedTuple):
    """What is said about a batch of images in the end.

    Attributes:
        images: Score of each image (Eq. 13), ``(B,)``.
        pixels: Anomaly map of each image (Eq. 12), ``(B, H, W)``; 0 where it is not inspected.
        patches: The same before it is smoothed and brought to pixels, ``(B, T · h, w)``, tiles one below the other.
    """

    images: Tensor
    pixels: Tensor
    patches: Tensor


def fuse(
    class_scores: Tensor,
    visual_map: Tensor | None,
    text_map: Tensor,
    weights: ScoreWeights,
    layout: TileLayout,
    smooth: bool = True,
    inspected: Inspected | None = None,
) -> FusedScores:
    """Puts the scores of an image together; the one place where that is done.

    Args:
        class_scores: Text score of the class token of each tile, ``(B, T)``; an image's is the mean of those that have
            a patch inside.
        visual_map: A^V, ``(B, T · h, w)``, tiles one below the other, or ``None`` where an image has no reference.
        text_map: A^T, of the same shape; A^L where nothing was adapted.
        weights: λ₁ … λ₅.
        layout: Tiles of the images.
        smooth: Whether the map is smoothed with a 3×3 mean over patches before it is upsampled.
        inspected: Where the images are inspected; ``None`` for everywhere.

    Returns:
        Score and anomaly map of each image.
    """
    patches = fuse_maps(visual_map, text_map, weights)
    class_score = _mean_of_tiles(class_scores, inspected)
    return FusedScores(
        images=fuse_scores(class_score, visual_map, text_map, weights, inspected),
        pixels=to_pixels(patches, layout, smooth, inspected),
        patches=patches,
    )


def _mean_of_tiles(class_scores: Tensor, inspected: Inspected | None) -> Tensor:
    if inspected is None:
        return class_scores.mean(dim=1)
    # Not `len`, which would fix the batch size of an exported graph.
    counted = inspected.patches.unflatten(1, (class_scores.shape[1], -1)).flatten(2).any(dim=2).to(class_scores.dtype)
    return (class_scores * counted).sum(dim=1) / counted.sum(dim=1)


def joint_anomaly_map(visual_map: Tensor | None, language_map: Tensor) -> Tensor:
    """The zero-shot vision-language map A^VL = A^V + A^L (Eq. 6).

    Args:
        visual_map: A^V, or ``None`` where an image has no reference.
        language_map: A^L, of the same shape.

    Returns:
        A^VL, of the same shape.
    """
    return language_map if visual_map is None else visual_map + language_map


def fuse_maps(visual_map: Tensor | None, text_map: Tensor, weights: ScoreWeights) -> Tensor:
    """The anomaly map of an image, λ₁ A^V + λ₂ A^T (Eq. 12).

    Args:
        visual_map: A^V, or ``None`` where an image has no reference.
        text_map: A^T; A^L where nothing was adapted.
        weights: λ₁ and λ₂.

    Returns:
        Map of the same shape.
    """
    fused = weights.lambda_2 * text_map
    return fused if visual_map is None else fused + weights.lambda_1 * visual_map


def fuse_scores(
    class_score: Tensor,
    visual_map: Tensor | None,
    text_map: Tensor,
    weights: ScoreWeights,
    inspected: Inspected | None = None,
) -> Tensor:
    """The anomaly score of an image, λ₃ A^L_cls + λ₄ max A^V + λ₅ max A^T (Eq. 13).

    Args:
        class_score: Text score of the class token, ``(B,)``.
        visual_map: A^V ``(B, h, w)``, or ``None`` where an image has no reference.
        text_map: A^T ``(B, h, w)``; A^L where nothing was adapted.
        weights: λ₃, λ₄ and λ₅, and what counts as the maximum.
        inspected: Where a maximum may lie; ``None`` for everywhere.

    Returns:
        Scores ``(B,)``.
    """
    inside = None if inspected is None else inspected.patches
    score = weights.lambda_3 * class_score + weights.lambda_5 * peak(text_map, weights.peak_share, inside)
    return score if visual_map is None else score + weights.lambda_4 * peak(visual_map, weights.peak_share, inside)


def peak(patch_map: Tensor, share: float, inside: Tensor | None = None) -> Tensor:
    """The highest scores of an image, of which a single patch may be one by chance.

    Args:
        patch_map: Scores of patches, ``(B, h, w)``.
        share: Share of the patches whose mean is taken, in 0..1; their number is rounded down, and is at least one.
        inside: Patches that count, boolean, ``(B, h, w)``, at least one in each image; ``None`` for all.

    Returns:
        Mean of the highest scores, ``(B,)``.

    Example:
        >>> import torch
        >>> patch_map = torch.tensor([[[0.0, 1.0], [0.5, 0.0]]])
        >>> peak(patch_map, share=0), peak(patch_map, share=0.5)
        (tensor([1.]), tensor([0.7500]))
    """
    scores = patch_map.flatten(1)
    if inside is None:
        return scores.topk(max(1, int(share * scores.shape[1])), dim=1).values.mean(dim=1)
    # Images of one batch may have regions of different sizes.
    number = (share * inside.flatten(1).sum(dim=1, keepdim=True)).floor().clamp(min=1)
    highest = scores.masked_fill(~inside.flatten(1), -torch.inf).sort(dim=1, descending=True).values
    taken = torch.arange(scores.shape[1], device=scores.device) < number
    return highest.where(taken, 0).sum(dim=1) / number.squeeze(1)


def upsample_map(patch_map: Tensor, size: tuple[int, int], smooth: bool = True) -> Tensor:
    """Brings a map of patches to pixels.

    Args:
        patch_map: Scores of patches, ``(B, h, w)``.
        size: Height and width in pixels.
        smooth: Whether to take the 3×3 mean (edges replicated) first, as AnoVL does.

    Returns:
        Scores of pixels, bilinearly interpolated, ``(B, H, W)``.
    """
    maps = patch_map.unsqueeze(1)
    if smooth:
        maps = F.avg_pool2d(F.pad(maps, (1, 1, 1, 1), mode="replicate"), kernel_size=3, stride=1)
    return F.interpolate(maps, size, mode="bilinear", align_corners=True).squeeze(1)


def to_pixels(patch_map: Tensor, layout: TileLayout, smooth: bool = True, inspected: Inspected | None = None) -> Tensor:
    """Brings a map of the patches of tiles to the pixels of images.

    With a region, means and interpolation are weighted, so that no patch outside has a part in them.

    Args:
        patch_map: Scores of patches, ``(B, T · h, w)``, tiles one below the other.
        layout: Tiles of the images.
        smooth: Whether to take the 3×3 mean over the patches of a tile first.
        inspected: Where the images are inspected; ``None`` for everywhere.

    Returns:
        Scores of pixels, ``(B, H, W)``; 0 where they are not inspected.
    """
    if inspected is None:
        return _merged(patch_map, layout, smooth)
    weights = inspected.patches.to(patch_map.dtype)
    # What lies outside may be anything, infinity included.
    weighted = _merged(patch_map.where(inspected.patches, 0), layout, smooth)
    pixels = weighted / _merged(weights, layout, smooth).clamp(min=torch.finfo(patch_map.dtype).tiny)
    return pixels.where(inspected.pixels, 0)


def _merged(patch_map: Tensor, layout: TileLayout, smooth: bool) -> Tensor:
    tiles = patch_map.unflatten(1, (layout.num_tiles, -1)).flatten(0, 1)
    return merge_tiles(upsample_map(tiles, layout.tile_size, smooth), layout)
