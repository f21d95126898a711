"""Lays out photographs of solar cells for anomalib's ``Folder`` data module.

The photographs are those of the package ``elpv-dataset`` (CC BY-NC-SA 4.0), which ``pip install dual-image-clip[demo]``
brings along: electroluminescence images of solar cells with a probability of being defective. Only cells that the
experts were sure of are taken.

Example:
    python examples/solar_cells.py datasets/solar_cells --count 100
"""

import argparse
import shutil
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torchmetrics.functional.classification import binary_auroc

FOLDER_OF_PROBABILITY = {0.0: "normal", 1.0: "defective"}
KNOWN_GOOD, NUM_KNOWN_GOOD = "known_good", 8


def main() -> None:
    """Copies as many sound as defective cells, and a few other sound ones, drawn at random from a fixed seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to put the images")
    parser.add_argument("--count", type=int, default=100, help="images of each kind (default: 100)")
    arguments = parser.parse_args()

    source = Path(str(files("elpv_dataset"))) / "data"
    labels = pd.read_csv(source / "labels.csv", sep=r"\s+", names=["path", "probability", "type"])
    generator = np.random.default_rng(0)
    chosen = {
        name: generator.choice(labels.path[np.isclose(labels.probability, probability)], arguments.count, replace=False)
        for probability, name in FOLDER_OF_PROBABILITY.items()
    }
    others = np.setdiff1d(labels.path[labels.probability == 0], chosen["normal"])
    chosen[KNOWN_GOOD] = generator.choice(others, NUM_KNOWN_GOOD, replace=False)
    for name, paths in chosen.items():
        target = arguments.folder / name
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for path in paths:
            shutil.copy(source / path, target)
        print(f"{len(paths)} {name.replace('_', ' ')} solar cells in {target}")
    print(f"For comparison, image AUROC of a cell's mean darkness alone: {darkness_auroc(arguments.folder):.3f}")


def darkness_auroc(folder: Path) -> float:
    """Image AUROC of calling dark cells defective, the simplest detector there is."""
    paths = sorted(path for name in FOLDER_OF_PROBABILITY.values() for path in (folder / name).glob("*.png"))
    darkness = torch.tensor([1 - np.asarray(Image.open(path)).mean() / 255 for path in paths])
    return float(binary_auroc(darkness, torch.tensor([path.parent.name == "defective" for path in paths])))


if __name__ == "__main__":
    main()
