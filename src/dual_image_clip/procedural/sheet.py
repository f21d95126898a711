"""Sheet metal and castings: brushed, corrugated, perforated, wire mesh, as cast."""

import numpy as np

from dual_image_clip.procedural.canvas import Canvas, Field, Frame, blur, chance, mix, smoothstep
from dual_image_clip.procedural.family import Family, View
from dual_image_clip.procedural.palette import grey, metal, plastic
from dual_image_clip.procedural.surface import Surface

_METAL_DEFECTS = (
    "scratch",
    "dent",
    "stain",
    "unevenness",
    "pores",
    "contamination",
    "fibre",
    "corrosion",
    "glue",
    "abrasion",
)
_INSIDE = 0.42


class BrushedMetal(Family):
    """Brushed, rolled or ground metal."""

    name = "brushed_metal"
    has_benign_dark_areas = True
    surface_defects = (*_METAL_DEFECTS, "crack", "dark_region", "colour_fault")
    structural_defects = ("texture_change",)

    def __init__(self, rng: np.random.Generator) -> None:
        self.colour = metal(rng)
        self.angle = rng.choice([0.0, np.pi / 2, rng.uniform(0, np.pi)])
        self.length = rng.uniform(1.5, 10)
        self.contrast = rng.uniform(0.03, 0.12)
        self.gloss = rng.uniform(0.05, 0.35)
        self.sheen = rng.uniform(0.02, 0.15)

    def _draw(self, view: View) -> Surface:
        angle = self.angle + view.rng.normal(0, 0.02)
        lines = view.streaks(angle, 200, self.length)
        broad = view.streaks(angle, 14, 1.0)
        if fault := view.has("texture_change"):
            pencil = Canvas(view.size, fault.rng)
            if chance(fault.rng, 0.5):
                lines = pencil.streaks(angle + fault.rng.uniform(0.3, 1.2), 200, self.length)
            else:
                broad = broad + fault.severity * 1.5 * pencil.streaks(angle + np.pi / 2, 22, 1.5)
        surface = Surface.flat(view.size, self.colour, self.gloss)
        surface.tint(1 + np.float32(self.contrast) * lines + np.float32(self.sheen) * broad)
        surface.height = np.float32(0.0007) * lines
        return surface


class Corrugated(Family):
    """Corrugated sheet of metal, plastic or card."""

    name = "corrugated"
    surface_defects = (
        "scratch",
        "stain",
        "colour_fault",
        "contamination",
        "hole",
        "cut",
        "corrosion",
        "glue",
        "unevenness",
    )
    structural_defects = ("deformation", "texture_change")

    def __init__(self, rng: np.random.Generator) -> None:
        self.colour = metal(rng) if chance(rng, 0.5) else plastic(rng)
        self.gloss = rng.uniform(0, 0.4)
        self.angle = rng.choice([0.0, np.pi / 2, rng.uniform(0, np.pi)])
        self.waves = rng.uniform(6, 22)
        self.depth = rng.uniform(0.06, 0.2)
        self.flatness = rng.uniform(0.6, 3.0)
        self.grime = rng.uniform(0.02, 0.08)

    def _draw(self, view: View) -> Surface:
        frame = Frame.at(view.rng.uniform(-0.05, 0.05, 2), self.angle + view.rng.normal(0, 0.01))
        u, _ = frame.coordinates(view.size)
        grime, grain = view.fractal(6, 4), view.white()
        u = u + np.float32(0.03 / self.waves) * view.noise(4)
        if fault := view.has("deformation"):
            centre = fault.rng.uniform(-0.35, 0.35, 2)
            radius = fault.rng.uniform(0.05, 0.12)
            near = np.exp(-((view.distance(centre) / np.float32(radius)) ** 2))
            u = u + near * np.float32(fault.sign() * 0.4 * fault.severity / self.waves)
        elif fault := view.has("texture_change"):
            u = u * np.float32(1 + 0.15 * fault.severity * fault.sign()) + 0.01 * Canvas(view.size, fault.rng).noise(5)
        wave = np.tanh(np.float32(self.flatness) * np.sin(2 * np.pi * np.float32(self.waves) * u))
        surface = Surface.flat(view.size, self.colour, self.gloss)
        surface.tint((0.85 + 0.15 * wave) * (1 + np.float32(self.grime) * grime) + 0.015 * grain)
        surface.height = wave * np.float32(self.depth / self.waves)
        return surface


class PerforatedSheet(Family):
    """Punched sheet: round, square or slotted holes in rows."""

    name = "perforated_sheet"
    surface_defects = (*_METAL_DEFECTS, "crack")
    structural_defects = ("missing_part", "misplaced_part", "deformation")

    def __init__(self, rng: np.random.Generator) -> None:
        self.colour = metal(rng) if chance(rng, 0.7) else plastic(rng)
        self.behind = grey(rng, 0.02, 0.12) if self.colour.mean() > _DARK else grey(rng, 0.7, 0.9)
        self.pitch = rng.uniform(0.075, 0.2)
        self.radius = rng.uniform(0.22, 0.38) * self.pitch
        self.is_staggered = chance(rng, 0.5)
        self.slot = rng.choice([0.0, 0.0, 0.35])
        self.angle = rng.choice([0.0, np.pi / 4, rng.uniform(0, np.pi)])
        self.gloss = rng.uniform(0.05, 0.35)
        self.brushing = rng.uniform(0.01, 0.06)

    def _draw(self, view: View) -> Surface:
        frame = Frame.at(view.rng.uniform(-0.5, 0.5, 2) * self.pitch, self.angle + view.rng.normal(0, 0.01))
        brushing = view.streaks(frame.angle, 180, 8)
        reach = int(0.8 / self.pitch) + 1
        columns, rows = (
            values.ravel() for values in np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1))
        )
        stagger = 0.5 * (rows % 2) if self.is_staggered else 0 * rows
        centres = np.stack([columns + stagger, rows], axis=1) * self.pitch
        visible = np.flatnonzero(np.abs(frame.place(centres)).max(axis=1) < _INSIDE)
        parts = view.parts(len(visible))
        centres[visible] += parts.offset * 0.35 * self.pitch
        radii = np.full(len(centres), self.radius)
        radii[visible[~parts.present]] = 0.0
        if fault := view.has("deformation"):
            radii[fault.rng.choice(visible)] *= 1 + fault.sign() * min(0.3 * fault.severity, 0.6)
        centres, radii = centres[radii > 0], radii[radii > 0]
        holes = view.discs(frame.place(centres), radii)
        if self.slot > 0:
            sides = [frame.place(centres + np.array([side * self.slot * self.pitch / 2, 0])) for side in (-1, 0, 1)]
            holes = view.discs(np.concatenate(sides), np.tile(radii * 0.8, 3))
        surface = Surface.flat(view.size, self.colour, self.gloss)
        surface.tint(1 + np.float32(self.brushing) * brushing)
        surface.height = np.float32(0.0003) * brushing - np.float32(0.015) * blur(holes, 0.002)
        surface.albedo = mix(holes, surface.albedo, self.behind)
        surface.gloss *= 1 - holes
        surface.foreground = 1 - holes
        return surface


class Mesh(Family):
    """Wire mesh or a moulded grid before a backdrop."""

    name = "mesh"
    held_out = True
    surface_defects = ("contamination", "fibre", "glue", "corrosion", "colour_fault", "stain")
    structural_defects = ("missing_part", "bent_part", "misplaced_part", "texture_change")

    def __init__(self, rng: np.random.Generator) -> None:
        self.colour = metal(rng) if chance(rng, 0.6) else plastic(rng)
        self.behind = grey(rng, 0.03, 0.15) if self.colour.mean() > _DARK else grey(rng, 0.65, 0.92)
        self.wires = int(rng.integers(6, 16))
        self.width = rng.uniform(0.12, 0.26) / self.wires
        self.skew = rng.choice([0.0, 0.0, 0.45])
        self.angle = rng.choice([0.0, np.pi / 4, rng.uniform(0, np.pi)])
        self.gloss = rng.uniform(0.1, 0.5)
        self.crimp = rng.uniform(0, 0.05)

    def _draw(self, view: View) -> Surface:
        frame = Frame.at(view.rng.uniform(-0.5, 0.5, 2) / self.wires, self.angle + view.rng.normal(0, 0.01))
        mottle = view.fractal(8, 3)
        surface = Surface.flat(view.size, self.behind)
        surface.tint(1 + 0.08 * mottle)
        crimp = 0.04 * view.rng.normal(0, 1, 2) * self.crimp
        tightness = 1.0
        if fault := view.has("texture_change"):
            tightness = 1 + 0.15 * fault.severity * fault.sign()
        lines = [self._wires(view, frame, direction, crimp[direction], tightness) for direction in (0, 1)]
        for wires in lines:
            surface.cast_shadow(wires, 0.012, 0.4)
        together = np.maximum(lines[0], lines[1])
        for wires in lines:
            round_wire = blur(wires, 0.35 * self.width) * np.float32(self.width)
            surface.lay(wires, self.colour * (1 + 0.04 * mottle)[..., None], round_wire, self.gloss)
        surface.foreground = together
        return surface

    def _wires(self, view: View, frame: Frame, direction: int, crimp: float, tightness: float) -> Field:
        """Coverage of the wires of one direction; one of them may be broken, bent or out of its place."""
        count = int(1.6 * self.wires) | 1
        along = np.linspace(-0.8, 0.8, 33)
        numbers = np.arange(count) - count // 2
        fault = view.fault
        chosen = int(fault.rng.integers(-self.wires // 3, self.wires // 3 + 1)) if fault is not None else None
        is_ours = fault is not None and direction == 0
        paths = []
        for number in numbers:
            across = np.full_like(along, number / self.wires * tightness) + crimp * np.sin(np.pi * self.wires * along)
            pieces = [np.ones_like(along, bool)]
            if is_ours and number == chosen and fault is not None:
                middle, width = fault.rng.uniform(-0.25, 0.25), fault.rng.uniform(0.06, 0.15) * fault.severity
                bump = np.exp(-(((along - middle) / width) ** 2)) / self.wires * min(0.5 * fault.severity, 0.8)
                if fault.kind == "bent_part":
                    across = across + fault.sign() * bump
                elif fault.kind == "misplaced_part":
                    across = across + fault.sign() * min(0.35 * fault.severity, 0.7) / self.wires
                elif fault.kind == "missing_part":
                    pieces = [along < middle - width, along > middle + width]
            points = np.stack([along, across], axis=1)
            if direction == 1:
                points = np.stack([across + self.skew * along, along], axis=1)
            paths += [frame.place(points[piece]) for piece in pieces if piece.any()]
        return view.lines(paths, self.width)


class Casting(Family):
    """The rough skin of a casting or forging, with a machined band in some categories."""

    name = "casting"
    has_benign_dark_areas = True
    surface_defects = (*_METAL_DEFECTS, "crack", "dark_region", "hole")
    structural_defects = ("texture_change",)

    def __init__(self, rng: np.random.Generator) -> None:
        self.colour = grey(rng, 0.2, 0.6)
        self.roughness = rng.uniform(0.001, 0.003)
        self.fineness = rng.uniform(35, 110)
        self.clouds = rng.uniform(0.03, 0.15)
        self.band = rng.uniform(0.2, 0.5) if chance(rng, 0.4) else 0.0
        self.gloss = rng.uniform(0, 0.15)

    def _draw(self, view: View) -> Surface:
        fineness, roughness = self.fineness, self.roughness
        if fault := view.has("texture_change"):
            fineness *= 0.45 if fault.sign() > 0 else 2.0
            roughness *= 0.7 + fault.severity
        clouds, grain = view.fractal(3, 4), view.white()
        marks = view.streaks(0.0, 90, 2)
        edge = 0.5 - self.band + view.rng.normal(0, 0.015)
        rough = view.fractal(fineness, 2)
        machined = smoothstep(view.y, edge, edge + 0.008) if self.band > 0 else view.constant(0.0)
        surface = Surface.flat(view.size, self.colour, self.gloss)
        surface.tint(1 + np.float32(self.clouds) * clouds + np.float32(0.02) * grain)
        surface.lay(machined, np.clip(self.colour * 1.35 * (1 + 0.06 * marks)[..., None], 0, 1), 0.0, 0.25)
        as_cast = np.float32(roughness * 60 / fineness) * rough + 0.006
        surface.height = (1 - machined) * as_cast + machined * np.float32(0.0005) * marks
        return surface


_DARK = 0.3
