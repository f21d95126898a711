"""Whole runs: what a user finds in the output folder after one that ended, was killed, failed or was changed."""

import csv
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import pandas as pd
import pytest
from rich.console import Console

from benchmarks.paper import benchmark
from benchmarks.paper.benchmark import run_benchmark
from benchmarks.paper.plan_file import read_plan
from tests.benchmarks.paper.helpers import ROOT, is_picture, start
from tests.drawn_data import draw_plate, make_category, save


@pytest.fixture(scope="module")
def finished(study_file, tmp_path_factory):
    """Folder of a run that nothing interrupted."""
    output = tmp_path_factory.mktemp("finished")
    run_benchmark(read_plan(study_file, [f"output={output}"]), Console(quiet=True))
    return output


def written(output):
    """The rows of a results file that may still be written to, in order; none before it has its tables."""
    with closing(sqlite3.connect(f"{(output / 'results.sqlite').as_uri()}?mode=ro", uri=True)) as database:
        try:
            return pd.read_sql_query("SELECT * FROM rows ORDER BY rowid", database)
        except pd.errors.DatabaseError:
            return pd.DataFrame()


def test_report_tables_curves_and_heatmaps(finished):
    report = (finished / "report.md").read_text(encoding="utf-8")
    for text in (
        "A tiny table",
        "A tiny curve",
        "dual-image-clip-demo",
        "gear",
        "zipper",
        "steps.png",
        "No job failed",
    ):
        assert text in report
    assert "Encode once" in report
    for picture in ("steps.png", "sheets/gear.png", "sheets/zipper.png"):
        assert is_picture(finished / picture)
    with (finished / "results.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 2 * 2 * 4
    with (finished / "tables.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [line["row"] for line in lines] == ["CLIP", "CLIP", "Ours", "Ours", "Ours+", "Ours+", "1", "2"]
    for line in lines:
        assert (line["seeds"], line["categories"]) == ("2", "2")
        assert 0 < float(line["mean"]) <= 100
    rows = written(finished)
    mean = 100 * rows.loc[rows.setting == lines[0]["setting"], lines[0]["metric"]].mean()
    assert float(lines[0]["mean"]) == pytest.approx(mean)


def test_a_finished_run_is_not_run_again(finished, study_file, monkeypatch):
    def refuse(*given):
        raise AssertionError("the weights are not needed")

    monkeypatch.setattr(benchmark, "load_backbone", refuse)
    before = (finished / "results.sqlite").read_bytes(), (finished / "tables.csv").read_bytes()
    assert start(study_file, f"output={finished}") == 0
    assert before == ((finished / "results.sqlite").read_bytes(), (finished / "tables.csv").read_bytes())


def test_a_run_that_is_killed_and_started_again_ends_with_the_same_table(finished, study_file, tmp_path):
    results = tmp_path / "results.sqlite"
    command = [sys.executable, "-m", "benchmarks.paper", study_file, f"output={tmp_path}"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (results.is_file() and len(written(tmp_path)) >= 3) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = written(tmp_path)
    assert 3 <= len(done) < 16
    assert not (tmp_path / "report.md").exists()
    assert start(study_file, f"output={tmp_path}") == 0
    after = written(tmp_path)
    assert after[: len(done)].equals(done)
    assert len(after) == 16
    assert not after.duplicated(["category", "setting", "seed"]).any()
    assert (tmp_path / "tables.csv").read_text() == (finished / "tables.csv").read_text()
    assert is_picture(tmp_path / "sheets" / "gear.png")


def test_more_seeds_and_categories_keep_the_rows_that_are_there(finished, study_file, tmp_path):
    (tmp_path / "results.sqlite").write_bytes((finished / "results.sqlite").read_bytes())
    (tmp_path / "sheets").mkdir()
    for name in ("gear", "zipper"):
        (tmp_path / "sheets" / f"{name}.png").write_bytes((finished / "sheets" / f"{name}.png").read_bytes())
    assert start(study_file, f"output={tmp_path}", "seeds=[0,1,5]", "data.categories=[gear]") == 0
    new = written(tmp_path)[16:]
    assert list(zip(new.category, new.seed, strict=True)) == [("gear", 5)] * 4
    with (tmp_path / "tables.csv").open(encoding="utf-8") as file:
        assert {(line["seeds"], line["categories"]) for line in csv.DictReader(file)} == {("3", "1")}
    assert start(study_file, f"output={tmp_path}", "seeds=[1]") == 0
    assert len(written(tmp_path)) == 20
    assert set(pd.read_csv(tmp_path / "tables.csv").seeds) == {1}


@pytest.mark.parametrize(
    "change", ["backbone=ViT-B-32,pretrained=null", "data.root=elsewhere", "data.arguments.num_test_normal=5"]
)
def test_results_of_other_settings_are_not_mixed_in(change, finished, study_file, capsys):
    before = (finished / "results.sqlite").read_bytes()
    assert start(study_file, f"output={finished}", *change.split(",")) == 2
    assert "holds the results of another benchmark" in capsys.readouterr().err
    assert (finished / "results.sqlite").read_bytes() == before


def test_an_older_results_file_is_named(finished, study_file, tmp_path, capsys):
    (tmp_path / "results.jsonl").write_text("{}")
    (tmp_path / "results.sqlite").write_bytes((finished / "results.sqlite").read_bytes())
    assert start(study_file, f"output={tmp_path}", "examples=0") == 0
    assert f"{tmp_path / 'results.jsonl'} is of an earlier version and is not read" in capsys.readouterr().out


@pytest.fixture
def spoilt(tmp_path, study_file):
    """Changes that make a run over plates on disk, one of which is torn; and its path."""
    root = tmp_path / "mvtec"
    for category in ("bottle", "cable"):
        make_category(root / category, normal=3, defective=2)
    torn = root / "cable" / "test" / "good" / "001.png"
    torn.write_bytes(torn.read_bytes()[:1000])
    data = [f"data.root={root}", "data.name=MVTecAD", "data.categories=[bottle,cable]"]
    arguments = ["num_train", "num_test_normal", "num_test_anomalous", "image_size"]
    text = study_file.read_text()
    path = tmp_path / "plates.yaml"
    path.write_text(text.replace(next(line for line in text.splitlines() if arguments[0] in line), ""))
    return path, [*data, f"output={tmp_path / 'output'}", "backbone=tiny-vit", "pretrained=null"], torn


def test_a_corrupt_image_is_reported_and_does_not_stop_the_others(spoilt, tmp_path, capsys):
    path, changes, torn = spoilt
    output = tmp_path / "output"
    assert start(path, *changes) == 1
    assert "8 rows failed" in capsys.readouterr().err
    report = (output / "report.md").read_text(encoding="utf-8")
    assert "001.png" in report.partition("## Failed jobs")[2]
    assert "No job failed" not in report
    rows = written(output)
    failed = rows[rows.error.notna()]
    assert failed.category.tolist() == ["cable"] * 8
    assert all(str(torn) in error for error in failed.error)
    assert rows.category[rows.error.isna()].tolist() == ["bottle"] * 8
    assert is_picture(output / "sheets" / "bottle.png")
    assert not (output / "sheets" / "cable.png").exists()

    save(draw_plate(101)[0], torn)
    assert start(path, *changes) == 0
    again = written(output)
    assert again[:8].drop(columns="error").equals(rows[:8].drop(columns="error"))
    assert again.category[8:].tolist() == ["cable"] * 8
    assert again.error.isna().all()
    assert "No job failed" in (output / "report.md").read_text(encoding="utf-8")
    assert is_picture(output / "sheets" / "cable.png")
