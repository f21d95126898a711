"""Electronics: wafer, circuit board, connector, transistor, cable."""

from typing import NamedTuple

import numpy as np

from dual_image_clip.procedural.canvas import (
    Field,
    Frame,
    Points,
    bevel,
    blur,
    chance,
    polar,
    rectangle,
    smoothstep,
    spread,
    sunflower,
)
from dual_image_clip.procedural.family import Backdrop, Family, Fault, View
from dual_image_clip.procedural.palette import Colour, earth, grey, hsv, plastic
from dual_image_clip.procedural.structural import break_edge
from dual_image_clip.procedural.surface import Surface

_COPPER = hsv(0.07, 0.55, 0.75)
_BELOW = np.array([0.0, 0.075])  # where a component's name is printed


class Wafer(Family):
    """A solar cell: silicon, mono- or multicrystalline, with fingers, busbars and a dark margin."""

    name = "wafer"
    has_benign_dark_areas = True
    surface_defects = (
        "crack",
        "scratch",
        "stain",
        "unevenness",
        "dark_region",
        "contamination",
        "pores",
        "corrosion",
        "glue",
    )
    structural_defects = ("missing_part", "broken_edge", "misplaced_part")

    def __init__(self, rng: np.random.Generator) -> None:
        self.colour = (
            grey(rng, 0.3, 0.7) if chance(rng, 0.7) else hsv(rng.uniform(0.58, 0.66), 0.6, rng.uniform(0.2, 0.45))
        )
        self.crystals = int(rng.choice([0, 60, 160]))
        self.contrast = rng.uniform(0.08, 0.3)
        self.busbars = int(rng.integers(2, 6))
        self.bar = rng.uniform(0.006, 0.016)
        self.fingers = int(rng.integers(30, 70))
        self.finger_depth = rng.uniform(0.03, 0.12)
        self.is_light_bar = chance(rng, 0.4)
        self.margin = rng.uniform(0.012, 0.04)
        self.corner = rng.choice([0.0, 0.06, 0.12])
        self.vignette = rng.uniform(0.1, 0.5)

    def _draw(self, view: View) -> Surface:
        frame = view.pose(free=False, play=0.004)
        frame = Frame(frame.x, frame.y, 0.4 * frame.angle)
        u, v = frame.coordinates(view.size)
        grain, clouds = view.white(), view.fractal(3, 4)
        tone = 1 + 0.05 * clouds + 0.03 * grain
        if self.crystals:
            _, labels = view.cells(self.crystals)
            tone = tone * blur(1 + np.float32(self.contrast) * spread(view.rng, 400)[labels % 400], 0.004)
        edge = np.maximum(np.abs(u), np.abs(v)) * 2
        tone = tone * (1 - np.float32(self.vignette) * edge**6)
        interrupted = view.has("missing_part")
        of_fingers = interrupted if interrupted and chance(interrupted.rng, 0.6) else None
        tone = tone * (1 - np.float32(self.finger_depth) * self._fingers(u, v, of_fingers))
        side = 1 - 2 * self.margin
        outline = rectangle(side, side)
        if self.corner:
            h, c = side / 2, self.corner
            outline = np.array(
                [(h, h - c), (h - c, h), (c - h, h), (-h, h - c), (-h, c - h), (c - h, -h), (h - c, -h), (h, c - h)]
            )
        cell = break_edge(view.polygon(frame.place(outline)), view)
        surface = Surface.flat(view.size, (0.05, 0.05, 0.055))
        surface.lay(cell, np.clip(self.colour * tone[..., None], 0, 1), 0.0, 0.05)
        parts = view.parts(self.busbars)
        for index in range(self.busbars):
            y = ((index + 0.5) / self.busbars - 0.5) * side + 0.1 * parts.offset[index, 1] / self.busbars
            bar = cell * np.clip((self.bar / 2 - np.abs(v - np.float32(y))) * view.size + 0.5, 0, 1)
            if not parts.present[index] and not of_fingers:
                bar = bar * smoothstep(u, 0.1, 0.12)
            surface.lay(bar, self.colour * 1.7 if self.is_light_bar else self.colour * 0.3, 0.001, 0.1)
        surface.foreground = cell
        return surface

    def _fingers(self, u: Field, v: Field, fault: Fault | None) -> Field:
        """Thin lines across the busbars; the fault interrupts a group of them, which shines brighter or darker."""
        phase = u * np.float32(self.fingers)
        fingers = smoothstep(np.abs(phase - np.round(phase)), 0.25, 0.1)
        if fault is not None:
            first = fault.rng.uniform(-0.4, 0.3)
            width = fault.rng.uniform(1, 5) / self.fingers
            start = fault.rng.uniform(-0.5, 0.2)
            gone = (np.abs(u - first) < width) & (v > start) & (v < start + 0.4)
            fingers = fingers + gone * fault.sign() * (1.5 + fault.severity)
        return fingers


class Board(Family):
    """A populated circuit board: tracks, vias, chips, resistors, print."""

    name = "circuit_board"
    is_object = True
    surface_defects = ("scratch", "stain", "contamination", "fibre", "colour_fault", "corrosion", "glue", "abrasion")
    structural_defects = ("missing_part", "misplaced_part", "bent_part", "misprint")

    def __init__(self, rng: np.random.Generator) -> None:
        self.mask = hsv(rng.choice([0.38, 0.42, 0.6, 0.0, 0.12]), rng.uniform(0.5, 0.9), rng.uniform(0.2, 0.5))
        self.track = np.clip(self.mask * 1.5 + 0.05, 0, 1)
        self.gloss = rng.uniform(0.05, 0.3)
        self.solder = grey(rng, 0.65, 0.85) if chance(rng, 0.6) else hsv(0.12, 0.5, 0.8)
        self.tracks = self._route(rng)
        cells = rng.permutation(25)[: int(rng.integers(8, 14))]
        centres = np.stack([cells % 5 - 2, cells // 5 - 2], axis=1) * 0.18
        self.centres = centres + rng.uniform(-0.02, 0.02, centres.shape)
        self.sizes = np.stack([rng.uniform(0.07, 0.13, len(cells)), rng.uniform(0.035, 0.1, len(cells))], axis=1)
        self.turned = rng.integers(0, 2, len(cells)) * np.pi / 2
        self.bodies = [grey(rng, 0.05, 0.15) if chance(rng, 0.6) else earth(rng, 0.5, 0.85) for _ in cells]
        self.letters = ["".join(rng.choice(list("RCUQD123456789"), 2)) for _ in cells]
        self.vias = rng.uniform(-0.48, 0.48, (int(rng.integers(10, 40)), 2))

    def _route(self, rng: np.random.Generator) -> list[Points]:
        """Tracks that turn by 45 degrees on a grid."""
        directions = np.array([(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]) * 0.03
        tracks = []
        for _ in range(int(rng.integers(18, 34))):
            heading = int(rng.integers(8))
            turns = heading + np.cumsum(rng.choice([-1, 0, 0, 0, 1], 14))
            steps = np.cumsum(directions[turns % 8], axis=0)
            tracks.append(np.round(rng.uniform(-0.5, 0.5, 2) / 0.03) * 0.03 + steps)
        return tracks

    def _draw(self, view: View) -> Surface:
        frame = view.pose(free=False, play=0.008)
        grain = view.fractal(60, 2)
        play = view.rng.normal(0, 0.0015, (len(self.centres), 2))
        surface = Surface.flat(view.size, self.mask, self.gloss)
        surface.tint(1 + 0.05 * grain)
        tracks = view.lines((frame.place(track) for track in self.tracks), 0.009)
        surface.lay(tracks, self.track, 0.001 * blur(tracks, 0.002), self.gloss)
        surface.lay(view.discs(frame.place(self.vias), 0.012), self.solder, 0.001, 0.3)
        surface.lay(view.discs(frame.place(self.vias), 0.005), (0.05, 0.05, 0.05))
        self._print(view, surface, frame)
        parts = view.parts(len(self.centres))
        frames = [
            frame.inside(
                centre + play[index] + 0.05 * parts.offset[index], self.turned[index] + 1.2 * parts.turn[index]
            )
            for index, centre in enumerate(self.centres)
        ]
        self._lay_pads(view, surface, frame)
        self._lay_components(view, surface, frames, parts.present)
        surface.foreground[:] = 1.0
        return surface

    def _print(self, view: View, surface: Surface, frame: Frame) -> None:
        fault = view.has("misprint")
        wrong = int(fault.rng.integers(len(self.letters))) if fault else None
        ink = view.constant(0.0)
        for index, letters in enumerate(self.letters[:5]):
            place = frame.inside(self.centres[index] + _BELOW)
            ink = np.maximum(ink, view.text(letters, place, 0.03, 0.006))
        if fault and wrong is not None:
            place = frame.inside(self.centres[wrong % 5] + _BELOW + np.array([0.02, 0]), 0.4 * fault.sign())
            ink = np.maximum(ink, view.text("XK#", place, 0.04, 0.009))
        surface.lay(0.9 * ink, (0.88, 0.88, 0.85), surface.height)

    def _lay_pads(self, view: View, surface: Surface, frame: Frame) -> None:
        """The solder pads stay in their places, whatever happens to the components."""
        pads = []
        for centre, size, angle in zip(self.centres, self.sizes, self.turned, strict=True):
            place = frame.inside(centre, angle)
            pads += [
                place.place(rectangle(0.025, 0.9 * size[1], 0.004) + np.array([side * size[0] / 2, 0]))
                for side in (-1, 1)
            ]
        cover = view.polygons(pads)
        surface.lay(cover, self.solder, bevel(cover, 0.01, 0.6), 0.4)

    def _lay_components(self, view: View, surface: Surface, frames: list[Frame], present: np.ndarray) -> None:
        outlines = [
            place.place(rectangle(size[0], size[1], 0.006)) for place, size in zip(frames, self.sizes, strict=True)
        ]
        cover = view.polygons(outline for outline, there in zip(outlines, present, strict=True) if there)
        surface.cast_shadow(cover, 0.012, 0.6)
        relief = bevel(cover, 0.008) + 0.01
        for body, outline, there in zip(self.bodies, outlines, present, strict=True):
            if there:
                surface.lay(view.polygon(outline), body, relief, 0.1)


class Connector(Family):
    """A connector housing with pins in rows."""

    name = "connector"
    is_object = True
    surface_defects = (
        "scratch",
        "crack",
        "stain",
        "contamination",
        "fibre",
        "colour_fault",
        "corrosion",
        "glue",
        "hole",
    )
    structural_defects = ("missing_part", "bent_part", "misplaced_part", "broken_edge")

    def __init__(self, rng: np.random.Generator) -> None:
        self.columns, self.rows = int(rng.integers(3, 9)), int(rng.integers(1, 4))
        pitch = min(0.78 / self.columns, 0.62 / self.rows)
        self.pitch = min(pitch, 0.2)
        self.housing = plastic(rng)
        self.pin = hsv(0.12, 0.55, 0.8) if chance(rng, 0.5) else grey(rng, 0.6, 0.85)
        self.is_round_pin = chance(rng, 0.5)
        self.gloss = rng.uniform(0.05, 0.35)
        self.is_free = chance(rng, 0.3)
        self.backdrop = Backdrop(rng, self.housing)

    def _draw(self, view: View) -> Surface:
        surface = self.backdrop.draw(view)
        frame = view.pose(self.is_free)
        grain = view.fractal(50, 2)
        width, height = (self.columns + 0.7) * self.pitch, (self.rows + 0.7) * self.pitch
        outline = rectangle(width, height, 0.1 * self.pitch)
        notch = rectangle(0.8 * self.pitch, 0.25 * self.pitch) - (0, height / 2)
        housing = break_edge(view.polygon(frame.place(outline)) * (1 - view.polygon(frame.place(notch))), view)
        surface.cast_shadow(housing, 0.03)
        surface.lay(
            housing, np.clip(self.housing * (1 + 0.04 * grain)[..., None], 0, 1), bevel(housing, 0.02), self.gloss
        )
        self._lay_pins(view, surface, frame)
        surface.foreground = housing
        return surface

    def _lay_pins(self, view: View, surface: Surface, frame: Frame) -> None:
        columns, rows = np.meshgrid(np.arange(self.columns), np.arange(self.rows))
        centres = np.stack([columns.ravel(), rows.ravel()], axis=1) - ((self.columns - 1) / 2, (self.rows - 1) / 2)
        centres = centres * self.pitch
        parts = view.parts(len(centres))
        chamber = 0.72 * self.pitch * np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])
        chambers = view.polygons(frame.place(chamber + centre) for centre in centres)
        surface.lay(chambers, self.housing * 0.3, -0.01)
        shift = 0.22 * self.pitch * parts.offset + 0.35 * self.pitch * np.stack(
            [np.sin(parts.turn), np.sin(parts.turn)], axis=1
        )
        tips = centres + shift
        size = 0.16 * self.pitch
        places = [
            frame.inside(tip, turn) for tip, turn in zip(tips[parts.present], parts.turn[parts.present], strict=True)
        ]
        if self.is_round_pin:
            pins = view.discs([(place.x, place.y) for place in places], size)
        else:
            pins = view.polygons(place.place(rectangle(2.4 * size, 1.5 * size)) for place in places)
        surface.cast_shadow(pins, 0.012, 0.5)
        surface.lay(pins, self.pin, bevel(pins, size), 0.5)


class Transistor(Family):
    """A transistor with three legs in a perforated board."""

    name = "transistor"
    is_object = True
    held_out = True
    surface_defects = (
        "scratch",
        "crack",
        "stain",
        "contamination",
        "fibre",
        "corrosion",
        "glue",
        "hole",
        "colour_fault",
    )
    structural_defects = ("bent_part", "missing_part", "misplaced_part", "broken_edge")

    def __init__(self, rng: np.random.Generator) -> None:
        self.board = earth(rng, 0.35, 0.6) if chance(rng, 0.5) else hsv(0.4, 0.5, 0.35)
        self.pitch = rng.uniform(0.1, 0.14)
        self.width = rng.uniform(0.32, 0.46)
        self.height = rng.uniform(0.24, 0.34)
        self.tab = chance(rng, 0.5)
        self.body = grey(rng, 0.07, 0.18)
        self.gloss = rng.uniform(0.05, 0.3)
        self.letters = "".join(rng.choice(list("BCDF1234567890"), 4))

    def _draw(self, view: View) -> Surface:
        frame = view.pose(free=False, play=0.01)
        grain = view.fractal(70, 2)
        clouds = view.fractal(4, 3)
        surface = Surface.flat(view.size, self.board, 0.05)
        surface.tint(1 + 0.05 * grain + 0.04 * clouds)
        steps = (np.arange(9) - 4) * self.pitch
        holes = frame.place(np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2))
        surface.lay(view.discs(holes, 0.034), _COPPER, 0.002, 0.3)
        surface.lay(view.discs(holes, 0.014), (0.03, 0.03, 0.03), -0.01)
        legs = self._legs(view, frame)
        surface.cast_shadow(legs, 0.015)
        surface.lay(legs, (0.72, 0.72, 0.74), bevel(legs, 0.014), 0.6)
        case = self._case_frame(view, frame)
        outline = case.place(rectangle(self.width, self.height, 0.02))
        body = break_edge(view.polygon(outline), view)
        if self.tab:
            tab = view.polygon(case.place(rectangle(self.width, 0.2, 0.03) - (0, self.height / 2)))
            tab = tab * (1 - view.disc(case.place([(0, -0.5 * self.height - 0.04)]), 0.045))
            surface.cast_shadow(tab, 0.015)
            surface.lay(tab, (0.6, 0.6, 0.62), bevel(tab, 0.01), 0.4)
        surface.cast_shadow(body, 0.03, 0.6)
        surface.lay(body, self.body * (1 + 0.15 * grain)[..., None], bevel(body, 0.03) + 0.02, self.gloss)
        ink = view.text(self.letters, case, 0.055, 0.01) * body
        surface.lay(0.6 * ink, (0.75, 0.75, 0.72), surface.height)
        surface.foreground = np.maximum(body, legs)
        return surface

    def _case_frame(self, view: View, frame: Frame) -> Frame:
        middle = -0.1
        fault = view.has("misplaced_part")
        if fault is None:
            return frame.inside((0, middle))
        reach = min(fault.severity, 1.5)
        return frame.inside(fault.rng.uniform(-0.06, 0.06, 2) * reach + (0, middle), 0.25 * fault.sign() * reach)

    def _legs(self, view: View, frame: Frame) -> Field:
        parts = view.parts(3, ("missing_part", "bent_part"))
        top, bottom = -0.1 + self.height / 2 - 0.02, 0.4
        legs = []
        for index in np.flatnonzero(parts.present):
            x = (index - 1) * self.pitch
            swing = 0.3 * np.sin(parts.turn[index])
            legs.append(frame.place([(x, top), (x + 0.2 * swing, top + 0.08), (x + swing, bottom)]))
        for index in np.flatnonzero(~parts.present):
            x = (index - 1) * self.pitch
            legs.append(frame.place([(x, top), (x, top + 0.06)]))
        return view.lines(legs, 0.03)


class Cable(Family):
    """The cross-section of a cable: sheath, insulated cores, strands."""

    name = "cable"
    is_object = True
    surface_defects = ("cut", "hole", "stain", "contamination", "scratch", "colour_fault", "corrosion", "glue")
    structural_defects = ("missing_part", "misplaced_part", "bent_part", "broken_edge", "deformation")

    def __init__(self, rng: np.random.Generator) -> None:
        self.radius = rng.uniform(0.36, 0.45)
        self.cores = int(rng.integers(2, 6))
        self.sheath = plastic(rng) * 0.8
        self.colours = [plastic(rng) for _ in range(self.cores)]
        self.strands = int(rng.choice([7, 12, 19, 30]))
        self.strand_colour = _COPPER if chance(rng, 0.7) else grey(rng, 0.6, 0.8)
        self.core_radius = self.radius * {2: 0.4, 3: 0.38, 4: 0.33, 5: 0.28}[self.cores]
        self.filler = grey(rng, 0.5, 0.9)
        self.backdrop = Backdrop(rng, self.sheath)

    def _draw(self, view: View) -> Surface:
        surface = self.backdrop.draw(view)
        frame = view.pose(free=True)
        grain, saw = view.fractal(40, 2), view.streaks(frame.angle, 120, 3)
        jitter = view.rng.normal(0, 0.003, (self.cores, self.strands, 2))
        tone = (1 + 0.04 * grain + 0.03 * saw)[..., None]
        body = break_edge(view.disc(frame.origin, self.radius), view)
        surface.cast_shadow(body, 0.03)
        surface.lay(body, np.clip(self.sheath * tone, 0, 1), bevel(body, 0.015), 0.1)
        inside = view.disc(frame.origin, 0.84 * self.radius) * body
        surface.lay(inside, np.clip(self.filler * 0.6 * tone, 0, 1), 0.0)
        parts = view.parts(self.cores, ("missing_part", "misplaced_part"))
        centres = (
            polar([0.84 * self.radius - 1.04 * self.core_radius] * self.cores) + 0.35 * self.core_radius * parts.offset
        )
        fault = view.has("bent_part") or view.has("deformation")
        chosen = int(fault.rng.integers(self.cores)) if fault else None
        cores = []
        for index in np.flatnonzero(parts.present):
            squeeze = 1.0
            if view.has("deformation") and fault and index == chosen:
                squeeze = 1 - min(0.2 * fault.severity, 0.4)
            spots = sunflower(self.strands, 0.68 * self.core_radius) + jitter[index]
            if view.has("bent_part") and fault and index == chosen:
                stray = int(fault.rng.integers(self.strands))
                spots[stray:] *= 1 + 0.35 * fault.severity
            cores.append(_Core(frame.inside(centres[index]), self.colours[index], spots, squeeze))
        self._lay_cores(view, surface, cores, 0.0005 * grain)
        surface.foreground = body
        return surface

    def _lay_cores(self, view: View, surface: Surface, cores: list["_Core"], roughness: Field) -> None:
        circle = polar([self.core_radius] * 60)
        outlines = [core.frame.place(circle * (1, core.squeeze)) for core in cores]
        relief = bevel(view.polygons(outlines), 0.012) + roughness
        for core, outline in zip(cores, outlines, strict=True):
            surface.lay(view.polygon(outline), core.colour, relief, 0.15)
        bores = view.polygons(core.frame.place(0.74 * circle * (1, core.squeeze)) for core in cores)
        surface.lay(bores, self.strand_colour * 0.25, -0.005)
        radius = 0.52 * self.core_radius / self.strands**0.5
        places = [core.frame.place(core.spots * (1, core.squeeze)) for core in cores]
        strands = view.discs(np.concatenate(places), radius)
        surface.lay(strands, self.strand_colour, bevel(strands, radius), 0.35)


class _Core(NamedTuple):
    """An insulated core of a cable: where it is, its colour, its strands' centres, by how much it is squeezed."""

    frame: Frame
    colour: Colour
    spots: Points
    squeeze: float
