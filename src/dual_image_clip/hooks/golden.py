"""Golden samples: a few images known to be good, with which every image is compared."""

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from anomalib.data import AnomalibDataset
from anomalib.data.utils import LabelName
from torch import Tensor, nn

from dual_image_clip.photos import PhotoReader, UnusableImageError, content_of, file_of, find_photos

logger = logging.getLogger(__name__)

_MOST_NAMED = 3


class GoldenImageError(ValueError):
    """Golden images are missing, too few, or among the images that they are to be compared with."""


class TakesGoldenImages(Protocol):
    """A model that compares images with golden ones."""

    def set_golden_images(self, images: Iterable[Tensor], names: Iterable[str]) -> None:
        """Takes over images, each pre-processed, ``(1, 3, H, W)``, and their names."""


class GoldenImages:
    """Decides which images are the golden ones, those of a folder or else of a training set, and reads them.

    They are drawn at random, once: the same seed and files give the same images.

    Args:
        k_shot: How many; 0 for none.
        source: Folder (searched with its subfolders) or image file that they are drawn from. Without it,
            :meth:`choose` draws from a datamodule.
        seed: Seed of the draw.

    Attributes:
        k_shot: See above.
        paths: The images chosen so far.
        encoded: Those that a model has taken over.

    Raises:
        GoldenImageError: The source does not exist, has fewer images than are wanted, or none are wanted.
    """

    def __init__(self, k_shot: int, source: str | Path | None, seed: int) -> None:
        self.k_shot = k_shot
        self.seed = seed
        self.paths: list[str] = []
        self.encoded: list[str] = []
        self._candidates: list[str] = []
        self._final = source is not None
        if source is not None:
            _require_wanted(k_shot, source)
            self._draw(image_paths(source), f"few_shot_source={str(source)!r}")

    @property
    def digest(self) -> str | None:
        """Of the files of the images chosen so far, by which sets of them are told apart; ``None`` without any."""
        if not self.paths:
            return None
        return hashlib.sha256(repr(sorted(map(content_of, self.paths))).encode()).hexdigest()

    def choose(self, datamodule: Any) -> None:
        """Draws from the good images of a training set, unless there was a folder.

        Args:
            datamodule: The datamodule of an evaluation, or ``None``, which leaves the images chosen before.

        Raises:
            GoldenImageError: There are fewer good images than are wanted, or no training set and nothing was chosen.
        """
        if self._final or not self.k_shot:
            return
        candidates = good_training_images(datamodule)
        if candidates:
            self._draw(candidates, f"the training set of {type(datamodule).__name__}")
        elif not self.paths:
            msg = (
                f"k_shot={self.k_shot} needs good images: set few_shot_source to a folder of them, "
                "or evaluate a datamodule that has good training images"
            )
            raise GoldenImageError(msg)

    def restore(self, paths: Sequence[str]) -> None:
        """Takes over the images of a checkpoint for good, whatever a datamodule has.

        Args:
            paths: Where they were; the files need not exist any more.
        """
        self.paths = self.encoded = self._candidates = list(paths)
        self._final = True

    def give_to(
        self,
        model: TakesGoldenImages,
        datamodule: Any,
        pre_process: Callable[[Tensor], Tensor],
        reader: PhotoReader,
    ) -> None:
        """Chooses the images and lets a model take them over, unless it has them already.

        Files that cannot be used are passed over, as a prediction does, and others are drawn in their place.

        Args:
            model: The model.
            datamodule: The datamodule of an evaluation, or ``None``.
            pre_process: Brings an image ``(1, 3, H, W)`` in 0..1 into the form that the model takes.
            reader: Reads the images.

        Raises:
            GoldenImageError: There is neither a folder nor a training set to take them from, or too few can be used.
        """
        self.choose(datamodule)
        if self.paths == self.encoded:
            return
        # What a datamodule does to test images, golden ones need as well.
        augmentations = getattr(getattr(datamodule, "test_data", None), "augmentations", None) or nn.Identity()
        usable = self._read(reader)
        images = (pre_process(augmentations(image).unsqueeze(0)) for image in usable.values())
        model.set_golden_images(images, usable)
        self.paths = self.encoded = list(usable)

    def _read(self, reader: PhotoReader) -> dict[str, Tensor]:
        """The first ``k_shot`` usable images in the order of the draw, by their names."""
        usable: dict[str, Tensor] = {}
        passed_over: list[UnusableImageError] = []
        for name in draw_images(self._candidates, len(self._candidates), self.seed):
            if len(usable) == self.k_shot:
                break
            try:
                usable[name] = reader.read(name)
            except UnusableImageError as error:
                logger.warning("A golden image is passed over: %s", error)
                passed_over.append(error)
        if len(usable) < self.k_shot:
            reasons = "; ".join(map(str, passed_over[:_MOST_NAMED]))
            msg = (
                f"k_shot={self.k_shot}, but only {len(usable)} of {len(self._candidates)} golden images can be used: "
                f"{reasons}"
            )
            raise GoldenImageError(msg)
        return usable

    def require_apart_from(self, queries: Iterable[str | Path]) -> None:
        """Makes sure that no image is compared with itself.

        Args:
            queries: Paths of the images to be scored.

        Raises:
            GoldenImageError: One of them is a file that golden images are drawn from.
        """
        # Unlike `resolve`, this does not end at links in a circle.
        golden = {os.path.realpath(file_of(path)[0]) for path in self._candidates}
        for path in queries if golden else ():
            if os.path.realpath(file_of(path)[0]) in golden:
                msg = f"{path} is to be scored, but it is among the golden images: move it out of one of the two sets"
                raise GoldenImageError(msg)

    def _draw(self, candidates: Sequence[str], origin: str) -> None:
        if self.k_shot > len(candidates):
            msg = f"k_shot={self.k_shot}, but {origin} has {len(candidates)} good image(s)"
            raise GoldenImageError(msg)
        self._candidates = list(candidates)
        self.paths = draw_images(candidates, self.k_shot, self.seed)


def draw_images(paths: Sequence[str], count: int, seed: int) -> list[str]:
    """Draws images at random.

    Args:
        paths: Images to draw from, in any order.
        count: How many, at most as many as there are.
        seed: Seed of the draw.

    Returns:
        Different paths, which depend on the set of paths and the seed only.
    """
    order = torch.randperm(len(paths), generator=torch.Generator().manual_seed(seed))
    in_order = sorted(paths)
    return [in_order[index] for index in order[:count].tolist()]


def image_paths(source: str | Path) -> list[str]:
    """Image files of a folder and its subfolders.

    Args:
        source: Folder, or a single image file.

    Returns:
        Paths, at least one.

    Raises:
        GoldenImageError: It does not exist, or there is no image.
    """
    if not Path(source).exists():
        msg = f"few_shot_source={str(source)!r} does not exist"
        raise GoldenImageError(msg)
    listing = find_photos(source)
    for file in listing.unusable:
        logger.warning("A golden image is passed over: %s %s", file.path, file.reason)
    if not listing.photos:
        msg = f"few_shot_source={str(source)!r} has no image (such as .png, .jpg, .tif)"
        raise GoldenImageError(msg)
    return listing.photos


def good_training_images(datamodule: Any) -> list[str]:
    """Good images of a datamodule's training set.

    Args:
        datamodule: Any, or ``None``.

    Returns:
        Paths, none where there is no training set.
    """
    dataset = getattr(datamodule, "train_data", None)
    if not isinstance(dataset, AnomalibDataset):
        return []
    samples = dataset.samples
    return [str(path) for path in samples.image_path[samples.label_index == LabelName.NORMAL]]


def _require_wanted(k_shot: int, source: str | Path) -> None:
    if not k_shot:
        msg = f"few_shot_source={str(source)!r}, but k_shot=0: set k_shot to the number of golden images"
        raise GoldenImageError(msg)
