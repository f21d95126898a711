"""What a run could only fail with is told by the stock command before weights are loaded or anything is downloaded."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.integration.test_command_line import ANOMALIB

MODEL = ["--model", "DualImageCLIP", "--model.pretrained", "no_such_file.safetensors"]
DEVICES = ["--trainer.accelerator", "cpu", "--trainer.devices", "2"]


def last_line(workspace: Path, *arguments: object) -> str:
    """What the command says last, after it has failed without a traceback."""
    command = [ANOMALIB, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in {1, 2}
    assert "Traceback" not in done.stdout + done.stderr
    assert "no_such_file" not in done.stdout + done.stderr
    return done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("data", "category", "nearest"), [("MVTec", "botle", "bottle"), ("Visa", "capsuls", "capsules")]
)
def test_a_misspelt_category(data, category, nearest, workspace):
    said = last_line(workspace, "test", *MODEL, "--data", data, "--data.category", category)
    assert f"category={category} is none of {data}" in said
    assert f"did you mean {nearest}" in said


@pytest.mark.parametrize("category", ["all", "[bottle,cable]"])
def test_several_categories(category, workspace):
    said = last_line(workspace, "test", *MODEL, "--data", "MVTec", "--data.category", category)
    assert "a run has one category of MVTec; `anomalib benchmark --config configs/benchmarks/all_categories" in said
    assert "`python -m benchmarks.paper`" in said
    assert "There are: bottle, cable, capsule" in said


@pytest.mark.parametrize(("category", "told"), [(["bottle", "cable"], "a run has one category"), ("botle", "bottle?")])
def test_categories_of_a_file(category, told, workspace):
    data = {"class_path": "MVTecAD", "init_args": {"category": category}}
    model = {"class_path": "DualImageCLIP", "init_args": {"pretrained": "no_such_file.safetensors"}}
    (workspace / "run.yaml").write_text(yaml.safe_dump({"model": model, "data": data}))
    said = last_line(workspace, "train", "--config", "run.yaml")
    assert told in said
    assert "There are: bottle, cable, capsule" in said


def test_the_category_of_another_model_is_its_own_affair(workspace):
    command = [ANOMALIB, "test", "--model", "Padim", "--data", "MVTecAD", "--data.category", "[bottle,cable]"]
    done = subprocess.run(command, cwd=workspace, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Got value: ['bottle', 'cable']" in done.stderr
    assert "benchmarks.paper" not in done.stderr


def test_spawned_processes(photos, workspace):
    said = last_line(workspace, "predict", *MODEL, *DEVICES, "--trainer.strategy", "ddp_spawn", "--data", photos)
    assert 'strategy "ddp_spawn" ends its processes after validation' in said
    assert 'set strategy to "ddp"' in said


def test_fewer_photos_than_devices(photos, workspace):
    said = last_line(workspace, "predict", *MODEL, *DEVICES, "--data", next(photos.glob("*.png")))
    assert "2 processes cannot share 1 image(s): set devices to 1" in said
