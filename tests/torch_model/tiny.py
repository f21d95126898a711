"""A small model, and images for it."""

import torch
from torch import Tensor, nn

from dual_image_clip.method import (
    AdaptationSettings,
    DualPathEncoder,
    PseudoAnomalyGenerator,
    ReferencePool,
    ScoreWeights,
)
from dual_image_clip.torch_model import DualImageCLIPModel
from tests.helpers import cloudy_images, unit_vectors

TILE, PATCH, DIM = 64, 16, 24
MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.3, 0.35)
SEED, TEMPERATURE = 3, 0.1
PRIMES = ScoreWeights(2.0, 3.0, 5.0, 7.0, 11.0)
VISUAL_ONLY = ScoreWeights(1.0, 0.0, 0.0, 1.0, 0.0)


def build(
    clip: nn.Module, references: int = 1, steps: int = 2, weights: ScoreWeights = PRIMES, golden: int = 0, **changes
):
    model = DualImageCLIPModel(
        encoder=DualPathEncoder(clip.visual),
        references=ReferencePool(references, SEED),
        pseudo_anomalies=PseudoAnomalyGenerator(None, SEED),
        adaptation=AdaptationSettings(steps, learning_rate=0.01, beta=0.7),
        weights=weights,
        image_size=(TILE, TILE),
        image_mean=MEAN,
        image_std=STD,
        **{"temperature": TEMPERATURE, "seed": SEED, **changes},
    )
    model.text_embeddings.copy_(unit_vectors(2, DIM, seed=1))
    model.set_golden_images(some_images(1, seed=70 + index) for index in range(golden))
    return model


def normalized(pixels: Tensor) -> Tensor:
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def some_images(count: int, size: tuple[int, int] = (TILE, TILE), seed: int = 0) -> Tensor:
    return normalized(cloudy_images(count, size, seed))


def names(count: int, first: int = 0) -> list[str]:
    return [f"image_{first + index}.png" for index in range(count)]


class Album:
    """Further images of a data set, and how many were asked for."""

    def __init__(self, *numbers: int, size: tuple[int, int] = (TILE, TILE)) -> None:
        self.numbers = list(numbers)
        self.size = size
        self.asked: list[int] = []

    def __call__(self, count: int):
        self.asked.append(count)
        for number in self.numbers[:count]:
            yield f"image_{number}.png", some_images(1, self.size, seed=number)
