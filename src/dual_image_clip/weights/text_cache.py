"""Text embeddings on disk, so that a class name is encoded once on a machine."""

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import platformdirs
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from dual_image_clip.method import PromptEnsemble, encode_ensemble, prompt_ensemble
from dual_image_clip.weights.backbone import Backbone

logger = logging.getLogger(__name__)

_TENSOR = "text_embeddings"
_SAMPLES_PER_WEIGHT = 64


def class_embeddings(backbone: Backbone, class_name: str) -> Tensor:
    """Text embeddings of a class, from the user's cache folder or else encoded now.

    Args:
        backbone: The model whose text tower encodes the prompts.
        class_name: What the images show.

    Returns:
        Embeddings of [normal, anomalous], ``(2, D)``.

    Raises:
        ValueError: The class name has no letter in it.
    """
    ensemble = prompt_ensemble(class_name)
    return cached_text_embeddings(
        backbone.clip, ensemble, lambda: encode_ensemble(backbone.clip, backbone.tokenizer, ensemble)
    )


def cached_text_embeddings(clip: nn.Module, ensemble: PromptEnsemble, compute: Callable[[], Tensor]) -> Tensor:
    """Reads the embeddings of an ensemble from the user's cache folder, or computes and stores them.

    A file that is damaged, or that was not written for these weights and prompts, is ignored and written again. Files
    are replaced in one step, so several processes may share the folder. A folder that cannot be written only costs
    the time of encoding again.

    Args:
        clip: The open_clip model whose text tower encodes the prompts.
        ensemble: The prompts.
        compute: Encodes them, ``() -> (2, D)``.

    Returns:
        Embeddings of [normal, anomalous], ``(2, D)``.
    """
    key = _key(clip, ensemble)
    path = platformdirs.user_cache_path("dual-image-clip") / "text" / f"{key}.safetensors"
    embeddings = _read(path, key)
    if embeddings is None:
        embeddings = compute()
        _write(path, key, embeddings)
    return embeddings


def _key(clip: nn.Module, ensemble: PromptEnsemble) -> str:
    heads = [module.num_heads for module in clip.modules() if isinstance(module, nn.MultiheadAttention)]
    # The architecture beside the weights: the same weights give other embeddings with another activation.
    digest = hashlib.sha256(f"{clip!r}{heads}".encode())
    for name, weight in clip.state_dict().items():
        if name.startswith("visual."):
            continue
        # A few values of every weight tell any two checkpoints apart, and need no pass over all of them.
        values = weight.detach().flatten()
        sample = values[:: max(1, len(values) // _SAMPLES_PER_WEIGHT)].float().cpu().contiguous()
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        digest.update(sample.numpy().tobytes())
    for prompts in ensemble:
        digest.update("\n".join(prompts).encode() + b"\0")
    return digest.hexdigest()


def _read(path: Path, key: str) -> Tensor | None:
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("key") != key:
                return None
            embeddings = file.get_tensor(_TENSOR)
    except (OSError, SafetensorError):
        return None
    return embeddings if embeddings.shape[:1] == (2,) and bool(torch.isfinite(embeddings).all()) else None


def _write(path: Path, key: str, embeddings: Tensor) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(save({_TENSOR: embeddings.contiguous()}, metadata={"key": key}))
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        logger.info("Text embeddings are not cached: %s", error)
