"""The stock ``anomalib`` command, typed as in the README."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from anomalib.cli.cli import AnomalibCLI

from dual_image_clip import DualImageCLIP
from dual_image_clip.weights import EMBEDDED
from tests.drawn_data import make_category

ANOMALIB = Path(sys.executable).with_name("anomalib")
CONFIGS = Path(__file__).parents[2] / "configs"
OFFLINE = ["--model.backbone", EMBEDDED]
QUICK = ["--data.num_workers", "0", "--data.eval_batch_size", "8"]
SIX_METRICS = {"image_AUROC", "image_F1Max", "image_AUPR", "pixel_AUROC", "pixel_F1Max", "pixel_AUPRO"}


def run(*arguments: str) -> AnomalibCLI:
    return AnomalibCLI([str(argument) for argument in arguments])


def metrics(cli: AnomalibCLI) -> dict[str, float]:
    return {name: float(value) for name, value in cli.engine.trainer.callback_metrics.items()}


def heatmaps(folder: Path) -> list[Path]:
    return sorted((folder / "results" / "DualImageCLIP").rglob("images/**/*.png"))


@pytest.mark.open_clip
def test_the_command_of_the_readme_in_a_process_of_its_own(mvtec, workspace):
    command = [ANOMALIB, "test", "--model", "DualImageCLIP", "--data", "MVTec", *OFFLINE]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert all(name in result.stdout for name in SIX_METRICS)
    assert "It is not CLIP" in result.stdout + result.stderr
    assert len(heatmaps(workspace)) == len(list((mvtec / "bottle" / "test").rglob("*.png")))


@pytest.mark.parametrize("data", ["MVTec", "MVTecAD"])
def test_mvtec_by_either_name_lights_up_the_defects(data, mvtec):
    cli = run("test", "--model", "DualImageCLIP", "--data", data, *OFFLINE, *QUICK)
    assert type(cli.model) is DualImageCLIP
    assert set(metrics(cli)) == SIX_METRICS
    assert metrics(cli)["pixel_AUROC"] > 0.8
    assert cli.model.class_name == "bottle"


def test_visa(workspace):
    make_category(workspace / "datasets" / "visa" / "visa_pytorch" / "pcb1", size=(100, 150))
    cli = run("test", "--model", "DualImageCLIP", "--data", "Visa", "--data.category", "pcb1", *OFFLINE, *QUICK)
    assert set(metrics(cli)) == SIX_METRICS
    assert cli.model.class_name == "pcb"


def test_folder_with_labels_but_no_masks(mvtec):
    test_set = mvtec / "bottle" / "test"
    options = {"name": "plates", "root": test_set, "normal_dir": "good", "normal_test_dir": "good"}
    options |= {"abnormal_dir": "spot", "val_split_mode": "same_as_test"}
    flags = [part for name, value in options.items() for part in (f"--data.{name}", value)]
    cli = run("test", "--model", "DualImageCLIP", "--data", "Folder", *flags, *OFFLINE, *QUICK)
    known = {name for name in metrics(cli) if name.startswith("image_")}
    assert known == {name for name in SIX_METRICS if name.startswith("image_")}
    assert cli.model.class_name == "object"


def test_data_that_draws_itself(workspace):
    counts = ["--data.num_train", "1", "--data.num_test_normal", "6", "--data.num_test_anomalous", "6"]
    category = ["--data.category", "bottle_top"]
    cli = run("test", "--model", "DualImageCLIP", "--data", "Procedural", *category, *counts, *OFFLINE, *QUICK)
    assert set(metrics(cli)) == SIX_METRICS
    assert cli.model.class_name == "bottle top"
    assert len(heatmaps(workspace)) == 12


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_runs(config, workspace):
    data = yaml.safe_load(config.read_text())["data"]
    root = workspace / "data"
    if data["class_path"] == "Folder":
        names = data["init_args"]
        made = make_category(workspace / "made", normal=8)
        # Where the file says: it names another folder in it, too.
        root = workspace / names["root"]
        root.mkdir(parents=True)
        (made / "test" / "good").rename(root / names["normal_dir"])
        (made / "test" / "spot").rename(root / names["abnormal_dir"])
        (made / "train" / "good").rename(root / "known_good")
    else:
        category = data["init_args"]["category"]
        make_category((root / "visa_pytorch" if data["class_path"] == "Visa" else root) / category)
    cli = run("test", "--config", config, "--data.root", root, *OFFLINE, *QUICK)
    assert 0 <= metrics(cli)["image_AUROC"] <= 1
    adapts = config.stem not in {"best", "ours", "text_only", "visual_only"}
    assert bool(cli.model.model.adaptation.steps) == adapts


def test_predict_on_a_folder_without_labels(photos, workspace):
    cli = run("predict", "--model", "DualImageCLIP", *OFFLINE, "--data", photos)
    assert cli.model.class_name == "object"
    assert [path.name for path in heatmaps(workspace)] == sorted(path.name for path in photos.glob("*.png"))


def test_predict_on_one_photo(photos, workspace):
    run("predict", "--model", "DualImageCLIP", *OFFLINE, "--data", next(photos.glob("spoilt*")))
    assert len(heatmaps(workspace)) == 1


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("benchmarks/all_categories_*.yaml")), ids=lambda path: path.stem)
def test_several_categories_at_once(config, workspace):
    settings = yaml.safe_load(config.read_text())
    model, data = settings["benchmark"]["model"], settings["benchmark"]["data"]
    model["init_args"] = {"backbone": EMBEDDED, "adaptation_steps": 0}
    data["init_args"]["num_workers"] = 0
    # Two of many
    some = data["init_args"]["category"]["grid"] = data["init_args"]["category"]["grid"][::11][:2]
    root = workspace / data["init_args"]["root"]
    for category in some:
        make_category((root / "visa_pytorch" if data["class_path"] == "Visa" else root) / category)
    (workspace / "benchmark.yaml").write_text(yaml.safe_dump(settings))
    run("benchmark", "--config", "benchmark.yaml")
    with next(Path("runs").rglob("results.csv")).open() as file:
        rows = list(csv.DictReader(file))
    assert [row["data.init_args.category"] for row in rows] == some
    assert all(float(row["pixel_AUROC"]) > 0.8 for row in rows)
