"""Files of weights: reads them without running anything in them, and says of one that cannot be used what it is."""

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import safetensors.torch
import torch
from open_clip.model import resize_pos_embed
from torch import Tensor

FILES_OF_A_FOLDER = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""What the Hugging Face hub calls the weights of open_clip's models, best first."""

_WRAPPERS = re.compile(r"^((module|_orig_mod|model|clip)\.)+")
_LONGEST_START = 256


def load_weights(clip: open_clip.CLIP, path: Path) -> None:
    """Loads a checkpoint from disk without ever unpickling objects from it.

    Args:
        clip: The model that gets the weights.
        path: A ``.safetensors`` file, or a PyTorch file that holds tensors only, with the weights at its top level or
            under ``state_dict``. What training frameworks put before the names (``module.``, ``_orig_mod.``,
            ``model.``, ``clip.``) is taken off. Weights of another image size get their position embeddings
            interpolated.

    Raises:
        OSError: The file does not exist or cannot be opened.
        ValueError: The file is not a checkpoint, or one of another architecture; one line says what it is and what to
            do.
    """
    content = _read(path)
    state = _without_wrappers(_weights_in(content, path))
    try:
        resize_pos_embed(state, clip)
        clip.load_state_dict(state)
    except (RuntimeError, IndexError):
        # torch lists every name that differs, hundreds of them.
        difference = _first_difference(state, clip.state_dict())
        if "pytorch-lightning_version" in content:
            what = f"is a Lightning checkpoint of another model ({difference}); take a file of a CLIP model's weights"
        else:
            what = _what_misfits(state, difference)
        msg = f"{path} {what}"
        raise ValueError(msg) from None


def _read(path: Path) -> Any:
    with path.open("rb") as file:
        start = file.read(_LONGEST_START)
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch's own texts are not passed on: they advise to unpickle the file.
        msg = f"{path} {_what_is_unreadable(start, error)}"
        raise ValueError(msg) from None


def _what_is_unreadable(start: bytes, error: Exception) -> str:
    if not start:
        return "is empty; delete it, and copy or download it again"
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, a note in place of the weights; run `git lfs pull`, or download the file itself"
    if start.lstrip(b"\xef\xbb\xbf\r\n\t ").startswith(b"<"):
        return "is a web page saved in place of a checkpoint; delete it, and download the file that the page links to"
    pickled = isinstance(error, pickle.UnpicklingError) and start.startswith((b"PK", b"\x80"))
    if pickled or "TorchScript" in str(error):
        return (
            "holds code or Python objects besides weights, and is not opened, because that could run any program; "
            f"take a .safetensors checkpoint, such as {FILES_OF_A_FOLDER[0]}"
        )
    return "is no checkpoint, or one that broke off or is damaged; if downloaded, delete it and download it again"


def _weights_in(content: Any, path: Path) -> dict[str, Tensor]:
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        msg = (
            f"{path} is not a checkpoint: expected weights by name, at its top level or under 'state_dict', "
            "as torch.save(clip.state_dict(), …) writes them"
        )
        raise ValueError(msg)
    return state


def _without_wrappers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    bare = {_WRAPPERS.sub("", name): weight for name, weight in state.items()}
    # Two models under two prefixes, say a model and its average: which one is meant cannot be told.
    return bare if len(bare) == len(state) else dict(state)


def _first_difference(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    for name, weight in expected.items():
        if name in state and state[name].shape != weight.shape:
            return f"{name} is {_size(state[name])}, not {_size(weight)}"
    for name in expected:
        if name not in state:
            return f"{name} is missing"
    return f"{next((name for name in state if name not in expected), 'nothing')} is not expected"


def _size(weight: Tensor) -> str:
    return "×".join(map(str, weight.shape)) or "a number"


def _what_misfits(state: Mapping[str, Tensor], difference: str) -> str:
    if any(name.startswith(("text_model.", "vision_model.")) for name in state):
        return (
            "is a checkpoint in the format of transformers; take the same model's file for open_clip: "
            f"{' or '.join(FILES_OF_A_FOLDER)}"
        )
    # The class token in open_clip's words and in timm's.
    has_image_tower = not {"class_embedding", "cls_token"}.isdisjoint(name.removeprefix("visual.") for name in state)
    if has_image_tower and not any("token_embedding" in name for name in state):
        return (
            "holds an image tower alone, and prompts need the text tower, too; take the file of the whole CLIP model, "
            f"such as {FILES_OF_A_FOLDER[0]}"
        )
    return (
        f"holds the weights of another architecture ({difference}); take a file of this backbone's, or name the "
        "backbone that it belongs to"
    )
