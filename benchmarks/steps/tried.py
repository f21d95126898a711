"""Steps past the paper that were tried and not taken into the detector, so that what is said of them can be rerun.

They are taken from MuSc (arXiv 2401.16753), but for leaving out patches, which is FiSeCLIP's idea, carried over from
whole references to their patches.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from dual_image_clip.method import aggregate_references, upsample_map, visual_anomaly_maps

_AT_ONCE = 16


def visual_map(tokens: Tensor, references: Tensor, partners: Tensor, aggregation: str) -> Tensor:
    """A^V of images whose patches need not be those of their references (Eq. 5).

    Args:
        tokens: Patch tokens of length one, ``(N, h, w, D)``.
        references: Patch tokens of the images that may be references, of length one or zero, ``(M, h, w, D)``.
        partners: Indices of each image's references, ``(N, R)``.
        aggregation: How several references are taken together.

    Returns:
        Maps, ``(N, h, w)``.
    """
    patches = references.flatten(1, 2)
    return torch.cat(
        [
            aggregate_references(visual_anomaly_maps(some, patches[theirs].unbind(dim=1)), aggregation)
            for some, theirs in zip(tokens.split(_AT_ONCE), partners.split(_AT_ONCE), strict=True)
        ]
    )


def neighbourhood_means(tokens: Tensor, side: int) -> Tensor:
    """LNAMD at one degree: each patch becomes the mean of those around it, at borders of those that exist.

    Args:
        tokens: Patch tokens, ``(N, h, w, D)``.
        side: Patches along a side of the neighbourhood, odd.

    Returns:
        Tokens of length one, ``(N, h, w, D)``.
    """
    maps = tokens.permute(0, 3, 1, 2)
    means = F.avg_pool2d(maps, side, stride=1, padding=side // 2, count_include_pad=False)
    return F.normalize(means.permute(0, 2, 3, 1), dim=-1)


def without_anomalous(tokens: Tensor, text_map: Tensor, share: float) -> Tensor:
    """Leaves out of references what the text finds most anomalous.

    Args:
        tokens: Patch tokens of the references, ``(M, h, w, D)``.
        text_map: A^L of the references, ``(M, h, w)``.
        share: Share of all patches that is left out.

    Returns:
        The tokens, with zeros, which are like nothing, for those that are left out.
    """
    # Not torch.quantile, which takes no more than 2^24 values.
    kept = text_map.flatten().sort().values[: round((1 - share) * text_map.numel())]
    return tokens * (text_map <= kept[-1]).unsqueeze(-1)


def block_tokens(layer_tokens: Tensor) -> Tensor:
    """Patch tokens of the ordinary path behind a block, as MuSc normalises them.

    Args:
        layer_tokens: Tokens as they leave the block, ``(N, h, w, C)``.

    Returns:
        Tokens of length one, ``(N, h, w, C)``.
    """
    return F.normalize(F.layer_norm(layer_tokens, layer_tokens.shape[1:]), dim=-1)


def smoothed(patch_map: Tensor) -> Tensor:
    """The 3×3 mean that an anomaly map has, before the maximum is taken.

    Args:
        patch_map: Scores of patches, ``(N, h, w)``.

    Returns:
        Scores of the same shape.
    """
    return upsample_map(patch_map, (patch_map.shape[1], patch_map.shape[2]))


def mean_map(maps: Sequence[Tensor]) -> Tensor:
    """The mean of several maps of the same images."""
    return torch.stack(list(maps)).mean(dim=0)
