"""What several test files need: models, images, and comparisons."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from anomalib.data import ImageBatch, MVTecAD
from anomalib.engine import Engine
from torch import Tensor, nn
from torch.testing import assert_close

from dual_image_clip import DualImageCLIP
from dual_image_clip.weights import EMBEDDED

TINY = "tiny-vit"
TINY_CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 64, "layers": 3, "width": 48, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2},
}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def uniform(*shape: int, seed: int = 0) -> Tensor:
    """Values in 0..1."""
    return torch.rand(shape, generator=seeded(seed))


def unit_vectors(*shape: int, seed: int = 0) -> Tensor:
    """Vectors of length one along the last axis."""
    return F.normalize(torch.randn(shape, generator=seeded(seed)), dim=-1)


def random_images(*shape: int, seed: int = 7) -> Tensor:
    """Noise with the mean and the spread of normalised images."""
    return torch.randn(shape, generator=seeded(seed))


def cloudy_images(count: int, size: tuple[int, int] = (64, 64), seed: int = 0) -> Tensor:
    """Smooth structure and a little noise, so that the patches of an image differ: ``(count, 3, H, W)`` in 0..1."""
    generator = seeded(seed)
    coarse = F.interpolate(torch.rand(count, 3, 5, 5, generator=generator), size, mode="bicubic")
    return (coarse + 0.1 * torch.rand(count, 3, *size, generator=generator)).clamp(0, 1)


def add_noise(module: nn.Module, scale: float = 0.05) -> None:
    """Makes random weights large enough to tell paths apart; open_clip starts many at nothing."""
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(scale * torch.randn_like(weight))


def tiny_model(weight_seed: int = 0, /, **arguments: Any) -> DualImageCLIP:
    """A detector on a tower of a few thousand random weights."""
    torch.manual_seed(weight_seed)
    model = DualImageCLIP(**{"backbone": TINY, "pretrained": None, **arguments})
    add_noise(model.model.encoder)
    return model


def make_model(**arguments: Any) -> DualImageCLIP:
    """A detector on the embedded checkpoint that draws no heatmaps."""
    return DualImageCLIP(**{"backbone": EMBEDDED, "visualizer": False, **arguments})


def make_engine(folder: Path, **arguments: Any) -> Engine:
    return Engine(default_root_dir=folder, accelerator="cpu", enable_progress_bar=False, **arguments)


def make_data(root: Path, **arguments: Any) -> MVTecAD:
    return MVTecAD(root=root, **{"num_workers": 0, "eval_batch_size": 8, **arguments})


def predict(model: DualImageCLIP, folder: Path, **data: Any) -> dict[str, ImageBatch]:
    """What the engine says about each image, by its path, in the order of the run."""
    batches = make_engine(folder).predict(model=model, **data)
    return {item.image_path: item for batch in batches for item in batch}


def assert_same(actual: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Holds tensors, or sequences of them, to an absolute tolerance; of two predictions, scores and maps."""
    if hasattr(expected, "anomaly_map"):
        actual, expected = ((each.pred_score, each.anomaly_map) for each in (actual, expected))
    assert_close(actual, expected, atol=tolerance, rtol=0)


def refusal(check: Callable[..., object], *arguments: object) -> str | None:
    """What a check says against its arguments, or ``None`` where it lets them pass."""
    try:
        check(*arguments)
    except ValueError as error:
        return str(error)
    return None
