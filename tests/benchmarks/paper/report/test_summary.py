from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.paper.plan import Setting, Study
from benchmarks.paper.report.summary import datasets_of, summarise
from benchmarks.paper.results import METRICS, Row
from tests.benchmarks.paper.helpers import frame

CATEGORIES = ["bottle", "metal_nut", "screw"]
CLIP, OURS, OURS_PLUS = Setting("clip").key, Setting("ours", adaptation_steps=0).key, Setting("ours").key


def summary_of(study, rows, dataset="MVTecAD"):
    return summarise(study, frame(rows), dataset)


def succeeded(rows, dataset="MVTecAD"):
    return frame(row for row in rows if row.dataset == dataset and row.error is None)


def fail(rows, *keys):
    return [
        replace(row, metrics={}, error="broken") if (row.category, row.setting, row.seed) in keys else row
        for row in rows
    ]


def lines_of(lines):
    return [tuple(line) for line in lines.itertuples(index=False)]


@pytest.mark.parametrize("dataset", ["MVTecAD", "Procedural"])
def test_means_are_over_categories_and_spreads_over_seeds(study, rows, dataset):
    means = summary_of(study, rows, dataset).means
    assert list(means.index.unique("row")) == [*study.rows, *(["MuSc"] if dataset == "MVTecAD" else [])]
    for label, setting in study.rows.items():
        for metric in METRICS:
            of_seeds = {}
            for row in rows:
                if (row.dataset, row.setting) == (dataset, setting.key):
                    of_seeds.setdefault(row.seed, []).append(100 * row.metrics[metric])
            by_seed = [np.mean(values) for values in of_seeds.values()]
            line = means.loc[label, metric]
            assert line["mean"] == pytest.approx(np.mean(by_seed))
            assert (line.seeds, line.categories) == (1 if label == "CLIP" else 3, 3)
            if label == "CLIP":
                assert pd.isna(line.standard_deviation)
            else:
                assert line.standard_deviation == pytest.approx(np.std(by_seed, ddof=1))


def test_figures_of_single_categories(study, rows):
    figures = summary_of(study, rows).by_category.loc["screw", "Ours+", "pixel_AUPRO"]
    found = succeeded(rows).query("setting == @OURS_PLUS and category == 'screw'").pixel_AUPRO
    assert figures["mean"] == pytest.approx(100 * found.mean())
    assert figures.standard_deviation == pytest.approx(100 * found.std())
    assert figures.seeds == 3


def test_a_category_that_one_method_lacks_a_seed_of_is_left_out_for_all(study, rows):
    rows = fail(rows, ("screw", OURS_PLUS, 1))
    summary = summary_of(study, rows)
    assert summary.categories == CATEGORIES
    assert summary.complete == ["bottle", "metal_nut"]
    assert lines_of(summary.missing) == [("Ours+", 1, "screw")]
    others = succeeded(rows).query("category != 'screw'")
    for label, setting in study.rows.items():
        expected = 100 * others[others.setting == setting.key].groupby("seed").image_AUPR.mean().mean()
        assert summary.means["mean"][label, "image_AUPR"] == pytest.approx(expected)
    assert set(summary.means.categories.dropna()) == {2}
    assert summary.by_category.seeds["screw", "Ours+", "image_AUPR"] == 2


def test_a_row_that_is_not_there_yet_is_missing_like_one_that_failed(study, rows):
    not_yet = [row for row in rows if (row.category, row.setting, row.seed) != ("screw", OURS_PLUS, 1)]
    one, other = summary_of(study, not_yet), summary_of(study, fail(rows, ("screw", OURS_PLUS, 1)))
    assert one.means.equals(other.means)
    assert one.by_category.equals(other.by_category)
    assert lines_of(one.missing) == lines_of(other.missing) == [("Ours+", 1, "screw")]
    assert one.lost_seeds.empty
    assert other.lost_seeds.empty


def test_a_seed_that_failed_everywhere_leaves_all_categories(study, rows):
    rows = fail(rows, *((category, OURS_PLUS, 2) for category in CATEGORIES))
    summary = summary_of(study, rows)
    assert summary.complete == CATEGORIES
    assert lines_of(summary.lost_seeds) == [("Ours+", 2)]
    assert summary.missing.empty
    assert summary.means.seeds["Ours+", "pixel_AUROC"] == 2


@pytest.mark.parametrize("failed", [False, True])
def test_a_method_without_any_result_does_not_restrict_the_others(failed, study, rows):
    others = [row for row in rows if row.setting != CLIP]
    failures = [replace(row, metrics={}, error="broken") for row in rows if row.setting == CLIP]
    summary = summary_of(study, [*others, *failures] if failed else others)
    assert summary.lost_seeds.empty
    assert summary.unmeasured == ["CLIP"]
    assert summary.complete == CATEGORIES
    assert set(summary.means["mean"].dropna().index.unique("row")) == {"Ours", "Ours+"}


def test_settings_of_two_labels_are_shown_twice(study, rows):
    study.rows = {**study.rows, "Ours+ again": study.rows["Ours+"]}
    means = summary_of(study, rows).means["mean"]
    assert means["Ours+ again"].equals(means["Ours+"])
    assert means["Ours+"].notna().all()


def test_only_metrics_that_need_masks_lose_a_category_without_masks(study, rows):
    rows = [
        replace(row, metrics={name: value for name, value in row.metrics.items() if name.startswith("image")})
        if row.category == "screw"
        else row
        for row in rows
    ]
    summary = summary_of(study, rows)
    assert summary.without_value == {metric: ["screw"] for metric in METRICS if metric.startswith("pixel")}
    assert summary.means.categories["Ours", "pixel_AUROC"] == 2
    assert summary.means.categories["Ours", "image_AUROC"] == 3
    others = succeeded(rows).query("category != 'screw' and setting == @OURS").pixel_AUROC
    assert summary.means["mean"]["Ours", "pixel_AUROC"] == pytest.approx(100 * others.mean())
    assert pd.isna(summary.by_category["mean"]["screw", "Ours", "pixel_AUROC"])


def test_without_masks_there_are_no_pixel_metrics_at_all(study, rows):
    means = summary_of(study, [replace(row, metrics={"image_AUROC": 0.5}) for row in rows]).means.loc[[*study.rows]]
    found = means.dropna(subset="mean")
    assert list(found.index) == [(label, "image_AUROC") for label in study.rows]
    assert found["mean"].tolist() == [50.0] * 3
    assert found.standard_deviation.fillna(-1).tolist() == [-1, 0, 0]
    assert found.seeds.tolist() == [1, 3, 3]
    assert means.drop(index=found.index).seeds.isna().all()


def test_the_papers_figures_stand_beside_the_measured_ones(study, rows):
    means = summary_of(study, rows).means
    assert means.published["Ours+", "pixel_AUROC"] == 92.8
    assert means.difference["Ours+", "pixel_AUROC"] == means["mean"]["Ours+", "pixel_AUROC"] - 92.8
    assert means.published["MuSc", "image_AUROC"] == 97.8
    assert means.loc["MuSc"]["mean"].isna().all()
    assert means.published.notna().sum() == 4
    assert summary_of(study, rows, "Procedural").means.published.isna().all()


def test_data_sets_of_a_study_are_those_it_has_rows_for(study, rows):
    assert datasets_of(study, frame(rows)) == ["MVTecAD", "Procedural"]
    assert datasets_of(study, frame(replace(row, setting="other") for row in rows)) == []


@settings(deadline=None, max_examples=60)
@given(
    jobs=st.dictionaries(
        st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.integers(0, 2)),
        st.none() | st.floats(0, 1),
        max_size=18,
    )
)
def test_means_are_over_what_all_methods_have_whatever_is_missing(jobs):
    settings = {"a": Setting("clip"), "b": Setting("musc")}
    study = Study("S", metrics=["image_AUROC"], rows=settings)
    rows = [
        Row("Visa", category, settings[name].key, seed, {}, 1.0, "broken")
        if value is None
        else Row("Visa", category, settings[name].key, seed, {"image_AUROC": value}, 1.0)
        for (name, category, seed), value in jobs.items()
    ]
    means = summary_of(study, rows, "Visa").means
    table = {
        setting: pd.DataFrame(
            [(category, seed, value) for (name, category, seed), value in jobs.items() if name == setting],
            columns=["category", "seed", "value"],
        )
        .dropna()
        .astype({"value": float})
        .pivot_table(index="category", columns="seed", values="value")
        for setting in "ab"
    }
    measured = {setting: frame for setting, frame in table.items() if frame.size}
    common = set.intersection(*(set(frame.dropna().index) for frame in measured.values())) if measured else set()
    for label in study.rows:
        line = means.loc[label, "image_AUROC"]
        if label not in measured or not common:
            assert pd.isna(line["mean"])
            continue
        by_seed = measured[label].loc[sorted(common)].mean().to_numpy()
        spread = np.std(by_seed, ddof=1) if len(by_seed) > 1 else np.nan
        assert line["mean"] == pytest.approx(100 * by_seed.mean())
        assert (line.seeds, line.categories) == (len(by_seed), len(common))
        found = means.standard_deviation[label, "image_AUROC"]
        assert found == pytest.approx(100 * spread, abs=1e-9, nan_ok=True)
