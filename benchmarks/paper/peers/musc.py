"""MuSc (Li et al. 2024, arXiv 2401.16753): the images of a set score each other; no text.

Details that the paper leaves open are those of the published code (xrli-U/MuSc): tokens as they leave a block, layer
norm over a whole image, zero padding around the grid, Euclidean distances of features of length one.
"""

import itertools
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from benchmarks.paper.peers.clip import OrdinaryTokens, ordinary_path
from benchmarks.paper.peers.scores import Scores
from dual_image_clip.method import require_plain_vit, upsample_map

DEGREES = (1, 3, 5)
"""Sides r of the neighbourhoods."""
LOWEST_SHARE = 0.3
"""Share of the reference images, those nearest to a patch, that its score is the mean over."""
NEIGHBOURHOODS = (1, 2, 3)
"""Images in the neighbourhoods of RsCIN, the image itself among them; those of the published code for MVTec AD."""
NUM_LAYERS = 4

_PAIRS_AT_ONCE = 16


def equally_spaced_layers(depth: int) -> tuple[int, ...]:
    """Numbers of the blocks that MuSc looks at: the ends of the four quarters of the tower.

    Args:
        depth: Number of blocks.

    Returns:
        Numbers counted from one, each rounded half up; fewer than four in a tower of fewer blocks.

    Example:
        >>> equally_spaced_layers(12), equally_spaced_layers(5)
        ((3, 6, 9, 12), (1, 3, 4, 5))
    """
    quarters = ((2 * depth * quarter + NUM_LAYERS) // (2 * NUM_LAYERS) for quarter in range(1, NUM_LAYERS + 1))
    return tuple(sorted({max(1, each) for each in quarters}))


def encode(visual: Any, images: Tensor) -> OrdinaryTokens:
    """Encodes images along the ordinary path.

    Args:
        visual: A plain open_clip ``VisionTransformer``.
        images: Normalised images of the tower's own size, ``(N, 3, H, W)``.

    Returns:
        The tokens; ``class_token`` and ``layer_tokens`` are what MuSc needs.

    Raises:
        TypeError: The tower is not a plain ViT.
        ValueError: The images have another shape.
    """
    require_plain_vit(visual)
    return ordinary_path(visual, images, equally_spaced_layers(len(visual.transformer.resblocks)))


def aggregate_neighbourhood(tokens: Tensor, degree: int) -> Tensor:
    """LNAMD at one degree: each patch becomes the mean of the r×r patches around it.

    Args:
        tokens: Patch tokens behind one block, ``(N, h, w, C)``.
        degree: r, odd. Beyond the grid's edge there are zeros.

    Returns:
        Features of length one, ``(N, h w, C)``.

    Raises:
        ValueError: r is not an odd number above zero.
    """
    if degree < 1 or degree % 2 == 0:
        msg = f"the degree must be an odd number above zero, got {degree}"
        raise ValueError(msg)
    maps = F.layer_norm(tokens, tokens.shape[1:]).permute(0, 3, 1, 2)
    maps = F.avg_pool2d(maps, degree, stride=1, padding=degree // 2)
    return F.normalize(maps.flatten(2).transpose(1, 2), dim=-1)


def interval_average(distances: Tensor) -> Tensor:
    """Mean of the lowest 30 %, which is the score that MSM gives a patch.

    Args:
        distances: Distances of a patch to each reference image, ``(..., R)``.

    Returns:
        Mean over the ⌊0.3 R⌋ smallest, at least one, ``(...)``.
    """
    count = max(1, int(distances.shape[-1] * LOWEST_SHARE))
    return distances.topk(count, dim=-1, largest=False).values.mean(dim=-1)


def distances_to_references(features: Tensor, references: Tensor) -> Tensor:
    """Distance of every patch to the nearest patch of each of its image's references.

    Args:
        features: Features of length one, ``(N, P, C)``.
        references: Indices of each image's references, ``(N, R)``.

    Returns:
        Euclidean distances in 0..2, ``(N, P, R)``.
    """
    nearest = features.new_empty(*features.shape[:2], references.shape[1])
    pairs = itertools.product(range(len(features)), range(0, references.shape[1], _PAIRS_AT_ONCE))
    for image, first in pairs:
        chunk = slice(first, first + _PAIRS_AT_ONCE)
        similarity = features[image] @ features[references[image, chunk]].transpose(1, 2)
        nearest[image, :, chunk] = similarity.amax(dim=-1).T
    return _distance(nearest)


def distances_to_all_others(features: Tensor) -> Tensor:
    """Distance of every patch to the nearest patch of each other image of the set.

    Every pair of images is compared once, for both.

    Args:
        features: Features of length one, ``(N, P, C)``.

    Returns:
        Euclidean distances in 0..2; the others stand in the order of the set, ``(N, P, N - 1)``.
    """
    count, num_patches, _ = features.shape
    nearest = features.new_zeros(count, count, num_patches)
    for image in range(count):
        for first in range(image + 1, count, _PAIRS_AT_ONCE):
            others = slice(first, first + _PAIRS_AT_ONCE)
            similarity = features[image] @ features[others].transpose(1, 2)
            nearest[image, others] = similarity.amax(dim=2)
            nearest[others, image] = similarity.amax(dim=1)
    different = ~torch.eye(count, dtype=torch.bool, device=features.device)
    return _distance(nearest[different].view(count, count - 1, num_patches).transpose(1, 2))


def rescore(scores: Tensor, class_tokens: Tensor) -> Tensor:
    """RsCIN: the score of an image becomes a mean over the images that look like it.

    Args:
        scores: Scores of a set of images, ``(N,)``.
        class_tokens: Their class tokens of length one, ``(N, D)``.

    Returns:
        Scores in 0..1: brought to 0..1 within the set, then averaged over the 1, 2 and 3 most similar images, the image
        itself among them, weighted with their similarity, and over the three; ``(N,)``. A negative similarity counts
        as none. Where all scores are the same, zeros.
    """
    scaled = (scores - scores.min()) / (scores.max() - scores.min()).clamp(min=torch.finfo(scores.dtype).tiny)
    similarity = (class_tokens @ class_tokens.T).clamp(min=0)
    nearest = similarity.topk(min(max(NEIGHBOURHOODS), len(scores)))
    averages = []
    for size in NEIGHBOURHOODS:
        weights = nearest.values[:, :size]
        averages.append((weights * scaled[nearest.indices[:, :size]]).sum(dim=1) / weights.sum(dim=1))
    return torch.stack(averages).mean(dim=0)


@torch.no_grad()
def score_pairs(layer_tokens: Tensor, references: Tensor, image_size: tuple[int, int]) -> Scores:
    """Scores each image against its own references: the paper's "MuSc-2" where each has one.

    Args:
        layer_tokens: Patch tokens behind some blocks, ``(N, L, h, w, C)``.
        references: Indices of each image's references, ``(N,)`` or ``(N, R)``.
        image_size: Height and width of the maps in pixels.

    Returns:
        Maps in 0..2, and the largest value of each.

    Raises:
        ValueError: The references have another shape, an image is its own, or there is no such image.
    """
    count = len(layer_tokens)
    references = references.unsqueeze(1) if references.ndim == 1 else references
    if references.ndim != 2 or len(references) != count or not references.shape[1]:
        msg = f"references must have shape ({count},) or ({count}, R), got {tuple(references.shape)}"
        raise ValueError(msg)
    if (references < 0).any() or (references >= count).any():
        msg = f"references must be indices in 0..{count - 1}"
        raise ValueError(msg)
    if (references == torch.arange(count, device=references.device).unsqueeze(1)).any():
        msg = "an image must not be its own reference"
        raise ValueError(msg)
    return _as_scores(layer_tokens, image_size, references)


@torch.no_grad()
def score_set(layer_tokens: Tensor, class_tokens: Tensor, image_size: tuple[int, int]) -> Scores:
    """Scores each image against all others of the set, as MuSc does.

    The work grows with the square of the number of images, and so does the memory, by P floats a pair.

    Args:
        layer_tokens: Patch tokens behind some blocks, ``(N, L, h, w, C)``.
        class_tokens: Class tokens of length one, ``(N, D)``.
        image_size: Height and width of the maps in pixels.

    Returns:
        Maps in 0..2, and their largest values after RsCIN, in 0..1.

    Raises:
        ValueError: There are fewer than two images.
    """
    if len(layer_tokens) < 2:
        msg = f"MuSc needs at least two images, got {len(layer_tokens)}"
        raise ValueError(msg)
    scores = _as_scores(layer_tokens, image_size, references=None)
    return scores._replace(images=rescore(scores.images, class_tokens))


def _as_scores(layer_tokens: Tensor, image_size: tuple[int, int], references: Tensor | None) -> Scores:
    """The mean of MSM over layers and degrees, at pixels."""
    count, num_layers, rows, columns, _ = layer_tokens.shape
    total = layer_tokens.new_zeros(count, rows * columns)
    for layer, degree in itertools.product(range(num_layers), DEGREES):
        features = aggregate_neighbourhood(layer_tokens[:, layer], degree)
        distances = (
            distances_to_all_others(features) if references is None else distances_to_references(features, references)
        )
        total += interval_average(distances)
    patch_map = (total / (num_layers * len(DEGREES))).unflatten(1, (rows, columns))
    maps = upsample_map(patch_map, image_size, smooth=False)
    return Scores(images=maps.amax(dim=(-2, -1)), maps=maps)


def _distance(similarity: Tensor) -> Tensor:
    """Euclidean distance of vectors of length one from their cosine."""
    return (2 - 2 * similarity).clamp(min=0).sqrt()
