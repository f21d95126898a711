"""Runs of all kinds follow each other, in the same folder of results."""

import os
import subprocess
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from dual_image_clip.cli import main
from tests.drawn_data import make_category
from tests.helpers import make_data, make_engine, make_model
from tests.integration.test_command_line import ANOMALIB, OFFLINE, QUICK

MODEL = ["--model", "DualImageCLIP", *OFFLINE, "--model.adaptation_steps", "0"]


def run(workspace: Path, command: str) -> str:
    """What a command of anomalib's says that runs through."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = [ANOMALIB, command, *MODEL, "--data", "MVTec", *QUICK]
    done = subprocess.run(arguments, cwd=workspace, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def heatmaps(folder: Path) -> int:
    return len(list((folder / "images").rglob("*.png")))


@pytest.fixture
def category(workspace: Path) -> Path:
    """Where results of a small category go that lies where anomalib looks for it."""
    make_category(workspace / "datasets" / "MVTecAD" / "bottle", normal=2, defective=1)
    return workspace / "results" / "DualImageCLIP"


def test_commands_for_a_data_set(category, workspace):
    latest = category / "MVTec" / "bottle" / "latest"
    run(workspace, "test")
    count = len(list((workspace / "datasets").rglob("test/*/*.png")))
    assert heatmaps(latest) == count
    assert "image_AUROC" in run(workspace, "train")
    assert heatmaps(latest) == heatmaps(latest.with_name("v0")) == heatmaps(latest.with_name("v1")) == count
    written = next(latest.with_name("v0").rglob("*.png")).stat().st_mtime_ns
    run(workspace, "test")
    assert latest.resolve() == latest.with_name("v1")
    assert next(latest.with_name("v0").rglob("*.png")).stat().st_mtime_ns == written


def test_training_before_a_test(category, workspace):
    data = workspace / "datasets" / "MVTecAD"
    for action in ("train", "test", "predict", "train"):
        engine = make_engine(Path("results"))
        getattr(engine, action)(model=make_model(visualizer=True, adaptation_steps=0), datamodule=make_data(data))
    names = {path.name for path in (category / "MVTecAD" / "bottle").iterdir()}
    assert names == {"v0", "v1", "latest"}
    assert (category / "MVTecAD" / "bottle" / "v0" / "report.html").exists()


@pytest.mark.parametrize("by_command", [True, False])
def test_photos_before_a_training_on_data_without_a_name(by_command, category, photos, workspace):
    if by_command:
        arguments = ["predict", photos, "--class-name", "plate", "--backbone", "dual-image-clip-demo"]
        assert main([str(each) for each in [*arguments, "--adaptation-steps", "0"]]) == 0
    else:
        model = make_model(adaptation_steps=0)
        make_engine(Path("results")).predict(model=model, data_path=photos, return_predictions=False)
    assert (category / "latest" / "report.html").exists()
    data = make_data(workspace / "datasets" / "MVTecAD")
    data.setup()
    loader = DataLoader(data.test_data, batch_size=4, collate_fn=data.test_data.collate_fn)
    engine = make_engine(Path("results"))
    engine.train(model=make_model(adaptation_steps=0), val_dataloaders=loader, test_dataloaders=loader)
    assert (category / "latest").resolve() == category / "v1"
    assert (category / "v0" / "report.html").exists()


def test_a_folder_that_a_user_has_named_stays_a_folder(photos, workspace):
    arguments = ["predict", photos, "--class-name", "plate", "--backbone", "dual-image-clip-demo", "--output", "latest"]
    assert main([str(each) for each in [*arguments, "--adaptation-steps", "0"]]) == 0
    assert {path.name for path in workspace.iterdir()} == {"photos", "latest"}
    assert not (workspace / "latest").is_symlink()
    # What Lightning takes for its own folder is not made.
    assert {path.name for path in (workspace / "latest").iterdir() if path.is_dir()} == {"images"}
