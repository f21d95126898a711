"""From a trained model to the two files that the package ships."""

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from training.architecture import architecture
from training.recipe import Recipe


def export(clip: Any, recipe: Recipe, folder: Path) -> None:
    """Writes architecture and weights as open_clip reads them.

    Args:
        clip: The trained model.
        recipe: The recipe; its name becomes the files', its temperature the model's.
        folder: Where ``NAME.json`` and ``NAME.safetensors`` (half precision) go.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{recipe.name}.json").write_text(json.dumps(architecture(recipe.tower), indent=2) + "\n")
    weights = {name: value.detach().half().contiguous() for name, value in clip.state_dict().items()}
    # What the detector takes for τ; training used it for its text scores throughout.
    weights["logit_scale"] = torch.tensor(1 / recipe.loss.temperature).log().half()
    safetensors.torch.save_file(weights, folder / f"{recipe.name}.safetensors")
