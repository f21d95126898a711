"""A small model and plates for the tests of the page."""

from pathlib import Path

import pytest
import torch

from dual_image_clip import DualImageCLIP
from tests.drawn_data import draw_plate, save
from tests.helpers import TINY


@pytest.fixture
def tiny_model():
    def make(**arguments) -> DualImageCLIP:
        torch.manual_seed(0)
        return DualImageCLIP(backbone=TINY, pretrained=None, **arguments)

    return make


@pytest.fixture
def plates(tmp_path: Path) -> list[str]:
    """Nine plates of three sizes, the last one with a spot."""
    sizes = [(80, 80), (64, 120), (100, 64)]
    return [
        str(save(draw_plate(index, sizes[index % 3], "spot" if index == 8 else None)[0], tmp_path / f"{index}.png"))
        for index in range(9)
    ]
