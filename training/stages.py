"""The stages of the training. Those whose result is there already are skipped."""

import logging
import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.data import draw_training_set, load_training_set
from training.export import export
from training.images import ImageTraining
from training.recipe import Recipe
from training.text import PromptBook, embed_words, fit_text_tower
from training.tower import build

_PROMPTS_OF_A_WORD = 12
_TEXT, _IMAGES = "text.pt", "images.pt"

logger = logging.getLogger(__name__)


def train(recipe: Recipe, folder: Path) -> None:
    """Runs all the stages.

    Args:
        recipe: The recipe.
        folder: Folder of the run.
    """
    draw_training_set(Path(recipe.data_folder), recipe.data)
    clip = train_towers(recipe, folder, recipe.seed, recipe.images.branch_at)
    clip.load_state_dict(average(train_branches(recipe, folder)))
    export(clip, recipe, folder)
    logger.info("exported to %s", folder)


def train_towers(recipe: Recipe, folder: Path, seed: int, until: int) -> Any:
    """Trains the text tower where that is not done yet, and then the image tower up to a step.

    Args:
        recipe: The recipe.
        folder: Where the state of both trainings is kept.
        seed: Seed of what the image tower sees.
        until: The step.

    Returns:
        The ``open_clip.CLIP`` as it is then.
    """
    clip = build(recipe, folder)
    book = PromptBook(recipe.name, recipe.data.families)
    text_file = folder / _TEXT
    if text_file.is_file():
        clip.load_state_dict(torch.load(text_file, weights_only=True))
    else:
        fit_text_tower(clip, book, recipe)
        torch.save(clip.state_dict(), text_file)
    texts = embed_words(clip, book, _PROMPTS_OF_A_WORD, recipe.seed)
    data = load_training_set(Path(recipe.data_folder), recipe.data)
    ImageTraining(clip, texts, data, recipe, folder / _IMAGES, seed).run(until)
    return clip


def train_branches(recipe: Recipe, folder: Path) -> list[dict[str, Tensor]]:
    """Trains all branches to their end, side by side, and exports each of them.

    Args:
        recipe: The recipe.
        folder: Folder of the run, where the state of both trainings is as the branches begin with it. Each branch gets
            a folder in it.

    Returns:
        The weights of each.
    """
    seeds = recipe.images.branch_seeds
    folders = [folder / f"branch-{seed}" for seed in seeds]
    threads = max(1, torch.get_num_threads() // len(seeds))
    for branch in folders:
        branch.mkdir(exist_ok=True)
        if not (branch / _IMAGES).is_file():
            shutil.copy(folder / _TEXT, branch)
            shutil.copy(folder / _IMAGES, branch)
    # A forked child would inherit the locks of torch's threads, and could wait for them for ever.
    with ProcessPoolExecutor(len(seeds), multiprocessing.get_context("spawn")) as pool:
        list(pool.map(partial(_train_branch, recipe, threads), folders, seeds))
    return [torch.load(branch / _IMAGES, weights_only=True)["clip"] for branch in folders]


def average(branches: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of the weights of towers that were trained on from the same one."""
    return {name: torch.stack([branch[name] for branch in branches]).mean(dim=0) for name in branches[0]}


def _train_branch(recipe: Recipe, threads: int, folder: Path, seed: int) -> None:
    torch.set_num_threads(threads)
    log_to(folder / "log.txt")
    export(train_towers(recipe, folder, seed, sum(recipe.images.rounds)), recipe, folder)


def log_to(path: Path) -> None:
    """Sends the log of this process to a file, and to the terminal."""
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(message)s",
        handlers=[logging.FileHandler(path), logging.StreamHandler()],
        force=True,
    )
