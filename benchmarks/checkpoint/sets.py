"""What the small checkpoint is measured on: drawn products it was never trained on, and two sets of real images.

Nothing of these enters training or the choice of a recipe, but for ``validation``, which is there for that choice.
"""

from collections.abc import Callable, Iterable, Iterator
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from benchmarks.paper.images import CategoryImages
from dual_image_clip.class_names import class_name_from_category
from dual_image_clip.procedural import FAMILIES, HELD_OUT_DEFECTS, HELD_OUT_FAMILIES, Category

IMAGE_SIZE = 240
VALIDATION_SEED = 500
PHOTOGRAPHS_FOR_A_DRAWING = 10
KNOWN_GOOD = 8


def drawn_category(
    family: str, seed: int, count: int, only_held_out_defects: bool = False, size: int = IMAGE_SIZE
) -> CategoryImages:
    """Draws good and defective images of a product.

    Args:
        family: Its family.
        seed: Its seed, and that of the images' order.
        count: Images of each kind.
        only_held_out_defects: Whether to leave out the kinds of defect that models may be trained on.
        size: Side of an image in pixels.

    Returns:
        The images in random order, with masks; of a file, there is only a name.
    """
    category = Category(family, seed, size)
    kinds = [kind for kind in category.defects if not only_held_out_defects or kind in HELD_OUT_DEFECTS]
    defects = [kinds[index % len(kinds)] for index in range(count)]
    good = [category.normal("test", index) for index in range(count)]
    defective = [category.anomalous("anomalous", index, defect) for index, defect in enumerate(defects)]
    names = [f"{family}/{kind}/{index:03}.png" for kind in ("good", "anomalous") for index in range(count)]
    masks = np.concatenate([np.zeros((count, size, size), bool), [mask for _, mask in defective]])
    class_name = class_name_from_category(family)
    shuffled = _shuffled([*good, *(image for image, _ in defective)], masks, names, class_name, seed)
    return shuffled._replace(known_good=_as_tensor([category.normal("train", index) for index in range(KNOWN_GOOD)]))


def held_out_families(seed: int, count: int, size: int = IMAGE_SIZE) -> Iterator[CategoryImages]:
    """Families that no model may be trained on, with every kind of defect."""
    return (drawn_category(family, seed, count, size=size) for family in HELD_OUT_FAMILIES)


def held_out_families_and_defects(seed: int, count: int) -> Iterator[CategoryImages]:
    """Families and kinds of defect that no model may be trained on."""
    return _with_held_out_defects(HELD_OUT_FAMILIES, seed, count)


def held_out_defects(seed: int, count: int) -> Iterator[CategoryImages]:
    """New products of the families that models are trained on, with kinds of defect that they are not."""
    return _with_held_out_defects((family for family in FAMILIES if family not in HELD_OUT_FAMILIES), seed, count)


def validation(seed: int, count: int, size: int = IMAGE_SIZE) -> Iterator[CategoryImages]:
    """Other products of the held-out families; the only set that recipes may be compared on."""
    return held_out_families(VALIDATION_SEED + seed, count, size)


def solar_cells(seed: int, count: int, size: int = IMAGE_SIZE, part: slice = slice(None)) -> Iterator[CategoryImages]:
    """Photographs of solar cells that the experts were sure of (PyPI: ``elpv-dataset``).

    Args:
        seed: Seed of the choice and of the images' order.
        count: A tenth of the images of each kind.
        size: Side of an image in pixels.
        part: Which of the photographs there are to choose from.

    Yields:
        The only category.
    """
    folder = Path(str(files("elpv_dataset"))) / "data"
    labels = pd.read_csv(folder / "labels.csv", sep=r"\s+", names=["path", "probability", "type"])
    good, defective = ([folder / path for path in labels.path[labels.probability == sure]] for sure in (0, 1))
    yield _photographs(good[part], defective[part], "solar cell", seed, count, size)


def textile_local(seed: int, count: int, size: int = IMAGE_SIZE) -> Iterator[CategoryImages]:
    """Simulated textiles with a local defect (PyPI: ``conformal-clip-data``)."""
    yield _textiles("local", seed, count, size)


def textile_global(seed: int, count: int, size: int = IMAGE_SIZE) -> Iterator[CategoryImages]:
    """Simulated textiles that are wrong as a whole (PyPI: ``conformal-clip-data``)."""
    yield _textiles("global", seed, count, size)


TEST_SETS: dict[str, Callable[[int, int], Iterator[CategoryImages]]] = {
    each.__name__: each
    for each in (
        held_out_families,
        held_out_families_and_defects,
        held_out_defects,
        validation,
        solar_cells,
        textile_local,
        textile_global,
    )
}
"""Sets by name; each takes a seed and the number of images of each kind and category."""


def _with_held_out_defects(families: Iterable[str], seed: int, count: int) -> Iterator[CategoryImages]:
    able = [family for family in families if set(FAMILIES[family].defects()) & set(HELD_OUT_DEFECTS)]
    return (drawn_category(family, seed, count, only_held_out_defects=True) for family in able)


def _textiles(defect: str, seed: int, count: int, size: int) -> CategoryImages:
    folder = Path(str(files("conformal_clip_data"))) / "data" / "textile_images" / "simulated"
    good, defective = (sorted((folder / kind).glob("*.jpg")) for kind in ("nominal", defect))
    return _photographs(good, defective, "textile", seed, count, size)


def _photographs(
    good: list[Path], defective: list[Path], class_name: str, seed: int, count: int, size: int
) -> CategoryImages:
    rng = np.random.default_rng(seed)
    # There are a dozen drawn categories, but only this one.
    count *= PHOTOGRAPHS_FOR_A_DRAWING
    chosen = [path for paths in (good, defective) for path in rng.choice(np.array(paths), count, replace=False)]
    others = np.array(sorted(set(good) - set(chosen)))
    known_good = _as_tensor([_read(path, size) for path in rng.choice(others, KNOWN_GOOD, replace=False)])
    shuffled = _shuffled([_read(path, size) for path in chosen], None, [str(path) for path in chosen], class_name, seed)
    return shuffled._replace(known_good=known_good)


def _read(path: Path, size: int) -> NDArray[np.uint8]:
    image = np.asarray(Image.open(path).convert("RGB"))
    return np.asarray(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA), np.uint8)


def _shuffled(
    images: list[NDArray[np.uint8]], masks: NDArray[np.bool_] | None, names: list[str], class_name: str, seed: int
) -> CategoryImages:
    """Puts as many good images and, behind them, defective ones into random order."""
    order = np.random.default_rng(seed).permutation(len(images))
    return CategoryImages(
        images=_as_tensor([images[index] for index in order]),
        labels=torch.from_numpy(order >= len(images) // 2),
        masks=None if masks is None else torch.from_numpy(masks[order]),
        paths=[names[index] for index in order],
        class_name=class_name,
    )


def _as_tensor(images: list[NDArray[np.uint8]]) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
