"""A recipe small enough to be trained in a test."""

from pathlib import Path

import pytest

from training.recipe import Recipe


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """Two products a family, a tower of two layers, a handful of steps."""
    small = Recipe(name=f"small-{tmp_path.name}", runs=str(tmp_path / "runs"), data_folder=str(tmp_path / "data"))
    small.data.products, small.data.pairs = 1, 4
    small.tower.width, small.tower.layers, small.tower.head_width, small.tower.embed_dim = 48, 2, 24, 32
    small.tower.text_width, small.tower.text_layers = 32, 1
    small.text.steps, small.text.batch_size = 4, 8
    small.images.steps, small.images.save_every, small.images.warm_up = 4, 2, 2
    small.images.window_share, small.images.window_products, small.images.full_products = 0.5, 2, 1
    return small
