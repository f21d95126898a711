import pandas as pd

from benchmarks.paper import missing_jobs
from benchmarks.paper.missing_jobs import find_missing_jobs, sheet_of
from benchmarks.paper.plan_file import read_plan
from benchmarks.paper.results import ResultsFile, Row, Spent
from tests.benchmarks.paper.helpers import start


def test_what_is_missing_is_what_has_no_row_failed_or_lacks_its_sheet(study_file, tmp_path):
    plan = read_plan(study_file, [f"output={tmp_path}"])
    results = ResultsFile(tmp_path / "results.sqlite", "a run")
    first, *others = plan.settings
    for category in ("gear", "zipper"):
        for seed in plan.seeds:
            for key in plan.settings:
                failed = (category, seed, key) == ("gear", 1, first)
                results.add(Row("Procedural", category, key, seed, {}, 1.0, "broken" if failed else None))
    sheet = sheet_of(plan, "gear")
    sheet.parent.mkdir()
    sheet.touch()
    gear, zipper = find_missing_jobs(plan, ["gear", "zipper"], results)
    assert [(each.setting.key, each.seed) for each in gear.wanted] == [(first, 1)]
    assert not gear.with_examples
    assert zipper == ("zipper", [], True)
    (extended,) = find_missing_jobs(read_plan(study_file, [f"output={tmp_path}", "seeds=[2]"]), ["gear"], results)
    assert [(each.setting.key, each.seed) for each in extended.wanted] == [(key, 2) for key in (first, *others)]


def test_a_job_that_breaks_down_as_a_whole_fails_its_rows(study_file, tmp_path, monkeypatch, capsys):
    def engine(plan, jobs, backbone):
        first, second = jobs
        yield first, Row("Procedural", "gear", first.wanted[0].setting.key, 0, {"image_AUROC": 1.0}, 1.0)
        yield first, MemoryError("no room")
        for setting, seed in second.wanted:
            yield second, Row("Procedural", "zipper", setting.key, seed, {"image_AUROC": 1.0}, 1.0)
        yield second, Spent(1.0, 3.0)
        yield second, RuntimeError("no picture")

    monkeypatch.setitem(missing_jobs.ENGINES, "local", engine)
    assert start(study_file, f"output={tmp_path}") == 1
    rows = pd.read_csv(tmp_path / "results.csv")
    assert (rows.error == "MemoryError: no room").sum() == 7
    assert len(rows) == 16
    assert not rows.duplicated(["category", "setting", "seed"]).any()
    assert "zipper: no heatmaps: RuntimeError: no picture" in capsys.readouterr().out
    assert "3.0 × faster" in (tmp_path / "report.md").read_text(encoding="utf-8")
