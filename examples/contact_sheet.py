"""Puts some of the pictures that anomalib drew on one sheet, a column for each kind of image.

Example:
    python examples/contact_sheet.py results/DualImageCLIP/solar_cells/latest/images sheet.png
"""

import argparse
from pathlib import Path

from anomalib.visualization.image.functional import add_text_to_image, create_image_grid
from PIL import Image


def main() -> None:
    """Draws the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with pictures, in a folder for each kind of image")
    parser.add_argument("output", type=Path, help="the sheet, a .png file")
    parser.add_argument("--rows", type=int, default=6, help="pictures of each kind (default: 6)")
    arguments = parser.parse_args()

    kinds = sorted({path.parent for path in arguments.folder.rglob("*.png")})
    if not kinds:
        parser.error(f"there is no .png file in {arguments.folder}; it is the images folder of a run's results")
    columns = [evenly_spaced(sorted(kind.glob("*.png")), arguments.rows) for kind in kinds]
    pictures = [labelled(path) for row in zip(*columns, strict=False) for path in row]
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    create_image_grid(pictures, nrow=len(kinds)).save(arguments.output)
    print(f"{len(pictures)} of the pictures in {arguments.folder} are on {arguments.output}")


def evenly_spaced(paths: list[Path], count: int) -> list[Path]:
    """Every n-th path, so that the choice does not depend on the result."""
    step = max(1, len(paths) // count)
    return paths[::step][:count]


def labelled(path: Path) -> Image.Image:
    """A picture with its kind and name in the lower left corner."""
    picture = Image.open(path).convert("RGB")
    return add_text_to_image(picture, f"{path.parent.name}/{path.stem}", size=18, position=(8, picture.height - 34))


if __name__ == "__main__":
    main()
