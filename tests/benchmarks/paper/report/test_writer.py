import sys
from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest

from benchmarks.paper.report.summary import summarise
from benchmarks.paper.report.writer import write_report
from benchmarks.paper.results import METRICS
from tests.benchmarks.paper.helpers import frame

CONTEXT = {"backbone": "dual-image-clip-demo", "machine": "2 cores"}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "runs" / "report"


@pytest.fixture
def report(study, curve, rows, folder, tmp_path):
    rows[1] = replace(rows[1], metrics={}, error="out of memory")
    sheet = tmp_path / "sheets of all" / "bottle.png"
    sheet.parent.mkdir()
    cv2.imwrite(str(sheet), np.zeros((4, 4, 3), np.uint8))
    path = write_report({"table1": study, "fig5a": curve}, frame(rows), folder, CONTEXT, [sheet])
    assert path == folder / "report.md"
    return path.read_text(encoding="utf-8")


def test_the_report_has_all_parts_in_order(report):
    parts = [
        "# Benchmark report",
        "| backbone | dual-image-clip-demo |",
        "± the standard deviation over seeds",
        "## Table 1",
        "### MVTecAD",
        "MuSc (paper)",
        "Missing: Ours: bottle (seed 0)",
        "<details>",
        "#### Order of methods",
        "### Procedural",
        "## Figure 5a",
        "![Figure 5a](fig5a.png)",
        "## Failed jobs",
        "out of memory",
        "## Heatmaps",
        "![bottle](../../sheets%20of%20all/bottle.png)",
    ]
    positions = [report.index(part) for part in parts]
    assert positions == sorted(positions)
    assert report.count("#### Order of methods") == 2


def test_tables_are_apart_from_what_surrounds_them(report):
    blocks = report.split("\n\n")
    tables = [block for block in blocks if "| ---" in block]
    assert len(tables) == 1 + 2 * (1 + 2 + 1) + 2 * (1 + 2) + 1
    for table in tables:
        lines = table.strip().splitlines()
        assert len({line.replace(r"\|", "").count("|") for line in lines}) == 1


def test_figures_are_there(report, folder):
    picture = cv2.imread(str(folder / "fig5a.png"))
    assert min(picture.shape[:2]) > 400
    assert picture.std() > 10
    assert not (folder / "table1.png").exists()


def test_results_csv_has_every_job(report, folder, rows):
    lines = pd.read_csv(folder / "results.csv")
    assert len(lines) == len(rows)
    assert list(lines.columns) == ["dataset", "category", "setting", "seed", *METRICS, "seconds", "error"]
    for (_, line), row in zip(lines.iterrows(), rows, strict=True):
        assert (line.dataset, line.category, line.setting, line.seed) == row.key
        assert line.seconds == row.seconds
        if row.error:
            assert line.error == row.error
            assert line[list(METRICS)].isna().all()
        else:
            assert line[list(METRICS)].to_dict() == row.metrics


def test_tables_csv_has_every_mean(report, folder, study, rows):
    lines = pd.read_csv(folder / "tables.csv", dtype={"row": str})
    assert len(lines) == 2 * 6 * 3 + 6 + 2 * 6 * 3 + 6
    lines = lines.set_index(["study", "row", "dataset", "metric"])
    assert lines.index.is_unique
    for dataset in ("MVTecAD", "Procedural"):
        for (label, metric), figures in summarise(study, frame(rows), dataset).means.loc[list(study.rows)].iterrows():
            line = lines.loc["table1", label, dataset, metric]
            assert line["mean"] == figures["mean"]
            assert line.standard_deviation == figures.standard_deviation or label == "CLIP"
            assert np.isnan(line.standard_deviation) == (label == "CLIP")
            assert (line.seeds, line.setting) == (1 if label == "CLIP" else 3, study.rows[label].key)
            assert line.categories == (2 if dataset == "MVTecAD" else 3)
    ours = lines.loc["table1", "Ours+", "MVTecAD", "pixel_AUROC"]
    assert ours.published == 92.8
    assert ours.difference == pytest.approx(ours["mean"] - 92.8)
    assert np.isnan(lines.loc["table1", "Ours+", "Procedural", "pixel_AUROC"].published)
    quoted = lines.loc["table1", "MuSc", "MVTecAD", "image_AUROC"]
    assert quoted.published == 97.8
    assert quoted[["mean", "difference", "setting"]].isna().all()


def test_a_report_without_results_says_so(study, curve, folder):
    text = write_report({"table1": study, "fig5a": curve}, frame([]), folder, CONTEXT, []).read_text()
    assert text.count("There are no results yet.") == 2
    assert "No job failed." in text
    assert "Heatmaps" not in text


def test_a_report_of_failures_alone_can_be_written(study, curve, rows, folder):
    failed = [replace(row, metrics={}, error="broken") for row in rows]
    text = write_report({"table1": study, "fig5a": curve}, frame(failed), folder, CONTEXT, []).read_text()
    assert "No result yet: CLIP, Ours, Ours+." in text


def test_a_report_is_written_over_an_older_one(study, rows, folder):
    write_report({"table1": study}, frame(rows), folder, CONTEXT, [])
    write_report({"table1": study}, frame(rows[:1]), folder, CONTEXT, [])
    assert len(pd.read_csv(folder / "results.csv")) == 1


def test_no_window_system_or_global_figure_is_needed(study, curve, rows, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    write_report({"table1": study, "fig5a": curve}, frame(rows), folder, CONTEXT, [])
