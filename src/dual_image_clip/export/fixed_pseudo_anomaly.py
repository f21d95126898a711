"""One pseudo anomaly for all images, drawn once, as tensor operations that an exported graph can hold."""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from kornia.enhance import adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation
from torch import Tensor, nn

from dual_image_clip.method import (
    COLOURS,
    FLIPS,
    OPACITY,
    PseudoAnomalies,
    PseudoAnomalyGenerator,
    perlin_masks,
    random_region,
)

# The steps of kornia's ColorJiggle in the order that it numbers them, with its scale of their factors.
_COLOUR_STEPS: tuple[tuple[str, Callable[[Tensor, Tensor], Tensor]], ...] = (
    ("brightness_factor", lambda images, factor: adjust_brightness(images, factor - 1)),
    ("contrast_factor", adjust_contrast),
    ("saturation_factor", adjust_saturation),
    ("hue_factor", lambda images, factor: adjust_hue(images, 2 * math.pi * factor)),
)


class FixedPseudoAnomaly(nn.Module):
    """Takes the place of a :class:`~dual_image_clip.method.PseudoAnomalyGenerator`, and draws nothing."""

    def draw(self, count: int, size: tuple[int, int]) -> "FixedPseudoAnomaly":
        """What corrupts the images of a batch: the same for every one."""
        del count, size
        return self


def fixed_pseudo_anomaly(generator: PseudoAnomalyGenerator, size: tuple[int, int]) -> FixedPseudoAnomaly:
    """Freezes what a generator does to the first image of a run.

    Args:
        generator: Its seed and textures count, not its state, which stays as it is.
        size: Height and width of the images.

    Returns:
        A module that corrupts every image of a batch alike, and takes the generator's place: images ``(B, 3, H, W)``
        in 0..1 in, :class:`~dual_image_clip.method.pseudo_anomaly.PseudoAnomalies` out.
    """
    generator = copy.deepcopy(generator)
    generator.reset()
    with torch.inference_mode(False), torch.no_grad():
        return (_ForeignTexture if generator.has_textures else _OwnTexture)(generator, size)


class _ForeignTexture(FixedPseudoAnomaly):
    """A texture that does not depend on the image: the copy is ``scale · image + shift``."""

    masks: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(self, generator: PseudoAnomalyGenerator, size: tuple[int, int]) -> None:
        super().__init__()
        shift, masks = generator(torch.zeros(1, 3, *size))
        generator.reset()
        self.register_buffer("masks", masks)
        self.register_buffer("scale", generator(torch.ones(1, 3, *size)).images - shift)
        self.register_buffer("shift", shift)

    def forward(self, images: Tensor, rows: slice = slice(None)) -> PseudoAnomalies:
        del rows
        return PseudoAnomalies(self.scale * images + self.shift, self.masks.expand(images.shape[0], -1, -1, -1))


class _OwnTexture(FixedPseudoAnomaly):
    """Another region of the image, enlarged, flipped and with its colours changed.

    Region and flips are separable and linear: ``rows · image · columns``.
    """

    masks: Tensor
    opacity: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(self, generator: PseudoAnomalyGenerator, size: tuple[int, int]) -> None:
        super().__init__()
        # In the order in which the generator draws.
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(generator.draw_seed())
            masks = perlin_masks(1, size)
            y, x = _drawn_from(size)
            drawn = COLOURS.forward_parameters(torch.Size((1, 3, *size)))
            opacity = masks * torch.empty(1, 1, 1, 1).uniform_(*OPACITY)
        self.register_buffer("masks", masks)
        self.register_buffer("opacity", opacity)
        self.register_buffer("rows", _interpolation(y, size[0]))
        self.register_buffer("columns", _interpolation(x, size[1]).T.contiguous())
        self.colours: Any = [(index, float(drawn[_COLOUR_STEPS[index][0]])) for index in drawn["order"].tolist()]

    def forward(self, images: Tensor, rows: slice = slice(None)) -> PseudoAnomalies:
        del rows
        textures = (self.rows @ images @ self.columns).clamp(0, 1)
        for index, factor in self.colours:
            textures = _COLOUR_STEPS[index][1](textures, textures.new_tensor([factor]))
        # Under autocast the products above have another type.
        copies = torch.lerp(images, textures.clamp(0, 1).to(images), self.opacity)
        return PseudoAnomalies(copies, self.masks.expand(images.shape[0], -1, -1, -1))


def _drawn_from(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Row and column of an image that each row and column of its texture is drawn from, ``(H,)`` and ``(W,)``."""
    height, width = size
    # Enlarging and flipping an image whose pixels hold their own place tells where they go.
    y, x = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    places = FLIPS(random_region(size)(torch.stack([y, x, x]).unsqueeze(0)))[0]
    return places[0, :, 0], places[1, 0]


def _interpolation(places: Tensor, length: int) -> Tensor:
    """Weights of linear interpolation at the given places between ``length`` values, ``(len(places), length)``."""
    return (1 - (places.unsqueeze(1) - torch.arange(length)).abs()).clamp(min=0).float()
