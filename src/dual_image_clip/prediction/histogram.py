"""Geometry of the histogram of scores, in the pixels of an SVG."""

import math
from collections.abc import Sequence
from typing import NamedTuple

WIDTH, HEIGHT = 720, 200
LEFT, RIGHT, TOP, BOTTOM = 44, 16, 24, 40
_MOST_BARS = 40
_FEWEST_BARS = 8
_TICKS = 5
_NARROWEST = 0.02


class Bar(NamedTuple):
    """A bar and what it counts: scores of at least ``low`` and less than ``high``."""

    x: float
    y: float
    width: float
    height: float
    low: float
    high: float
    num_scores: int


class Tick(NamedTuple):
    """A labelled place on the axis of scores."""

    x: float
    text: str


class Histogram(NamedTuple):
    """Everything that the picture shows.

    Attributes:
        bars: Bars with at least one score.
        ticks: Labels of the axis of scores.
        most: Count of the highest bar.
        threshold: Where the line of the threshold stands, or ``None``.
    """

    bars: list[Bar]
    ticks: list[Tick]
    most: int
    threshold: Tick | None


def histogram(scores: Sequence[float], threshold: float | None) -> Histogram:
    """Lays out a histogram whose axis holds all scores and the threshold.

    Args:
        scores: Finite scores, at least one.
        threshold: Score of the line, or ``None``.

    Returns:
        The picture's parts.
    """
    shown = [*scores, *([] if threshold is None else [threshold])]
    low, high = min(shown), max(shown)
    margin = max(_NARROWEST - (high - low), 0.05 * (high - low)) / 2
    low, high = low - margin, high + margin
    count = min(_MOST_BARS, max(_FEWEST_BARS, 2 * math.isqrt(len(scores))))
    step = (high - low) / count
    counts = [0] * count
    for score in scores:
        counts[min(count - 1, int((score - low) / step))] += 1
    most = max(counts)

    def place(score: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * (score - low) / (high - low), 1)

    floor, room = HEIGHT - BOTTOM, HEIGHT - TOP - BOTTOM
    bars = [
        Bar(
            x=place(low + index * step) + 0.5,
            y=round(floor - room * each / most, 1),
            width=round(place(low + (index + 1) * step) - place(low + index * step) - 1, 1),
            height=round(room * each / most, 1),
            low=low + index * step,
            high=low + (index + 1) * step,
            num_scores=each,
        )
        for index, each in enumerate(counts)
        if each
    ]
    ticks = [low + (high - low) * index / (_TICKS - 1) for index in range(_TICKS)]
    line = None if threshold is None else Tick(place(threshold), f"{threshold:.3f}")
    return Histogram(bars, [Tick(place(tick), f"{tick:.3f}") for tick in ticks], most, line)
