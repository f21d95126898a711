"""Areas under the curves of images and pixels, and their table."""

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from rich.table import Table
from torchmetrics.functional.classification import binary_auroc

from benchmarks.checkpoint.scorers import Scorers
from benchmarks.paper.images import CategoryImages
from benchmarks.paper.peers.scores import Scores


class Areas(NamedTuple):
    """AUROC of images and of pixels; the latter is NaN where there are no masks."""

    image: float
    pixel: float


def areas_of_scorers(categories: Iterable[CategoryImages], scorers: Scorers) -> dict[str, list[Areas]]:
    """Scores categories with all that there is.

    Args:
        categories: The categories.
        scorers: What scores them.

    Returns:
        For every scorer, the areas of each category.
    """
    areas = defaultdict(list)
    for category in categories:
        for name, scores in scorers.scores(category):
            areas[name].append(areas_under_curves(scores, category))
    return dict(areas)


def areas_under_curves(scores: Scores, category: CategoryImages) -> Areas:
    """Measures scores against the ground truth of their images."""
    image = binary_auroc(scores.images, category.labels)
    pixel = np.nan if category.masks is None else binary_auroc(scores.maps.flatten(), category.masks.flatten())
    return Areas(float(image), float(pixel))


def as_table(name: str, rows: dict[str, list[Areas]], num_seeds: int) -> Table:
    """Lays out means over categories and, with several seeds, the spread of those means.

    Args:
        name: The set.
        rows: Areas of each scorer: all categories of a seed, then those of the next.
        num_seeds: Number of seeds.

    Returns:
        The table.
    """
    table = Table("scorer", "image AUROC", "pixel AUROC", title=f"{name}, {num_seeds} seeds")
    for row, areas in rows.items():
        by_seed = np.array(areas).reshape(num_seeds, -1, 2).mean(axis=1)
        table.add_row(row, *(_mean_and_spread(column) for column in by_seed.T))
    return table


def _mean_and_spread(values: np.ndarray) -> str:
    if np.isnan(values).any():
        return "–"
    return f"{values.mean():.3f}" + (f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else "")
