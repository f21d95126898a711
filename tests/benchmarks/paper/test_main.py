import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from anomalib.cli.cli import AnomalibCLI
from PIL import Image
from rich.console import Console

from benchmarks.paper import __main__ as run_module
from benchmarks.paper.__main__ import main, read_spent, run
from benchmarks.paper.category_job import Spent
from benchmarks.paper.plan import read_plan
from dual_image_clip.weights import EMBEDDED
from tests.drawn_data import draw_plate, make_category, save

ROOT = Path(__file__).parents[3]


def start(study_file, *changes):
    """The command line in this process: its exit code."""
    sys.argv = ["benchmarks.paper.__main__", str(study_file), *changes]
    try:
        main()
    except SystemExit as end:
        return end.code
    return 0


@pytest.fixture(autouse=True)
def _arguments(monkeypatch):
    monkeypatch.setattr(sys, "argv", sys.argv)


@pytest.fixture(scope="module")
def finished(study_file, tmp_path_factory):
    """Folder of a run that nothing interrupted."""
    output = tmp_path_factory.mktemp("finished")
    run(read_plan(study_file, [f"output={output}"]), Console(quiet=True))
    return output


def written(output):
    """Every row that was ever written, in order."""
    lines = (output / "results.jsonl").read_text(encoding="utf-8").splitlines()[1:]
    return [json.loads(line) for line in lines]


def job_of(row):
    return row["category"], row["setting"], row["seed"]


def is_picture(path):
    with Image.open(path) as image:
        return image.size > (100, 50) and len(image.convert("L").getcolors(10**6)) > 10


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
    rows = [row for row in written(finished) if row["setting"] == lines[0]["setting"]]
    means = 100 * sum(row["metrics"][lines[0]["metric"]] for row in rows) / len(rows)
    assert float(lines[0]["mean"]) == pytest.approx(means)


def test_a_finished_run_is_not_run_again(finished, study_file, monkeypatch):
    def refuse(*given):
        raise AssertionError("the weights are not needed")

    monkeypatch.setattr(run_module, "load_backbone", refuse)
    before = (finished / "results.jsonl").read_bytes(), (finished / "tables.csv").read_bytes()
    assert start(study_file, f"output={finished}") == 0
    assert before == ((finished / "results.jsonl").read_bytes(), (finished / "tables.csv").read_bytes())


def test_a_run_that_is_killed_and_started_again_ends_with_the_same_table(finished, study_file, tmp_path):
    results = tmp_path / "results.jsonl"
    command = [sys.executable, "-m", "benchmarks.paper", study_file, f"output={tmp_path}"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (results.is_file() and results.read_bytes().count(b"\n") > 3) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = written(tmp_path)
    assert 3 <= len(done) < 16
    assert not (tmp_path / "report.md").exists()
    assert start(study_file, f"output={tmp_path}") == 0
    after = written(tmp_path)
    assert after[: len(done)] == done
    assert len({job_of(row) for row in after}) == len(after) == 16
    assert (tmp_path / "tables.csv").read_text() == (finished / "tables.csv").read_text()
    assert is_picture(tmp_path / "sheets" / "gear.png")


def test_more_seeds_and_categories_keep_the_rows_that_are_there(finished, study_file, tmp_path):
    (tmp_path / "results.jsonl").write_bytes((finished / "results.jsonl").read_bytes())
    (tmp_path / "sheets").mkdir()
    for name in ("gear", "zipper"):
        (tmp_path / "sheets" / f"{name}.png").write_bytes((finished / "sheets" / f"{name}.png").read_bytes())
    assert start(study_file, f"output={tmp_path}", "seeds=[0,1,5]", "data.categories=[gear]") == 0
    new = written(tmp_path)[16:]
    assert [(row["category"], row["seed"]) for row in new] == [("gear", 5)] * 4
    with (tmp_path / "tables.csv").open(encoding="utf-8") as file:
        assert {(line["seeds"], line["categories"]) for line in csv.DictReader(file)} == {("3", "1")}


@pytest.mark.parametrize(
    "change", ["backbone=ViT-B-32,pretrained=null", "data.root=elsewhere", "data.arguments.num_test_normal=5"]
)
def test_results_of_other_settings_are_not_mixed_in(change, finished, study_file, capsys):
    before = (finished / "results.jsonl").read_bytes()
    assert start(study_file, f"output={finished}", *change.split(",")) == 2
    assert "holds the results of another benchmark" in capsys.readouterr().err
    assert (finished / "results.jsonl").read_bytes() == before


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
    assert {(row["category"], row["error"] is None) for row in rows} == {("bottle", True), ("cable", False)}
    assert all(str(torn) in row["error"] for row in rows if row["category"] == "cable")
    assert is_picture(output / "sheets" / "bottle.png")
    assert not (output / "sheets" / "cable.png").exists()

    save(draw_plate(101)[0], torn)
    assert start(path, *changes) == 0
    again = written(output)[16:]
    assert len(again) == 8
    assert all(row["category"] == "cable" and row["error"] is None for row in again)
    assert "No job failed" in (output / "report.md").read_text(encoding="utf-8")
    assert is_picture(output / "sheets" / "cable.png")


def test_a_job_that_breaks_down_as_a_whole_fails_its_rows(study_file, tmp_path, monkeypatch, capsys):
    def engine(plan, jobs, backbone):
        first, second = jobs
        yield first, run_module.Row("Procedural", "gear", first.wanted[0].setting.key, 0, {"image_AUROC": 1.0}, 1.0)
        yield first, MemoryError("no room")
        for setting, seed in second.wanted:
            yield second, run_module.Row("Procedural", "zipper", setting.key, seed, {"image_AUROC": 1.0}, 1.0)
        yield second, Spent(1.0, 3.0)
        yield second, RuntimeError("no picture")

    monkeypatch.setitem(run_module.ENGINES, "local", engine)
    assert start(study_file, f"output={tmp_path}") == 1
    rows = written(tmp_path)
    assert sum(row["error"] == "MemoryError: no room" for row in rows) == 7
    assert len({job_of(row) for row in rows}) == len(rows) == 16
    assert "zipper: no heatmaps: RuntimeError: no picture" in capsys.readouterr().out
    assert "3.0 × faster" in (tmp_path / "report.md").read_text(encoding="utf-8")


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
    assert line.startswith("benchmarks.paper.__main__: ")
    assert message in line
    assert not (tmp_path / "output" / "results.jsonl").exists()


def test_a_torn_line_of_times_is_passed_over(tmp_path):
    path = tmp_path / "times.jsonl"
    assert read_spent(path) == []
    path.write_text("[1.0, 2.0]\n[3.0, \n3\n[4.0, 5.5]\n[1.0, 2")
    assert read_spent(path) == [Spent(1.0, 2.0), Spent(4.0, 5.5)]


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
