"""Textiles: woven, knitted and tufted fabrics, and a strap."""

import numpy as np
from numpy.typing import NDArray

from dual_image_clip.procedural.canvas import Canvas, Field, Frame, blur, chance, mix, smoothstep, spread
from dual_image_clip.procedural.family import Backdrop, Family, Fault, View
from dual_image_clip.procedural.palette import dye
from dual_image_clip.procedural.structural import break_edge, loose_fibres
from dual_image_clip.procedural.surface import Surface

_FABRIC_DEFECTS = ("stain", "unevenness", "colour_fault", "contamination", "fibre", "cut", "hole", "glue", "abrasion")


def _per_thread(levels: Field, number: Field) -> Field:
    """Looks up the level of each thread by its number."""
    return levels[number.astype(np.int32) % len(levels)]


def interlace(
    u: Field, v: Field, step: int, period: int, swapped: NDArray[np.bool_] | None = None
) -> tuple[Field, Field]:
    """Interlaces two systems of threads.

    Args:
        u: Coordinate across the warp, one unit a thread, ``(H, W)``.
        v: Coordinate across the weft, one unit a thread, ``(H, W)``.
        step: By how many threads the pattern moves from one weft to the next.
        period: After how many threads it repeats; the warp is on top in one half of them.
        swapped: Where warp and weft change places wrongly, ``(H, W)`` of booleans.

    Returns:
        Height of the upper thread in 0..1, and whether that is the warp, both ``(H, W)``.
    """
    number_u, number_v = np.floor(u), np.floor(v)
    warp_on_top = np.mod(number_u + step * number_v, period) < period / 2
    if swapped is not None:
        warp_on_top ^= swapped
    across_u, across_v = np.cos(np.pi * (u - number_u - 0.5)), np.cos(np.pi * (v - number_v - 0.5))
    height = np.where(warp_on_top, across_u * (0.55 + 0.45 * across_v), across_v * (0.55 + 0.45 * across_u))
    return height, warp_on_top.astype(np.float32)


class Weave(Family):
    """Plain, twill and basket weaves."""

    name = "weave"
    surface_defects = _FABRIC_DEFECTS
    structural_defects = ("thread_fault", "texture_change")

    def __init__(self, rng: np.random.Generator) -> None:
        self.angle = rng.uniform(0, np.pi)
        self.threads = rng.uniform(16, 44)
        self.ratio = rng.uniform(0.7, 1.3)
        self.step, self.period = [(1, 2), (1, 4), (1, 3), (2, 4)][int(rng.integers(4))]
        self.warp_colour = dye(rng)
        self.weft_colour = self.warp_colour if chance(rng, 0.5) else dye(rng)
        self.irregularity = rng.uniform(0.03, 0.14)
        self.levels = rng.uniform(0.03, 0.12)
        self.fuzz = rng.uniform(0.02, 0.07)

    def _draw(self, view: View) -> Surface:
        frame = Frame.at(view.rng.uniform(-0.05, 0.05, 2), self.angle + view.rng.normal(0, 0.01))
        u, v = frame.coordinates(view.size)
        u = u * np.float32(self.threads) + np.float32(self.irregularity) * view.noise(7)
        v = v * np.float32(self.threads * self.ratio) + np.float32(self.irregularity) * view.noise(7)
        levels = [spread(view.rng, 61), spread(view.rng, 61)]
        swapped = None
        if fault := view.has("texture_change"):
            looseness = 0.22 * fault.severity * Canvas(view.size, fault.rng).noise(14)
            stretch = np.float32(1 + fault.sign() * fault.rng.uniform(0.12, 0.25))
            u, v = u * stretch + looseness, v * stretch
        elif fault := view.has("thread_fault"):
            u, swapped = self._fault_of_a_thread(u, v, fault)
        height, warp = interlace(u, v, self.step, self.period, swapped)
        level = np.where(warp > 0, _per_thread(levels[0], np.floor(u)), _per_thread(levels[1], np.floor(v)))
        shade = (0.45 + 0.55 * height) * (1 + np.float32(self.levels) * level) + np.float32(self.fuzz) * view.white()
        surface = Surface.flat(view.size, (1, 1, 1))
        surface.albedo = np.clip(mix(warp, self.weft_colour, self.warp_colour) * shade[..., None], 0.01, 1)
        surface.height = height * np.float32(0.25 / self.threads)
        return surface

    def _fault_of_a_thread(self, u: Field, v: Field, fault: Fault) -> tuple[Field, NDArray[np.bool_] | None]:
        """A thread that is missing, floats over the others, or is too thick."""
        kind = fault.rng.choice(["floating", "missing", "thick"])
        number = np.float32(round(fault.rng.uniform(-0.3, 0.3) * self.threads))
        start = fault.rng.uniform(-0.5, 0.2) * self.threads
        length = fault.rng.uniform(0.15, 0.6) * self.threads * fault.severity
        along = smoothstep(v, start, start + 1) * smoothstep(v, start + length + 1, start + length)
        if kind == "floating":
            return u, (np.floor(u) == number) & (along > 0)
        gape = np.float32(-0.45 if kind == "missing" else 0.6) * along
        away = u - number - np.float32(0.5)
        # Its neighbours close in on the gap, or make room.
        return u - gape * np.tanh(away) * np.exp(-((away / 1.6) ** 2)), None


class Knit(Family):
    """Plain knitted fabric: columns of V-shaped stitches."""

    name = "knit"
    surface_defects = _FABRIC_DEFECTS
    structural_defects = ("thread_fault", "texture_change")

    def __init__(self, rng: np.random.Generator) -> None:
        self.angle = rng.choice([0.0, np.pi / 2]) + rng.normal(0, 0.05)
        self.columns = rng.uniform(10, 26)
        self.rows = self.columns * rng.uniform(1.0, 1.5)
        self.slant = rng.uniform(0.6, 1.2)
        self.colour = dye(rng)
        self.irregularity = rng.uniform(0.05, 0.15)
        self.fuzz = rng.uniform(0.03, 0.09)
        self.stripes = rng.uniform(0, 0.12)

    def _draw(self, view: View) -> Surface:
        frame = Frame.at(view.rng.uniform(-0.05, 0.05, 2), self.angle + view.rng.normal(0, 0.015))
        u, v = frame.coordinates(view.size)
        u = u * np.float32(self.columns) + np.float32(self.irregularity) * view.noise(8)
        v = v * np.float32(self.rows) + np.float32(self.irregularity) * view.noise(8)
        fibres = view.white()
        levels = spread(view.rng, 41)
        if fault := view.has("texture_change"):
            stretch = 1 + fault.sign() * fault.rng.uniform(0.15, 0.3) * fault.severity
            u, v = u * np.float32(stretch), v / np.float32(stretch)
        column = np.floor(u)
        leg = np.abs(u - column - 0.5)
        row = v + np.float32(self.slant) * leg
        strand = np.abs(np.cos(np.pi * row)) * np.sqrt(np.clip(1 - (4 * leg - 1) ** 2, 0, 1))
        if fault := view.has("thread_fault"):
            strand = self._ladder(strand, u, v, fault)
        tone = (0.35 + 0.65 * strand) * (1 + np.float32(self.stripes) * _per_thread(levels, np.floor(row)))
        surface = Surface.flat(view.size, self.colour)
        surface.tint(np.clip(tone + np.float32(self.fuzz) * fibres, 0.02, 1.5))
        surface.height = strand * np.float32(0.3 / self.columns)
        return surface

    def _ladder(self, strand: Field, u: Field, v: Field, fault: Fault) -> Field:
        """A column whose stitches have run: only the cross threads are left."""
        column = np.float32(round(fault.rng.uniform(-0.35, 0.35) * self.columns))
        start = fault.rng.uniform(-0.5, 0.1) * self.rows
        end = start + fault.rng.uniform(0.2, 0.7) * self.rows
        run = (np.floor(u) == column) & (v > start) & (v < end)
        return np.where(run, 0.6 * np.abs(np.cos(np.pi * v)) ** 6, strand).astype(np.float32)


class Carpet(Family):
    """Cut-pile carpet: tufts side by side, of slightly different tones."""

    name = "carpet"
    held_out = True
    surface_defects = _FABRIC_DEFECTS
    structural_defects = ("thread_fault", "texture_change")

    def __init__(self, rng: np.random.Generator) -> None:
        self.tufts = int(rng.integers(1200, 3200))
        self.colour = dye(rng) * 0.8
        self.contrast = rng.uniform(0.1, 0.35)
        self.fibre = rng.uniform(0.08, 0.18)
        self.nap = rng.uniform(0.02, 0.1)

    def _draw(self, view: View) -> Surface:
        distance, labels = view.cells(self.tufts)
        levels = spread(view.rng, self.tufts + 200)
        fibres = blur(view.white(), 0.002)
        nap = view.fractal(4, 3)
        radius = np.float32(0.75 / self.tufts**0.5)
        if fault := view.has("texture_change"):
            distance = distance * np.float32(1.0 + 0.5 * fault.severity)
            fibres = fibres * np.float32(1.0 + fault.severity)
        tuft = np.clip(1 - (distance / radius) ** 2, 0, 1)
        if fault := view.has("thread_fault"):
            pencil = Canvas(view.size, fault.rng)
            path = pencil.walk(fault.rng.uniform(-0.35, 0.35, 2), fault.rng.uniform(0.2, 0.6), 0.05)
            tuft = tuft * (1 - blur(pencil.lines([path], 1.3 * float(radius) * fault.severity), 0.003))
        level = levels[labels % len(levels)]
        tone = (0.45 + 0.55 * tuft) * (1 + np.float32(self.contrast) * level) + np.float32(2.5 * self.fibre) * fibres
        surface = Surface.flat(view.size, self.colour)
        surface.tint(np.clip(tone * (1 + np.float32(self.nap) * nap), 0.03, 1.6))
        surface.height = tuft * radius * np.float32(0.5)
        return surface


class Strap(Family):
    """A woven strap across the picture, with both its selvedges."""

    name = "strap"
    is_object = True
    surface_defects = ("stain", "colour_fault", "contamination", "cut", "hole", "abrasion", "scratch")
    structural_defects = ("frayed_edge", "broken_edge", "thread_fault")

    def __init__(self, rng: np.random.Generator) -> None:
        self.width = rng.uniform(0.35, 0.75)
        self.ribs = rng.uniform(18, 40)
        self.colour = dye(rng)
        self.stripe_colour = dye(rng) if chance(rng, 0.6) else self.colour
        self.stripe = rng.uniform(0.08, 0.3) * self.width
        self.angle = rng.choice([0.0, np.pi / 2, 0.5])
        self.backdrop = Backdrop(rng, self.colour)
        self.fuzz = rng.uniform(0.02, 0.06)

    def _draw(self, view: View) -> Surface:
        surface = self.backdrop.draw(view)
        pose = view.pose(free=False)
        frame = Frame(pose.x, pose.y, self.angle + pose.angle)
        u, v = frame.coordinates(view.size)
        waviness = np.float32(0.12) * view.noise(10)
        grain = view.white()
        swapped = None
        if fault := view.has("thread_fault"):
            thread = np.float32(round(fault.rng.uniform(-0.35, 0.35) * self.width * self.ribs))
            start = fault.rng.uniform(-0.4, 0.1)
            length = fault.rng.uniform(0.1, 0.4) * fault.severity
            swapped = (np.abs(np.floor(v * np.float32(self.ribs)) - thread) <= 1) & (u > start) & (u < start + length)
        height, warp = interlace(v * np.float32(self.ribs) + waviness, u * np.float32(1.3 * self.ribs), 1, 3, swapped)
        body = view.polygon(
            frame.place([(-1, -self.width / 2), (1, -self.width / 2), (1, self.width / 2), (-1, self.width / 2)])
        )
        body = break_edge(body, view)
        fray = self._fray(view, frame)
        body = body * (1 - fray[0])
        colour = mix(
            smoothstep(np.abs(v), self.stripe / 2 + 0.004, self.stripe / 2 - 0.004), self.colour, self.stripe_colour
        )
        tone = (0.5 + 0.5 * height) * (0.7 + 0.3 * warp) + np.float32(self.fuzz) * grain
        surface.cast_shadow(body, 0.015)
        surface.lay(body, np.clip(colour * tone[..., None], 0.01, 1), 0.01 + height * np.float32(0.2 / self.ribs))
        surface.lay(fray[1], np.clip(self.colour * 1.15, 0, 1), 0.008)
        surface.foreground = body
        return surface

    def _fray(self, view: View, frame: Frame) -> tuple[Field, Field]:
        """What is gone from a frayed edge, and the fibres that stick out of it."""
        fault = view.has("frayed_edge")
        if fault is None:
            return view.constant(0.0), view.constant(0.0)
        side = fault.sign()
        t = np.linspace(-0.3, 0.3, 40) + fault.rng.uniform(-0.15, 0.15)
        bite = np.abs(
            np.convolve(fault.rng.normal(0, 0.02 * fault.severity, 40), [0.3, 0.4, 0.3], "same")
        ) * np.hanning(40)
        edge = np.stack([t, side * (self.width / 2 + 0.006 - bite)], axis=1)
        outline = np.concatenate([edge, [(t[-1], side), (t[0], side)]])
        outward = frame.place([(0, side)])[0] - frame.place([(0, 0)])[0]
        return view.polygon(frame.place(outline)), loose_fibres(frame.place(edge), outward, fault, view, 0.06)
