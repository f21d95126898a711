"""Draws small data sets of striped plates with dark spots as defects."""

from pathlib import Path

import numpy as np
from PIL import Image

DEFECTS = ("scratch", "spot")


def draw_plate(
    seed: int, size: tuple[int, int] = (120, 120), defect: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """An image ``(H, W, 3)`` and its mask ``(H, W)``, both 0..255."""
    generator = np.random.default_rng(seed)
    height, width = size
    rows, columns = np.mgrid[:height, :width]
    shade = 140 + 25 * np.sin(columns / 6 + generator.uniform(0, 6)) + generator.normal(0, 4, size)
    mask = np.zeros(size, dtype=bool)
    y, x = generator.uniform(0.3, 0.7, 2) * size
    if defect == "spot":
        mask = (rows - y) ** 2 + (columns - x) ** 2 < (0.12 * min(size)) ** 2
    elif defect == "scratch":
        mask = (abs(rows - y) < 0.03 * min(size)) & (abs(columns - x) < 0.25 * min(size))
    shade[mask] = generator.normal(40, 15, mask.sum())
    image = np.stack([shade, shade * 0.95, shade * 0.9], axis=-1).clip(0, 255).astype(np.uint8)
    return image, mask.astype(np.uint8) * 255


def save(array: np.ndarray, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def make_category(folder: Path, normal: int = 6, defective: int = 3, size: tuple[int, int] = (120, 120)) -> Path:
    """A category in the layout of MVTec AD."""
    for index in range(normal):
        save(draw_plate(index, size)[0], folder / "train" / "good" / f"{index:03}.png")
        save(draw_plate(100 + index, size)[0], folder / "test" / "good" / f"{index:03}.png")
    for kind, defect in enumerate(DEFECTS):
        for index in range(defective):
            image, mask = draw_plate(1000 * (kind + 1) + index, size, defect)
            save(image, folder / "test" / defect / f"{index:03}.png")
            save(mask, folder / "ground_truth" / defect / f"{index:03}_mask.png")
    return folder


def make_photos(folder: Path, normal: int = 10, defective: int = 1, size: tuple[int, int] = (120, 120)) -> Path:
    """A folder of photos without labels."""
    for index in range(normal):
        save(draw_plate(index, size)[0], folder / f"plate_{index:03}.png")
    for index in range(defective):
        save(draw_plate(5000 + index, size, "spot")[0], folder / f"spoilt_{index:03}.png")
    return folder
