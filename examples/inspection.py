"""Draws what docs/inspection.md walks through: photos of a line, good ones, regions and several products.

Example:
    python examples/inspection.py line
"""

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dual_image_clip.procedural import Category

PRODUCT, OTHER = "zipper", "gear"
# The ribbon, without the table that it lies on: corners (x, y) in shares of width and height.
RIBBON = [[0.0, 0.22], [1.0, 0.22], [1.0, 0.78], [0.0, 0.78]]
PRODUCTS = """\
products:
  zipper:
    regions: region.json
    golden: good
    num_references: 0
  gear:
    class_name: gear wheel
"""


def main() -> None:
    """Draws the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where to draw, such as line")
    parser.add_argument("--photos", type=int, default=24, help="a quarter of them defective (default: %(default)s)")
    parser.add_argument("--good", type=int, default=60, help="photos known to be good (default: %(default)s)")
    arguments = parser.parse_args()

    folder: Path = arguments.folder
    draw_photos(PRODUCT, folder / "photos", arguments.photos)
    for product in (PRODUCT, OTHER):
        draw_photos(product, folder / "products" / product, max(8, arguments.photos // 2))
    category = Category(PRODUCT)
    for index in range(arguments.good):
        save(category.normal("good", index), folder / "good" / f"good_{index:03}.png")
    (folder / "region.json").write_text(json.dumps({"polygons": [RIBBON]}))
    (folder / "products.yaml").write_text(PRODUCTS)


def draw_photos(product: str, folder: Path, count: int) -> None:
    """Draws photos of a product, every fourth with a defect."""
    category = Category(product)
    for index in range(count):
        pixels = category.normal("photos", index)
        if index % 4 == 3:
            defect = category.defects[index // 4 % len(category.defects)]
            pixels, _ = category.anomalous("photos", index, defect)
        save(pixels, folder / f"photo_{index:03}.png")


def save(pixels: NDArray[np.uint8], path: Path) -> None:
    """Writes a picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


if __name__ == "__main__":
    main()
