"""Defects that lie on a surface: each changes colour, relief or gloss where it is, before light falls on it.

The light then shows them as it would in a photograph: a dent by its shading, a scratch by its glint.
"""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from dual_image_clip.procedural.canvas import Canvas, Field, Frame, blur, chance, mix, smoothstep
from dual_image_clip.procedural.palette import Colour, hsv
from dual_image_clip.procedural.structural import STRUCTURAL_DEFECTS
from dual_image_clip.procedural.surface import Surface

SurfaceDefect = Callable[[Surface, Canvas, float], None]

_FINE = 1 / 240  # about the width of one pixel


def crack(surface: Surface, canvas: Canvas, severity: float) -> None:
    """A hairline crack, at times branched, whose contrast varies along its way."""
    rng = canvas.rng
    place = canvas.pick(surface.foreground)
    main = canvas.walk(place, rng.uniform(0.15, 0.6), 0.3, 32)
    branches = []
    for start in main[rng.integers(4, 28, int(rng.integers(0, 4)))]:
        branch = canvas.walk((0.0, 0.0), rng.uniform(0.05, 0.2), 0.3)
        branches.append(branch - branch[0] + start)
    line = blur(canvas.lines([main, *branches], rng.uniform(0.7, 2.0) * _FINE), 0.6 * _FINE) * surface.foreground
    line *= np.clip(0.75 + 0.45 * canvas.noise(8), 0.1, 1.2)
    depth = np.clip(rng.uniform(0.12, 0.65) * severity, 0, 0.95)
    surface.tint(1.0 - np.float32(depth) * np.minimum(line * 1.4, 1.0))
    surface.height -= line * np.float32(0.004 * severity)
    surface.gloss *= 1.0 - np.minimum(line, 1.0)


def scratch(surface: Surface, canvas: Canvas, severity: float) -> None:
    """One or a few scratches side by side, bright or dark, with a groove that glints."""
    rng = canvas.rng
    place = canvas.pick(surface.foreground)
    path = canvas.walk(place, rng.uniform(0.12, 0.7), rng.uniform(0.01, 0.08))
    paths = [path + rng.normal(0, 0.015, 2) for _ in range(int(rng.integers(0, 4)))]
    line = blur(canvas.lines([path, *paths], rng.uniform(0.8, 2.4) * _FINE), 0.5 * _FINE) * surface.foreground
    line *= np.clip(0.8 + 0.4 * canvas.noise(12), 0.0, 1.0)
    change = rng.uniform(0.07, 0.35) * severity
    surface.albedo += (line * np.float32(change if chance(rng, 0.65) else -change))[..., None]
    np.clip(surface.albedo, 0.01, 1, out=surface.albedo)
    surface.height -= line * np.float32(rng.uniform(0.003, 0.008) * severity)


def dent(surface: Surface, canvas: Canvas, severity: float) -> None:
    """A dent or a bump, seen by its shading alone."""
    rng = canvas.rng
    radii = rng.uniform(0.02, 0.08) * rng.uniform(0.6, 1.4, 2)
    u, v = Frame.at(canvas.pick(surface.foreground), rng.uniform(0, np.pi)).coordinates(canvas.size)
    distance = (u / np.float32(radii[0])) ** 2 + (v / np.float32(radii[1])) ** 2
    profile = np.exp(-distance) * (1.0 - np.float32(0.3) * distance)
    depth = radii.min() * np.clip(rng.uniform(0.3, 0.9) * severity, 0, 2.0) * rng.choice([-1, -1, 1])
    surface.height += profile * np.float32(depth) * blur(surface.foreground, 0.01)


def stain(surface: Surface, canvas: Canvas, severity: float) -> None:
    """A stain with soft edges, often darker at its rim as it dried."""
    rng = canvas.rng
    place = canvas.pick(surface.foreground)
    radius = rng.uniform(0.03, 0.13)
    softness = rng.uniform(0.06, 0.35) * radius
    area = blur(canvas.polygon(canvas.blob(place, radius, 0.4)), softness)
    if chance(rng, 0.4):
        area = 0.55 * area + np.float32(1.6) * area * (1.0 - area)
    area *= np.clip(1.0 + 0.25 * canvas.fractal(6, 3), 0.3, 1.5) * surface.foreground
    colour = hsv(rng.choice([0.08, 0.1, 0.12, rng.random()]), rng.uniform(0, 0.6), rng.uniform(0.3, 0.8))
    depth = np.clip(rng.uniform(0.3, 0.8) * severity, 0, 1)
    surface.tint(1.0 - np.float32(depth) * np.minimum(area, 1.0)[..., None] * (1.0 - colour))
    surface.gloss *= 1.0 - np.float32(0.5) * np.minimum(area, 1.0)


def unevenness(surface: Surface, canvas: Canvas, severity: float) -> None:
    """A broad, smooth change of brightness without any edge."""
    rng = canvas.rng
    place = canvas.pick(surface.foreground)
    radii = rng.uniform(0.12, 0.35, 2)
    u, v = Frame.at(place, rng.uniform(0, np.pi)).coordinates(canvas.size)
    lobe = np.exp(-((u / np.float32(radii[0])) ** 2) - (v / np.float32(radii[1])) ** 2)
    lobe *= np.clip(1.0 + 0.3 * canvas.noise(4), 0.2, 1.5)
    change = np.clip(rng.uniform(0.16, 0.4) * severity, 0, 0.7) * rng.choice([-1.0, 1.0])
    surface.tint(1.0 + np.float32(change) * lobe * surface.foreground)


def dark_region(surface: Surface, canvas: Canvas, severity: float) -> None:
    """A region darker than the rest, sharply bounded on one side by a jagged line, fading out on the other."""
    rng = canvas.rng
    frame = Frame.at(canvas.pick(surface.foreground), rng.uniform(0, 2 * np.pi))
    u, v = frame.coordinates(canvas.size)
    u = u + np.float32(0.02) * canvas.fractal(5, 4)
    v = v + np.float32(0.03) * canvas.noise(5)
    depth_along = rng.uniform(0.08, 0.3)
    width = rng.uniform(0.06, 0.25)
    region = smoothstep(u, 0.0, rng.uniform(0.005, 0.03)) * np.exp(-np.maximum(u, 0) / np.float32(depth_along))
    region *= smoothstep(np.abs(v + 0.3 * u), width, rng.uniform(0.2, 0.7) * width) * surface.foreground
    darkness = np.clip(rng.uniform(0.25, 0.65) * severity, 0, 0.9)
    surface.tint(1.0 - np.float32(darkness) * region)


def pores(surface: Surface, canvas: Canvas, severity: float) -> None:
    """A cluster of pinholes."""
    rng = canvas.rng
    place = canvas.pick(surface.foreground)
    count = int(rng.integers(1, 14))
    centres = rng.normal(place, rng.uniform(0.02, 0.08), (count, 2))
    centres[0] = place
    radii = rng.uniform(0.8, 2.8, count) * _FINE * min(severity, 2.0)
    pits = blur(canvas.discs(centres, radii), 0.4 * _FINE) * surface.foreground
    surface.tint(1.0 - np.float32(np.clip(rng.uniform(0.4, 0.85) * severity, 0, 0.95)) * pits)
    surface.height -= pits * np.float32(0.006 * severity)
    surface.gloss *= 1.0 - pits


def contamination(surface: Surface, canvas: Canvas, severity: float) -> None:
    """Particles that lie on the surface: chips, crumbs, dust."""
    rng = canvas.rng
    place = canvas.pick(surface.foreground)
    count = int(rng.integers(1, 7))
    centres = rng.normal(place, 0.05, (count, 2))
    centres[0] = place
    sizes = rng.uniform(0.006, 0.02, count) * min(severity, 1.6)
    outlines = [canvas.blob(centre, size, 0.7) for centre, size in zip(centres, sizes, strict=True)]
    particles = canvas.polygons(outlines)
    colour = _standing_out(surface, canvas, place, 0.2 * severity)
    surface.cast_shadow(particles, 0.006, 0.6)
    surface.lay(particles, colour * (1.0 + 0.12 * canvas.fractal(40, 2))[..., None], surface.height + 0.008 * particles)


def fibre(surface: Surface, canvas: Canvas, severity: float) -> None:
    """A hair or a textile fibre that lies on the surface and throws a shadow."""
    rng = canvas.rng
    place = canvas.pick(surface.foreground)
    path = canvas.walk(place, rng.uniform(0.12, 0.5), rng.uniform(0.08, 0.3), 40)
    hair = blur(canvas.lines([path], rng.uniform(0.7, 1.8) * _FINE), 0.4 * _FINE)
    surface.cast_shadow(hair, 0.006, min(0.4 * severity, 0.8))
    surface.lay(
        np.minimum(1.3 * hair, 1.0),
        _standing_out(surface, canvas, place, 0.25 * severity),
        surface.height + hair * 0.003,
    )


def colour_fault(surface: Surface, canvas: Canvas, severity: float) -> None:
    """A patch of another colour but the same texture: a wrong ink, a foreign batch, a bleached spot."""
    rng = canvas.rng
    place = canvas.pick(surface.foreground)
    outline = canvas.blob(place, rng.uniform(0.04, 0.14), rng.uniform(0.1, 0.4))
    area = blur(canvas.polygon(outline), rng.uniform(0.002, 0.012)) * surface.foreground
    cast = hsv(rng.random(), np.clip(rng.uniform(0.25, 0.6) * severity, 0, 1), 1.0)
    factor = cast / cast.mean() * rng.uniform(0.75, 1.1)
    surface.tint(1.0 + area[..., None] * (factor - 1.0).astype(np.float32))


def cut(surface: Surface, canvas: Canvas, severity: float) -> None:
    """A straight cut that gapes: dark inside, its lips raised."""
    rng = canvas.rng
    frame = Frame.at(canvas.pick(surface.foreground), rng.uniform(0, np.pi))
    length = rng.uniform(0.06, 0.3)
    gape = rng.uniform(0.004, 0.014) * min(severity, 2.0)
    t = np.linspace(-1, 1, 20)
    bow = rng.normal(0, 0.02) * (1 - t**2)
    upper = np.stack([t * length / 2, bow + gape / 2 * (1 - t**2)], axis=1)
    lower = np.stack([t * length / 2, bow - gape / 2 * (1 - t**2)], axis=1)
    slit = canvas.polygon(frame.place(np.concatenate([upper, lower[::-1]]))) * surface.foreground
    surface.height += blur(slit, 0.006) * np.float32(0.012)
    _open(surface, canvas, slit)


def hole(surface: Surface, canvas: Canvas, severity: float) -> None:
    """A hole with a ragged edge; what is beneath lies in the dark."""
    rng = canvas.rng
    place = canvas.pick(surface.foreground)
    outline = canvas.blob(place, rng.uniform(0.012, 0.05) * min(severity, 1.5), 0.5)
    opening = canvas.polygon(outline + rng.normal(0, 0.002, outline.shape)) * surface.foreground
    surface.height += blur(opening, 0.008) * np.float32(0.006)
    _open(surface, canvas, opening)


def glue(surface: Surface, canvas: Canvas, severity: float) -> None:
    """A drop of a clear, glossy liquid: darker where it wets, with highlights on its dome."""
    rng = canvas.rng
    place = canvas.pick(surface.foreground)
    radius = rng.uniform(0.03, 0.09) * min(severity, 1.5)
    drop = canvas.polygon(canvas.blob(place, radius, 0.35))
    dome = np.maximum(2.0 * blur(drop, 0.3 * radius) - 1.0, 0.0)
    tone = hsv(rng.choice([0.1, 0.13, rng.random()]), rng.uniform(0, 0.3), rng.uniform(0.65, 0.85))
    surface.tint(1.0 + drop[..., None] * (tone - 1.0))
    # The liquid levels the relief beneath it and has its own.
    level = blur(surface.height, 0.4 * radius)
    surface.height += drop * (0.7 * (level - surface.height)) + dome * np.float32(0.16 * radius)
    surface.gloss = np.maximum(surface.gloss, drop * np.float32(min(0.55 * severity, 1.0)))


def abrasion(surface: Surface, canvas: Canvas, severity: float) -> None:
    """A rubbed zone: the relief is worn down and many fine parallel scuffs lighten or dull it."""
    rng = canvas.rng
    place = canvas.pick(surface.foreground)
    radius = rng.uniform(0.05, 0.15)
    zone = blur(canvas.polygon(canvas.blob(place, radius, 0.3)), 0.25 * radius) * surface.foreground
    angle = rng.uniform(0, np.pi)
    scuffs = np.clip(canvas.streaks(angle, 170, 8) + 0.4, 0, 1.5)
    change = rng.uniform(0.07, 0.2) * severity * (1 if surface.albedo.mean() < _BRIGHT or chance(rng, 0.4) else -1)
    surface.height += zone * np.float32(0.7) * (blur(surface.height, 0.02) - surface.height)
    surface.albedo = np.clip(surface.albedo + (zone * scuffs * np.float32(change))[..., None], 0.01, 1)
    surface.gloss *= 1.0 - np.float32(0.7) * zone


def corrosion(surface: Surface, canvas: Canvas, severity: float) -> None:
    """Rust that has eaten into the surface: rough, from orange to nearly black."""
    rng = canvas.rng
    place = canvas.pick(surface.foreground)
    falloff = np.exp(-((canvas.distance(place) / np.float32(rng.uniform(0.04, 0.12))) ** 2))
    rough = canvas.fractal(16, 4, 0.7)
    rust = smoothstep(falloff * (1.0 + 0.5 * rough), 0.45, 0.75) * surface.foreground
    colour = hsv(rng.uniform(0.04, 0.09), rng.uniform(0.5, 0.8), rng.uniform(0.35, 0.65))
    shade = np.clip(1.0 + 0.3 * rough, 0.2, 1.4)[..., None]
    surface.lay(rust * np.float32(min(0.85 * severity, 1.0)), colour * shade, surface.height + 0.002 * rough)


_BRIGHT = 0.55


def _open(surface: Surface, canvas: Canvas, opening: Field) -> None:
    """Lets one see through an opening into the dark."""
    depth = canvas.rng.uniform(0.05, 0.2)
    surface.albedo += opening[..., None] * (surface.albedo * np.float32(depth) - surface.albedo)
    surface.gloss *= 1.0 - opening
    surface.height -= opening * np.float32(0.02)


def _standing_out(surface: Surface, canvas: Canvas, where: tuple[float, float], difference: float) -> Colour:
    """A colour that differs in brightness from what is around a point."""
    rng = canvas.rng
    column, row = (int((value + 0.5) * canvas.size) for value in where)
    around = float(surface.albedo[max(row - 4, 0) : row + 5, max(column - 4, 0) : column + 5].mean())
    reach = rng.uniform(0.6 * difference, 2 * difference)
    brighter = around + reach if (around < reach or chance(rng, 0.45)) and around + reach < 1 else around - reach
    return hsv(rng.random(), rng.choice([0.0, 0.15, 0.5]), float(np.clip(brighter, 0.03, 0.97)))


SURFACE_DEFECTS: dict[str, SurfaceDefect] = {
    "abrasion": abrasion,
    "colour_fault": colour_fault,
    "contamination": contamination,
    "corrosion": corrosion,
    "crack": crack,
    "cut": cut,
    "dark_region": dark_region,
    "dent": dent,
    "fibre": fibre,
    "glue": glue,
    "hole": hole,
    "pores": pores,
    "scratch": scratch,
    "stain": stain,
    "unevenness": unevenness,
}
DEFECTS = tuple(sorted((*SURFACE_DEFECTS, *STRUCTURAL_DEFECTS)))
HELD_OUT_DEFECTS = ("abrasion", "corrosion", "deformation", "glue")


def difference(clean: Field, defective: Field) -> Field:
    """Largest absolute difference of the three channels.

    Args:
        clean: The product without the defect, ``(H, W, 3)`` in 0..1.
        defective: The same with it.

    Returns:
        A field ``(H, W)`` in 0..1.
    """
    red, green, blue = cv2.split(cv2.absdiff(clean, defective))
    return np.asarray(cv2.max(cv2.max(red, green), blue), np.float32)


def visible(change: Field, smallest: float, gap: float = 0.0) -> NDArray[np.bool_]:
    """Marks where a defect shows.

    Args:
        change: By how much it changes the picture, ``(H, W)`` in 0..1.
        smallest: Area below which a spot is not marked, as a share of the image.
        gap: Widest gap between changed pixels that still counts as changed.

    Returns:
        Mask ``(H, W)`` of booleans; empty where nothing shows.
    """
    change = blur(change, 0.7 / len(change))
    peak = float(np.quantile(change, 1.0 - smallest))
    raw = (change > np.clip(_SHARE_OF_PEAK * peak, *_JUST_VISIBLE)).astype(np.uint8)
    width = 2 * round(gap * len(change) / 2) + 3
    # Replicated borders let a gap at the picture's border close, too.
    closed = cv2.morphologyEx(raw, cv2.MORPH_CLOSE, np.ones((width, width), np.uint8), borderType=cv2.BORDER_REPLICATE)
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(closed)
    large = statistics[:, cv2.CC_STAT_AREA] >= max(_FEWEST_PIXELS, smallest * change.size / 4)
    large[0] = False
    return large[labels]


def fade_out(clean: Field, defective: Field, mask: NDArray[np.bool_]) -> Field:
    """Lets what is left of a defect outside its mask fade, without a visible step.

    Args:
        clean: The product without the defect, ``(H, W, 3)`` in 0..1.
        defective: The same with it.
        mask: Where the defect shows, ``(H, W)`` of booleans.

    Returns:
        The defective image inside the mask, the clean one some way outside it.
    """
    away = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5) / np.float32(len(mask))
    return mix(np.maximum(1.0 - away / np.float32(_FADING), 0.0), clean, defective)


_FADING = 0.05
_SHARE_OF_PEAK = 0.25
_JUST_VISIBLE = (0.02, 0.05)
_FEWEST_PIXELS = 3
