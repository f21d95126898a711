"""Small models and data shared by the tests; nothing here needs a network."""

import json
import logging
from collections.abc import Generator, Iterator

import open_clip
import pytest
import torch
from torch import nn

from tests.helpers import TINY, TINY_CONFIG, add_noise


@pytest.fixture(scope="session", autouse=True)
def _register_tiny(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("configs")
    (folder / f"{TINY}.json").write_text(json.dumps(TINY_CONFIG))
    open_clip.add_model_config(folder)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps text embeddings of the tests out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _loggers_as_before() -> Iterator[None]:
    """Commands quieten libraries for the rest of their process, which here is that of other tests."""
    libraries = ("anomalib", "lightning", "lightning.pytorch", "lightning.fabric", "lightning_fabric")
    loggers = [logging.getLogger(name) for name in ("dual_image_clip", *libraries)]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture
def tiny_clip() -> nn.Module:
    """A CLIP model of a few thousand weights with values large enough to tell paths apart."""
    torch.manual_seed(0)
    clip = open_clip.create_model(TINY).eval()
    add_noise(clip.visual)
    return clip


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Reports travel between processes as UTF-8, which the name of a file in a test's output need not be."""
    report = yield
    report.sections = [(title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections]
    return report
