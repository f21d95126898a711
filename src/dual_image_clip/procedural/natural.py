"""Materials that have grown or are made of fibres and bubbles: leather, wood, paper, foam, rubber."""

import numpy as np

from dual_image_clip.procedural.canvas import Canvas, Field, Frame, Points, blur, chance, mix, smoothstep, spread
from dual_image_clip.procedural.family import Family, View
from dual_image_clip.procedural.palette import earth, grey, plastic
from dual_image_clip.procedural.surface import Surface


class Leather(Family):
    """Grained leather: flat pebbles between fine creases."""

    name = "leather"
    has_benign_dark_areas = True
    surface_defects = (
        *(
            "crack",
            "scratch",
            "dent",
            "stain",
            "unevenness",
            "colour_fault",
            "pores",
            "cut",
            "hole",
            "glue",
            "abrasion",
        ),
    )
    structural_defects = ("texture_change",)

    def __init__(self, rng: np.random.Generator) -> None:
        self.pebbles = int(rng.integers(500, 3000))
        self.colour = earth(rng, 0.2, 0.6) if chance(rng, 0.6) else plastic(rng) * 0.8
        self.depth = rng.uniform(0.25, 0.6)
        self.gloss = rng.uniform(0.0, 0.25)
        self.patina = rng.uniform(0.03, 0.12)

    def _draw(self, view: View) -> Surface:
        count = self.pebbles
        if fault := view.has("texture_change"):
            count = int(count * (2.5 if fault.sign() > 0 else 0.4))
        patina, grain = view.fractal(4, 4), view.white()
        distance, _ = view.cells(count)
        pebble = 1 - np.minimum(distance * np.float32(1.25 * count**0.5), 1) ** 2
        pebble = blur(pebble, 0.003)
        surface = Surface.flat(view.size, self.colour, self.gloss)
        crease = np.float32(self.depth) * (1 - pebble)
        surface.tint((1 - 0.8 * crease) * (1 + np.float32(self.patina) * patina) + np.float32(0.03) * grain)
        surface.height = pebble * np.float32(self.depth * 0.6 / count**0.5) + np.float32(0.0002) * grain
        return surface


class Wood(Family):
    """Sawn or planed wood: growth rings cut lengthwise, pores, sometimes a knot that is no defect."""

    name = "wood"
    has_benign_dark_areas = True
    surface_defects = (
        "crack",
        "scratch",
        "dent",
        "stain",
        "dark_region",
        "pores",
        "hole",
        "contamination",
        "glue",
        "cut",
    )

    def __init__(self, rng: np.random.Generator) -> None:
        self.angle = rng.choice([0.0, np.pi / 2]) + rng.normal(0, 0.05)
        self.rings = rng.uniform(9, 34)
        self.early = earth(rng, 0.55, 0.9)
        self.late = self.early * rng.uniform(0.55, 0.85, 1) * np.array([1.0, 0.95, 0.9])
        self.waviness = rng.uniform(0.006, 0.025)
        self.pores = rng.uniform(0.03, 0.12)
        self.knots = rng.uniform(0, 0.7)

    def _draw(self, view: View) -> Surface:
        rng = view.rng
        frame = Frame(angle=self.angle + rng.normal(0, 0.02))
        _, v = frame.coordinates(view.size)
        v = (
            v
            + np.float32(self.waviness) * view.noise(3)
            + np.float32(0.3 / self.rings) * view.streaks(frame.angle, 14, 2)
        )
        knot = view.constant(0.0)
        if chance(rng, self.knots):
            place = Frame.at(rng.uniform(-0.4, 0.4, 2), frame.angle)
            a, b = place.coordinates(view.size)
            radius = rng.uniform(0.02, 0.05)
            distance = np.hypot(a / np.float32(1.8), b)
            knot = smoothstep(distance, 1.1 * radius, 0.7 * radius)
            v = v + np.float32(radius) * np.tanh(b / np.float32(radius)) * np.exp(
                -((distance / np.float32(2.5 * radius)) ** 2)
            )
        phase = v * np.float32(self.rings) + rng.uniform(0, 1)
        ring = phase - np.floor(phase)
        late = ring**2 * (1 - smoothstep(ring, 0.75, 1.0))
        pores = view.streaks(frame.angle, 180, 9)
        tone = 1 + np.float32(self.pores) * np.minimum(pores, 0.6) + np.float32(0.04) * view.noise(4)
        surface = Surface.flat(view.size, self.early)
        surface.albedo = mix(np.clip(late + 0.15 * view.streaks(frame.angle, 60, 3), 0, 1), self.early, self.late)
        surface.albedo = mix(0.75 * knot, surface.albedo, self.late * 0.45)
        surface.tint(np.clip(tone, 0.2, 1.3))
        surface.height = np.float32(0.0004) * pores
        return surface


class Paper(Family):
    """Paper, card and felt: short fibres in all directions on a cloudy ground."""

    name = "paper"
    surface_defects = (
        *(
            "crack",
            "stain",
            "unevenness",
            "dark_region",
            "colour_fault",
            "contamination",
            "fibre",
            "hole",
            "cut",
            "dent",
        ),
        *("glue", "abrasion"),
    )
    structural_defects = ("texture_change",)

    def __init__(self, rng: np.random.Generator) -> None:
        self.colour = earth(rng, 0.55, 0.9) if chance(rng, 0.5) else grey(rng, 0.5, 0.95)
        self.fibres = int(rng.integers(80, 500))
        self.length = rng.uniform(0.012, 0.04)
        self.contrast = rng.uniform(0.04, 0.14)
        self.clouds = rng.uniform(0.01, 0.05)
        self.roughness = rng.uniform(0.0001, 0.0005)

    def _draw(self, view: View) -> Surface:
        starts = view.rng.uniform(-0.5, 0.5, (self.fibres, 2))
        directions = view.rng.uniform(0, 2 * np.pi, self.fibres)
        clouds, grain = view.fractal(8, 4, 0.7), view.white()
        length, contrast = self.length, self.contrast
        if fault := view.has("texture_change"):
            length, contrast = 1.8 * length, 2.2 * contrast
            clouds = clouds + fault.severity * 2.0 * Canvas(view.size, fault.rng).noise(25)
        ends = starts + length * np.stack([np.cos(directions), np.sin(directions)], axis=1)
        bends = (starts + ends) / 2 + 0.1 * length * np.stack([-np.sin(directions), np.cos(directions)], axis=1)
        paths = np.stack([starts, bends, ends], axis=1)
        dark, light = view.lines(paths[::2], 0.0035), view.lines(paths[1::2], 0.0035)
        surface = Surface.flat(view.size, self.colour)
        tone = 1 + np.float32(contrast) * (light - dark) + np.float32(self.clouds) * clouds + np.float32(0.02) * grain
        surface.tint(tone)
        surface.height = np.float32(self.roughness) * grain + np.float32(0.0015) * blur(light + dark, 0.002)
        return surface


class Foam(Family):
    """Open-cell foam: bubbles of many sizes between thin walls."""

    name = "foam"
    held_out = True
    has_benign_dark_areas = True
    surface_defects = (
        "stain",
        "dent",
        "colour_fault",
        "cut",
        "hole",
        "contamination",
        "unevenness",
        "dark_region",
        "glue",
    )
    structural_defects = ("texture_change",)

    def __init__(self, rng: np.random.Generator) -> None:
        self.cells = int(rng.integers(350, 1400))
        self.colour = plastic(rng) if chance(rng, 0.5) else grey(rng, 0.3, 0.85)
        self.depth = rng.uniform(0.4, 0.8)

    def _draw(self, view: View) -> Surface:
        count = self.cells
        if fault := view.has("texture_change"):
            count = int(count * (2.6 if fault.sign() > 0 else 0.4))
        grain, tone = view.white(), view.fractal(5, 3)
        distance, labels = view.cells(count)
        radii = 0.35 + 0.55 * (0.5 + 0.5 * spread(view.rng, 4000)[labels % 4000])
        bubble = np.clip(1 - (distance * np.float32(1.45 * count**0.5) / radii) ** 2, 0, 1)
        bubble = blur(np.sqrt(bubble), 0.0025)
        surface = Surface.flat(view.size, self.colour)
        surface.tint((1 - np.float32(self.depth) * bubble) * (1 + 0.05 * tone) + np.float32(0.03) * grain)
        surface.height = -bubble * np.float32(0.45 / count**0.5)
        return surface


class Rubber(Family):
    """A rubber mat with raised studs or ribs on a speckled ground."""

    name = "rubber"
    surface_defects = (
        *("crack", "scratch", "dent", "stain", "unevenness", "pores", "contamination", "fibre", "cut", "hole"),
        *("glue", "abrasion"),
    )
    structural_defects = ("missing_part", "misplaced_part", "deformation")

    def __init__(self, rng: np.random.Generator) -> None:
        self.colour = grey(rng, 0.08, 0.3) if chance(rng, 0.7) else plastic(rng) * 0.7
        self.studs = int(rng.integers(4, 9))
        self.radius = rng.uniform(0.2, 0.38) / self.studs
        self.is_square = chance(rng, 0.4)
        self.angle = rng.choice([0.0, np.pi / 4, rng.uniform(0, np.pi)])
        self.speckles = rng.uniform(0.0, 0.15)
        self.gloss = rng.uniform(0.05, 0.3)

    def _draw(self, view: View) -> Surface:
        frame = Frame.at(view.rng.uniform(-0.5, 0.5, 2) / self.studs, self.angle + view.rng.normal(0, 0.015))
        speckles, grain = view.fractal(60, 2), view.white()
        reach = self.studs // 2 + 2
        columns, rows = np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1))
        centres = np.stack([columns.ravel() + 0.5 * (rows.ravel() % 2), rows.ravel()], axis=1) / self.studs
        visible = np.flatnonzero(np.abs(frame.place(centres)).max(axis=1) < _INSIDE)
        parts = view.parts(len(visible))
        centres[visible] += parts.offset * 0.3 / self.studs
        keep = np.ones(len(centres), bool)
        keep[visible] = parts.present
        places = frame.place(centres[keep])
        studs = self._studs(view, places, frame.angle)
        if fault := view.has("deformation"):
            near = places[int(fault.rng.integers(len(places)))]
            near = near if np.abs(near).max() < _INSIDE else np.zeros(2)
            squeezed = view.disc(near, 1.6 * self.radius)
            flat = np.float32(min(0.6 * fault.severity, 0.9))
            studs = studs * (1 - squeezed * flat) + np.float32(0.6) * squeezed * flat * blur(studs, 0.5 * self.radius)
        surface = Surface.flat(view.size, self.colour, self.gloss)
        surface.cast_shadow(studs, 0.25 * self.radius, 0.4)
        surface.tint(1 + np.float32(self.speckles) * np.maximum(speckles, 0) + 0.25 * studs)
        surface.height = blur(studs, 0.15 * self.radius) * np.float32(0.5 * self.radius) + np.float32(0.0003) * grain
        return surface

    def _studs(self, view: View, places: Points, angle: float) -> Field:
        if not self.is_square:
            return view.discs(places, self.radius)
        square = 1.2 * self.radius * np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)])
        return view.polygons(Frame.at(place, angle).place(square) for place in places)


_INSIDE = 0.42
