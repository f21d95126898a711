"""A recipe small enough to be trained in a test."""

from pathlib import Path

from training.__main__ import read_recipe
from training.recipe import Recipe

_SMALL = (
    *("data.families=[weave,nut,pill]", "data.products=1", "data.pairs=4"),
    *("tower.width=48", "tower.layers=2", "tower.head_width=24", "tower.embed_dim=32"),
    *("tower.text_width=32", "tower.text_layers=1", "text.steps=4", "text.batch_size=8"),
    *("images.rounds=[2,4]", "images.save_every=2", "images.warm_up=2"),
    *("images.window_share=0.5", "images.window_products=2", "images.full_products=1", "loss.fitted_from=2"),
    *("photographs.steps=2", "photographs.window_pieces=1", "photographs.full_pieces=1", "photographs.warm_up=1"),
)


def small_arguments(folder: Path) -> list[str]:
    """What to type for one product a family, a tower of two layers and a handful of steps."""
    return [*_SMALL, f"name=small-{folder.name}", f"runs={folder / 'runs'}", f"data_folder={folder / 'data'}"]


def small_recipe(folder: Path) -> Recipe:
    """The same as a recipe."""
    return read_recipe(small_arguments(folder))
