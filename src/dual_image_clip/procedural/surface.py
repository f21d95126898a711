"""What lies before the camera: a surface with colour, relief and gloss, and the light that makes a picture of it."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import ArrayLike

from dual_image_clip.procedural.canvas import Field, blur, mix, shift

_EXPOSED_FOR = 0.8
_SHARPENINGS = 4  # the highlight is the cosine to the power of 2 ** _SHARPENINGS


@dataclass
class Surface:
    """A scene seen from above, before light falls on it.

    Attributes:
        albedo: Colour (RGB), ``(H, W, 3)`` in 0..1.
        height: Relief in side units, ``(H, W)``.
        gloss: Strength of the highlights, ``(H, W)`` in 0..1.
        foreground: What is inspected, ``(H, W)`` in 0..1; all of a texture, the object but not its backdrop.
    """

    albedo: Field
    height: Field
    gloss: Field
    foreground: Field

    @classmethod
    def flat(cls, size: int, colour: ArrayLike, gloss: float = 0.0) -> "Surface":
        """A flat, evenly coloured surface, all foreground."""
        albedo = np.broadcast_to(np.asarray(colour, np.float32), (size, size, 3)).copy()
        height = np.zeros((size, size), np.float32)
        return cls(albedo, height, np.full_like(height, gloss), np.ones_like(height))

    def copy(self) -> "Surface":
        """A copy that shares nothing with this one."""
        return Surface(self.albedo.copy(), self.height.copy(), self.gloss.copy(), self.foreground.copy())

    def lay(self, coverage: Field, colour: ArrayLike, relief: Field | float = 0.0, gloss: float = 0.0) -> None:
        """Lays a part on the surface.

        Args:
            coverage: Where the part is, ``(H, W)`` in 0..1.
            colour: Its colour, ``(3,)`` or ``(H, W, 3)`` in 0..1.
            relief: Its height, a number or ``(H, W)``; it hides the relief beneath.
            gloss: Its gloss.
        """
        left, top, width, height = cv2.boundingRect((coverage > 0).view(np.uint8))
        box = np.s_[top : top + height, left : left + width]
        share = coverage[box].astype(np.float32, copy=False)
        colour = np.asarray(colour)
        self.albedo[box] = mix(share, self.albedo[box], colour[box] if colour.ndim == self.albedo.ndim else colour)
        self.height[box] += share * ((relief[box] if isinstance(relief, np.ndarray) else relief) - self.height[box])
        self.gloss[box] += share * (np.float32(gloss) - self.gloss[box])

    def tint(self, factor: Field) -> None:
        """Multiplies the colour by ``(H, W)`` or ``(H, W, 3)``."""
        self.albedo *= factor if factor.ndim == self.albedo.ndim else factor[..., None]

    def cast_shadow(self, coverage: Field, distance: float, depth: float = 0.5) -> None:
        """Darkens what lies in the soft shadow of a part, before the part is laid.

        Args:
            coverage: The part, ``(H, W)`` in 0..1.
            distance: How far the shadow reaches; it is as soft as it is far.
            depth: How dark, 0..1.
        """
        self.tint(1.0 - np.float32(depth) * blur(shift(coverage, distance, 0.7 * distance), 0.8 * distance))


@dataclass(frozen=True)
class Light:
    """A lamp above the scene, and the light that comes from all around.

    Attributes:
        azimuth: Direction of the lamp in the picture, in radians.
        elevation: Its height above the horizon, in radians.
        ambient: Share of the light from all around, 0..1.
    """

    azimuth: float
    elevation: float
    ambient: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Light":
        """Draws the lamp of an inspection station."""
        return cls(
            float(rng.uniform(-2.6, -0.5)), float(np.radians(rng.uniform(42, 72))), float(rng.uniform(0.35, 0.6))
        )

    def jittered(self, rng: np.random.Generator) -> "Light":
        """The same lamp with the play of one shot to the next."""
        return replace(
            self, azimuth=self.azimuth + rng.normal(0, 0.04), elevation=self.elevation + rng.normal(0, 0.015)
        )


def shade(surface: Surface, light: Light) -> Field:
    """Makes the picture that an ideal camera takes: diffuse shading and highlights.

    Args:
        surface: The scene.
        light: The light.

    Returns:
        RGB image ``(H, W, 3)`` in 0..1.
    """
    size = surface.height.shape[0]
    slope_x = cv2.Sobel(surface.height, cv2.CV_32F, 1, 0, ksize=3, scale=size / 8)
    slope_y = cv2.Sobel(surface.height, cv2.CV_32F, 0, 1, ksize=3, scale=size / 8)
    length = np.sqrt(1.0 + slope_x * slope_x + slope_y * slope_y)
    lamp = np.array(
        [
            np.cos(light.azimuth) * np.cos(light.elevation),
            np.sin(light.azimuth) * np.cos(light.elevation),
            np.sin(light.elevation),
        ]
    )
    halfway = lamp + np.array([0.0, 0.0, 1.0])
    halfway /= np.linalg.norm(halfway)

    def facing(x: float, y: float, z: float) -> Field:
        return np.maximum(np.float32(z) - np.float32(x) * slope_x - np.float32(y) * slope_y, 0.0) / length

    diffuse = light.ambient + np.float32((1.0 - light.ambient) / lamp[2]) * facing(*lamp)
    highlight = facing(*halfway)
    for _ in range(_SHARPENINGS):
        highlight = highlight * highlight
    # An even sheen would only fog the picture; the exposure is set for what is flat.
    sheen = np.float32(_EXPOSED_FOR * halfway[2] ** (2**_SHARPENINGS))
    image = surface.albedo * diffuse[..., None] + (surface.gloss * (highlight - sheen))[..., None]
    return np.clip(image, 0.0, 1.0)
