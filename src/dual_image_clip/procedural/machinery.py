"""Machine parts: gear, bearing, spring, pipe end, key."""

import numpy as np

from dual_image_clip.procedural.canvas import Field, Frame, Points, bevel, blur, chance, polar, rectangle, smoothstep
from dual_image_clip.procedural.family import Backdrop, Family, View
from dual_image_clip.procedural.fasteners import PART_DEFECTS, radial_brushing
from dual_image_clip.procedural.palette import grey, metal, plastic
from dual_image_clip.procedural.structural import break_edge, deform
from dual_image_clip.procedural.surface import Surface


class Gear(Family):
    """A spur gear from above: teeth, web with holes, bore with a keyway."""

    name = "gear"
    is_object = True
    held_out = True
    surface_defects = (*PART_DEFECTS, "crack")
    structural_defects = ("missing_part", "bent_part", "broken_edge", "misplaced_part")

    def __init__(self, rng: np.random.Generator) -> None:
        self.teeth = int(rng.integers(10, 30))
        self.radius = rng.uniform(0.34, 0.45)
        self.depth = min(2.4 / self.teeth, 0.2) * self.radius
        self.bore = rng.uniform(0.14, 0.26) * self.radius
        self.holes = int(rng.choice([0, 3, 4, 5, 6]))
        self.keyway = chance(rng, 0.6)
        self.colour = metal(rng) if chance(rng, 0.8) else plastic(rng)
        self.gloss = rng.uniform(0.1, 0.45)
        self.turning = rng.uniform(0.01, 0.07)
        self.backdrop = Backdrop(rng, self.colour)

    def _draw(self, view: View) -> Surface:
        surface = self.backdrop.draw(view)
        frame = view.pose(free=True)
        marks = radial_brushing(view, frame.origin)
        mottle = view.fractal(8, 3)
        wheel = break_edge(view.polygon(frame.place(self._outline(view))), view, 0.05)
        openings = self._openings(view, frame)
        body = wheel * (1 - openings)
        surface.cast_shadow(body, 0.025)
        colour = np.clip(self.colour * (1 + np.float32(self.turning) * marks + 0.03 * mottle)[..., None], 0, 1)
        surface.lay(body, colour, bevel(body, 0.012) + 0.0003 * marks, self.gloss)
        rim = self.radius - self.depth
        groove = view.disc(frame.origin, 0.85 * rim) - view.disc(frame.origin, 0.38 * rim)
        groove = blur(np.clip(groove, 0, 1), 0.003) * body
        surface.height -= 0.012 * groove
        surface.tint(1 - 0.15 * groove)
        surface.foreground = body
        return surface

    def _outline(self, view: View) -> Points:
        profile = np.array([(-0.44, 1), (-0.25, 1), (-0.13, 0), (0.13, 0), (0.25, 1), (0.44, 1)])
        pitch = 2 * np.pi / self.teeth
        parts = view.parts(self.teeth, ("missing_part", "bent_part"))
        points = []
        for tooth in range(self.teeth):
            depth = self.depth * profile[:, 1]
            if not parts.present[tooth]:
                depth = np.full_like(depth, self.depth)
            radii = self.radius - depth
            lean = 0.9 * parts.turn[tooth] * pitch * (1 - profile[:, 1])
            t = (tooth + profile[:, 0]) * pitch + lean
            points.append(np.stack([radii * np.cos(t), radii * np.sin(t)], axis=1))
        return np.concatenate(points)

    def _openings(self, view: View, frame: Frame) -> Field:
        offsets = view.parts(self.holes + 1, ("misplaced_part",)).offset
        centres = np.concatenate([np.zeros((1, 2)), polar([0.6 * (self.radius - self.depth)] * self.holes)])
        radii = np.array([self.bore, *[0.16 * self.radius] * self.holes])
        openings = view.discs(frame.place(centres + 0.1 * self.radius * offsets), radii)
        if self.keyway:
            slot = rectangle(0.5 * self.bore, 0.9 * self.bore) + np.array([0, self.bore])
            openings = np.maximum(openings, view.polygon(frame.place(slot)))
        return openings


class Bearing(Family):
    """A ball bearing: two rings, balls between them, sometimes a cage."""

    name = "bearing"
    is_object = True
    surface_defects = (
        "scratch",
        "dent",
        "stain",
        "contamination",
        "fibre",
        "corrosion",
        "glue",
        "colour_fault",
        "crack",
    )
    structural_defects = ("missing_part", "misplaced_part", "broken_edge")

    def __init__(self, rng: np.random.Generator) -> None:
        self.radius = rng.uniform(0.34, 0.46)
        self.bore = rng.uniform(0.35, 0.5) * self.radius
        self.balls = int(rng.integers(7, 13))
        self.colour = grey(rng, 0.5, 0.75)
        self.cage = metal(rng) if chance(rng, 0.5) else plastic(rng)
        self.gloss = rng.uniform(0.2, 0.6)
        self.turning = rng.uniform(0.01, 0.06)
        self.backdrop = Backdrop(rng, self.colour)

    def _draw(self, view: View) -> Surface:
        surface = self.backdrop.draw(view)
        frame = view.pose(free=True)
        marks = radial_brushing(view, frame.origin)
        width = (self.radius - self.bore) * 0.3
        parts = view.parts(self.balls)
        edges = (self.radius, self.radius - width, self.bore + width, self.bore)
        discs = [view.disc(frame.origin, radius) for radius in edges]
        outer = break_edge(discs[0] - discs[1], view)
        race, inner = discs[1] - discs[2], discs[2] - discs[3]
        surface.cast_shadow(outer + race + inner, 0.025)
        surface.lay(race, self.cage * 0.35, -0.01)
        self._lay_balls(view, surface, frame, parts.present, parts.offset)
        for ring in (outer, inner):
            colour = self.colour * (1 + np.float32(self.turning) * marks)[..., None]
            surface.lay(ring, np.clip(colour, 0, 1), bevel(ring, 0.35 * width), self.gloss)
        surface.foreground = np.clip(outer + inner + race, 0, 1)
        return surface

    def _lay_balls(self, view: View, surface: Surface, frame: Frame, present: np.ndarray, offset: np.ndarray) -> None:
        middle, gap = (self.radius + self.bore) / 2, (self.radius - self.bore) * 0.4
        centres = polar([middle] * self.balls)
        t = np.linspace(0, 2 * np.pi, 80)
        cage = view.lines([frame.place(middle * np.stack([np.cos(t), np.sin(t)], axis=1))], 0.35 * gap)
        surface.lay(cage, self.cage, blur(cage, 0.006) * 0.01, 0.2)
        step = 2 * np.pi / self.balls * 0.55
        turn = offset[:, 0] * step
        c, s = np.cos(turn), np.sin(turn)
        moved = np.stack([centres[:, 0] * c - centres[:, 1] * s, centres[:, 0] * s + centres[:, 1] * c], axis=1)
        balls = view.discs(frame.place(moved[present]), 0.47 * gap)
        surface.cast_shadow(balls, 0.01)
        surface.lay(balls, self.colour * 0.9, bevel(balls, 0.47 * gap), min(1.5 * self.gloss, 0.9))


class Spring(Family):
    """A helical spring that lies on its side."""

    name = "spring"
    is_object = True
    held_out = True
    surface_defects = ("contamination", "corrosion", "fibre", "glue", "stain", "colour_fault")
    structural_defects = ("bent_part", "misplaced_part", "broken_edge", "missing_part")

    def __init__(self, rng: np.random.Generator) -> None:
        self.length = rng.uniform(0.55, 0.8)
        self.width = rng.uniform(0.18, 0.36)
        self.turns = int(rng.integers(6, 13))
        self.wire = self.length / self.turns * rng.uniform(0.28, 0.5)
        self.colour = metal(rng)
        self.gloss = rng.uniform(0.2, 0.6)
        self.is_free = chance(rng, 0.5)
        self.backdrop = Backdrop(rng, self.colour)

    def _draw(self, view: View) -> Surface:
        surface = self.backdrop.draw(view)
        frame = view.pose(self.is_free)
        mottle = view.fractal(16, 3)
        parts = view.parts(self.turns)
        back, front = self._turns(parts.present, parts.offset, parts.turn)
        covers = [view.lines([frame.place(path) for path in paths], self.wire) for paths in (back, front)]
        both = break_edge(np.maximum(*covers), view, 0.035)
        for cover, tone in zip(covers, (0.55, 1.0), strict=True):
            part = cover * both
            surface.cast_shadow(part, 0.02, 0.45)
            colour = self.colour * (tone * (1 + 0.05 * mottle))[..., None]
            surface.lay(part, np.clip(colour, 0, 1), bevel(part, self.wire / 2), self.gloss)
        surface.foreground = both
        return surface

    def _turns(self, present: np.ndarray, offset: np.ndarray, turn: np.ndarray) -> tuple[list[Points], list[Points]]:
        """Paths of the wire behind and in front."""
        pitch = self.length / self.turns
        t = np.linspace(-np.pi / 2, np.pi / 2, 20)
        back, front = [], []
        for index in range(self.turns):
            x = -self.length / 2 + pitch * (index + 0.5) + 0.6 * pitch * offset[index, 0]
            half = np.stack([pitch * t / (2 * np.pi), self.width / 2 * np.sin(t)], axis=1)
            half = Frame(0, 0, turn[index]).place(half)
            if present[index]:
                front.append(half + np.array([x, 0]))
            if index < self.turns - 1 and present[index]:
                back.append(half * (1, -1) + np.array([x + pitch / 2, 0]))
        return back, front


class PipeEnd(Family):
    """The end of a pipe, seen along its axis."""

    name = "pipe_end"
    is_object = True
    surface_defects = ("scratch", "stain", "contamination", "corrosion", "crack", "colour_fault", "abrasion", "pores")
    structural_defects = ("deformation", "broken_edge", "misplaced_part")

    def __init__(self, rng: np.random.Generator) -> None:
        self.radius = rng.uniform(0.32, 0.44)
        self.wall = rng.uniform(0.12, 0.35) * self.radius
        self.layers = int(rng.choice([0, 0, 1]))
        self.colour = metal(rng) if chance(rng, 0.6) else plastic(rng)
        self.gloss = rng.uniform(0.05, 0.4)
        self.saw = rng.uniform(0.015, 0.05)
        self.lean = rng.uniform(0, 0.25, 2) * self.radius
        self.backdrop = Backdrop(rng, self.colour)

    def _draw(self, view: View) -> Surface:
        surface = self.backdrop.draw(view)
        frame = view.pose(free=True)
        saw = view.streaks(frame.angle, 150, 2)
        mottle = view.fractal(8, 3)
        parts = view.parts(1)
        circle = polar(np.ones(120))
        outer = deform(circle * self.radius, view)
        inner = deform(circle * (self.radius - self.wall), view) + 0.5 * self.wall * parts.offset[0]
        if view.has("deformation"):
            inner = outer * (1 - self.wall / self.radius)
        body = view.polygon(frame.place(outer))
        bore = view.polygon(frame.place(inner))
        face = break_edge(body * (1 - bore), view)
        surface.cast_shadow(body, 0.03)
        middle = np.array(frame.origin) + self.lean
        floor = view.disc(middle, 0.75 * self.radius)
        depth = smoothstep(view.distance(middle), 0.0, self.radius)
        surface.lay(bore, self.colour * (0.12 + 0.35 * depth)[..., None] * (1 - 0.4 * floor)[..., None], 0.0, 0.1)
        tone = 1 + np.float32(self.saw) * saw + 0.04 * mottle
        surface.lay(face, np.clip(self.colour * tone[..., None], 0, 1), bevel(face, 0.012) + 0.0005 * saw, self.gloss)
        if self.layers:
            seam = view.lines([frame.place(0.5 * (outer + inner))], 0.01) * face
            surface.tint(1 - 0.5 * seam)
        surface.foreground = face
        return surface


class Key(Family):
    """A flat key: bow with a hole, shoulder, blade with cuts and a groove."""

    name = "key"
    is_object = True
    surface_defects = PART_DEFECTS
    structural_defects = ("missing_part", "bent_part", "broken_edge", "misprint")

    def __init__(self, rng: np.random.Generator) -> None:
        self.length = rng.uniform(0.42, 0.55)
        self.width = rng.uniform(0.1, 0.16)
        self.bow = rng.uniform(0.14, 0.2)
        self.bow_corners = int(rng.choice([60, 60, 6, 8]))
        self.cuts = rng.uniform(0.1, 0.55, int(rng.integers(5, 8)))
        self.colour = metal(rng)
        self.gloss = rng.uniform(0.15, 0.5)
        self.is_free = chance(rng, 0.6)
        self.brand = "".join(rng.choice(list("ABCEHKLRTUVX"), 3))
        self.backdrop = Backdrop(rng, self.colour)

    def _draw(self, view: View) -> Surface:
        surface = self.backdrop.draw(view)
        frame = view.pose(self.is_free).inside((-0.2, 0))
        brushing = view.streaks(frame.angle, 170, 8)
        parts = view.parts(len(self.cuts))
        cuts = np.where(parts.present, self.cuts, 0.0)
        blade = self._blade(cuts, parts.turn)
        ring = frame.place(polar([self.bow] * self.bow_corners))
        body = np.maximum(view.polygon(ring), view.polygon(frame.place(blade)))
        body = body * (1 - view.disc(frame.place([(-0.55 * self.bow, 0)]), 0.24 * self.bow))
        body = break_edge(body, view)
        surface.cast_shadow(body, 0.02)
        colour = np.clip(self.colour * (1 + 0.05 * brushing)[..., None], 0, 1)
        surface.lay(body, colour, bevel(body, 0.012) + 0.0003 * brushing, self.gloss)
        line = [(self.bow, 0.15 * self.width), (self.bow + 0.85 * self.length, 0.15 * self.width)]
        bend = parts.turn.sum() if parts.turn.any() else 0.0
        pivot = Frame(self.bow, 0, 0.35 * bend)
        groove = pivot.place(np.array(line) - (self.bow, 0))
        surface.height -= 0.008 * blur(view.lines([frame.place(groove)], 0.02), 0.003) * body
        self._stamp(view, surface, frame)
        surface.foreground = body
        return surface

    def _blade(self, cuts: np.ndarray, turn: np.ndarray) -> Points:
        step = self.length / (len(cuts) + 1)
        top = [(0.0, self.width / 2)]
        for index, cut in enumerate(cuts):
            x = (index + 1) * step
            y = self.width * (0.5 - cut)
            top += [(x - 0.45 * step, self.width / 2 * 0.9), (x - 0.15 * step, y), (x + 0.15 * step, y)]
        points = np.array([*top, (self.length, 0.0), (self.length - 0.04, -self.width / 2), (0.0, -self.width / 2)])
        return Frame(self.bow * 0.9, 0, 0.35 * float(turn.sum())).place(points)

    def _stamp(self, view: View, surface: Surface, frame: Frame) -> None:
        letters, place = self.brand, frame.inside((0.25 * self.bow, 0), np.pi / 2)
        if fault := view.has("misprint"):
            place = frame.inside(fault.rng.uniform(-0.05, 0.08, 2), np.pi / 2 + 0.5 * fault.sign())
            letters = letters[: int(fault.rng.integers(1, 4))]
        stamped = blur(view.text(letters, place, 0.24 * self.bow, 0.01), 0.0015)
        surface.height -= 0.006 * stamped
        surface.tint(1 - 0.35 * stamped)
