"""Data sets on disk for the real command line and the real engine."""

from pathlib import Path

import pytest

from tests.drawn_data import make_category, make_photos


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    folder = tmp_path / "workspace"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def mvtec(workspace: Path) -> Path:
    """MVTec AD where anomalib looks for it, with one small category."""
    root = workspace / "datasets" / "MVTecAD"
    make_category(root / "bottle")
    return root


@pytest.fixture
def photos(workspace: Path) -> Path:
    """A folder of photos, one of them with a defect."""
    return make_photos(workspace / "photos")
