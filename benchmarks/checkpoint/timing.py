"""What an image costs with the small architecture."""

import statistics
from functools import partial

import torch

from benchmarks.checkpoint.scorers import BATCH_SIZE
from benchmarks.speed.instruments import random_images, random_model, time_in_turn

ADAPTATION_STEPS = {"without adaptation": 0, "with adaptation": 2}


def milliseconds_an_image(backbone: str, rounds: int = 9) -> dict[str, float]:
    """Times the detector under bfloat16 autocast, on random images and with random weights, which cost the same.

    Args:
        backbone: An architecture.
        rounds: Counted rounds, of which the median is taken.

    Returns:
        Milliseconds without and with adaptation.
    """
    models = {name: random_model(backbone, adaptation_steps=steps) for name, steps in ADAPTATION_STEPS.items()}
    candidates = {name: partial(model.model, random_images(model, BATCH_SIZE)) for name, model in models.items()}
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        seconds = time_in_turn(candidates, rounds)
    return {name: 1000 * statistics.median(each) / BATCH_SIZE for name, each in seconds.items()}
