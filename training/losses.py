"""The losses of the image tower: what the detector will look at, made to tell defects from the rest."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from dual_image_clip.method import ScoreWeights, upsample_map
from training.batches import IMAGES_PER_PRODUCT

_COVERED = 0.05
_LEAST_COVERED = 0.015
_UNTOUCHED = 0.004
_EVEN_SHARE = 0.75


class PatchLabels(NamedTuple):
    """What the patches and the images of a batch show.

    Attributes:
        patches: 1 where a defect shows, ``(B, N)``.
        counted: 0 where a defect only touches a patch, which is then neither, ``(B, N)``.
        images: 1 where an image shows a defect, ``(B,)``.
        images_counted: 0 where only a trace of one is left, ``(B,)``.
    """

    patches: Tensor
    counted: Tensor
    images: Tensor
    images_counted: Tensor


def label_patches(covered: Tensor) -> PatchLabels:
    """Labels patches by the share of their area that a defect covers.

    Args:
        covered: Share of each patch, ``(B, N)`` in 0..1.

    Returns:
        The labels. The patch that is covered most counts as defective even where that is little, because thin cracks
        never cover much.
    """
    most = covered.amax(dim=1, keepdim=True)
    patches = (covered > _COVERED) | ((covered == most) & (covered > _LEAST_COVERED))
    images = patches.any(dim=1)
    return PatchLabels(
        patches.float(),
        (patches | (covered <= _UNTOUCHED)).float(),
        images.float(),
        (images | (most[:, 0] <= _UNTOUCHED)).float(),
    )


def balanced(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Binary cross-entropy in which both classes weigh the same.

    Args:
        logits: Any shape.
        labels: 0 or 1, same shape.
        weights: Weight of each, same shape.

    Returns:
        A number.
    """
    each = F.binary_cross_entropy_with_logits(logits, labels, reduction="none") * weights
    positive, negative = ((each * part).sum() / (part * weights).sum().clamp(min=1e-6) for part in (labels, 1 - labels))
    return 0.5 * (positive + negative)


def dense_loss(logits: Tensor, labels: PatchLabels, ranking: float) -> Tensor:
    """Loss of a map of logits: of patches by cross-entropy, dice and rank, of images by a soft maximum.

    Args:
        logits: ``(P · 4, N)``, four images of each product.
        labels: What the patches show.
        ranking: Weight of the ranks.

    Returns:
        A number.
    """
    # A crack of five patches must not drown in a stain of fifty.
    size = labels.patches.sum(dim=1, keepdim=True).clamp(min=1)
    weights = labels.counted * torch.where(labels.patches > 0, size**-0.5, 1.0)
    patch_loss = balanced(logits, labels.patches, weights)
    probability = logits.sigmoid() * labels.counted
    overlap = (probability * labels.patches).sum(dim=1)
    dice = 1 - (2 * overlap + 1) / (probability.sum(dim=1) + labels.patches.sum(dim=1) + 1)
    dice_loss = (dice * labels.images).sum() / labels.images.sum().clamp(min=1)
    # The offset keeps an even map of logits near 0 from looking like a defect as a whole.
    soft_maximum = torch.logsumexp(logits, dim=1) - _EVEN_SHARE * math.log(logits.shape[1])
    image_loss = balanced(soft_maximum, labels.images, labels.images_counted)
    loss = patch_loss + 0.3 * dice_loss + 0.3 * image_loss
    if ranking:
        image_ranks = ranking_loss(soft_maximum.view(-1, IMAGES_PER_PRODUCT), labels, torch.ones(()))
        loss = loss + ranking * (patch_ranking_loss(logits, labels, weights) + 0.3 * image_ranks)
    return loss


def patch_ranking_loss(logits: Tensor, labels: PatchLabels, weights: Tensor) -> Tensor:
    """How often, and by how much, a good patch scores above a defective one of the same product.

    Products differ in how suspicious all of them looks; that is of no account to whoever inspects one product.

    Args:
        logits: ``(P · 4, N)``, four images of each product.
        labels: What the patches show.
        weights: Weight of each defective patch, ``(P · 4, N)``.

    Returns:
        A number.
    """
    by_product = logits.view(len(logits) // IMAGES_PER_PRODUCT, -1)
    good = ((1 - labels.patches) * labels.counted).view_as(by_product)
    defective = labels.patches > 0
    product = (
        torch.arange(len(by_product)).repeat_interleave(IMAGES_PER_PRODUCT).unsqueeze(1).expand_as(logits)[defective]
    )
    margin = logits[defective].unsqueeze(1) - by_product[product]
    each = (F.softplus(-margin) * good[product]).sum(dim=1) / good[product].sum(dim=1).clamp(min=1)
    return (each * weights[defective]).sum() / weights[defective].sum().clamp(min=1e-6)


def joint_maps(visual_map: Tensor, language_map: Tensor) -> Tensor:
    """Eq. 12 of square maps, smoothed like the detector's, ``(B, N)`` each."""
    weights = ScoreWeights()
    fused = weights.lambda_1 * visual_map + weights.lambda_2 * language_map
    side = math.isqrt(fused.shape[1])
    return upsample_map(fused.unflatten(1, (side, side)), (side, side)).flatten(1)


def ranking_loss(scores: Tensor, labels: PatchLabels, scale: Tensor) -> Tensor:
    """How often, and by how much, a good image of a product scores above a defective one of the same product.

    Args:
        scores: Image scores, ``(P, 4)``: products, and their images.
        labels: Of the same images, ``(P · 4,)``.
        scale: Steepness.

    Returns:
        A number.
    """
    images, counted = labels.images.view_as(scores), labels.images_counted.view_as(scores)
    defective, good = images * counted, (1 - images) * counted
    pairs = defective.unsqueeze(2) * good.unsqueeze(1)
    margin = scores.unsqueeze(2) - scores.unsqueeze(1)
    return (F.softplus(-scale * margin) * pairs).sum() / pairs.sum().clamp(min=1)


def contrastive_loss(image_tokens: Tensor, texts: Tensor, classes: Tensor, logit_scale: Tensor) -> Tensor:
    """CLIP's loss, where several images may share a text.

    Args:
        image_tokens: Class tokens of length one, ``(B, D)``.
        texts: Text embedding of each image, length one, ``(B, D)``.
        classes: What each image shows; equal numbers are positives of each other, ``(B,)``.
        logit_scale: Inverse of the temperature.

    Returns:
        A number.
    """
    same = (classes.unsqueeze(0) == classes.unsqueeze(1)).float()
    targets = same / same.sum(dim=1, keepdim=True)
    logits = logit_scale * image_tokens @ texts.T
    return 0.5 * (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets))
