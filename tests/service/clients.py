"""Images for the service, and what is to be answered."""

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from dual_image_clip import DualImageCLIP
from dual_image_clip.method import random_partners
from dual_image_clip.one_image import OneScore, encode_one, own_post_processor, score_one
from dual_image_clip.photos import image_to_tensor
from tests.drawn_data import draw_plate

Files = list[tuple[str, tuple[str, bytes]]]


def picture(seed: int, size: tuple[int, int] = (48, 64)) -> Image.Image:
    return Image.fromarray(draw_plate(seed, size, "spot" if seed % 3 == 0 else None)[0])


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def files_of(*pictures: Image.Image) -> Files:
    return [("images", (f"{index}.png", encoded(each))) for index, each in enumerate(pictures)]


def expected_of(model: DualImageCLIP, pictures: Sequence[Image.Image], min_area: int = 0) -> list[OneScore]:
    """What :func:`score_one` says, written out as somebody would who has the model at hand."""
    model.model.reset()
    pixels = [image_to_tensor(each) for each in pictures]
    images = [encode_one(model, each) for each in pixels]
    count = min(model.model.references.num_references, len(images) - 1)
    partners = random_partners(len(images), count, torch.Generator().manual_seed(model.seed))
    found = []
    for image, each, others in zip(images, pixels, partners.tolist(), strict=True):
        references = [images[other].patches for other in others]
        size = each.shape[-2], each.shape[-1]
        found.append(score_one(model, own_post_processor(model), image, references, size, min_area))
    return found


def map_of(content: bytes) -> np.ndarray:
    """A map in 0..1."""
    image = Image.open(io.BytesIO(content))
    assert image.mode == "I;16"
    return np.asarray(image) / 65535
