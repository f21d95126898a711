"""Stone, cement and ceramics."""

import cv2
import numpy as np

from dual_image_clip.procedural.canvas import Canvas, Field, Frame, blur, chance, mix, spread
from dual_image_clip.procedural.family import Family, View
from dual_image_clip.procedural.palette import earth, grey, plastic
from dual_image_clip.procedural.surface import Surface

_STONE_DEFECTS = (
    *("crack", "scratch", "stain", "unevenness", "dark_region", "colour_fault", "pores", "contamination", "hole"),
    *("glue", "abrasion"),
)


class Concrete(Family):
    """Cast concrete: cloudy, grainy, with a few air voids that are no defect."""

    name = "concrete"
    has_benign_dark_areas = True
    surface_defects = (*_STONE_DEFECTS, "corrosion")
    structural_defects = ("texture_change",)

    def __init__(self, rng: np.random.Generator) -> None:
        self.colour = grey(rng, 0.4, 0.8) if chance(rng, 0.7) else earth(rng, 0.4, 0.7)
        self.clouds = rng.uniform(0.04, 0.12)
        self.roughness = rng.uniform(0.0004, 0.0015)
        self.voids = int(rng.integers(0, 25))

    def _draw(self, view: View) -> Surface:
        clouds, grain = view.fractal(4, 6, 0.7), view.white()
        count = self.voids + int(view.rng.integers(0, 6))
        voids = view.discs(view.rng.uniform(-0.5, 0.5, (count, 2)), 0.002 + 0.004 * view.rng.random(count) ** 3)
        roughness = self.roughness
        if fault := view.has("texture_change"):
            roughness *= 1.8 * fault.severity
            clouds = clouds + 0.8 * Canvas(view.size, fault.rng).fractal(30, 3)
        surface = Surface.flat(view.size, self.colour)
        surface.tint((1 + np.float32(self.clouds) * clouds + np.float32(0.04) * grain) * (1 - 0.5 * voids))
        surface.height = np.float32(roughness) * (grain + clouds) - 0.003 * voids
        return surface


class Marble(Family):
    """Polished marble: veins in a light or dark ground."""

    name = "marble"
    held_out = True
    has_benign_dark_areas = True
    surface_defects = _STONE_DEFECTS

    def __init__(self, rng: np.random.Generator) -> None:
        self.ground = grey(rng, 0.6, 0.92) if chance(rng, 0.7) else plastic(rng) * 0.5
        self.vein = grey(rng, 0.15, 0.45) if self.ground.mean() > _MIDDLE else grey(rng, 0.6, 0.9)
        self.angle = rng.uniform(0, np.pi)
        self.veins = rng.uniform(1.0, 3.0)
        self.turbulence = rng.uniform(0.5, 1.1)
        self.thinness = rng.uniform(6, 22)
        self.gloss = rng.uniform(0, 0.15)

    def _draw(self, view: View) -> Surface:
        u, _ = Frame.at(view.rng.uniform(-0.5, 0.5, 2), self.angle + view.rng.normal(0, 0.1)).coordinates(view.size)
        phase = u * np.float32(self.veins) + np.float32(0.35 * self.turbulence) * view.fractal(3, 6, 0.55)
        large = np.abs(np.sin(np.pi * phase))
        small = np.abs(view.fractal(5, 5, 0.6))
        vein = np.exp(-large * np.float32(self.thinness)) + 0.35 * np.exp(-small * np.float32(2 * self.thinness))
        clouds = view.fractal(3, 4)
        surface = Surface.flat(view.size, self.ground, self.gloss)
        share = np.clip(vein * (0.6 + 0.25 * clouds) + 0.12 * np.maximum(clouds, 0), 0, 0.9)
        surface.albedo = mix(share, self.ground, self.vein)
        return surface


class Terrazzo(Family):
    """Terrazzo: chips of stone in a coloured binder."""

    name = "terrazzo"
    surface_defects = _STONE_DEFECTS
    structural_defects = ("texture_change",)

    def __init__(self, rng: np.random.Generator) -> None:
        self.binder = grey(rng, 0.3, 0.9) if chance(rng, 0.6) else plastic(rng)
        self.chips = np.stack([earth(rng, 0.15, 0.9) if chance(rng, 0.5) else grey(rng, 0.05, 0.95) for _ in range(4)])
        self.count = int(rng.integers(150, 700))
        self.share = rng.uniform(0.3, 0.7)
        self.gloss = rng.uniform(0, 0.1)

    def _draw(self, view: View) -> Surface:
        warp = 0.25 * view.fractal(24, 2)
        grain = view.fractal(60, 2)
        count = self.count
        if fault := view.has("texture_change"):
            count = int(count * (2.5 if fault.sign() > 0 else 0.4))
        distance, labels = view.cells(count)
        levels = spread(view.rng, 2000)[labels % 2000]
        radius = np.float32(0.75 * self.share / count**0.5) * (1 + 0.6 * levels)
        chip = _inside(distance * (1 + warp), radius, view)
        kinds = self.chips[(labels * 7) % len(self.chips)]
        surface = Surface.flat(view.size, self.binder, self.gloss)
        surface.albedo = mix(chip, self.binder * (1 + 0.04 * grain)[..., None], kinds * (1 + 0.06 * grain)[..., None])
        return surface


def _inside(distance: Field, radius: Field, view: View) -> Field:
    """Coverage of what is nearer than a radius."""
    return np.clip((radius - distance) * view.size + 0.5, 0, 1)


class Granite(Family):
    """Granite: interlocking crystals of a few minerals."""

    name = "granite"
    held_out = True
    surface_defects = _STONE_DEFECTS
    structural_defects = ("texture_change",)

    def __init__(self, rng: np.random.Generator) -> None:
        light = grey(rng, 0.6, 0.9)
        feldspar = earth(rng, 0.4, 0.8) if chance(rng, 0.6) else grey(rng, 0.4, 0.6)
        minerals = [light, light * 0.8, feldspar, grey(rng, 0.05, 0.2), feldspar * 0.7]
        self.minerals = np.stack(minerals)[rng.choice(5, 64, p=rng.dirichlet((4, 3, 3, 2, 1)))]
        self.crystals = int(rng.integers(1500, 7000))
        self.clumping = rng.uniform(0.3, 1.0)

    def _draw(self, view: View) -> Surface:
        count = self.crystals
        if fault := view.has("texture_change"):
            count = int(count * (2.2 if fault.sign() > 0 else 0.3))
        grain = view.fractal(50, 2)
        clump = np.clip(np.floor(32 + 10 * self.clumping * view.fractal(12, 3)), 0, 63).astype(np.int32)
        _, labels = view.cells(count)
        order = view.rng.integers(0, 64, 8000)
        picked = (order[labels % 8000] // 2 + clump) % 64
        surface = Surface.flat(view.size, (1, 1, 1), 0.05)
        surface.albedo = cv2.GaussianBlur(self.minerals[picked], (0, 0), 0.6) * (1 + 0.08 * grain)[..., None]
        np.clip(surface.albedo, 0.02, 1, out=surface.albedo)
        return surface


class Tile(Family):
    """Glazed tiles or mosaic with joints."""

    name = "tile"
    surface_defects = (*_STONE_DEFECTS, "dent")
    structural_defects = ("broken_edge", "missing_part", "misplaced_part")

    def __init__(self, rng: np.random.Generator) -> None:
        self.pitch = rng.uniform(0.14, 0.45)
        self.ratio = rng.choice([1.0, 1.0, rng.uniform(0.4, 0.7)])
        self.is_bonded = chance(rng, 0.4)
        self.joint = rng.uniform(0.008, 0.025)
        self.glaze = plastic(rng)
        self.grout = grey(rng, 0.25, 0.85)
        self.levels = rng.uniform(0.01, 0.1)
        self.mottle = rng.uniform(0.01, 0.08)
        self.gloss = rng.uniform(0.05, 0.35)

    def _draw(self, view: View) -> Surface:
        frame = Frame.at(view.rng.uniform(-0.05, 0.05, 2), view.rng.normal(0, 0.008))
        u, v = frame.coordinates(view.size)
        mottle, grain = view.fractal(10, 4), view.white()
        levels = spread(view.rng, 1000)
        row = np.floor(v / np.float32(self.pitch * self.ratio))
        moved = u / np.float32(self.pitch) + (0.5 * np.mod(row, 2) if self.is_bonded else 0)
        column = np.floor(moved)
        a: Field = (moved - column - 0.5) * np.float32(self.pitch)
        b: Field = v - (row + 0.5) * np.float32(self.pitch * self.ratio)
        a, b, gone = self._damaged(view, a, b, row * 31 + column)
        half_width, half_height = (self.pitch - self.joint) / 2, (self.pitch * self.ratio - self.joint) / 2
        inward = np.minimum(half_width - np.abs(a), half_height - np.abs(b))
        tile = np.clip(inward * view.size + 0.5, 0, 1) * (1 - gone)
        level = levels[(row * 31 + column).astype(np.int32) % 1000]
        surface = Surface.flat(view.size, self.grout)
        surface.tint(1 + 0.06 * grain)
        surface.height += np.float32(0.001) * grain
        glaze = self.glaze * (1 + np.float32(self.levels) * level + np.float32(self.mottle) * mottle)[..., None]
        rounded = np.float32(0.008) * np.sqrt(np.clip(inward / np.float32(0.012), 0, 1))
        surface.lay(tile, np.clip(glaze, 0.02, 1), rounded, self.gloss)
        return surface

    def _damaged(self, view: View, a: Field, b: Field, number: Field) -> tuple[Field, Field, Field]:
        """Shifts or removes one tile, or breaks its edge; its coordinates and what is gone of it."""
        fault = view.fault
        nothing = view.constant(0.0)
        if fault is None:
            return a, b, nothing
        row, column = (int(value) for value in fault.rng.integers(view.size // 5, view.size * 4 // 5, 2))
        chosen = number == number[row, column]
        if fault.kind == "missing_part":
            return a, b, chosen.astype(np.float32)
        if fault.kind == "misplaced_part":
            turn = fault.sign() * fault.rng.uniform(0.03, 0.1) * fault.severity
            return np.where(chosen, a + turn * b, a), np.where(chosen, b - turn * a, b), nothing
        half_width, half_height = (self.pitch - self.joint) / 2, (self.pitch * self.ratio - self.joint) / 2
        corner = np.array([fault.sign() * half_width, fault.sign() * fault.rng.uniform(0, 1) * half_height])
        reach = fault.rng.uniform(0.02, 0.05) * fault.severity
        ragged = np.clip(0.35 * Canvas(view.size, fault.rng).fractal(40, 2), -0.5, 0.5)
        distance = np.hypot(a - np.float32(corner[0]), b - np.float32(corner[1])) / np.float32(reach)
        return a, b, blur((chosen & (distance * (1 + ragged) < 1)).astype(np.float32), 0.002)


_MIDDLE = 0.5
