"""What a student of patch tokens learns from its teachers: what a patch shows, and which patches are alike."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from training.batches import IMAGES_PER_PRODUCT

_SHARPNESS = 10.0
_COMPARED = 512


class FeatureHeads(nn.ModuleList):
    """Linear heads from patch tokens to the features of each teacher; thrown away afterwards.

    Args:
        width: Width of the patch tokens.
        teachers: Widths of the teachers' features.
    """

    def __init__(self, width: int, teachers: Sequence[int]) -> None:
        super().__init__(nn.Linear(width, teacher) for teacher in teachers)

    def loss(self, tokens: Tensor, features: Sequence[Tensor]) -> Tensor:
        """One minus the cosine of what is read from a patch token to what the teacher sees, averaged over teachers.

        Args:
            tokens: Patch tokens, ``(B, N, D)``.
            features: Those of each teacher at the same places, ``(B, N, C)``.

        Returns:
            A number.
        """
        each = [
            1 - F.cosine_similarity(head(tokens), seen, dim=-1).mean()
            for head, seen in zip(self, features, strict=True)
        ]
        return torch.stack(each).mean()


def cosines(tokens: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """Mean over teachers of the cosines between two lots of patches.

    Args:
        tokens: Tokens of length one of each teacher, ``(..., N, C)``.
        others: Those of the other patches, ``(..., M, C)``.

    Returns:
        ``(..., N, M)``.
    """
    return torch.stack([one @ other.transpose(-2, -1) for one, other in zip(tokens, others, strict=True)]).mean(dim=0)


def relation_loss(student: Tensor, teachers: Sequence[Tensor], generator: torch.Generator) -> Tensor:
    """How far the student's likenesses between patches of all images are from the teachers'.

    Args:
        student: Patch tokens of length one, ``(B, N, D)``.
        teachers: Those of each teacher, ``(B, N, C)``.
        generator: Draws the patches that are compared with one another.

    Returns:
        Kullback-Leibler divergence of the softmax over a patch's cosines to the others.
    """
    count = student.shape[0] * student.shape[1]
    chosen = torch.randperm(count, generator=generator)[:_COMPARED]
    itself = torch.eye(len(chosen), dtype=torch.bool)
    picked = [each.flatten(0, 1)[chosen] for each in teachers]
    of_teachers = _SHARPNESS * cosines(picked, picked)
    mine = student.flatten(0, 1)[chosen]
    of_student = _SHARPNESS * mine @ mine.T
    log_student, log_teachers = (
        each.masked_fill(itself, -torch.inf).log_softmax(dim=1).masked_fill(itself, 0)
        for each in (of_student, of_teachers)
    )
    wanted = log_teachers.exp().masked_fill(itself, 0)
    return (wanted * (log_teachers - log_student)).sum(dim=1).mean()


def distance_loss(student: Tensor, teachers: Tensor) -> Tensor:
    """How far the order of a product's patches by their distance to a reference is from the teachers'.

    Args:
        student: A^V by the student, ``(P, n)``: all patches of the images of a product.
        teachers: A^V by the teachers.

    Returns:
        One minus the correlation, averaged over products.
    """
    mine, wanted = (F.normalize(each - each.mean(dim=1, keepdim=True), dim=1) for each in (student, teachers))
    return 1 - (mine * wanted).sum(dim=1).mean()


def distances_to(tokens: list[Tensor], references: Tensor) -> Tensor:
    """A^V of the images of products, with several tokens for every patch.

    Args:
        tokens: Of each teacher, ``(P · 4, N, C)``.
        references: Who is a reference of whom, booleans ``(P, 4, 4)``.

    Returns:
        ``(P, 4 · N)``.
    """
    products = [each.unflatten(0, (-1, IMAGES_PER_PRODUCT)) for each in tokens]
    likeness = cosines([each.unsqueeze(2) for each in products], [each.unsqueeze(1) for each in products]).amax(dim=-1)
    likeness = likeness.masked_fill(~references[..., None], -torch.inf)
    return (1 - likeness.amax(dim=2)).flatten(1)
