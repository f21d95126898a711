"""What a family of products is, and what one of its pictures is drawn from."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dual_image_clip.procedural.canvas import Canvas, Frame, chance
from dual_image_clip.procedural.palette import Colour, contrasting
from dual_image_clip.procedural.surface import Surface


@dataclass
class Fault:
    """A structural defect that a product is to be drawn with.

    Attributes:
        kind: The defect's name.
        rng: Source of the fault's randomness, apart from the picture's, so that everything else stays as it was.
        severity: Factor on its strength, 1 or more.
    """

    kind: str
    rng: np.random.Generator
    severity: float = 1.0

    def sign(self) -> int:
        """Plus or minus one."""
        return 1 if chance(self.rng, 0.5) else -1


class Parts(NamedTuple):
    """In which state each of a product's like parts is.

    Attributes:
        present: Whether it is there, ``(N,)``.
        offset: By how much it is out of its place, ``(N, 2)`` in -1..1 of the family's own measure.
        turn: By how much it is bent or turned, ``(N,)`` in radians.
    """

    present: NDArray[np.bool_]
    offset: NDArray[np.float64]
    turn: NDArray[np.float64]


class View(Canvas):
    """The canvas of one picture.

    Args:
        size: The image's side in pixels.
        rng: Source of what differs from one picture of a category to the next.
        fault: The structural defect, if there is one.
    """

    def __init__(self, size: int, rng: np.random.Generator, fault: Fault | None = None) -> None:
        super().__init__(size, rng)
        self.fault = fault

    def has(self, kind: str) -> Fault | None:
        """The fault, if it is of this kind."""
        return self.fault if self.fault is not None and self.fault.kind == kind else None

    def parts(self, count: int, faults: tuple[str, ...] = ("missing_part", "misplaced_part", "bent_part")) -> Parts:
        """Draws the state of a product's like parts: all in order, or one missing, out of place or bent.

        Args:
            count: Number of parts.
            faults: Kinds of fault that these parts can have.

        Returns:
            Their states.
        """
        parts = Parts(np.ones(count, bool), np.zeros((count, 2)), np.zeros(count))
        fault = self.fault
        if fault is None or fault.kind not in faults:
            return parts
        index = int(fault.rng.integers(count))
        if fault.kind == "missing_part":
            parts.present[index] = False
        elif fault.kind == "misplaced_part":
            direction = fault.rng.uniform(0, 2 * np.pi)
            reach = min(fault.severity * fault.rng.uniform(0.5, 1.0), 1.3)
            parts.offset[index] = reach * np.array([np.cos(direction), np.sin(direction)])
        elif fault.kind == "bent_part":
            parts.turn[index] = fault.sign() * min(fault.severity * fault.rng.uniform(0.2, 0.6), 0.9)
        return parts

    def pose(self, free: bool, play: float = 0.02) -> Frame:
        """Draws how an object lies.

        Args:
            free: Whether it may be turned any way; otherwise it is aligned up to a little play.
            play: Standard deviation of its displacement.

        Returns:
            The object's frame.
        """
        angle = self.rng.uniform(0, 2 * np.pi) if free else self.rng.normal(0, 0.02)
        x, y = np.clip(self.rng.normal(0, play, 2), -2 * play, 2 * play)
        return Frame(float(x), float(y), float(angle))


class Family(ABC):
    """A family of textures or objects; an instance is one category of it.

    Args:
        rng: Source of the category's own features: sizes, counts, colours.

    Attributes:
        name: The family's name.
        is_object: Whether it shows an object on a backdrop; otherwise a texture fills the picture.
        held_out: Whether the family is reserved for tests. No model may be trained on it.
        surface_defects: Defects that can lie on it.
        structural_defects: Defects of its structure that it can draw itself.
        has_benign_dark_areas: Whether dark areas belong to good products, too.
    """

    name: ClassVar[str]
    is_object: ClassVar[bool] = False
    held_out: ClassVar[bool] = False
    surface_defects: ClassVar[tuple[str, ...]]
    structural_defects: ClassVar[tuple[str, ...]] = ()
    has_benign_dark_areas: ClassVar[bool] = False

    @abstractmethod
    def __init__(self, rng: np.random.Generator) -> None: ...

    def draw(self, view: View) -> Surface:
        """Draws one product, with the view's fault where there is one."""
        return self._draw(view)

    @abstractmethod
    def _draw(self, view: View) -> Surface:
        """Draws one product.

        The view's own generator must be asked for the same numbers with and without a fault, so that nothing but the
        fault tells the two products apart.
        """

    @classmethod
    def defects(cls) -> tuple[str, ...]:
        """Names of all its defects."""
        return cls.surface_defects + cls.structural_defects


class Backdrop:
    """What an object lies on: a table, a tray, a belt.

    Args:
        rng: Source of its features.
        against: Colour of the object, from which it stands out.
    """

    def __init__(self, rng: np.random.Generator, against: Colour) -> None:
        self.colour = contrasting(rng, against)
        self.grain = rng.uniform(0, 0.0008)
        self.mottle = rng.uniform(0, 0.025)
        self.gloss = rng.choice([0.0, 0.0, 0.15])

    def draw(self, view: View) -> Surface:
        """Draws it without the object; nothing is foreground yet."""
        surface = Surface.flat(view.size, self.colour, self.gloss)
        surface.tint(1.0 + np.float32(self.mottle) * view.fractal(5, 3))
        surface.height += np.float32(self.grain) * view.white()
        surface.foreground[:] = 0.0
        return surface
