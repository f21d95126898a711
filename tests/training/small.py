"""A recipe small enough to be trained in a test."""

from pathlib import Path

from training.recipe import Recipe


def small_recipe(folder: Path) -> Recipe:
    """One product a family, a tower of two layers, a handful of steps."""
    small = Recipe(name=f"small-{folder.name}", runs=str(folder / "runs"), data_folder=str(folder / "data"))
    small.data.families, small.data.products, small.data.pairs = ["weave", "nut", "pill"], 1, 4
    small.tower.width, small.tower.layers, small.tower.head_width, small.tower.embed_dim = 48, 2, 24, 32
    small.tower.text_width, small.tower.text_layers = 32, 1
    small.text.steps, small.text.batch_size = 4, 8
    small.images.rounds, small.images.branch_at = [2, 4], 4
    small.images.save_every, small.images.warm_up = 2, 2
    small.images.window_share, small.images.window_products, small.images.full_products = 0.5, 2, 1
    return small
