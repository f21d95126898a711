"""Colours of materials, RGB in 0..1."""

import colorsys
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Colour: TypeAlias = NDArray[np.floating]

_METALS = ((0.62, 0.63, 0.65), (0.72, 0.72, 0.71), (0.42, 0.42, 0.44), (0.25, 0.25, 0.27), (0.72, 0.58, 0.32))


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """A colour by hue, saturation and value, each in 0..1."""
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value), np.float32)


def metal(rng: np.random.Generator) -> Colour:
    """Steel, zinc, oxide or brass."""
    base = np.array(_METALS[int(rng.choice(len(_METALS), p=(0.3, 0.25, 0.2, 0.1, 0.15)))], np.float32)
    return np.clip(base * rng.uniform(0.9, 1.1) + rng.normal(0, 0.01, 3), 0.05, 0.95).astype(np.float32)


def plastic(rng: np.random.Generator) -> Colour:
    """Any colour that plastics and lacquers come in, from grey to bright."""
    return hsv(rng.random(), rng.uniform(0, 0.85) ** 1.3, rng.uniform(0.15, 0.92))


def print_on(rng: np.random.Generator, background: Colour, difference: float = 0.15) -> Colour:
    """A colour that can be read on another one, because its brightness differs by at least ``difference``."""
    while True:
        colour = plastic(rng)
        if abs(float(colour.mean() - background.mean())) >= difference:
            return colour


def dye(rng: np.random.Generator) -> Colour:
    """Any colour that textiles come in, hardly ever black."""
    return hsv(rng.random(), rng.uniform(0, 0.8) ** 1.3, rng.uniform(0.3, 0.92))


def earth(rng: np.random.Generator, low: float = 0.25, high: float = 0.75) -> Colour:
    """Muted natural colours between yellow and red."""
    return hsv(rng.uniform(0.04, 0.13), rng.uniform(0.15, 0.6), rng.uniform(low, high))


def grey(rng: np.random.Generator, low: float, high: float) -> Colour:
    """A nearly neutral grey."""
    return hsv(rng.random(), rng.uniform(0, 0.05), rng.uniform(low, high))


def contrasting(rng: np.random.Generator, colour: Colour, difference: float = 0.25) -> Colour:
    """A greyish colour that is lighter or darker than the given one by at least ``difference`` where possible."""
    level = float(colour.mean())
    darker = rng.uniform(0.04, max(level - difference, 0.05))
    lighter = rng.uniform(min(level + difference, 0.9), 0.92)
    value = darker if rng.random() < level else lighter
    return hsv(rng.random(), rng.uniform(0, 0.3) * (1.0 - 0.8 * value), float(value))
