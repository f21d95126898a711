"""Nuts, washers, bolts and screws."""

import numpy as np

from dual_image_clip.procedural.canvas import Field, Frame, bevel, blur, chance, mix, polar, rectangle, smoothstep
from dual_image_clip.procedural.family import Backdrop, Family, View
from dual_image_clip.procedural.palette import metal
from dual_image_clip.procedural.structural import break_edge, deform
from dual_image_clip.procedural.surface import Surface

PART_DEFECTS = (
    "scratch",
    "dent",
    "stain",
    "pores",
    "contamination",
    "fibre",
    "corrosion",
    "abrasion",
    "glue",
    "colour_fault",
)


def radial_brushing(view: View, centre: tuple[float, float]) -> Field:
    """Turning marks around a centre, of about unit variance, ``(H, W)``."""
    levels = view.rng.standard_normal(400).astype(np.float32)
    distance = view.distance(centre) * 300
    below = np.minimum(distance.astype(np.int32), 398)
    part = distance - below.astype(np.float32)
    return levels[below] * (1 - part) + levels[below + 1] * part


class Nut(Family):
    """A hexagon or square nut from above, with thread and chamfer."""

    name = "nut"
    is_object = True
    surface_defects = (*PART_DEFECTS, "crack")
    structural_defects = ("broken_edge", "misplaced_part", "deformation")

    def __init__(self, rng: np.random.Generator) -> None:
        self.corners = int(rng.choice([6, 6, 6, 4, 8]))
        self.radius = rng.uniform(0.3, 0.44)
        self.bore = rng.uniform(0.38, 0.55) * self.radius
        self.flange = chance(rng, 0.3)
        self.colour = metal(rng)
        self.gloss = rng.uniform(0.1, 0.5)
        self.turning = rng.uniform(0.01, 0.06)
        self.is_free = chance(rng, 0.6)
        self.backdrop = Backdrop(rng, self.colour)

    def _draw(self, view: View) -> Surface:
        surface = self.backdrop.draw(view)
        frame = view.pose(self.is_free)
        marks = radial_brushing(view, frame.origin)
        mottle = view.fractal(10, 3)
        outline = np.repeat(polar([self.radius] * self.corners), 10, axis=0)
        following = np.roll(outline, -10, axis=0)
        outline = outline + (following - outline) * np.tile(np.arange(10) / 10, self.corners)[:, None]
        body = view.polygon(frame.place(deform(outline, view)))
        if self.flange:
            body = np.maximum(body, view.disc(frame.origin, 0.97 * self.radius))
        body = break_edge(body, view)
        offset = 0.12 * self.radius * view.parts(1).offset[0]
        bore = view.disc(frame.place([offset]), self.bore)
        radius = view.distance(frame.origin)
        chamfer = smoothstep(radius, 0.86 * self.radius, 0.84 * self.radius)
        surface.cast_shadow(body * (1 - bore), 0.03)
        tone = 1 + np.float32(self.turning) * marks * chamfer + 0.03 * mottle
        relief = bevel(body, 0.05) + 0.02 * blur(chamfer, 0.004)
        ring = body * (1 - bore)
        colour = self.colour * (tone * (0.8 + 0.2 * chamfer))[..., None]
        under = surface.albedo * 0.35
        surface.lay(ring, np.clip(colour, 0, 1), relief, self.gloss)
        turns = 0.5 + 0.5 * np.sin(2 * np.pi * radius / np.float32(0.09 * self.bore))
        surface.lay(
            bore, mix(smoothstep(radius, 0.75 * self.bore, 0.8 * self.bore), under, self.colour * 0.4), 0.003 * turns
        )
        surface.foreground = ring
        return surface


class Washer(Family):
    """A plain, spring or toothed washer."""

    name = "washer"
    is_object = True
    surface_defects = (*PART_DEFECTS, "crack")
    structural_defects = ("broken_edge", "misplaced_part", "missing_part", "deformation")

    def __init__(self, rng: np.random.Generator) -> None:
        self.radius = rng.uniform(0.3, 0.44)
        self.bore = rng.uniform(0.35, 0.75) * self.radius
        self.teeth = int(rng.choice([0, 0, 8, 12, 16]))
        self.colour = metal(rng)
        self.gloss = rng.uniform(0.1, 0.6)
        self.rim = rng.uniform(0.008, 0.03)
        self.turning = rng.uniform(0.01, 0.08)
        self.backdrop = Backdrop(rng, self.colour)

    def _draw(self, view: View) -> Surface:
        surface = self.backdrop.draw(view)
        frame = view.pose(free=True)
        marks = radial_brushing(view, frame.origin)
        parts = view.parts(max(self.teeth, 1), ("missing_part",))
        offset = 0.12 * self.radius * view.parts(1, ("misplaced_part",)).offset[0]
        radii = np.full((max(self.teeth, 24), 8), self.radius)
        if self.teeth:
            radii[:, 4:] *= 0.88
            radii[: self.teeth][~parts.present] = 0.88 * self.radius
        body = break_edge(view.polygon(frame.place(deform(polar(radii.ravel()), view))), view)
        bore = view.disc(frame.place(offset), self.bore)
        ring = body * (1 - bore)
        if not self.teeth and not parts.present[0]:
            wedge = [(0, 0), (1, -0.12), (1, 0.12)]
            ring = ring * (1 - view.polygon(frame.place(wedge)))
        surface.cast_shadow(ring, 0.02)
        tone = 1 + np.float32(self.turning) * marks
        surface.lay(
            ring, np.clip(self.colour * tone[..., None], 0, 1), bevel(ring, self.rim) + 0.0003 * marks, self.gloss
        )
        surface.foreground = ring
        return surface


class BoltHead(Family):
    """The head of a bolt in a plate, with drive and marking."""

    name = "bolt_head"
    is_object = True
    surface_defects = (*PART_DEFECTS, "crack")
    structural_defects = ("broken_edge", "misplaced_part", "missing_part", "misprint")

    def __init__(self, rng: np.random.Generator) -> None:
        self.radius = rng.uniform(0.24, 0.36)
        self.is_hexagon = chance(rng, 0.6)
        self.drive = str(rng.choice(["hexagon", "cross", "slot", "star", "none" if self.is_hexagon else "cross"]))
        self.colour = metal(rng)
        self.plate = metal(rng) * rng.uniform(0.5, 0.9)
        self.gloss = rng.uniform(0.1, 0.5)
        self.marking = str(rng.choice(["8.8", "10.9", "A2", "M8", "12.9"]))
        self.is_free = chance(rng, 0.5)

    def _draw(self, view: View) -> Surface:
        frame = view.pose(self.is_free)
        surface = Surface.flat(view.size, self.plate, 0.1)
        brushing = view.streaks(0.3, 150, 3)
        mottle = view.fractal(12, 3)
        surface.tint(1 + 0.05 * brushing)
        surface.height += 0.0003 * brushing
        washer = view.disc(frame.origin, min(1.3 * self.radius, 0.46))
        surface.cast_shadow(washer, 0.015)
        surface.lay(washer, self.plate * 0.9 + 0.08, bevel(washer, 0.015), self.gloss)
        parts = view.parts(1)
        head_frame = frame.inside(0.15 * self.radius * parts.offset[0])
        corners = polar([self.radius] * 6) if self.is_hexagon else polar([self.radius] * 90)
        head = break_edge(view.polygon(head_frame.place(corners)), view)
        surface.cast_shadow(head, 0.03, 0.6)
        surface.lay(
            head, np.clip(self.colour * (1 + 0.04 * mottle)[..., None], 0, 1), bevel(head, 0.06) + 0.02, self.gloss
        )
        if parts.present[0]:
            self._engrave(view, surface, head_frame)
        surface.foreground = np.maximum(head, washer)
        return surface

    def _engrave(self, view: View, surface: Surface, frame: Frame) -> None:
        """The drive's recess and the letters of the strength class."""
        recess = view.polygons(frame.place(outline) for outline in self._drive_outlines())
        surface.lay(recess, self.colour * 0.25, 0.045)
        letters = self.marking
        place = frame.inside((0, 0.62 * self.radius))
        if fault := view.has("misprint"):
            letters = letters[::-1] if chance(fault.rng, 0.3) else letters[: len(letters) // 2]
            place = frame.inside(fault.rng.uniform(-0.1, 0.1, 2), 0.3 * fault.sign())
        raised = blur(view.text(letters, place, 0.16 * self.radius, 0.012), 0.002)
        surface.height += 0.006 * raised
        surface.tint(1 - 0.2 * raised)

    def _drive_outlines(self) -> list[np.ndarray]:
        size = 0.4 * self.radius
        bar = rectangle(2 * size, 0.4 * size, 0.05 * size)
        turned = Frame(angle=np.pi / 2).place(bar)
        return {
            "hexagon": [polar([size] * 6)],
            "slot": [rectangle(2.6 * size, 0.4 * size)],
            "cross": [bar, turned],
            "star": [polar(np.tile([size, 0.7 * size], 6))],
            "none": [],
        }[self.drive]


class Screw(Family):
    """A screw that lies on its side: head, shank, thread and tip."""

    name = "screw"
    is_object = True
    held_out = True
    surface_defects = ("scratch", "contamination", "corrosion", "stain", "abrasion", "fibre", "glue")
    structural_defects = ("bent_part", "broken_edge", "missing_part", "deformation")

    def __init__(self, rng: np.random.Generator) -> None:
        self.length = rng.uniform(0.6, 0.85)
        self.width = self.length * rng.uniform(0.1, 0.18)
        self.pitch = rng.uniform(0.018, 0.036)
        self.head = self.width * rng.uniform(1.7, 2.3)
        self.head_length = self.length * rng.uniform(0.1, 0.18)
        self.plain = rng.uniform(0, 0.35) * self.length
        self.tip = rng.uniform(0.02, 0.15) * self.length
        self.is_countersunk = chance(rng, 0.5)
        self.colour = metal(rng)
        self.gloss = rng.uniform(0.15, 0.6)
        self.is_free = chance(rng, 0.6)
        self.backdrop = Backdrop(rng, self.colour)

    def _draw(self, view: View) -> Surface:
        surface = self.backdrop.draw(view)
        frame = view.pose(self.is_free)
        phase = view.rng.uniform(0, 1)
        mottle = view.fractal(20, 3)
        u, v = frame.coordinates(view.size)
        bend = self._bend(view, u)
        v = v - bend
        start = -self.length / 2 + self.head_length
        taper = np.clip((self.length / 2 - u) / np.float32(self.tip), 0, 1)
        depth = self._thread_depth(view, u, start)
        along = u / np.float32(self.pitch) + phase
        ridge = np.abs(2 * np.mod(along + 0.25 * np.sign(v), 1) - 1)
        half = np.float32(self.width / 2) * taper - 0.25 * np.float32(self.pitch) * depth * ridge
        shank = np.clip((half - np.abs(v)) * view.size + 0.5, 0, 1) * (u > start - 0.01) * (u < self.length / 2)
        slanted = np.abs(2 * np.mod(along + 0.5 * v / np.float32(self.width), 1) - 1)
        rounded = np.sqrt(np.clip(np.float32(self.width / 2) ** 2 - v * v, 0, None))
        head = view.polygon(frame.place(self._head_outline()))
        body = break_edge(np.maximum(shank, head), view)
        surface.cast_shadow(body, 0.025)
        tone = (1 - 0.45 * depth * slanted) * (1 + 0.05 * mottle)
        surface.lay(
            body * shank,
            np.clip(self.colour * tone[..., None], 0, 1),
            rounded - np.float32(0.5 * self.pitch) * depth * slanted,
            self.gloss,
        )
        lathe = np.sqrt(np.clip(np.float32(self.head / 2) ** 2 - v * v, 0, None))
        surface.lay(body * head, np.clip(self.colour * (1 + 0.05 * mottle)[..., None], 0, 1), lathe * 0.8, self.gloss)
        surface.foreground = body
        return surface

    def _bend(self, view: View, u: np.ndarray) -> np.ndarray:
        fault = view.has("bent_part")
        if fault is None:
            return np.zeros_like(u)
        beyond = np.maximum(u - np.float32(fault.rng.uniform(-0.1, 0.2) * self.length), 0)
        return beyond * np.float32(fault.sign() * min(0.3 * fault.severity, 0.6))

    def _thread_depth(self, view: View, u: np.ndarray, start: float) -> np.ndarray:
        depth = smoothstep(u, start + self.plain, start + self.plain + 0.02)
        fault = view.has("missing_part") or view.has("deformation")
        if fault is None:
            return depth
        middle = fault.rng.uniform(start + self.plain + 0.05, self.length / 2 - 0.08)
        length = fault.rng.uniform(0.02, 0.06) * fault.severity
        worn = smoothstep(np.abs(u - np.float32(middle)), length, 0.6 * length)
        return depth * (1 - worn) if fault.kind == "missing_part" else depth * (1 + 1.2 * worn)

    def _head_outline(self) -> np.ndarray:
        left, right = -self.length / 2, -self.length / 2 + self.head_length
        top, bottom = self.head / 2, self.width / 2 if self.is_countersunk else self.head / 2
        soft = 0.25 * self.head_length
        return np.array(
            [
                (left, -top + soft),
                (left + soft, -top),
                (right, -bottom),
                (right, bottom),
                (left + soft, top),
                (left, top - soft),
            ]
        )
