import csv
from pathlib import Path

import pytest
import yaml
from anomalib.cli.cli import AnomalibCLI

from dual_image_clip.weights import EMBEDDED
from tests.benchmarks.paper.helpers import ROOT, start
from tests.drawn_data import make_category


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["engine=spark"], "tiny.yaml: engine is 'spark'; expected one of local, ray"),
        (["data.name=Nothing"], "data.name='Nothing' is no anomalib datamodule"),
        (["data.name=Folder"], "data.categories: Folder has none"),
        (["backbone=ViT-X", "pretrained=null"], "backbone='ViT-X' is not an open_clip model"),
        (["backbone=RN50", "pretrained=null"], "backbone='RN50': "),
        (["pretrained=missing.pt"], "missing.pt"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_and_leaves_no_results_file(changes, message, study_file, tmp_path, capsys):
    assert start(study_file, f"output={tmp_path / 'output'}", *changes) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("python -m benchmarks.paper: ")
    assert message in line
    assert not (tmp_path / "output" / "results.sqlite").exists()


def test_anomalibs_own_pipeline(tmp_path, monkeypatch):
    """Only what needs a download is changed; the categories are those of the file."""
    config = yaml.safe_load((ROOT / "configs" / "benchmarks" / "anomalib_pipeline.yaml").read_text())
    data = config["benchmark"]["data"]["init_args"]
    for category in data["category"]["grid"]:
        make_category(tmp_path / data["root"] / category, normal=3, defective=2)
    data["num_workers"] = 0
    config["benchmark"]["model"]["init_args"] = {"backbone": EMBEDDED}
    (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)
    AnomalibCLI(["benchmark", "--config", "pipeline.yaml"])
    with next(Path("runs").rglob("results.csv")).open() as file:
        rows = list(csv.DictReader(file))
    assert [row["data.init_args.category"] for row in rows] == data["category"]["grid"]
    assert all(float(row["pixel_AUROC"]) > 0.7 for row in rows)
