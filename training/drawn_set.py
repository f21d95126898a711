"""The drawn training set: good products, and the very same ones with a defect."""

import logging
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from dual_image_clip.procedural import HELD_OUT_DEFECTS, RENDERER_VERSION, Category, generator
from training.recipe import DataRecipe

logger = logging.getLogger(__name__)

IMAGE_SIZE = 240
_PARTS = ("images", "masks")


class FamilyData(NamedTuple):
    """The training images of one family, on disk.

    Attributes:
        name: The family.
        images: RGB, ``(products, pairs, 2, H, W, 3)``; of each pair the good product, then the defective one.
        masks: Where the defect shows, 0 or 255, ``(products, pairs, H, W)``.
    """

    name: str
    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]


def draw_training_set(folder: Path, recipe: DataRecipe) -> None:
    """Draws the families that are not there yet, on all cores.

    Args:
        folder: Folder of the training set.
        recipe: How much to draw.
    """
    missing = [name for name in recipe.families if not _folder(folder, name, recipe).is_dir()]
    if not missing:
        return
    folder.mkdir(parents=True, exist_ok=True)
    # A forked child would inherit the locks of torch's and OpenCV's threads, and could wait for them for ever.
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        jobs = [pool.submit(_draw_family, name, folder, recipe) for name in missing]
        for done, job in enumerate(as_completed(jobs), start=1):
            logger.info("drew %s, %d of %d families", job.result(), done, len(missing))


def load_training_set(folder: Path, recipe: DataRecipe) -> list[FamilyData]:
    """Opens the training set without reading it into memory.

    Args:
        folder: Folder that :func:`draw_training_set` has filled.
        recipe: The same.

    Returns:
        All training families.
    """
    return [
        FamilyData(name, *(np.load(_folder(folder, name, recipe) / f"{part}.npy", mmap_mode="r") for part in _PARTS))
        for name in recipe.families
    ]


def _folder(folder: Path, name: str, recipe: DataRecipe) -> Path:
    return folder / f"{name}-{recipe.products}x{recipe.pairs}-{recipe.first_seed}-v{RENDERER_VERSION}"


def _draw_family(name: str, folder: Path, recipe: DataRecipe) -> str:
    cv2.setNumThreads(1)
    unfinished = folder / f".{name}"
    unfinished.mkdir(parents=True, exist_ok=True)
    shape = (recipe.products, recipe.pairs, 2, IMAGE_SIZE, IMAGE_SIZE, 3)
    images = np.lib.format.open_memmap(unfinished / "images.npy", mode="w+", dtype=np.uint8, shape=shape)
    masks = np.lib.format.open_memmap(
        unfinished / "masks.npy", mode="w+", dtype=np.uint8, shape=(*shape[:2], IMAGE_SIZE, IMAGE_SIZE)
    )
    for product in range(recipe.products):
        category = Category(name, recipe.first_seed + product, IMAGE_SIZE)
        kinds = [kind for kind in category.defects if kind not in HELD_OUT_DEFECTS]
        rng = generator(category.seed, name, "kinds of defect")
        for pair in range(recipe.pairs):
            images[product, pair, 0] = category.normal("train", pair)
            image, mask = category.anomalous("train", pair, str(rng.choice(kinds)))
            images[product, pair, 1] = image
            masks[product, pair] = mask * np.uint8(255)
    images.flush()
    masks.flush()
    unfinished.rename(_folder(folder, name, recipe))
    return name
