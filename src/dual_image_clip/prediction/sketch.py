"""Small pictures of an image and its anomaly map, made while images pass, so that none of them has to be kept."""

import io
from collections.abc import Sequence
from typing import NamedTuple

import torch
from anomalib.visualization.image.functional import visualize_anomaly_map
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from dual_image_clip.defects import small_map

# Sides of a photo in pixels: the long one, unless the short one could not be read; and what no picture exceeds.
_SIDE, _LEAST_SIDE, _LONGEST = 256, 96, 1536
# Two pictures of 2,000 images, in base64, then stay below 60 MB.
_MOST_BYTES = 10_000
_SHRINK = 0.8
_QUALITIES = (85, 70, 55, 40, 25, 10)


class Sketch(NamedTuple):
    """What is left of an image.

    Attributes:
        photo: The image as JPEG.
        anomaly_map: A :func:`~dual_image_clip.defects.small_map`.
    """

    photo: bytes
    anomaly_map: Tensor


class ColourScale(NamedTuple):
    """Values of anomaly maps that are drawn in the first and in the last colour.

    Attributes:
        low: Drawn blue.
        high: Drawn red.
    """

    low: float
    high: float


def make_sketch(image: Tensor, anomaly_map: Tensor) -> Sketch:
    """Makes the small pictures of one image.

    Args:
        image: RGB in 0..1, ``(3, H, W)``.
        anomaly_map: Its anomaly map, ``(h, w)``.

    Returns:
        The sketch.
    """
    photo = to_pil_image(image.detach().float().clamp(0, 1).cpu())
    scale = min(1.0, _LONGEST / max(photo.size), max(_SIDE / max(photo.size), _LEAST_SIDE / min(photo.size)))
    width, height = (max(1, round(side * scale)) for side in photo.size)
    return Sketch(as_jpeg(photo.resize((width, height))), small_map(anomaly_map))


def common_scale(sketches: Sequence[Sketch]) -> ColourScale:
    """One scale for all images of a run, so that their colours can be compared.

    Args:
        sketches: Sketches of all images.

    Returns:
        From the usual value, a median, to the largest.
    """
    if not sketches:
        return ColourScale(0.0, 1.0)
    usual = torch.stack([sketch.anomaly_map.float().median() for sketch in sketches]).median()
    peak = max(float(sketch.anomaly_map.max()) for sketch in sketches)
    return ColourScale(float(usual), peak)


def draw_overlay(sketch: Sketch, scale: ColourScale, opacity: float = 0.5) -> Image.Image:
    """Lays the heatmap over the photo.

    Args:
        sketch: An image's photo and map.
        scale: Colours.
        opacity: 0 shows the photo alone, 1 the heatmap alone.

    Returns:
        RGB picture of the photo's size.
    """
    photo = Image.open(io.BytesIO(sketch.photo)).convert("RGB")
    share = (sketch.anomaly_map.float() - scale.low) / max(scale.high - scale.low, 1e-6)
    heat = to_pil_image(share.clamp(0, 1)).resize(photo.size, Image.Resampling.BILINEAR)
    return Image.blend(photo, visualize_anomaly_map(heat).convert("RGB"), opacity)


def as_jpeg(picture: Image.Image) -> bytes:
    """Encodes a picture in the best quality, and if that does not help the largest size, that 10 kB allow."""
    while True:
        for quality in _QUALITIES:
            file = io.BytesIO()
            picture.save(file, "JPEG", quality=quality)
            if len(file.getvalue()) <= _MOST_BYTES:
                return file.getvalue()
        picture = picture.resize((max(1, int(picture.width * _SHRINK)), max(1, int(picture.height * _SHRINK))))
