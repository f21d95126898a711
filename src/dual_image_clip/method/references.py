"""Who is whose reference (section 3.2 of the paper: "randomly selecting pairs of test images")."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dual_image_clip.method.checks import require_at_least
from dual_image_clip.method.scoring import require_aggregation


@dataclass(frozen=True)
class ReferenceSettings:
    """Which images each image is compared with.

    Attributes:
        num_references: Unlabelled images that each image is compared with; 0 for none (Fig. 5a).
        aggregation: What becomes of the distances to several references: ``"minimum"`` (the paper's Eq. 5),
            ``"lowest_third"`` or ``"median"``, which one anomalous reference cannot spoil; see
            :func:`~dual_image_clip.method.scoring.aggregate_references` for when each is right.
        k_shot: Golden samples that each image is compared with, drawn at random from the seed; 0 for none.
        few_shot_source: Folder (searched with its subfolders) or image file that golden samples are drawn from.
            Without it, the good images of the datamodule's training set.

    Raises:
        ValueError: A number is negative, or the aggregation is unknown.
    """

    num_references: int = 1
    aggregation: str = "minimum"
    k_shot: int = 0
    few_shot_source: str | Path | None = None

    def __post_init__(self) -> None:
        """Checks the values."""
        require_at_least(0, num_references=self.num_references, k_shot=self.k_shot)
        require_aggregation(self.aggregation)


def random_partners(count: int, num_partners: int, generator: torch.Generator) -> Tensor:
    """Draws partners for every image of a batch.

    The images are put on a circle in random order, and each gets those that stand a few random, different steps
    behind it: nobody is its own partner, an image's partners differ, and every image is a partner equally often.

    Args:
        count: Number of images.
        num_partners: Partners of each image, at most ``count - 1``.
        generator: Source of randomness.

    Returns:
        Indices of the partners, ``(count, num_partners)``.

    Raises:
        ValueError: There are not so many partners.
    """
    if num_partners > max(count - 1, 0):
        msg = f"{count} images have at most {max(count - 1, 0)} partners each, not {num_partners}"
        raise ValueError(msg)
    circle = torch.randperm(count, generator=generator)
    steps = 1 + torch.randperm(max(count - 1, 0), generator=generator)[:num_partners]
    place = torch.arange(count).unsqueeze(1)
    partners = torch.empty(count, num_partners, dtype=torch.long)
    partners[circle] = circle[(place + steps) % max(count, 1)]
    return partners


class ReferencePool:
    """Finds reference patches for the images of a step: other images of the batch, then the most recent ones seen.

    Args:
        num_references: Reference images per query image; 0 for none.
        seed: Seed of the random pairing.
    """

    def __init__(self, num_references: int, seed: int) -> None:
        self.num_references = num_references
        self.seed = seed
        self._generator = torch.Generator()
        self._recent: OrderedDict[str, Tensor] = OrderedDict()
        self._unnamed = 0
        self.reset()

    @property
    def room(self) -> int:
        """Number of recent images that are kept; those that are in a batch will not serve it, hence twice as many."""
        return 2 * self.num_references

    def reset(self) -> None:
        """Forgets the images seen and starts the random pairing anew, so that a run repeats itself."""
        self._generator.manual_seed(self.seed)
        self._recent.clear()

    def shortage(self, count: int, identities: Sequence[str] | None) -> int:
        """How many reference images a batch lacks.

        Args:
            count: Number of images in the batch.
            identities: Their names, or ``None``.

        Returns:
            Number of images that :meth:`remember` would have to be given first.
        """
        return max(0, self.num_references - max(count - 1, 0) - len(self._recalled(identities)))

    def select(self, patch_tokens: Tensor, identities: Sequence[str] | None = None) -> list[Tensor]:
        """Gathers the patches that each image of a batch is compared with.

        Args:
            patch_tokens: Patches of the batch's images, ``(B, N, D)``.
            identities: Names of the images, so that none becomes its own reference.

        Returns:
            Patches of each image's first reference, ``(B, N, D)``, of its second, and so on. Those that come from
            memory may have another number of patches.
        """
        count = len(patch_tokens)
        partners = self._draw(count).to(patch_tokens.device)
        recalled = self._recalled(identities)[: self.num_references - partners.shape[1]]
        return [patch_tokens[theirs] for theirs in partners.unbind(dim=1)] + [
            recent.to(patch_tokens).expand(count, -1, -1) for recent in recalled
        ]

    def pass_over(self, count: int) -> None:
        """Draws for a batch that is not scored, so that those after it get the partners that they would have got.

        Args:
            count: Number of images in the batch.
        """
        self._draw(count)

    def remember(self, patch_tokens: Tensor, identities: Sequence[str] | None = None) -> None:
        """Keeps the patches of the last images of a batch for those that come alone.

        Args:
            patch_tokens: Patches of the batch's images, ``(B, N, D)``.
            identities: Names of the images.
        """
        if not self.num_references:
            return
        names = identities or [self._new_name() for _ in patch_tokens]
        for name, tokens in list(zip(names, patch_tokens, strict=True))[-self.room :]:
            self._recent.pop(name, None)
            self._recent[name] = tokens.clone()
        while len(self._recent) > self.room:
            self._recent.popitem(last=False)

    def _draw(self, count: int) -> Tensor:
        """Partners of each image of a batch, ``(count, n)``."""
        return random_partners(count, min(self.num_references, count - 1), self._generator)

    def _recalled(self, identities: Sequence[str] | None) -> list[Tensor]:
        """Recent images that are not in the batch, newest first."""
        present = set(identities or ())
        return [tokens for name, tokens in reversed(self._recent.items()) if name not in present]

    def _new_name(self) -> str:
        self._unnamed += 1
        return f"image {self._unnamed}"
