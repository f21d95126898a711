"""Small models and data shared by the tests; nothing here needs a network."""

import json
from pathlib import Path

import open_clip
import pytest
import torch
from torch import nn

TINY_CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 64, "layers": 3, "width": 48, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2},
}
TINY = "tiny-vit"


@pytest.fixture(scope="session", autouse=True)
def _register_tiny(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("configs")
    (folder / f"{TINY}.json").write_text(json.dumps(TINY_CONFIG))
    open_clip.add_model_config(folder)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps text embeddings of the tests out of the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def tiny_clip() -> nn.Module:
    """A CLIP model of a few thousand weights with values large enough to tell paths apart."""
    torch.manual_seed(0)
    clip = open_clip.create_model(TINY).eval()
    with torch.no_grad():
        for weight in clip.visual.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return clip
