"""What the small checkpoint is measured on: drawn products it was never trained on, and two sets of real images.

Nothing of these enters training or the choice of a recipe, but for ``validation``, which is there for that choice.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from dual_image_clip.procedural import FAMILIES, HELD_OUT_DEFECTS, HELD_OUT_FAMILIES, Category

IMAGE_SIZE = 240
VALIDATION_SEED = 500
PHOTOGRAPHS_FOR_A_DRAWING = 10


@dataclass(frozen=True)
class TestSet:
    """Images of one category, in random order.

    Attributes:
        category: What they show.
        images: RGB, ``(N, H, W, 3)`` in 0..255.
        labels: Whether an image is defective, ``(N,)``.
        masks: Where, ``(N, H, W)``; ``None`` where nobody knows.
    """

    category: str
    images: NDArray[np.uint8]
    labels: NDArray[np.bool_]
    masks: NDArray[np.bool_] | None

    __test__ = False  # or pytest would take it for a test


def drawn_category(family: str, seed: int, count: int, only_held_out_defects: bool = False) -> TestSet:
    """Draws good and defective images of a product.

    Args:
        family: Its family.
        seed: Its seed, and that of the images' order.
        count: Images of each kind.
        only_held_out_defects: Whether to leave out the kinds of defect that models may be trained on.

    Returns:
        The images.
    """
    category = Category(family, seed, IMAGE_SIZE)
    kinds = [kind for kind in category.defects if not only_held_out_defects or kind in HELD_OUT_DEFECTS]
    good = [category.normal("test", index) for index in range(count)]
    defective = [category.anomalous("anomalous", index, kinds[index % len(kinds)]) for index in range(count)]
    images = np.stack([*good, *(image for image, _ in defective)])
    masks = np.concatenate([np.zeros((count, IMAGE_SIZE, IMAGE_SIZE), bool), [mask for _, mask in defective]])
    return _shuffled(family, images, np.arange(2 * count) >= count, masks, seed)


def held_out_families(seed: int, count: int) -> Iterator[TestSet]:
    """Families that no model may be trained on, with every kind of defect."""
    return (drawn_category(family, seed, count) for family in HELD_OUT_FAMILIES)


def held_out_families_and_defects(seed: int, count: int) -> Iterator[TestSet]:
    """Families and kinds of defect that no model may be trained on."""
    return (
        drawn_category(family, seed, count, only_held_out_defects=True)
        for family in HELD_OUT_FAMILIES
        if set(FAMILIES[family].defects()) & set(HELD_OUT_DEFECTS)
    )


def held_out_defects(seed: int, count: int) -> Iterator[TestSet]:
    """New products of the families that models are trained on, with kinds of defect that they are not."""
    return (
        drawn_category(family, seed, count, only_held_out_defects=True)
        for family in FAMILIES
        if family not in HELD_OUT_FAMILIES and set(FAMILIES[family].defects()) & set(HELD_OUT_DEFECTS)
    )


def validation(seed: int, count: int) -> Iterator[TestSet]:
    """Other products of the held-out families; the only set that recipes may be compared on."""
    return held_out_families(VALIDATION_SEED + seed, count)


def solar_cells(seed: int, count: int) -> Iterator[TestSet]:
    """Photographs of solar cells that the experts were sure of (PyPI: ``elpv-dataset``)."""
    folder = Path(str(files("elpv_dataset"))) / "data"
    labels = pd.read_csv(folder / "labels.csv", sep=r"\s+", names=["path", "probability", "type"])
    sound, defective = (
        [folder / path for path in labels.path[np.isclose(labels.probability, probability)]] for probability in (0, 1)
    )
    yield _photographs("solar cell", sound, defective, seed, count)


def textile_local(seed: int, count: int) -> Iterator[TestSet]:
    """Simulated textiles with a local defect (PyPI: ``conformal-clip-data``)."""
    yield _textiles("local", seed, count)


def textile_global(seed: int, count: int) -> Iterator[TestSet]:
    """Simulated textiles that are wrong as a whole (PyPI: ``conformal-clip-data``)."""
    yield _textiles("global", seed, count)


TEST_SETS: dict[str, Callable[[int, int], Iterator[TestSet]]] = {
    "held_out_families": held_out_families,
    "held_out_families_and_defects": held_out_families_and_defects,
    "held_out_defects": held_out_defects,
    "validation": validation,
    "solar_cells": solar_cells,
    "textile_local": textile_local,
    "textile_global": textile_global,
}


def _textiles(defect: str, seed: int, count: int) -> TestSet:
    folder = Path(str(files("conformal_clip_data"))) / "data" / "textile_images" / "simulated"
    good, defective = (sorted((folder / kind).glob("*.jpg")) for kind in ("nominal", defect))
    return _photographs("textile", good, defective, seed, count)


def _photographs(category: str, good: list[Path], defective: list[Path], seed: int, count: int) -> TestSet:
    rng = np.random.default_rng(seed)
    # There are a dozen drawn categories, but only this one.
    count *= PHOTOGRAPHS_FOR_A_DRAWING
    chosen = [path for paths in (good, defective) for path in rng.choice(np.array(paths), count, replace=False)]
    images = np.stack([_read(path) for path in chosen])
    return _shuffled(category, images, np.arange(2 * count) >= count, None, seed)


def _read(path: Path) -> NDArray[np.uint8]:
    image = np.asarray(Image.open(path).convert("RGB"))
    return np.asarray(cv2.resize(image, (IMAGE_SIZE, IMAGE_SIZE), interpolation=cv2.INTER_AREA), np.uint8)


def _shuffled(
    category: str, images: NDArray[np.uint8], labels: NDArray[np.bool_], masks: NDArray[np.bool_] | None, seed: int
) -> TestSet:
    order = np.random.default_rng(seed).permutation(len(images))
    return TestSet(category, images[order], labels[order], None if masks is None else masks[order])
