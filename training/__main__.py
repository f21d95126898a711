"""Trains the small checkpoint from nothing: draws its data, fits the text tower, trains the image tower, exports.

Every stage is skipped where its result is there already, so a training that was stopped goes on where it was.

Example:
    python -m training
    python -m training name=quick images.rounds=[100] seed=1
"""

import logging
import sys
from pathlib import Path
from typing import Any

import open_clip
import safetensors.torch
import torch
from omegaconf import OmegaConf

from training.architecture import build
from training.drawn_set import draw_training_set, load_training_set
from training.export import export
from training.image_tower import ImageTraining
from training.photograph_training import PhotographTraining
from training.recipe import Recipe
from training.text_tower import PromptBook, embed_words, fit_text_tower

_PROMPTS_OF_A_WORD = 12

logger = logging.getLogger(__name__)


def main(arguments: list[str]) -> None:
    """Trains by the recipe, changed by ``key=value`` arguments."""
    recipe = read_recipe(arguments)
    folder = Path(recipe.runs) / recipe.name
    folder.mkdir(parents=True, exist_ok=True)
    _log_to(folder / "log.txt")
    _keep_recipe(recipe, folder / "recipe.yaml")
    train(recipe, folder)


def read_recipe(arguments: list[str]) -> Recipe:
    """The default recipe, changed by ``key=value`` arguments; unknown keys and wrong types are errors."""
    changed = OmegaConf.merge(OmegaConf.structured(Recipe), OmegaConf.from_dotlist(arguments))
    recipe: Any = OmegaConf.to_object(changed)
    return recipe


def train(recipe: Recipe, folder: Path) -> None:
    """Runs all the stages.

    Args:
        recipe: The recipe.
        folder: Folder of the run.
    """
    data_folder = Path(recipe.data_folder)
    draw_training_set(data_folder, recipe.data)
    clip = build(recipe, folder)
    book = PromptBook(recipe.name, recipe.data.families)
    data = load_training_set(data_folder, recipe.data)
    if recipe.start:
        clip.load_state_dict(safetensors.torch.load_file(recipe.start))
    else:
        _train_text(clip, book, recipe, folder / "text.pt")
    texts = embed_words(clip, book, _PROMPTS_OF_A_WORD, recipe.seed)
    if not recipe.start:
        ImageTraining(clip, texts, data, recipe, folder / "images.pt").run()
    if recipe.photographs.steps:
        PhotographTraining(clip, texts, data, recipe, folder / "photographs.pt").run()
    export(clip, recipe, folder)
    logger.info("exported to %s", folder)


def _train_text(clip: open_clip.CLIP, book: PromptBook, recipe: Recipe, done: Path) -> None:
    """Fits the text tower, or takes it from the file of an earlier run."""
    if done.is_file():
        clip.load_state_dict(torch.load(done, weights_only=True))
    else:
        fit_text_tower(clip, book, recipe)
        torch.save(clip.state_dict(), done)


def _keep_recipe(recipe: Recipe, path: Path) -> None:
    """Writes the recipe down, and refuses to go on with a run that was begun by another."""
    now = OmegaConf.to_yaml(OmegaConf.structured(recipe))
    if path.is_file() and path.read_text() != now:
        msg = f"{path} was begun with other settings: choose another name=…, or delete {path.parent} to start anew"
        raise SystemExit(msg)
    path.write_text(now)


def _log_to(path: Path) -> None:
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(message)s",
        handlers=[logging.FileHandler(path), logging.StreamHandler()],
        force=True,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
