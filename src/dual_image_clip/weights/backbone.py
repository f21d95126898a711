"""Names and weights of CLIP models: the one place that loads any."""

import difflib
import functools
import logging
import math
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import safetensors.torch
import torch
from open_clip.model import resize_pos_embed
from open_clip.pretrained import download_pretrained_from_url, get_pretrained_cfg
from open_clip.transform import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor, nn

from dual_image_clip.method import require_plain_vit

logger = logging.getLogger(__name__)

EMBEDDED = "dual-image-clip-demo"
"""Name of the small checkpoint inside the package, for use as ``backbone`` or ``pretrained``; needs no network."""

_EMBEDDED_FOLDER = Path(__file__).parent / "embedded"
EMBEDDED_WEIGHTS = _EMBEDDED_FOLDER / f"{EMBEDDED}.safetensors"
"""File of its weights."""
_LONGEST_DETAILS = 400
_CHECKPOINT_SUFFIXES = {".safetensors", ".pt", ".pth", ".bin", ".ckpt"}


class WeightsUnavailableError(OSError):
    """Pretrained weights could be neither downloaded nor found on disk."""


@dataclass(frozen=True)
class Backbone:
    """A CLIP model and what is needed to use it.

    Attributes:
        clip: The open_clip model, frozen, in evaluation mode, on the CPU.
        tokenizer: Turns prompts into token ids, ``(n, context_length)``.
        image_size: Height and width in pixels of the images it was trained on.
        image_mean: Mean of each channel that its input is normalised with.
        image_std: Standard deviation of each channel that its input is normalised with.
        temperature: τ, the inverse of its learned logit scale.
    """

    clip: open_clip.CLIP
    tokenizer: Callable[[list[str]], Tensor]
    image_size: tuple[int, int]
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]
    temperature: float


def load_backbone(backbone: str, pretrained: str | Path | None) -> Backbone:
    """Creates a CLIP model and loads its weights.

    Args:
        backbone: An architecture known to open_clip, or :data:`EMBEDDED`.
        pretrained: A tag of open_clip's for that architecture (downloaded on first use), a local ``.safetensors`` or
            PyTorch checkpoint, :data:`EMBEDDED`, or ``None`` for random weights. With ``backbone=EMBEDDED`` a tag is
            ignored: the embedded weights are the only ones there are.

    Returns:
        The model.

    Raises:
        ValueError: The architecture or tag is unknown, the file is no checkpoint or one of another architecture, or a
            weight is not finite.
        FileNotFoundError: The local file does not exist.
        WeightsUnavailableError: The weights could not be downloaded.
        TypeError: The image tower is not a plain ViT.
    """
    if EMBEDDED in (backbone, pretrained):
        backbone = EMBEDDED
        clip = _create_embedded(pretrained)
    else:
        _require_known(backbone)
        clip = _create(backbone, pretrained)
    require_plain_vit(clip.visual)
    _require_finite(clip, f"backbone={backbone!r} with pretrained={str(pretrained)!r}")
    clip = clip.requires_grad_(False).eval()
    size = clip.visual.image_size
    preprocessing = getattr(clip.visual, "preprocess_cfg", None) or {}
    return Backbone(
        clip=clip,
        tokenizer=open_clip.get_tokenizer(backbone),
        image_size=(size, size) if isinstance(size, int) else tuple(size),
        image_mean=tuple(preprocessing.get("mean", OPENAI_DATASET_MEAN)),
        image_std=tuple(preprocessing.get("std", OPENAI_DATASET_STD)),
        temperature=math.exp(-float(clip.logit_scale)),
    )


def _create_embedded(pretrained: str | Path | None) -> open_clip.CLIP:
    if EMBEDDED not in open_clip.list_models():
        open_clip.add_model_config(_EMBEDDED_FOLDER)
    if pretrained is not None and _names_a_file(pretrained):
        return _create(EMBEDDED, pretrained)
    clip = _create_without_weights(EMBEDDED)
    if pretrained is not None:
        _say_that_embedded_is_a_demo()
        load_weights(clip, EMBEDDED_WEIGHTS)
    return clip


def _create(backbone: str, pretrained: str | Path | None) -> open_clip.CLIP:
    if pretrained is None:
        return _create_without_weights(backbone)
    if _names_a_file(pretrained):
        clip = _create_without_weights(backbone)
        load_weights(clip, Path(pretrained))
        return clip
    tag = _require_known_tag(backbone, str(pretrained))
    if not _looks_plain(open_clip.get_model_config(backbone)["vision_cfg"]):
        require_plain_vit(_create_without_weights(backbone).visual)
    url = _direct_url(backbone, tag)
    try:
        if url is None:
            return open_clip.create_model(backbone, pretrained=tag)
        path = download_pretrained_from_url(url)
    except Exception as error:
        logger.debug("Download of %s/%s failed", backbone, tag, exc_info=True)
        # The libraries below raise half a dozen unrelated types here, and their tracebacks help nobody.
        raise WeightsUnavailableError(_unavailable_message(backbone, tag, error)) from None
    return _create(backbone, Path(path))


def _looks_plain(vision_config: dict[str, Any]) -> bool:
    """Whether it is worth downloading weights for an image tower: no ResNet, and none of timm's."""
    return "timm_model_name" not in vision_config and isinstance(vision_config.get("layers"), int)


def _direct_url(backbone: str, tag: str) -> str | None:
    """Address of a tag's weights where open_clip's own choice is a hub repository that holds another tag's.

    open_clip 3.3 sends ``laion400m_e32`` of ViT-B-16-plus-240 to the repository of ``laion400m_e31``.
    """
    entry = get_pretrained_cfg(backbone, tag)
    hub, url = entry.get("hf_hub") or "", entry.get("url")
    others = [other for other in _known_tags(backbone) if other != tag]
    return url if url and tag not in hub and any(other in hub for other in others) else None


def _create_without_weights(backbone: str) -> open_clip.CLIP:
    # open_clip warns on the root logger that there are no weights, which is either meant or seen to here.
    root = logging.getLogger()
    root.addFilter(_is_not_about_missing_weights)
    try:
        return open_clip.create_model(backbone)
    finally:
        root.removeFilter(_is_not_about_missing_weights)


def _is_not_about_missing_weights(record: logging.LogRecord) -> bool:
    return "No pretrained weights loaded" not in record.getMessage()


def load_weights(clip: nn.Module, path: Path) -> None:
    """Loads a checkpoint from disk without ever unpickling objects from it.

    Args:
        clip: The model that gets the weights.
        path: A ``.safetensors`` file, or a PyTorch file that holds tensors only, with the weights at its top level or
            under ``state_dict``. Weights of another image size get their position embeddings interpolated.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a checkpoint, or one of another architecture.
    """
    state = {name.removeprefix("module."): weight for name, weight in _read_state(path).items()}
    try:
        resize_pos_embed(state, clip)
        clip.load_state_dict(state)
    except (RuntimeError, AttributeError, KeyError) as error:
        details = " ".join(str(error).split())
        msg = f"{path} holds the weights of another architecture: {textwrap.shorten(details, _LONGEST_DETAILS)}"
        raise ValueError(msg) from None


def _read_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        msg = f"pretrained={str(path)!r}: there is no such file"
        raise FileNotFoundError(msg)
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        msg = (
            f"{path} cannot be read as a checkpoint ({_first_line(error)}). Expected a .safetensors file, or a PyTorch "
            "file that holds nothing but tensors"
        )
        raise ValueError(msg) from None
    content = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        msg = f"{path} is not a checkpoint: expected a dictionary of tensors, at its top level or under 'state_dict'"
        raise ValueError(msg)
    return content


def _names_a_file(pretrained: str | Path) -> bool:
    path = Path(pretrained)
    return isinstance(pretrained, Path) or path.suffix in _CHECKPOINT_SUFFIXES or path.is_file()


def _require_known(backbone: str) -> None:
    names = open_clip.list_models()
    if backbone not in names:
        close = difflib.get_close_matches(backbone, [*names, EMBEDDED], n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else "open_clip.list_models() names them all"
        msg = f"backbone={backbone!r} is not an open_clip model; {hint}"
        raise ValueError(msg)


def _known_tags(backbone: str) -> list[str]:
    return [tag for name, tag in open_clip.list_pretrained() if name == backbone]


def _require_known_tag(backbone: str, tag: str) -> str:
    tags = _known_tags(backbone)
    clean = tag.lower().replace("-", "_")
    if clean not in tags:
        known = f"known tags are {', '.join(tags)}" if tags else "no tags are known for it"
        msg = (
            f"pretrained={tag!r} is neither a file nor a tag of {backbone}: {known}; "
            f"a local .safetensors file and {EMBEDDED!r} are possible too."
        )
        raise ValueError(msg)
    return clean


def _require_finite(clip: nn.Module, culprit: str) -> None:
    for name, weight in clip.named_parameters():
        if not torch.isfinite(weight).all():
            msg = f"{culprit}: the weight {name!r} has values that are NaN or infinite; the checkpoint is damaged"
            raise ValueError(msg)


def _unavailable_message(backbone: str, tag: str, error: Exception) -> str:
    return (
        f"the weights {tag!r} of {backbone} could not be fetched ({_first_line(error)}).\n"
        "  - With internet access they are downloaded on first use and kept; try again.\n"
        "  - Without, fetch them elsewhere, put the file anywhere on this machine and name it: "
        "pretrained=/path/to/open_clip_model.safetensors (command line: --model.pretrained).\n"
        f"  - To try the package without them, use backbone={EMBEDDED!r} (command line: --model.backbone {EMBEDDED}), "
        "a small demonstration model inside the package."
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@functools.cache
def _say_that_embedded_is_a_demo() -> None:
    logger.warning(
        "%s is a small demonstration model trained on drawn images. It is not CLIP: use it to try the package, "
        "and ViT-B-16-plus-240 with laion400m_e32 to find defects.",
        EMBEDDED,
    )
