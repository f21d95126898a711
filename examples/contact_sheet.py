"""Puts some of the pictures that anomalib drew on one sheet, from every kind of image in turn.

Example:
    python examples/contact_sheet.py results/DualImageCLIP/solar_cells/latest/images --output sheet.png --pictures 12
    python examples/contact_sheet.py results/DualImageCLIP/Procedural/*/latest/images --output sheet.png
"""

import argparse
from itertools import chain, zip_longest
from pathlib import Path

from anomalib.visualization.image.functional import add_text_to_image, create_image_grid
from PIL import Image

GOOD = ("good", "normal")


def main() -> None:
    """Draws the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="folders that have a folder for each kind")
    parser.add_argument("--output", type=Path, required=True, help="the sheet, a .png file")
    parser.add_argument("--pictures", type=int, default=4, help="pictures from each folder (default: %(default)s)")
    parser.add_argument("--columns", type=int, default=2, help="pictures in a row (default: %(default)s)")
    arguments = parser.parse_args()

    chosen = []
    for folder in arguments.folders:
        pictures = choose(folder, arguments.pictures)
        if not pictures:
            parser.error(f"there is no .png file in {folder}; it is the images folder of a run's results")
        chosen += pictures
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    create_image_grid([labelled(path) for path in chosen], nrow=arguments.columns).save(arguments.output)
    print(f"{len(chosen)} pictures are on {arguments.output}")


def choose(folder: Path, count: int) -> list[Path]:
    """Chooses pictures of every kind in turn, whatever the detector made of them.

    Args:
        folder: Folder of folders, one for each kind.
        count: How many, at most.

    Returns:
        Their paths; the first shows a good product.
    """
    kinds = sorted({path.parent for path in folder.rglob("*.png")}, key=lambda kind: (kind.name not in GOOD, kind.name))
    good, defective = ([kind for kind in kinds if (kind.name in GOOD) == is_good] for is_good in (True, False))
    # With more kinds of defect than pictures, take some from all over the alphabet.
    some = evenly_spaced(defective, max(1, count - len(good)))
    columns = [evenly_spaced(sorted(kind.glob("*.png")), count) for kind in (*good, *some)]
    return [path for path in chain.from_iterable(zip_longest(*columns)) if path is not None][:count]


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
