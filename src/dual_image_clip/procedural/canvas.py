"""Drawing primitives: random fields, anti-aliased shapes, coordinate frames.

Lengths and coordinates are in units of the image's side, the origin is the image's centre, x points right and y down.
So a picture looks the same at every image size.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Field: TypeAlias = NDArray[np.floating]
Points: TypeAlias = NDArray[np.float64]

_SUBPIXEL_BITS = 4
_GOLDEN_RATIO = 1.618034


def generator(*key: int | str) -> np.random.Generator:
    """Makes the generator that belongs to a key, the same in every process and on every machine.

    Args:
        *key: What the random numbers are for, such as seed, category, role and index.

    Returns:
        A fresh generator.
    """
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def chance(rng: np.random.Generator, probability: float) -> bool:
    """Is true with the given probability."""
    return bool(rng.random() < probability)


def smoothstep(values: Field, start: float, end: float) -> Field:
    """Rises smoothly from 0 at ``start`` to 1 at ``end``; ``start`` may be the larger of the two.

    Args:
        values: Any shape.
        start: Where the step begins.
        end: Where it ends.

    Returns:
        Values in 0..1, same shape.
    """
    t = np.clip((values - start) / (end - start), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def mix(share: Field, first: ArrayLike, second: ArrayLike) -> Field:
    """Blends two colours or images.

    Args:
        share: Share of the second, ``(H, W)`` in 0..1.
        first: Colour ``(3,)`` or image ``(H, W, 3)``.
        second: Colour ``(3,)`` or image ``(H, W, 3)``.

    Returns:
        Image ``(H, W, 3)``.
    """
    first = np.asarray(first, np.float32)
    return first + share[..., None] * (np.asarray(second, np.float32) - first)


def blur(field: Field, sigma: float) -> Field:
    """Blurs with a Gaussian of ``sigma`` side units; ``(H, W)`` or ``(H, W, 3)`` in, the same out."""
    return cv2.GaussianBlur(field, (0, 0), max(sigma * field.shape[0], 0.3))  # type: ignore[return-value]


def shift(field: Field, dx: float, dy: float) -> Field:
    """Moves a field ``(H, W)`` by whole pixels nearest to ``(dx, dy)``; what enters is the edge's value."""
    size = field.shape[0]
    matrix = np.array([[1, 0, round(dx * size)], [0, 1, round(dy * size)]], np.float32)
    return cv2.warpAffine(field, matrix, (size, size), flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[return-value]


@lru_cache(maxsize=8)
def grid(size: int) -> tuple[Field, Field]:
    """Coordinates of the pixel centres.

    Args:
        size: The image's side in pixels.

    Returns:
        x and y, each ``(size, size)`` in -0.5..0.5, read-only.
    """
    axis = ((np.arange(size) + 0.5) / size - 0.5).astype(np.float32)
    x, y = np.meshgrid(axis, axis)
    x.setflags(write=False)
    y.setflags(write=False)
    return x, y


@dataclass(frozen=True)
class Frame:
    """A coordinate system in the picture, such as that of an object that lies in it.

    Attributes:
        x: Where its origin is.
        y: Where its origin is.
        angle: By how much it is turned, in radians.
    """

    x: float = 0.0
    y: float = 0.0
    angle: float = 0.0

    @classmethod
    def at(cls, origin: ArrayLike, angle: float = 0.0) -> "Frame":
        """A frame with the given origin ``(2,)``."""
        x, y = np.asarray(origin, float).ravel()
        return cls(float(x), float(y), angle)

    @property
    def origin(self) -> tuple[float, float]:
        """Where its origin is."""
        return self.x, self.y

    def place(self, points: ArrayLike) -> Points:
        """Takes points ``(N, 2)`` from this frame to the picture."""
        points = np.asarray(points, float).reshape(-1, 2)
        c, s = np.cos(self.angle), np.sin(self.angle)
        return points @ np.array([[c, s], [-s, c]]) + (self.x, self.y)

    def inside(self, origin: ArrayLike, angle: float = 0.0) -> "Frame":
        """A frame whose origin ``(2,)`` and angle are given in this one's coordinates."""
        return Frame.at(self.place(origin), self.angle + angle)

    def coordinates(self, size: int) -> tuple[Field, Field]:
        """This frame's coordinates of each pixel, two fields ``(size, size)``."""
        x, y = grid(size)
        c, s = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        dx, dy = x - np.float32(self.x), y - np.float32(self.y)
        return dx * c + dy * s, dy * c - dx * s


def rectangle(width: float, height: float, radius: float = 0.0) -> Points:
    """Corner points ``(N, 2)`` of a rectangle about the origin, with rounded corners."""
    radius = min(radius, width / 2, height / 2)
    quarter = np.linspace(0, np.pi / 2, 8 if radius > 0 else 1)
    corners = []
    for index, (sx, sy) in enumerate(((1, 1), (-1, 1), (-1, -1), (1, -1))):
        t = quarter + index * np.pi / 2
        centre = (sx * (width / 2 - radius), sy * (height / 2 - radius))
        corners.append(np.stack([centre[0] + radius * np.cos(t), centre[1] + radius * np.sin(t)], axis=1))
    return np.concatenate(corners)


def polar(radii: ArrayLike, start: float = 0.0) -> Points:
    """Points ``(N, 2)`` at the given distances from the origin, evenly spaced around it."""
    radii = np.asarray(radii, float)
    t = start + np.arange(len(radii)) * 2 * np.pi / len(radii)
    return np.stack([radii * np.cos(t), radii * np.sin(t)], axis=1)


class Canvas:
    """Draws random fields and anti-aliased shapes at one image size.

    Args:
        size: The image's side in pixels.
        rng: Source of everything random.
    """

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self.size = size
        self.rng = rng
        self.x, self.y = grid(size)

    def constant(self, value: float) -> Field:
        """A field ``(size, size)`` of one value."""
        return np.full((self.size, self.size), value, np.float32)

    def white(self) -> Field:
        """White noise of variance 1, ``(size, size)``."""
        return self.rng.standard_normal((self.size, self.size), dtype=np.float32)

    def noise(self, cells: float, columns: float | None = None) -> Field:
        """Smooth noise of about unit variance.

        Args:
            cells: Hills and valleys along the height, and along the width too where ``columns`` is not given.
            columns: Hills and valleys along the width.

        Returns:
            A field ``(size, size)``.
        """
        shape = [min(max(2, round(count)), self.size) for count in (cells, cells if columns is None else columns)]
        return self._enlarge(self.rng.standard_normal(shape, dtype=np.float32)) * np.float32(1.25)

    def fractal(self, cells: float, octaves: int = 4, gain: float = 0.5) -> Field:
        """Noise with detail at every scale, of about unit variance.

        Args:
            cells: Hills and valleys along the side at the coarsest scale.
            octaves: Number of scales, each twice as fine as the one before.
            gain: Amplitude of a scale relative to the one before.

        Returns:
            A field ``(size, size)``.
        """
        count = max(2, round(cells))
        field = self.rng.standard_normal((count, count), dtype=np.float32)
        amplitude, variance = 1.0, 1.0
        for _ in range(octaves - 1):
            count *= 2
            if count > self.size:
                break
            amplitude *= gain
            variance += amplitude**2
            detail = np.float32(amplitude) * self.rng.standard_normal((count, count), dtype=np.float32)
            field = cv2.resize(field, (count, count), interpolation=cv2.INTER_CUBIC) + detail
        return self._enlarge(field) * np.float32(1.25 / np.sqrt(variance))

    def streaks(self, angle: float, across: float, along: float) -> Field:
        """Noise drawn out into streaks, of about unit variance.

        Args:
            angle: Direction of the streaks in radians.
            across: Streaks along one side, counted across them.
            along: Streaks along one side, counted along them.

        Returns:
            A field ``(size, size)``.
        """
        large = int(1.5 * self.size)
        shape = [min(max(2, round(1.5 * count)), large) for count in (across, along)]
        field = cv2.resize(
            self.rng.standard_normal(shape, dtype=np.float32), (large, large), interpolation=cv2.INTER_LINEAR
        )
        matrix = cv2.getRotationMatrix2D((large / 2, large / 2), -np.degrees(angle), 1.0)
        matrix[:, 2] -= np.full(2, (large - self.size) / 2)
        turned = cv2.warpAffine(
            field, matrix, (self.size, self.size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
        )
        return turned * np.float32(1.4)

    def cells(self, count: int) -> tuple[Field, NDArray[np.int32]]:
        """Divides the picture into irregular cells around random seeds.

        Args:
            count: About how many.

        Returns:
            Distance of each pixel to its seed in side units, and the number of its cell, both ``(size, size)``.
        """
        per_side = max(2, round(count**0.5))
        seeds = (np.indices((per_side, per_side)).reshape(2, -1) + self.rng.random((2, per_side**2))) / per_side
        rows, columns = (seeds * self.size).astype(int)
        image = np.full((self.size, self.size), 255, np.uint8)
        image[rows, columns] = 0
        distance, labels = cv2.distanceTransformWithLabels(
            image, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
        )
        return distance / np.float32(self.size), labels  # type: ignore[return-value]

    def distance(self, point: ArrayLike) -> Field:
        """Distance ``(size, size)`` of each pixel to a point ``(2,)``."""
        x, y = np.asarray(point, np.float32).ravel()
        return np.hypot(self.x - x, self.y - y)

    def disc(self, centre: ArrayLike, radius: float) -> Field:
        """Coverage ``(size, size)`` in 0..1 of a disc around a point ``(2,)``."""
        distance = self.distance(centre)
        return np.clip((np.float32(radius) - distance) * self.size + 0.5, 0.0, 1.0)

    def discs(self, centres: ArrayLike, radii: ArrayLike) -> Field:
        """Coverage ``(size, size)`` in 0..1 of many discs: centres ``(N, 2)``, radii ``(N,)`` or one number."""
        image = self._blank()
        centres = np.asarray(centres, float).reshape(-1, 2)
        sizes = np.maximum(np.broadcast_to(np.asarray(radii, float), len(centres)) * self.size, 0.4)
        for centre, radius in zip(self._subpixels(centres), sizes * 2**_SUBPIXEL_BITS, strict=True):
            cv2.circle(image, centre.tolist(), round(radius), 255, -1, cv2.LINE_AA, _SUBPIXEL_BITS)
        return _coverage(image)

    def polygon(self, points: ArrayLike) -> Field:
        """Coverage ``(size, size)`` in 0..1 of the polygon with these corners ``(N, 2)``."""
        return self.polygons([points])

    def polygons(self, outlines: Iterable[ArrayLike]) -> Field:
        """Coverage ``(size, size)`` in 0..1 of several polygons together, each given by its corners ``(N, 2)``."""
        image = self._blank()
        for points in outlines:
            cv2.fillPoly(image, [self._subpixels(points)], 255, cv2.LINE_AA, _SUBPIXEL_BITS)
        return _coverage(image)

    def lines(self, paths: Iterable[ArrayLike], width: float) -> Field:
        """Coverage ``(size, size)`` in 0..1 of paths, each given by its points ``(N, 2)``.

        Lines thinner than a pixel are drawn one pixel wide and correspondingly faint.
        """
        image = self._blank()
        pixels = width * self.size
        for points in paths:
            cv2.polylines(
                image, [self._subpixels(points)], False, 255, max(1, round(pixels)), cv2.LINE_AA, _SUBPIXEL_BITS
            )
        return _coverage(image) * np.float32(min(1.0, pixels))

    def text(self, letters: str, frame: Frame, height: float, width: float) -> Field:
        """Coverage ``(size, size)`` in 0..1 of letters centred in a frame.

        Args:
            letters: What is written.
            frame: Where, and in which direction.
            height: Height of a capital.
            width: Width of the strokes.
        """
        thickness = max(1, round(width * self.size))
        font, scale = cv2.FONT_HERSHEY_SIMPLEX, height * self.size / 22.0
        (wide, high), _ = cv2.getTextSize(letters, font, scale, thickness)
        image = self._blank()
        origin = ((self.size - wide) // 2, (self.size + high) // 2)
        cv2.putText(image, letters, origin, font, scale, 255, thickness, cv2.LINE_AA)
        centre = (self.size / 2, self.size / 2)
        matrix = cv2.getRotationMatrix2D(centre, -np.degrees(frame.angle), 1.0)
        matrix[:, 2] += np.array([frame.x, frame.y]) * self.size
        return _coverage(cv2.warpAffine(image, matrix, (self.size, self.size), flags=cv2.INTER_LINEAR))

    def blob(self, centre: ArrayLike, radius: float, roughness: float = 0.3) -> Points:
        """Outline ``(48, 2)`` of an irregular blob.

        Args:
            centre: Its centre, ``(2,)``.
            radius: Its mean radius.
            roughness: How far it is from a circle, 0..1.
        """
        t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        radii = np.ones_like(t)
        for harmonic in range(1, 8):
            phase = self.rng.uniform(0, 2 * np.pi)
            radii += roughness * self.rng.normal() * np.cos(harmonic * t + phase) / (harmonic + 1)
        radii = radius * np.clip(radii, 0.25, 2.0)
        squeeze = self.rng.uniform(0.5, 1.0)
        turn = self.rng.uniform(0, np.pi)
        return Frame.at(centre, turn).place(np.stack([radii * np.cos(t), squeeze * radii * np.sin(t)], axis=1))

    def walk(self, middle: ArrayLike, length: float, restlessness: float, steps: int = 24) -> Points:
        """A wandering path ``(steps + 1, 2)``.

        Args:
            middle: Its middle, ``(2,)``.
            length: Its length.
            restlessness: Standard deviation of the turn at each step, in radians.
            steps: Number of steps.
        """
        directions = self.rng.uniform(0, 2 * np.pi) + np.cumsum(self.rng.normal(0, restlessness, steps))
        moves = np.stack([np.cos(directions), np.sin(directions)], axis=1) * length / steps
        path = np.concatenate([np.zeros((1, 2)), np.cumsum(moves, axis=0)])
        return path - path.mean(axis=0) + np.asarray(middle, float)

    def pick(self, where: Field, margin: float = 0.06) -> tuple[float, float]:
        """Picks a pixel at random.

        Args:
            where: ``(size, size)``; pixels above one half are eligible, all pixels where there is none.
            margin: Width of the picture's border, where none is picked.

        Returns:
            Its coordinates.
        """
        inner = np.maximum(np.abs(self.x), np.abs(self.y)) < 0.5 - margin
        eligible = np.flatnonzero((where > _HALF) & inner)
        index = int(self.rng.choice(eligible)) if len(eligible) else int(self.rng.integers(where.size))
        row, column = divmod(index, self.size)
        return (column + 0.5) / self.size - 0.5, (row + 0.5) / self.size - 0.5

    def _blank(self) -> NDArray[np.uint8]:
        return np.zeros((self.size, self.size), np.uint8)

    def _subpixels(self, points: ArrayLike) -> NDArray[np.int32]:
        pixels = (np.asarray(points, float).reshape(-1, 2) + 0.5) * self.size - 0.5
        return np.rint(pixels * 2**_SUBPIXEL_BITS).astype(np.int32)

    def _enlarge(self, field: Field) -> Field:
        return cv2.resize(field, (self.size, self.size), interpolation=cv2.INTER_CUBIC)  # type: ignore[return-value]


_HALF = 0.5


def _coverage(image: NDArray) -> Field:
    return image.astype(np.float32) * np.float32(1 / 255)


def bevel(coverage: Field, width: float, steepness: float = 1.0) -> Field:
    """Height of a part whose rim is rounded over.

    Args:
        coverage: The part, ``(H, W)`` in 0..1.
        width: Width of the rounded rim; as wide as the part's radius, the part becomes a dome.
        steepness: Factor on the height.

    Returns:
        Height ``(H, W)`` in side units, from 0 outside and at the rim to ``width * steepness``.
    """
    size = coverage.shape[0]
    inside = cv2.distanceTransform((coverage > _HALF).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    inward = 1.0 - np.minimum(inside * np.float32(1 / (size * width)), 1.0)
    height = np.sqrt(1.0 - inward * inward) * np.float32(width * steepness)
    return cv2.GaussianBlur(height, (0, 0), 0.8)


def spread(rng: np.random.Generator, count: int) -> NDArray[np.float32]:
    """Random levels ``(count + 1,)`` in -1..1, one for each cell or thread of a pattern."""
    return rng.uniform(-1, 1, count + 1).astype(np.float32)


def sunflower(count: int, radius: float) -> Points:
    """Points ``(count, 2)`` evenly spread over a disc."""
    index = np.arange(count) + 0.5
    t = index * 2 * np.pi / _GOLDEN_RATIO**2
    r = radius * np.sqrt(index / count)
    return np.stack([r * np.cos(t), r * np.sin(t)], axis=1)


def repeated(values: Sequence[float], count: int) -> Points:
    """Repeats a profile ``values`` ``count`` times, ``(count * len(values),)``."""
    return np.tile(np.asarray(values, float), count)
