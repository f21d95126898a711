"""Sheets of heatmaps: some of the best and worst images of a category, chosen by their scores alone."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

# Inches.
CELL = 2.0
BAR = 0.1
MARGIN = 1.6
DPI = 110
COLOURS = "turbo"
OPACITY = 0.55
CONTOUR = "#00ff00"


class Example(NamedTuple):
    """One image with all that was computed for it.

    Attributes:
        title: Name of the image.
        image: RGB, ``(H, W, 3)`` in 0..255.
        mask: Ground truth, ``(H, W)``.
        maps: Anomaly maps ``(H, W)`` by name, such as "A^V" or "final".
        ranges: Lowest and highest colour of each map; the same for all examples of a sheet.
        score: The image's anomaly score.
        is_anomalous: The image's ground truth.
    """

    title: str
    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    maps: dict[str, NDArray[np.floating]]
    ranges: dict[str, tuple[float, float]]
    score: float
    is_anomalous: bool


def choose_examples(scores: NDArray[np.floating], labels: NDArray[np.bool_], count: int) -> tuple[list[int], list[int]]:
    """Chooses images by their scores alone, so that nobody picks the nice ones.

    Successes are the anomalous images with the highest scores and the normal ones with the lowest; failures are the
    anomalous ones with the lowest and the normal ones with the highest. Anomalous images come first and are the larger
    half. Equal scores are ranked by index. No image is in both lists; where there are too few images of a kind, the
    lists are shorter, and a single one counts as a success.

    Args:
        scores: Anomaly scores, ``(N,)``.
        labels: Whether each image is anomalous, ``(N,)``.
        count: Length of each list, at most.

    Returns:
        Indices of successes and of failures, the most extreme first.

    Example:
        >>> choose_examples(np.array([0.9, 0.1, 0.2, 0.8]), np.array([True, True, False, False]), 2)
        ([0, 2], [1, 3])
    """
    successes, failures = [], []
    # Best first: high scores where there is a defect, low ones where there is none.
    for kind, sign, wanted in ((True, -1, (count + 1) // 2), (False, 1, count // 2)):
        indices = np.flatnonzero(labels == kind)
        ranked = [int(index) for index in indices[np.argsort(sign * scores[indices], kind="stable")]]
        good = (len(ranked) + 1) // 2
        successes += ranked[:good][:wanted]
        failures += ranked[good:][::-1][:wanted]
    return successes, failures


def draw_sheet(examples: list[Example], path: Path) -> None:
    """Draws a line an example: the image with the mask's outline, the mask, and every map over the image.

    Args:
        examples: The examples, at least one, all with the same maps and ranges.
        path: The ``.png`` file to write.

    Raises:
        ValueError: If there are no examples, or their maps or ranges differ.
    """
    if not examples:
        raise ValueError("a sheet needs at least one example")
    ranges = examples[0].ranges
    if any(example.ranges != ranges or example.maps.keys() != ranges.keys() for example in examples):
        raise ValueError("all examples of a sheet need the same maps and ranges, or colours would not be comparable")
    columns = 2 + len(ranges)
    heights = [CELL * example.image.shape[0] / example.image.shape[1] for example in examples]
    figure = Figure((MARGIN + CELL * columns, sum(heights) + MARGIN / 2), layout="constrained")
    grid = figure.subplots(len(examples) + 1, columns, squeeze=False, height_ratios=[*heights, BAR])
    for example, row in zip(examples, grid[:-1], strict=True):
        _draw_line(row, example)
    for axes, name in zip(grid[0], ("image", "mask", *map(_as_symbol, ranges)), strict=True):
        axes.set_title(name, fontsize=11)
    for axes, colour_range in zip(grid[-1, 2:], ranges.values(), strict=True):
        # Not the overlay's own colours: those are translucent, and hard to read beside a number.
        figure.colorbar(ScalarMappable(Normalize(*colour_range), COLOURS), cax=axes, orientation="horizontal")
    for axes in grid[-1, :2]:
        axes.set_axis_off()
    figure.savefig(path, dpi=DPI)


def _draw_line(row: NDArray[np.object_], example: Example) -> None:
    for axes in row:
        axes.set_xticks([])
        axes.set_yticks([])
    truth = "anomalous" if example.is_anomalous else "normal"
    row[0].set_ylabel(
        f"{example.title}\nscore {example.score:.3f}\n{truth}", rotation=0, ha="right", va="center", fontsize=9
    )
    row[0].imshow(example.image)
    row[1].imshow(example.mask, cmap="gray", vmin=0, vmax=1)
    if example.mask.any():
        row[0].contour(example.mask, levels=[0.5], colors=CONTOUR, linewidths=1.2)
    for axes, (name, values) in zip(row[2:], ((name, example.maps[name]) for name in example.ranges), strict=True):
        _draw_overlay(axes, example.image, values, example.ranges[name])


def _draw_overlay(
    axes: Axes, image: NDArray[np.uint8], values: NDArray[np.floating], colour_range: tuple[float, float]
) -> None:
    lowest, highest = colour_range
    # The image's own colours would mix with those of the map.
    axes.imshow(image.mean(axis=2), cmap="gray", vmin=0, vmax=255)
    axes.imshow(values, cmap=COLOURS, vmin=lowest, vmax=highest, alpha=OPACITY)


def _as_symbol(name: str) -> str:
    return f"${name}$" if "^" in name else name
