"""Structural defects that many families share, drawn into the product's own shape."""

import cv2
import numpy as np

from dual_image_clip.procedural.canvas import Canvas, Field, Points
from dual_image_clip.procedural.family import Fault, View

STRUCTURAL_DEFECTS = (
    "bent_part",
    "broken_edge",
    "deformation",
    "frayed_edge",
    "misplaced_part",
    "misprint",
    "missing_part",
    "texture_change",
    "thread_fault",
)


def break_edge(coverage: Field, view: View, reach: float = 0.06) -> Field:
    """Breaks a piece off a part's edge where the view's fault is ``broken_edge``.

    Args:
        coverage: The part, ``(H, W)`` in 0..1.
        view: What is being drawn.
        reach: Radius of the piece.

    Returns:
        The part's coverage, changed or not.
    """
    fault = view.has("broken_edge")
    if fault is None:
        return coverage
    pencil = Canvas(view.size, fault.rng)
    rim = coverage - cv2.erode(coverage, np.ones((3, 3), np.uint8))
    centre = pencil.pick(rim, margin=0.0)
    radius = reach * fault.rng.uniform(0.5, 1.1) * fault.severity
    return coverage * (1.0 - pencil.polygon(pencil.blob(centre, radius, roughness=0.6)))


def deform(points: Points, view: View, reach: float = 0.05) -> Points:
    """Pushes a part of an outline in or out where the view's fault is ``deformation``.

    Args:
        points: Corners about the origin, ``(N, 2)``.
        view: What is being drawn.
        reach: How far.

    Returns:
        The corners, changed or not.
    """
    fault = view.has("deformation")
    if fault is None:
        return points
    angles = np.arctan2(points[:, 1], points[:, 0])
    distance = np.angle(np.exp(1j * (angles - fault.rng.uniform(-np.pi, np.pi))))
    bump = np.exp(-((distance / fault.rng.uniform(0.2, 0.5)) ** 2))
    push = -reach * fault.severity * fault.rng.uniform(0.5, 1.0) * (1 if fault.sign() > 0 else -_OUTWARD)
    radii = np.maximum(np.hypot(points[:, 0], points[:, 1]), 1e-6)
    return points * (1.0 + push * bump / radii)[:, None]


_OUTWARD = 0.6  # things are dented more easily than bulged


def loose_fibres(edge: Points, outward: Points, fault: Fault, view: View, reach: float) -> Field:
    """Draws fibres that stick out of a frayed edge.

    Args:
        edge: Points of the edge, ``(N, 2)``.
        outward: Unit vector that points away from the fabric, ``(2,)``.
        fault: The fault.
        view: What is being drawn.
        reach: Length of the longest fibre.

    Returns:
        Coverage, ``(H, W)`` in 0..1.
    """
    count = int(fault.rng.integers(12, 40) * fault.severity)
    centre = fault.rng.uniform(0.2, 0.8)
    where = np.clip(fault.rng.normal(centre, 0.1, count), 0, 1) * (len(edge) - 1)
    fibres = []
    for start in edge[where.astype(int)]:
        direction = outward + fault.rng.normal(0, 0.6, 2)
        curl = fault.rng.normal(0, 0.5, 2)
        t = np.linspace(-0.2, 1, 8)[:, None] * reach * fault.rng.uniform(0.3, 1.0)
        fibres.append(start + t * direction + t**2 / reach * curl)
    return view.lines(fibres, 0.004)
