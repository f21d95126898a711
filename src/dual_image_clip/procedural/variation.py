"""What differs between two pictures of like products on a real line: light, exposure, focus, noise, compression."""

import cv2
import numpy as np
from numpy.typing import NDArray

from dual_image_clip.procedural.canvas import Canvas, Field, Frame, blur, chance, smoothstep


class Camera:
    """The inspection station of a category: its lens, sensor and file format.

    Args:
        rng: Source of the station's features.
        has_dark_areas: Whether shadows fall into the picture now and then, which are no defects.
    """

    def __init__(self, rng: np.random.Generator, has_dark_areas: bool = False) -> None:
        self.is_monochrome = chance(rng, 0.25)
        self.white_balance = np.exp(rng.normal(0, 0.025, 3)).astype(np.float32)
        self.gamma = float(np.exp(rng.normal(0, 0.12)))
        self.exposure_play = rng.uniform(0.02, 0.07)
        self.gradient = rng.uniform(0.02, 0.12)
        self.focus_blur = rng.uniform(0.25, 0.7)
        self.read_noise = rng.uniform(0.002, 0.009)
        self.brightest = rng.uniform(0.5, 0.95)
        self.jpeg_quality = int(rng.integers(80, 98))
        self.has_dark_areas = has_dark_areas

    def gain(self, reference: Field) -> float:
        """The exposure that is set up once for a product, so that neither dark nor light ones are lost.

        Args:
            reference: One picture of the product, RGB ``(size, size, 3)`` in 0..1.

        Returns:
            Factor on all its pictures.
        """
        light = float(np.quantile(reference[::2, ::2].max(axis=2), 0.95))
        return float(np.clip(self.brightest / max(light, 1e-3), 0.75, 2.5))

    def illumination(self, canvas: Canvas) -> Field:
        """Draws how brightly each place is lit in one shot, ``(size, size)`` around 1."""
        rng = canvas.rng
        slope = rng.normal(0, self.gradient, 2).astype(np.float32)
        field = 1.0 + slope[0] * canvas.x + slope[1] * canvas.y + np.float32(0.3 * self.gradient) * canvas.noise(3)
        if self.has_dark_areas and chance(rng, 0.6):
            field *= self._shadow(canvas)
        return field * np.float32(np.exp(rng.normal(0, self.exposure_play)))

    def _shadow(self, canvas: Canvas) -> Field:
        """The soft shadow of a fixture at the picture's edge."""
        rng = canvas.rng
        u, v = Frame(angle=rng.uniform(0, 2 * np.pi)).coordinates(canvas.size)
        edge = rng.uniform(0.2, 0.5) + rng.uniform(-0.5, 0.5) * v
        return 1.0 - np.float32(rng.uniform(0.15, 0.45)) * smoothstep(u - edge, 0.0, rng.uniform(0.12, 0.4))

    def expose(self, image: Field, canvas: Canvas) -> NDArray[np.uint8]:
        """Takes a picture.

        Args:
            image: What an ideal camera sees in even light, RGB ``(size, size, 3)`` in 0..1.
            canvas: Source of this shot's randomness.

        Returns:
            The picture as it comes out of the file, ``(size, size, 3)`` in 0..255.
        """
        rng = canvas.rng
        image = image.astype(np.float32, copy=False) * self.illumination(canvas)[..., None] * self.white_balance
        image = blur(image, self.focus_blur * np.exp(rng.normal(0, 0.25)) / 240)
        if self.is_monochrome:
            grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
            image = np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), np.float32)
        image = np.power(np.maximum(image, 0.0), np.float32(self.gamma * np.exp(rng.normal(0, 0.02))))
        image += self._sensor_noise(image, canvas)
        return self._compress(np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8))

    def _sensor_noise(self, image: Field, canvas: Canvas) -> Field:
        """Noise that grows with the square root of the light, mostly the same in all channels."""
        shot = np.sqrt(np.clip(image, 0, 1)) * np.float32(1.2 * self.read_noise) + np.float32(0.5 * self.read_noise)
        return shot * canvas.white()[..., None]

    def _compress(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        _, file = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, self.jpeg_quality])
        return np.asarray(cv2.imdecode(file, cv2.IMREAD_COLOR), np.uint8)
