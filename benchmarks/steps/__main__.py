"""Measures each step past the paper, alone and together, and what was tried and left out.

Steps were chosen on ``validation`` and on one half of the photographs of solar cells; the other sets are reported.

Example:
    python -m benchmarks.steps --seeds 0 1 2 3 4 5
    python -m benchmarks.steps --sets validation solar_cells_to_choose --rows Ours Best
"""

import argparse
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.checkpoint.areas import Areas, areas_under_curves
from benchmarks.checkpoint.scorers import features_of
from benchmarks.checkpoint.sets import held_out_families, solar_cells, textile_global, textile_local, validation
from benchmarks.paper.images import CategoryImages
from benchmarks.steps.rows import BASE_ROW, ROWS
from dual_image_clip import BEST
from dual_image_clip.weights import EMBEDDED, Backbone, load_backbone

SETS: dict[str, Callable[[int, int, int], Iterator[CategoryImages]]] = {
    "validation": validation,
    "solar_cells_to_choose": partial(solar_cells, part=slice(0, None, 2)),
    "held_out_families": held_out_families,
    "solar_cells": partial(solar_cells, part=slice(1, None, 2)),
    "textile_local": textile_local,
    "textile_global": textile_global,
}
"""Sets by name; each takes a seed, the number of images of each kind and category, and their side in pixels."""
FEWEST = BEST["num_references"] // 2 + 1
TO_CHOOSE = ("validation", "solar_cells_to_choose")


def main() -> None:
    """Measures, prints a table for each set and writes the figures as JSON."""
    arguments = read_arguments()
    logging.disable(logging.WARNING)
    backbone = load_backbone(arguments.backbone, arguments.pretrained, arguments.image_size)
    size = min(backbone.image_size)
    figures = {}
    for name in arguments.sets:
        by_seed = []
        for seed in arguments.seeds:
            categories = track(SETS[name](seed, arguments.count, size), f"{name}, seed {seed}", transient=True)
            by_seed.append(areas_of_rows(categories, arguments.rows, backbone, seed))
        Console(width=120).print(as_table(name, by_seed))
        figures[name] = by_seed
        if arguments.output:
            arguments.output.write_text(json.dumps(figures, indent=1), encoding="utf-8")


def areas_of_rows(
    categories: Iterable[CategoryImages], rows: Iterable[str], backbone: Backbone, seed: int
) -> dict[str, Areas]:
    """Scores categories in every way.

    Args:
        categories: The categories.
        rows: Names of some :data:`~benchmarks.steps.rows.ROWS`.
        backbone: What encodes the images.
        seed: Seed of all that is random in scoring.

    Returns:
        By row, the means of the areas over the categories.
    """
    areas: dict[str, list[Areas]] = {row: [] for row in rows}
    for category in categories:
        features = features_of(category, backbone)
        for row, found in areas.items():
            found.append(areas_under_curves(ROWS[row](features, seed), category))
    return {row: Areas(*map(float, np.mean(found, axis=0))) for row, found in areas.items()}


def as_table(name: str, by_seed: list[dict[str, Areas]]) -> Table:
    """Lays out means over seeds and, with their spread, the gains over the paper's "Ours".

    Args:
        name: The set.
        by_seed: Areas by row, for each seed.

    Returns:
        The table.
    """
    table = Table("row", "image AUROC", "gain", "pixel AUROC", "gain", title=f"{name}, {len(by_seed)} seeds")
    for row in by_seed[0]:
        areas = np.array([each[row] for each in by_seed])
        gains = areas - np.array([each.get(BASE_ROW, (np.nan, np.nan)) for each in by_seed])
        columns = ((_figure(values), _gain(gain)) for values, gain in zip(areas.T, gains.T, strict=True))
        table.add_row(row, *(cell for column in columns for cell in column))
    return table


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default=EMBEDDED, help="architecture (default: %(default)s)")
    parser.add_argument("--pretrained", default=EMBEDDED, help="its weights: a tag or a file (default: the package's)")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=[name for name in SETS if name not in TO_CHOOSE])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--count", type=int, default=16, help="images of each kind and category (default: %(default)s)")
    parser.add_argument("--image-size", type=int, help="side of the images in pixels (default: the backbone's own)")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args()
    if arguments.count < FEWEST:
        parser.error(f"--count is {arguments.count}; expected {FEWEST} or more, so that there are references enough")
    return arguments


def _figure(values: np.ndarray) -> str:
    return "–" if np.isnan(values).any() else f"{values.mean():.3f}"


def _gain(values: np.ndarray) -> str:
    if np.isnan(values).any():
        return "–"
    return f"{values.mean():+.3f}" + (f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
