"""The scores of patches and class tokens, Eq. 1–3 and 5, as pure functions on tensors."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def text_anomaly_score(tokens: Tensor, text_embeddings: Tensor, temperature: float) -> Tensor:
    """Probability of the anomalous text against the normal one (Eq. 1 for class tokens, Eq. 2–3 for patch tokens).

    Args:
        tokens: Image tokens of length one, ``(..., D)``.
        text_embeddings: Embeddings of length one of [normal, anomalous], ``(2, D)``.
        temperature: τ.

    Returns:
        Scores in 0..1, ``(...)``.

    Raises:
        ValueError: The embeddings are not two vectors of the tokens' width.

    Example:
        >>> tokens = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> text_anomaly_score(tokens, text_embeddings=torch.eye(2), temperature=0.1).round(decimals=3)
        tensor([0., 1.])
    """
    if text_embeddings.shape != (2, tokens.shape[-1]):
        msg = f"text_embeddings must have shape (2, {tokens.shape[-1]}), got {tuple(text_embeddings.shape)}"
        raise ValueError(msg)
    # The softmax over two logits is the sigmoid of their difference.
    return torch.sigmoid(tokens @ ((text_embeddings[1] - text_embeddings[0]) / temperature))


def visual_anomaly_map(query: Tensor, references: Tensor) -> Tensor:
    """Cosine distance of every query patch to its nearest reference patch (Eq. 5).

    Args:
        query: Patch tokens of length one, ``(B, h, w, D)``.
        references: Patch tokens of length one of the images that each query is compared with, ``(B, R, D)``.

    Returns:
        A^V in 0..2, ``(B, h, w)``.

    Raises:
        ValueError: Batch sizes or widths differ, or there is no reference patch.

    Example:
        >>> patch = torch.tensor([1.0, 0.0])
        >>> visual_anomaly_map(patch.view(1, 1, 1, 2), torch.stack([-patch, patch]).unsqueeze(0))
        tensor([[[0.]]])
    """
    batch, height, width, dim = query.shape
    if references.ndim != 3 or references.shape[0] != batch or references.shape[2] != dim or not references.shape[1]:  # noqa: PLR2004
        msg = f"references must have shape ({batch}, R, {dim}) with R ≥ 1, got {tuple(references.shape)}"
        raise ValueError(msg)
    similarity = torch.bmm(query.flatten(1, 2), references.transpose(1, 2))
    return (1 - similarity.amax(dim=-1)).clamp(0, 2).view(batch, height, width)


def visual_anomaly_maps(query: Tensor, references: Sequence[Tensor]) -> Tensor:
    """Cosine distance of every query patch to the nearest patch of each reference image (Eq. 5, image by image).

    Args:
        query: Patch tokens of length one, ``(B, h, w, D)``.
        references: For each of R reference images its patch tokens of length one, ``(B, N, D)``; N may differ.

    Returns:
        Distances in 0..2, ``(B, R, h, w)``.

    Raises:
        ValueError: Batch sizes or widths differ, or there is no reference, or one without patches.

    Example:
        >>> patch = torch.tensor([1.0, 0.0])
        >>> visual_anomaly_maps(patch.view(1, 1, 1, 2), [patch.view(1, 1, 2), -patch.view(1, 1, 2)]).flatten()
        tensor([0., 2.])
    """
    if not references:
        msg = "references must not be empty"
        raise ValueError(msg)
    # One after the other: the similarities to all of them at once would be R times as large.
    return torch.stack([visual_anomaly_map(query, each) for each in references], dim=1)


def aggregate_references(maps: Tensor, aggregation: str) -> Tensor:
    """Makes one map of the distances of an image to each of its references.

    - ``"minimum"``, the paper's Eq. 5, asks for a like in any reference. It is right where references are good or few,
      and where products vary. It forgives whatever a single reference has: a defect that a partner shares is not found.
    - ``"lowest_third"``, the mean of the lowest third (rounded down, at least one), asks for a like in several
      references. It is right for six references and more, a few of which may have the same defect; it still forgives
      what a third of good products have. With fewer references it is the minimum.
    - ``"median"``, the middle one or the mean of the two in the middle, asks for a like in every other reference. It is
      right for three references and more and for products that are all alike: fewer than half of the references,
      whatever they show, cannot move it beyond the distances to the others. What most references lack it calls
      anomalous, also where products may vary.

    Args:
        maps: Distances to each reference, ``(B, R, h, w)``.
        aggregation: ``"minimum"``, ``"lowest_third"`` or ``"median"``.

    Returns:
        Map in the range of the distances, ``(B, h, w)``.

    Raises:
        ValueError: The name is another, or there is no reference.

    Example:
        >>> maps = torch.tensor([0.0, 0.5, 0.75]).view(1, 3, 1, 1)
        >>> [aggregate_references(maps, name).item() for name in ("minimum", "lowest_third", "median")]
        [0.0, 0.0, 0.5]
    """
    require_aggregation(aggregation)
    if maps.ndim != 4 or not maps.shape[1]:  # noqa: PLR2004
        msg = f"maps must have shape (B, R, h, w) with R ≥ 1, got {tuple(maps.shape)}"
        raise ValueError(msg)
    return AGGREGATIONS[aggregation](maps)


def require_aggregation(name: str) -> None:
    """Checks that a way of aggregation exists.

    Args:
        name: Its name.

    Raises:
        ValueError: There is none of this name.
    """
    if name not in AGGREGATIONS:
        msg = f"aggregation={name!r} is unknown; choose one of {', '.join(map(repr, AGGREGATIONS))}"
        raise ValueError(msg)


def _minimum(maps: Tensor) -> Tensor:
    return maps.amin(dim=1)


def _lowest_third(maps: Tensor) -> Tensor:
    return maps.sort(dim=1).values[:, : max(1, maps.shape[1] // 3)].mean(dim=1)


def _median(maps: Tensor) -> Tensor:
    # torch.median would take the lower one of the two in the middle.
    count = maps.shape[1]
    return maps.sort(dim=1).values[:, (count - 1) // 2 : count // 2 + 1].mean(dim=1)


AGGREGATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "minimum": _minimum,
    "lowest_third": _lowest_third,
    "median": _median,
}
"""Ways of aggregation by name."""
