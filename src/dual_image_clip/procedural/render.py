"""From a category and an index to a picture and, where it shows a defect, its mask."""

from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dual_image_clip.procedural.canvas import Canvas, Field, generator
from dual_image_clip.procedural.defects import SURFACE_DEFECTS, difference, fade_out, visible
from dual_image_clip.procedural.families import FAMILIES
from dual_image_clip.procedural.family import Fault, View
from dual_image_clip.procedural.surface import Light, Surface, shade
from dual_image_clip.procedural.variation import Camera

# Part of every data set's folder name. Raise it with any change that changes a pixel.
RENDERER_VERSION = 2
SMALLEST_SIZE = 64
_ATTEMPTS = 10
_LOG_SEVERITY = (-0.8, 0.25)
_GROWTH = 1.3  # of the severity from one attempt to the next
_SMALLEST_AREA = 3e-4
_LEAST_CHANGE = 0.035
_GAP = 0.06  # a changed texture may look like the old one here and there


class Pair(NamedTuple):
    """A product with a defect, and the very same product without it.

    Attributes:
        clean: Without, RGB ``(H, W, 3)`` in 0..1, before the camera.
        defective: With it. What differs outside the mask is too faint to be seen, and nothing does far from it.
        mask: Where the defect shows, ``(H, W)`` of booleans, never empty.
    """

    clean: Field
    defective: Field
    mask: NDArray[np.bool_]


class Category:
    """One product of a family, with the station that inspects it.

    Any picture can be drawn on its own, in any order and process: it depends on the arguments alone.

    Args:
        name: The family.
        seed: Another seed is another product of the same family.
        image_size: Height and width of the pictures.

    Raises:
        ValueError: There is no such family, or the size is too small.
    """

    def __init__(self, name: str, seed: int = 0, image_size: int = 240) -> None:
        if name not in FAMILIES:
            msg = f"unknown category {name!r}; there are: {', '.join(sorted(FAMILIES))}"
            raise ValueError(msg)
        if image_size < SMALLEST_SIZE:
            msg = f"image_size must be at least {SMALLEST_SIZE}, got {image_size}"
            raise ValueError(msg)
        self.name = name
        self.seed = seed
        self.image_size = image_size
        family = FAMILIES[name]
        self.defects = family.defects()
        self._family = family(generator(seed, name, "product"))
        self._light = Light.draw(generator(seed, name, "light"))
        self._camera = Camera(generator(seed, name, "camera"), family.has_benign_dark_areas)

    def normal(self, role: str, index: int) -> NDArray[np.uint8]:
        """Draws a picture of a good product.

        Args:
            role: What it is for, such as ``train``; another role is another picture.
            index: Its number.

        Returns:
            RGB image ``(H, W, 3)`` in 0..255.
        """
        light = self._light.jittered(self._generator(role, index, "light"))
        return self._photograph(self._shade(self._draw(role, index), light), role, index)

    def anomalous(self, role: str, index: int, defect: str) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Draws a picture of a product with a defect.

        Args:
            role: What it is for.
            index: Its number.
            defect: One of :attr:`defects`.

        Returns:
            RGB image ``(H, W, 3)`` in 0..255, and the mask of the defect, ``(H, W)`` of booleans.

        Raises:
            ValueError: This category has no such defect.
        """
        pair = self.pair(role, index, defect)
        return self._photograph(pair.defective, role, index), pair.mask

    def pair(self, role: str, index: int, defect: str) -> Pair:
        """Draws a product with and without a defect, as an ideal camera would see it.

        The defect is drawn anew, and stronger, until it shows.

        Args:
            role: What it is for.
            index: Its number.
            defect: One of :attr:`defects`.

        Returns:
            Both images and the mask.

        Raises:
            ValueError: This category has no such defect.
            RuntimeError: The defect did not show in any attempt.
        """
        if defect not in self.defects:
            msg = f"{self.name} has no defect {defect!r}; it has: {', '.join(self.defects)}"
            raise ValueError(msg)
        surface = self._draw(role, index)
        light = self._light.jittered(self._generator(role, index, "light"))
        clean = self._shade(surface, light)
        for attempt in range(_ATTEMPTS):
            rng = self._generator(role, index, f"{defect} {attempt}")
            severity = float(np.exp(rng.uniform(*_LOG_SEVERITY))) * _GROWTH**attempt
            if defect in SURFACE_DEFECTS:
                damaged = surface.copy()
                SURFACE_DEFECTS[defect](damaged, Canvas(self.image_size, rng), severity)
            else:
                damaged = self._draw(role, index, Fault(defect, rng, severity))
            defective = self._shade(damaged, light)
            change = difference(clean, defective)
            mask = visible(change, _SMALLEST_AREA, _GAP if defect == "texture_change" else 0.0)
            if np.count_nonzero(mask) >= _SMALLEST_AREA * mask.size and change[mask].mean() > _LEAST_CHANGE:
                return Pair(clean, fade_out(clean, defective, mask), mask)
        msg = f"the defect {defect!r} of {self.name} {role} {index} with seed {self.seed} does not show"
        raise RuntimeError(msg)

    @cached_property
    def _gain(self) -> np.float32:
        return np.float32(self._camera.gain(shade(self._draw("reference", 0), self._light)))

    def _shade(self, surface: Surface, light: Light) -> Field:
        return np.minimum(shade(surface, light) * self._gain, 1.0)

    def _draw(self, role: str, index: int, fault: Fault | None = None) -> Surface:
        return self._family.draw(View(self.image_size, self._generator(role, index, "product"), fault))

    def _photograph(self, image: Field, role: str, index: int) -> NDArray[np.uint8]:
        return self._camera.expose(image, Canvas(self.image_size, self._generator(role, index, "shot")))

    def _generator(self, role: str, index: int, purpose: str) -> np.random.Generator:
        return generator(self.seed, self.name, role, index, purpose)
