"""Small tasks for adapters."""

import torch

from dual_image_clip.method import AdaptationTask, Adapters, initial_adapter
from tests.helpers import seeded, uniform, unit_vectors

IMAGES, PATCHES, DIM = 3, 5, 6
TEMPERATURE = 0.3


def some_task(images: int = IMAGES, patches: int = PATCHES, dim: int = DIM, seed: int = 0) -> AdaptationTask:
    mask = uniform(images, patches, seed=seed + 2) < 0.4
    mask[torch.arange(images), torch.arange(images) % patches] = True
    return AdaptationTask(
        tokens=unit_vectors(images, patches, dim, seed=seed),
        pseudo_tokens=unit_vectors(images, patches, dim, seed=seed + 1),
        pseudo_mask=mask,
        joint_map=3 * uniform(images, patches, seed=seed + 3),
        text_embeddings=unit_vectors(2, dim, seed=seed + 4),
        temperature=TEMPERATURE,
    )


def some_adapters(images: int = IMAGES, dim: int = DIM) -> Adapters:
    each = [initial_adapter(dim, seeded(image)) for image in range(images)]
    return Adapters(torch.cat([a.weight for a in each]), torch.cat([a.bias for a in each]))
