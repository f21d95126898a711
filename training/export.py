"""From a trained model to the weights that the package ships."""

from pathlib import Path

import open_clip
import safetensors.torch
import torch

from training.recipe import Recipe


def export(clip: open_clip.CLIP, recipe: Recipe, folder: Path) -> None:
    """Writes the weights as open_clip reads them, in half precision.

    Args:
        clip: The trained model.
        recipe: The recipe; its name becomes the file's, its temperature the model's.
        folder: Where ``NAME.safetensors`` goes, beside the architecture that the model was built from.
    """
    weights = {name: value.detach().half().contiguous() for name, value in clip.state_dict().items()}
    # What the detector takes for τ.
    weights["logit_scale"] = torch.tensor(1 / recipe.temperature).log().half()
    safetensors.torch.save_file(weights, folder / f"{recipe.name}.safetensors")
