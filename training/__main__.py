"""Trains the small checkpoint from nothing: draws its data, fits the text tower, trains the image tower, exports.

The last part of the image training is done once for each of some seeds, side by side, and the checkpoint is their mean.

Every stage is skipped where its result is there already, so a training that was stopped goes on where it was.

Example:
    python -m training
    python -m training name=quick images.rounds=[100] images.branch_at=50 seed=1
"""

import sys
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from training.recipe import Recipe
from training.stages import log_to, train


def main(arguments: list[str]) -> None:
    """Trains by the recipe, changed by ``key=value`` arguments."""
    recipe = read_recipe(arguments)
    folder = Path(recipe.runs) / recipe.name
    folder.mkdir(parents=True, exist_ok=True)
    log_to(folder / "log.txt")
    _keep_recipe(recipe, folder / "recipe.yaml")
    train(recipe, folder)


def read_recipe(arguments: list[str]) -> Recipe:
    """The default recipe, changed by ``key=value`` arguments; unknown keys and wrong types are errors."""
    changed = OmegaConf.merge(OmegaConf.structured(Recipe), OmegaConf.from_dotlist(arguments))
    recipe: Any = OmegaConf.to_object(changed)
    return recipe


def _keep_recipe(recipe: Recipe, path: Path) -> None:
    """Writes the recipe down, and refuses to go on with a run that was begun by another."""
    now = OmegaConf.to_yaml(OmegaConf.structured(recipe))
    if path.is_file() and path.read_text() != now:
        msg = f"{path} was begun with other settings: choose another name=…, or delete {path.parent} to start anew"
        raise SystemExit(msg)
    path.write_text(now)


if __name__ == "__main__":
    main(sys.argv[1:])
