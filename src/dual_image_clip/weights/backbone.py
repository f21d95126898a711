"""Names and weights of CLIP models: the one place that loads any."""

import contextlib
import difflib
import functools
import logging
import math
import textwrap
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import open_clip
import torch
from open_clip.model import CLIPVisionCfg
from open_clip.pretrained import download_pretrained_from_url, get_pretrained_cfg
from open_clip.transform import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor, nn

from dual_image_clip.method import require_plain_vit
from dual_image_clip.weights.checkpoint_file import FILES_OF_A_FOLDER, load_weights
from dual_image_clip.weights.sharing import shareable

logger = logging.getLogger(__name__)

EMBEDDED = "dual-image-clip-demo"
"""Name of the small checkpoint inside the package, for use as ``backbone`` or ``pretrained``; needs no network."""

_EMBEDDED_FOLDER = Path(__file__).parent / "embedded"
EMBEDDED_WEIGHTS = _EMBEDDED_FOLDER / f"{EMBEDDED}.safetensors"
"""File of its weights."""
_DEFAULT_TAG = "laion400m_e32"
_LONGEST_LIST = 120
# That there are no weights yet is meant or seen to; a failed download becomes an error.
_SAID_HERE = ("No pretrained weights loaded", "Failed to download weights")
_CHECKPOINT_SUFFIXES = {".safetensors", ".pt", ".pth", ".bin", ".ckpt"}


class WeightsUnavailableError(OSError):
    """Pretrained weights could be neither downloaded nor found on disk."""


@dataclass(frozen=True)
class Backbone:
    """A CLIP model and what is needed to use it.

    Attributes:
        clip: The open_clip model, frozen, in evaluation mode, on the CPU.
        tokenizer: Turns prompts into token ids, ``(n, context_length)``.
        image_size: Height and width in pixels of the images it is given: the square that was asked for, or what it was
            trained on.
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


@contextlib.contextmanager
def _open_clip_kept_quiet() -> Iterator[None]:
    """Keeps off the root logger what open_clip tells of its progress, and what is said here in other words."""
    folder = Path(open_clip.__file__).parent

    def concerns_the_user(record: logging.LogRecord) -> bool:
        if Path(record.pathname).parent != folder:
            return True
        return record.levelno >= logging.WARNING and not record.getMessage().startswith(_SAID_HERE)

    root = logging.getLogger()
    root.addFilter(concerns_the_user)
    try:
        yield
    finally:
        root.removeFilter(concerns_the_user)


@shareable
@_open_clip_kept_quiet()
def load_backbone(backbone: str, pretrained: str | Path | None, image_size: int | None = None) -> Backbone:
    """Creates a CLIP model and loads its weights.

    Args:
        backbone: An architecture known to open_clip, or :data:`EMBEDDED`.
        pretrained: A tag of open_clip's for that architecture (downloaded on first use), a local ``.safetensors`` or
            PyTorch checkpoint, a folder that holds one under the Hugging Face hub's name, :data:`EMBEDDED`, or ``None``
            for random weights. With ``backbone=EMBEDDED``, the default tag ``laion400m_e32`` stands for the embedded
            weights, too, so that the backbone alone need be named.
        image_size: Side in pixels of the square that it is given, a multiple of its patch size; ``None`` for the height
            and width that it was trained on.

    Returns:
        The model.

    Raises:
        ValueError: The architecture or tag is unknown, the image size is no multiple of the patch size, the file is no
            checkpoint or one of another architecture, or a weight is not finite.
        FileNotFoundError: The local file does not exist, or the folder holds none.
        WeightsUnavailableError: The weights could not be downloaded.
        TypeError: The image tower is not a plain ViT.
    """
    if EMBEDDED not in open_clip.list_models():
        open_clip.add_model_config(_EMBEDDED_FOLDER)
    if pretrained == EMBEDDED:
        backbone = EMBEDDED
    _require_known(backbone)
    if image_size is not None:
        _require_whole_patches(image_size, backbone)
    weights = _find_weights(backbone, pretrained)
    if weights == EMBEDDED_WEIGHTS:
        _say_that_embedded_is_a_demo()
    clip = _create(backbone, weights)
    require_plain_vit(clip.visual)
    _require_finite(clip, f"backbone={backbone!r} with pretrained={str(pretrained)!r}")
    clip = clip.requires_grad_(False).eval()
    size = image_size or clip.visual.image_size
    preprocessing = getattr(clip.visual, "preprocess_cfg", None) or {}
    return Backbone(
        clip=clip,
        tokenizer=open_clip.get_tokenizer(backbone),
        image_size=(size, size) if isinstance(size, int) else tuple(size),
        image_mean=tuple(preprocessing.get("mean", OPENAI_DATASET_MEAN)),
        image_std=tuple(preprocessing.get("std", OPENAI_DATASET_STD)),
        temperature=math.exp(-float(clip.logit_scale)),
    )


def _find_weights(backbone: str, pretrained: str | Path | None) -> str | Path | None:
    """A tag, a file, or nothing for random weights."""
    if pretrained is None:
        return None
    if backbone == EMBEDDED and pretrained in {EMBEDDED, _DEFAULT_TAG}:
        return EMBEDDED_WEIGHTS
    tag = str(pretrained).lower().replace("-", "_")
    if isinstance(pretrained, str) and tag in _known_tags(backbone):
        return tag
    path = Path(pretrained)
    if path.is_file():
        return path
    if pretrained and path.is_dir():
        return _file_in(path)
    raise _not_found(backbone, pretrained)


def _file_in(folder: Path) -> Path:
    for name in FILES_OF_A_FOLDER:
        if (folder / name).is_file():
            return folder / name
    msg = f"pretrained={str(folder)!r} is a folder without {' or '.join(FILES_OF_A_FOLDER)}; name a file in it"
    raise FileNotFoundError(msg)


def _not_found(backbone: str, pretrained: str | Path) -> Exception:
    path, tags = Path(pretrained), _known_tags(backbone)
    neighbours = [each.name for each in path.parent.glob("*") if each.suffix in _CHECKPOINT_SUFFIXES]
    files = [str(path.parent / name) for name in difflib.get_close_matches(path.name, neighbours)]
    listed = textwrap.shorten(", ".join(tags), _LONGEST_LIST, placeholder=" …")
    known = f"known tags are {listed}" if tags else "no tags are known for it"
    hint = _did_you_mean([*files, *_close_matches(str(pretrained), [*tags, EMBEDDED])], known)
    msg = (
        f"pretrained={str(pretrained)!r} is neither a file nor a tag of {backbone}; {hint} "
        f"A local .safetensors file and {EMBEDDED!r} are possible, too."
    )
    names_a_file = isinstance(pretrained, Path) or path.suffix in _CHECKPOINT_SUFFIXES or len(path.parts) > 1
    return FileNotFoundError(msg) if names_a_file else ValueError(msg)


def _create(backbone: str, weights: str | Path | None) -> open_clip.CLIP:
    if isinstance(weights, str):
        return _create_from_tag(backbone, weights)
    clip = open_clip.create_model(backbone)
    if weights is not None:
        load_weights(clip, weights)
    return clip


def _create_from_tag(backbone: str, tag: str) -> open_clip.CLIP:
    if not _looks_plain(open_clip.get_model_config(backbone)["vision_cfg"]):
        require_plain_vit(open_clip.create_model(backbone).visual)
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


def _require_known(backbone: str) -> None:
    names = open_clip.list_models()
    if backbone not in names:
        hint = _did_you_mean(_close_matches(backbone, names), "open_clip.list_models() names them all")
        msg = f"backbone={backbone!r} is not an open_clip model; {hint}"
        raise ValueError(msg)


def _require_whole_patches(image_size: Any, backbone: str) -> None:
    """Checks an image size before there are weights, by what open_clip knows of the architecture."""
    config = open_clip.get_model_config(backbone)["vision_cfg"]
    if not _looks_plain(config):
        # The tower itself is refused later on.
        return
    patch = config.get("patch_size", CLIPVisionCfg.patch_size)
    step = patch if isinstance(patch, int) else math.lcm(*patch)
    if isinstance(image_size, int) and image_size > 0 and image_size % step == 0:
        return
    if isinstance(image_size, int | float) and 0 < image_size < math.inf:
        below = int(image_size // step) * step
        allowed = f"{below} or {below + step}" if below else f"{step}"
    else:
        own = config.get("image_size", CLIPVisionCfg.image_size)
        allowed = f"{own if isinstance(own, int) else min(own)}"
    msg = (
        f"image_size must be a whole multiple of {step}, the patch size of {backbone}, got {image_size!r}: "
        f"set it to {allowed}, or leave it out"
    )
    raise ValueError(msg)


def _known_tags(backbone: str) -> list[str]:
    return [tag for name, tag in open_clip.list_pretrained() if name == backbone]


def _close_matches(word: str, names: list[str]) -> list[str]:
    return difflib.get_close_matches(word, names, cutoff=0.4)


def _did_you_mean(names: list[str], otherwise: str) -> str:
    return f"did you mean {' or '.join(map(repr, names))}?" if names else f"{otherwise}."


def _require_finite(clip: nn.Module, culprit: str) -> None:
    for name, weight in clip.named_parameters():
        if not torch.isfinite(weight).all():
            msg = f"{culprit}: the weight {name!r} has values that are NaN or infinite; the checkpoint is damaged"
            raise ValueError(msg)


def _unavailable_message(backbone: str, tag: str, error: Exception) -> str:
    url = get_pretrained_cfg(backbone, tag).get("url") or ""
    cached = Path("~/.cache/clip").expanduser() / PurePosixPath(url).name
    is_cut = cached.is_file() and not zipfile.is_zipfile(cached)
    broken_off = f"  - {cached} is not complete, as when a download breaks off: delete it.\n" if is_cut else ""
    return (
        f"the weights {tag!r} of {backbone} could not be fetched ({_first_line(error)}).\n"
        "  - With internet access they are downloaded on first use and kept; try again.\n"
        f"{broken_off}"
        "  - Without, fetch them elsewhere, put the file anywhere on this machine and name it: "
        "pretrained=/path/to/open_clip_model.safetensors (command line: --model.pretrained).\n"
        f"  - To try the package without them, use backbone={EMBEDDED!r} (command line: --model.backbone {EMBEDDED}), "
        "a small demonstration model inside the package."
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    # torch's advice is to unpickle the file.
    is_helpful = lines and "weights_only" not in str(error)
    return f"{type(error).__name__}: {lines[0]}" if is_helpful else type(error).__name__


@functools.cache
def _say_that_embedded_is_a_demo() -> None:
    logger.warning(
        "%s is a small demonstration model, trained on drawn images and pieces of eighteen photographs. It is not "
        "CLIP: use it to try the package, and ViT-B-16-plus-240 with laion400m_e32 to find defects.",
        EMBEDDED,
    )
