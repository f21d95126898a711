"""Goods of everyday life: bottle top, capsule, pill, coin, button, cookie, zipper."""

import numpy as np

from dual_image_clip.procedural.canvas import (
    Field,
    Frame,
    bevel,
    blur,
    chance,
    mix,
    polar,
    rectangle,
    smoothstep,
    sunflower,
)
from dual_image_clip.procedural.family import Backdrop, Family, View
from dual_image_clip.procedural.palette import hsv, metal, plastic, print_on
from dual_image_clip.procedural.structural import break_edge, deform, loose_fibres
from dual_image_clip.procedural.surface import Surface

_CIRCLE = 120
_LETTERS = list("ABEFHKLMNPRSTXZ0234679")


def misprinted(view: View, letters: str, frame: Frame, reach: float) -> tuple[str, Frame]:
    """What is printed and where, wrong where the view's fault is ``misprint``: incomplete, turned or displaced."""
    fault = view.has("misprint")
    if fault is None:
        return letters, frame
    kind = fault.rng.choice(["incomplete", "displaced", "turned"])
    if kind == "incomplete":
        return letters[: len(letters) // 2], frame
    if kind == "turned":
        return letters, Frame(frame.x, frame.y, frame.angle + fault.sign() * fault.rng.uniform(0.3, 1.0))
    offset = fault.rng.uniform(0.3, 1.0) * reach * min(fault.severity, 1.5)
    return letters, frame.inside((fault.sign() * offset, fault.rng.uniform(-0.5, 0.5) * reach))


class BottleTop(Family):
    """A crown cap or a screw cap from above, with flutes and a print."""

    name = "bottle_top"
    is_object = True
    surface_defects = ("scratch", "dent", "stain", "colour_fault", "contamination", "corrosion", "glue", "abrasion")
    structural_defects = ("bent_part", "broken_edge", "misprint", "deformation")

    def __init__(self, rng: np.random.Generator) -> None:
        self.radius = rng.uniform(0.34, 0.44)
        self.flutes = int(rng.choice([21, 21, 30, 48]))
        self.depth = rng.uniform(0.02, 0.05) * 21 / self.flutes * self.radius / 0.4
        self.colour = plastic(rng)
        self.print_colour = print_on(rng, self.colour)
        self.letters = "".join(rng.choice(_LETTERS, int(rng.integers(1, 4))))
        self.rings = int(rng.integers(0, 3))
        self.gloss = rng.uniform(0.15, 0.6)
        self.backdrop = Backdrop(rng, self.colour)

    def _draw(self, view: View) -> Surface:
        surface = self.backdrop.draw(view)
        frame = view.pose(free=True)
        mottle = view.fractal(8, 3)
        skirt = break_edge(view.polygon(frame.place(deform(self._skirt(view), view))), view)
        surface.cast_shadow(skirt, 0.03)
        u, v = frame.coordinates(view.size)
        radius = np.hypot(u, v)
        rise = smoothstep(radius, self.radius, 0.72 * self.radius)
        flutes = np.cos(self.flutes * np.arctan2(v, u)) * (1 - rise)
        relief = 0.06 * rise + np.float32(0.4 * self.depth) * flutes
        colour = self.colour * (1 + 0.03 * mottle - 0.15 * (1 - rise))[..., None]
        surface.lay(skirt, np.clip(colour, 0, 1), relief, self.gloss)
        self._print(view, surface, frame)
        surface.foreground = skirt
        return surface

    def _skirt(self, view: View) -> np.ndarray:
        t = np.linspace(0, 2 * np.pi, 16 * self.flutes, endpoint=False)
        depth = np.full_like(t, self.depth)
        if fault := view.has("bent_part"):
            away = np.angle(np.exp(1j * (t - fault.rng.uniform(0, 2 * np.pi))))
            bent = np.exp(-((away / (fault.rng.uniform(0.12, 0.3) * fault.severity)) ** 2))
            depth = depth * (1 - bent)
            return polar(self.radius + depth * np.cos(self.flutes * t) + fault.sign() * 0.6 * self.depth * bent)
        return polar(self.radius + depth * np.cos(self.flutes * t))

    def _print(self, view: View, surface: Surface, frame: Frame) -> None:
        for ring in range(self.rings):
            t = np.linspace(0, 2 * np.pi, _CIRCLE)
            radius = self.radius * (0.62 - 0.1 * ring)
            circle = radius * np.stack([np.cos(t), np.sin(t)], axis=1)
            line = view.lines([frame.place(circle)], 0.012)
            surface.lay(line, self.print_colour, surface.height, self.gloss)
        letters, place = misprinted(view, self.letters, frame, 0.3 * self.radius)
        ink = view.text(letters, place, 0.32 * self.radius, 0.03)
        surface.lay(ink, self.print_colour, surface.height, self.gloss)


class Capsule(Family):
    """A two-part capsule, sometimes printed."""

    name = "capsule"
    is_object = True
    surface_defects = ("crack", "scratch", "dent", "stain", "colour_fault", "contamination", "hole", "glue", "abrasion")
    structural_defects = ("misplaced_part", "broken_edge", "misprint", "deformation")

    def __init__(self, rng: np.random.Generator) -> None:
        self.length = rng.uniform(0.6, 0.85)
        self.width = self.length * rng.uniform(0.3, 0.42)
        self.cap = plastic(rng)
        self.body = plastic(rng)
        self.joint = rng.uniform(-0.05, 0.12) * self.length
        self.gloss = rng.uniform(0.25, 0.7)
        self.letters = "".join(rng.choice(_LETTERS, 3))
        self.is_free = chance(rng, 0.6)
        self.backdrop = Backdrop(rng, (self.cap + self.body) / 2)

    def _draw(self, view: View) -> Surface:
        surface = self.backdrop.draw(view)
        frame = view.pose(self.is_free)
        mottle = view.fractal(6, 3)
        shift = view.parts(1).offset[0]
        barrel = deform(rectangle(self.length, 0.94 * self.width, self.width), view)
        whole = break_edge(view.polygon(frame.place(barrel)), view)
        joint = self.joint + 0.1 * self.length * shift[0]
        slipped = frame.inside(0.08 * np.array([self.length, self.width]) * shift)
        outline = rectangle(self.length / 2 + joint, self.width, self.width / 2)
        outline[np.abs(outline[:, 0] - outline[:, 0].max()) < 0.3 * self.width, 0] = outline[:, 0].max()
        cap = view.polygon(slipped.inside(((joint - self.length / 2) / 2, 0)).place(outline))
        if not view.has("misplaced_part"):
            cap = cap * whole
        both = np.maximum(whole, cap)
        surface.cast_shadow(both, 0.03)
        for part, colour, lift in ((whole, self.body, 0.0), (cap, self.cap, 0.006)):
            tone = 1 + 0.03 * mottle
            surface.lay(part, np.clip(colour * tone[..., None], 0, 1), bevel(both, self.width / 2) + lift, self.gloss)
        surface.height += both * (blur(surface.height, 0.004) - surface.height)
        letters, place = misprinted(view, self.letters, frame.inside((0.22 * self.length, 0)), 0.2 * self.width)
        ink = view.text(letters, place, 0.3 * self.width, 0.014) * both
        surface.lay(ink, self.body * 0.25 if self.body.mean() > _MIDDLE else self.body * 0.3 + 0.65, surface.height)
        surface.foreground = both
        return surface


class Pill(Family):
    """A pressed tablet: round or oblong, domed, speckled, scored or embossed."""

    name = "pill"
    is_object = True
    surface_defects = (
        "crack",
        "scratch",
        "stain",
        "colour_fault",
        "contamination",
        "pores",
        "hole",
        "glue",
        "abrasion",
    )
    structural_defects = ("broken_edge", "misprint", "deformation")

    def __init__(self, rng: np.random.Generator) -> None:
        self.width = rng.uniform(0.5, 0.82)
        self.height = self.width * rng.choice([1.0, rng.uniform(0.45, 0.75)])
        self.colour = hsv(rng.random(), rng.uniform(0, 0.5), rng.uniform(0.65, 0.95))
        self.speckle = plastic(rng)
        self.speckles = int(rng.choice([0, 30, 90]))
        self.dome = rng.uniform(0.04, 0.2)
        self.letters = "".join(rng.choice(_LETTERS, int(rng.integers(1, 4))))
        self.is_scored = chance(rng, 0.5)
        self.roughness = rng.uniform(0.0002, 0.0012)
        self.gloss = rng.uniform(0, 0.25)
        self.backdrop = Backdrop(rng, self.colour)

    def _draw(self, view: View) -> Surface:
        surface = self.backdrop.draw(view)
        frame = view.pose(free=True)
        grain, mottle = view.white(), view.fractal(14, 3)
        centres = view.rng.uniform(-0.5, 0.5, (self.speckles, 2))
        speckles = (
            view.discs(centres, view.rng.uniform(0.002, 0.008, self.speckles)) if self.speckles else view.constant(0)
        )
        outline = rectangle(self.width, self.height, self.height / 2)
        body = break_edge(view.polygon(frame.place(deform(outline, view))), view, 0.08)
        surface.cast_shadow(body, 0.03)
        colour = mix(0.6 * speckles, self.colour, self.speckle) * (1 + 0.03 * mottle)[..., None]
        relief = bevel(body, self.dome, 0.8) + np.float32(self.roughness) * grain
        surface.lay(body, np.clip(colour, 0, 1), relief, self.gloss)
        letters, place = misprinted(view, self.letters, frame, 0.25 * self.height)
        if self.is_scored:
            half = 0.46 * self.height
            pressed = view.lines([place.place([(0, -half), (0, half)])], 0.02)
        else:
            pressed = view.text(letters, place, 0.3 * self.height, 0.022)
        pressed = blur(pressed, 0.003) * body
        surface.height -= 0.015 * pressed
        surface.tint(1 - 0.15 * pressed)
        surface.foreground = body
        return surface


class Coin(Family):
    """A coin or token: rim, beads, relief."""

    name = "coin"
    is_object = True
    surface_defects = (
        "scratch",
        "dent",
        "stain",
        "contamination",
        "corrosion",
        "abrasion",
        "pores",
        "glue",
        "colour_fault",
    )
    structural_defects = ("misprint", "missing_part", "broken_edge", "deformation")

    def __init__(self, rng: np.random.Generator) -> None:
        self.radius = rng.uniform(0.36, 0.45)
        self.colour = metal(rng)
        self.centre = metal(rng) if chance(rng, 0.3) else self.colour
        self.gloss = rng.uniform(0.15, 0.6)
        self.letters = str(rng.choice(["1", "2", "5", "10", "20", "50"]))
        self.beads = int(rng.integers(24, 60))
        self.petals = int(rng.integers(3, 9))
        self.wear = rng.uniform(0.02, 0.1)
        self.backdrop = Backdrop(rng, self.colour)

    def _draw(self, view: View) -> Surface:
        surface = self.backdrop.draw(view)
        frame = view.pose(free=True)
        wear = view.fractal(10, 4)
        parts = view.parts(self.beads)
        body = break_edge(view.polygon(frame.place(deform(polar(np.full(_CIRCLE, self.radius)), view))), view)
        u, v = frame.coordinates(view.size)
        radius = np.hypot(u, v)
        surface.cast_shadow(body, 0.02)
        flower = np.cos(self.petals * np.arctan2(v, u)) * np.exp(-(((radius / self.radius - 0.5) / 0.2) ** 2))
        beads = view.discs(
            frame.place(polar([0.86 * self.radius] * self.beads)[parts.present]), 0.022 * self.radius / 0.4
        )
        letters, place = misprinted(view, self.letters, frame, 0.25 * self.radius)
        number = blur(view.text(letters, place, 0.42 * self.radius, 0.04), 0.004)
        rim = smoothstep(radius, 0.92 * self.radius, 0.95 * self.radius)
        relief = 0.012 * rim + 0.006 * beads + 0.012 * number + 0.004 * flower
        colour = mix(smoothstep(radius, 0.6 * self.radius, 0.58 * self.radius), self.colour, self.centre)
        tone = 1 + np.float32(self.wear) * wear - 0.2 * blur(beads + number, 0.006) + 0.2 * (beads + number)
        surface.lay(body, np.clip(colour * tone[..., None], 0, 1), bevel(body, 0.01) + blur(relief, 0.002), self.gloss)
        surface.foreground = body
        return surface


class Button(Family):
    """A sewing button with two, three or four holes."""

    name = "button"
    is_object = True
    held_out = True
    surface_defects = (
        "crack",
        "scratch",
        "stain",
        "colour_fault",
        "contamination",
        "dent",
        "glue",
        "abrasion",
        "fibre",
    )
    structural_defects = ("missing_part", "misplaced_part", "broken_edge", "deformation")

    def __init__(self, rng: np.random.Generator) -> None:
        self.radius = rng.uniform(0.32, 0.44)
        self.holes = int(rng.choice([2, 4, 4, 3]))
        self.hole_radius = rng.uniform(0.07, 0.12) * self.radius
        self.spacing = rng.uniform(0.2, 0.3) * self.radius
        self.colour = plastic(rng)
        self.pearl = rng.uniform(0.02, 0.15)
        self.rim = rng.uniform(0.12, 0.3) * self.radius
        self.gloss = rng.uniform(0.15, 0.7)
        self.backdrop = Backdrop(rng, self.colour)

    def _draw(self, view: View) -> Surface:
        surface = self.backdrop.draw(view)
        frame = view.pose(free=True)
        swirl = view.fractal(3, 4)
        parts = view.parts(self.holes)
        body = break_edge(view.polygon(frame.place(deform(polar(np.full(_CIRCLE, self.radius)), view))), view)
        centres = polar([self.spacing] * self.holes) + 0.5 * self.spacing * parts.offset
        holes = view.discs(frame.place(centres[parts.present]), self.hole_radius)
        ring = body * (1 - holes)
        well = view.disc(frame.origin, self.radius - self.rim)
        surface.cast_shadow(body, 0.025)
        under = surface.albedo * 0.4
        tone = 1 + np.float32(self.pearl) * swirl
        relief = bevel(body, self.rim / 2) - 0.02 * blur(well, 0.012)
        surface.lay(ring, np.clip(self.colour * tone[..., None], 0, 1), relief, self.gloss)
        surface.lay(body * holes, under, 0.0)
        surface.foreground = ring
        return surface


class Cookie(Family):
    """A biscuit: browned unevenly, which is no defect; with chips, or holes and a wavy rim."""

    name = "cookie"
    is_object = True
    held_out = True
    has_benign_dark_areas = True
    surface_defects = ("crack", "stain", "dark_region", "contamination", "hole", "fibre", "glue", "unevenness")
    structural_defects = ("broken_edge", "missing_part", "deformation")

    def __init__(self, rng: np.random.Generator) -> None:
        self.radius = rng.uniform(0.34, 0.44)
        self.corners = int(rng.choice([0, 0, 16, 24]))
        self.dough = hsv(rng.uniform(0.07, 0.11), rng.uniform(0.35, 0.6), rng.uniform(0.55, 0.85))
        self.chip = hsv(0.06, rng.uniform(0.4, 0.7), rng.uniform(0.12, 0.3)) if chance(rng, 0.6) else self.dough * 0.35
        self.chips = int(rng.integers(8, 22))
        self.is_docked = bool(self.corners)
        self.crumb = rng.uniform(0.002, 0.005)
        self.backdrop = Backdrop(rng, self.dough)

    def _draw(self, view: View) -> Surface:
        surface = self.backdrop.draw(view)
        frame = view.pose(free=True)
        rng = view.rng
        crumb, browning, grain = view.fractal(22, 4, 0.65), view.fractal(3, 3), view.white()
        t = np.linspace(0, 2 * np.pi, 144, endpoint=False)
        wobble = (
            0
            if self.is_docked
            else 0.02 * np.cos(2 * t + rng.uniform(0, 6)) + 0.015 * np.cos(3 * t + rng.uniform(0, 6))
        )
        radii = self.radius * (1 + (0.03 * np.cos(self.corners * t) if self.corners else 0) + wobble)
        scatter = 0.02 * rng.normal(size=(self.chips, 2))
        sizes = rng.uniform(0.6, 1.3, self.chips)
        body = break_edge(view.polygon(frame.place(deform(polar(radii), view, 0.07))), view, 0.12)
        parts = view.parts(self.chips)
        centres = sunflower(self.chips, 0.85 * self.radius)
        if not self.is_docked:
            centres = centres + scatter
        inclusions = self._inclusions(view, frame, centres[parts.present], sizes[parts.present])
        surface.cast_shadow(body, 0.03)
        edge = smoothstep(bevel(body, 0.1), 0.1, 0.05)
        tone = 1 + 0.12 * browning + 0.08 * crumb + 0.04 * grain - 0.2 * edge
        relief = bevel(body, 0.07, 0.7) + np.float32(self.crumb) * crumb
        surface.lay(body, np.clip(self.dough * tone[..., None], 0.02, 1), relief)
        depth = -0.01 if self.is_docked else 0.012
        surface.lay(
            inclusions * body,
            self.chip * (1 + 0.1 * crumb)[..., None],
            surface.height + depth * blur(inclusions, 0.004),
        )
        surface.foreground = body
        return surface

    def _inclusions(self, view: View, frame: Frame, centres: np.ndarray, sizes: np.ndarray) -> Field:
        """Docking holes of a biscuit, or chips of a cookie."""
        places = frame.place(centres)
        if self.is_docked:
            return view.discs(places, 0.012)
        # A chip's shape follows from its own size, so that a missing one leaves the others as they are.
        turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        outlines = [
            Frame.at(place).place(
                polar(0.028 * size * (1 + 0.1 * np.cos(2 * turn + 90 * size) + 0.1 * np.cos(3 * turn + 40 * size)))
            )
            for place, size in zip(places, sizes, strict=True)
        ]
        return view.polygons(outlines)


class Zipper(Family):
    """A closed zipper: teeth that interlock between two bands of fabric."""

    name = "zipper"
    is_object = True
    held_out = True
    surface_defects = ("stain", "colour_fault", "contamination", "fibre", "cut", "hole", "glue")
    structural_defects = ("missing_part", "misplaced_part", "bent_part", "frayed_edge", "deformation")

    def __init__(self, rng: np.random.Generator) -> None:
        self.pitch = rng.uniform(0.045, 0.085)
        self.tooth = rng.uniform(0.07, 0.12)
        self.band = rng.uniform(0.24, 0.36)
        self.colour = metal(rng) if chance(rng, 0.5) else plastic(rng)
        self.fabric = plastic(rng) * 0.7
        self.gloss = rng.uniform(0.15, 0.5)
        self.ribs = rng.uniform(45, 70)
        self.is_upright = chance(rng, 0.5)
        self.backdrop = Backdrop(rng, self.fabric)

    def _draw(self, view: View) -> Surface:
        surface = self.backdrop.draw(view)
        pose = view.pose(free=False)
        frame = Frame(pose.x, pose.y, pose.angle + (np.pi / 2 if self.is_upright else 0.0))
        phase = view.rng.uniform(-0.5, 0.5)
        grain = view.white()
        self._lay_bands(view, surface, frame, grain)
        teeth = self._teeth(view, frame, phase)
        surface.cast_shadow(teeth, 0.012)
        surface.lay(teeth, self.colour, bevel(teeth, 0.2 * self.pitch) + 0.01, self.gloss)
        surface.foreground = np.maximum(surface.foreground, teeth)
        return surface

    def _lay_bands(self, view: View, surface: Surface, frame: Frame, grain: Field) -> None:
        u, v = frame.coordinates(view.size)
        ribs = np.sin(2 * np.pi * np.float32(self.ribs) * u) * np.sin(2 * np.pi * np.float32(0.8 * self.ribs) * v)
        bands = view.polygons(
            frame.place(np.array([(-1, 0.015), (1, 0.015), (1, self.band), (-1, self.band)]) * (1, side))
            for side in (-1, 1)
        )
        if fault := view.has("frayed_edge"):
            t = np.linspace(-0.25, 0.25, 30) + fault.rng.uniform(-0.2, 0.2)
            side = fault.sign()
            edge = np.stack([t, np.full_like(t, side * self.band)], axis=1)
            outward = frame.place([(0, side)])[0] - frame.place([(0, 0)])[0]
            fibres = loose_fibres(frame.place(edge), outward, fault, view, 0.07)
            bands = np.maximum(bands, fibres)
        surface.cast_shadow(bands, 0.015)
        tone = 0.85 + 0.15 * ribs + 0.04 * grain
        surface.lay(bands, np.clip(self.fabric * tone[..., None], 0.01, 1), 0.002 * ribs)
        surface.foreground = bands

    def _teeth(self, view: View, frame: Frame, phase: float) -> Field:
        """Coverage of both rows of teeth; one tooth is missing, turned, out of place, or the row is open."""
        count = int(1.1 / self.pitch) | 1
        inner = np.flatnonzero(np.abs((np.arange(count) - count // 2) * self.pitch) < _WELL_INSIDE)
        parts = view.parts(2 * len(inner))
        opened = np.zeros(count)
        if fault := view.has("deformation"):
            away = np.arange(count) - fault.rng.choice(inner)
            opened = 0.05 * min(fault.severity, 1.5) * np.exp(-((away * self.pitch / 0.12) ** 2))
        outline = rectangle(self.tooth, 0.42 * self.pitch, 0.1 * self.pitch)
        outlines = []
        for side in (0, 1):
            sign = 2 * side - 1
            for number in range(count):
                index = number - inner[0] + side * len(inner) if inner[0] <= number <= inner[-1] else None
                x = (number - count // 2 + 0.5 * side + phase) * self.pitch
                offset, turn = (parts.offset[index], parts.turn[index]) if index is not None else (np.zeros(2), 0.0)
                if index is not None and not parts.present[index]:
                    continue
                y = sign * (0.32 * self.tooth + opened[number]) + 0.35 * self.tooth * offset[1]
                place = frame.inside((x + 0.4 * self.pitch * offset[0], y), np.pi / 2 + turn)
                outlines.append(place.place(outline))
        return view.polygons(outlines)


_WELL_INSIDE = 0.4
_MIDDLE = 0.5
