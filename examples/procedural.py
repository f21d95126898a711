"""Finds defects on drawn products of families that the embedded checkpoint was never trained on.

Prints one table of all categories; the heatmaps are in ``results/DualImageCLIP/Procedural/CATEGORY/latest/images``.

Example:
    python examples/procedural.py
    python examples/procedural.py --categories gear zipper --count 32
"""

import argparse
import logging
from pathlib import Path
from statistics import mean

from anomalib.engine import Engine
from rich.console import Console
from rich.table import Table

from dual_image_clip import DualImageCLIP
from dual_image_clip.procedural import HELD_OUT_FAMILIES, Procedural
from dual_image_clip.weights import EMBEDDED

METRICS = ("image_AUROC", "image_F1Max", "image_AUPR", "pixel_AUROC", "pixel_F1Max", "pixel_AUPRO")


def main() -> None:
    """Tests the detector on each category and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--categories", nargs="+", choices=HELD_OUT_FAMILIES, default=HELD_OUT_FAMILIES, metavar="NAME")
    parser.add_argument("--count", type=int, default=24, help="images of either kind (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder (default: %(default)s)")
    arguments = parser.parse_args()
    logging.getLogger("anomalib").setLevel(logging.WARNING)

    rows = {name: test(name, arguments.count, arguments.results) for name in arguments.categories}
    table = Table("category", *METRICS, title=f"{arguments.count} good and {arguments.count} defective images of each")
    for name, row in rows.items():
        table.add_row(name, *(f"{row[metric]:.3f}" for metric in METRICS))
    table.add_section()
    table.add_row("mean", *(f"{mean(row[metric] for row in rows.values()):.3f}" for metric in METRICS))
    Console(width=120).print(table)


def test(category: str, count: int, results: Path) -> dict[str, float]:
    """Draws a category, scores it and draws heatmaps.

    Args:
        category: One of the held-out families.
        count: Good images, and defective images.
        results: Where anomalib puts its results.

    Returns:
        The paper's six metrics.
    """
    datamodule = Procedural(
        category=category, num_train=1, num_test_normal=count, num_test_anomalous=count, num_workers=1
    )
    engine = Engine(default_root_dir=results, logger=False, enable_progress_bar=False)
    (metrics,) = engine.test(model=DualImageCLIP(backbone=EMBEDDED), datamodule=datamodule, verbose=False)
    return {name: float(metrics[name]) for name in METRICS}


if __name__ == "__main__":
    main()
