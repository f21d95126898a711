from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.paper.report.study import Study
from benchmarks.paper.report.summary import Mean, datasets_of, summarise
from benchmarks.paper.results import METRICS, Row

CATEGORIES = ("bottle", "metal_nut", "screw")


def as_frame(rows, dataset):
    lines = [
        {"setting": row.setting, "category": row.category, "seed": row.seed, **row.metrics}
        for row in rows
        if row.dataset == dataset and row.error is None
    ]
    return pd.DataFrame(lines)


def fail(rows, *jobs):
    return [
        replace(row, metrics={}, error="broken") if (row.category, row.setting, row.seed) in jobs else row
        for row in rows
    ]


@pytest.mark.parametrize("dataset", ["MVTecAD", "Procedural"])
def test_means_and_spreads_are_those_of_pandas(study, rows, dataset):
    summary = summarise(study, rows, dataset)
    by_seed = as_frame(rows, dataset).groupby(["setting", "seed"])[list(METRICS)].mean().groupby("setting")
    for label, setting in study.rows.items():
        for metric in METRICS:
            mean = summary.means[label][metric]
            assert mean.value == pytest.approx(100 * by_seed.mean().loc[setting, metric])
            if label == "CLIP":
                assert (mean.spread, mean.seeds) == (None, 1)
            else:
                assert mean.spread == pytest.approx(100 * by_seed.std(ddof=1).loc[setting, metric])
                assert mean.seeds == 3
    assert summary.averaged == dict.fromkeys(METRICS, CATEGORIES)


def test_figures_of_single_categories(study, rows):
    summary = summarise(study, rows, "MVTecAD")
    found = as_frame(rows, "MVTecAD").query("setting == 'ours(steps=2)' and category == 'screw'").pixel_AUPRO
    assert summary.by_category["screw"]["Ours+"]["pixel_AUPRO"] == (
        pytest.approx(100 * found.mean()),
        pytest.approx(100 * found.std()),
        3,
    )


def test_a_category_that_one_method_lacks_a_seed_of_is_left_out_for_all(study, rows):
    rows = fail(rows, ("screw", "ours(steps=2)", 1))
    summary = summarise(study, rows, "MVTecAD")
    assert summary.categories == CATEGORIES
    assert summary.complete == ("bottle", "metal_nut")
    assert summary.missing == {"Ours+": {"screw": (1,)}}
    frame = as_frame(rows, "MVTecAD").query("category != 'screw'")
    for label, setting in study.rows.items():
        expected = 100 * frame[frame.setting == setting].groupby("seed").image_AUPR.mean().mean()
        assert summary.means[label]["image_AUPR"].value == pytest.approx(expected)
    assert summary.by_category["screw"]["Ours+"]["image_AUPR"].seeds == 2


def test_a_job_that_was_not_run_yet_is_missing_like_one_that_failed(study, rows):
    not_yet = [row for row in rows if (row.category, row.setting, row.seed) != ("screw", "ours(steps=2)", 1)]
    failed = fail(rows, ("screw", "ours(steps=2)", 1))
    assert summarise(study, not_yet, "MVTecAD") == summarise(study, failed, "MVTecAD")


def test_a_seed_that_failed_everywhere_leaves_all_categories(study, rows):
    rows = fail(rows, *((category, "ours(steps=2)", 2) for category in CATEGORIES))
    summary = summarise(study, rows, "MVTecAD")
    assert summary.complete == CATEGORIES
    assert summary.lost_seeds == {"Ours+": (2,)}
    assert summary.missing == {}
    assert summary.means["Ours+"]["pixel_AUROC"].seeds == 2


def test_a_method_without_any_result_does_not_restrict_the_others(study, rows):
    summary = summarise(study, [row for row in rows if row.setting != "clip()"], "MVTecAD")
    assert summary.unmeasured == ("CLIP",)
    assert summary.complete == CATEGORIES
    assert set(summary.means) == {"Ours", "Ours+"}


def test_only_metrics_that_need_masks_lose_a_category_without_masks(study, rows):
    rows = [
        replace(row, metrics={name: value for name, value in row.metrics.items() if name.startswith("image")})
        if row.category == "screw"
        else row
        for row in rows
    ]
    summary = summarise(study, rows, "MVTecAD")
    assert summary.averaged["pixel_AUROC"] == ("bottle", "metal_nut")
    assert summary.averaged["image_AUROC"] == CATEGORIES
    assert summary.without_value == dict.fromkeys(("pixel_AUROC", "pixel_F1Max", "pixel_AUPRO"), ("screw",))
    assert "pixel_AUROC" not in summary.by_category["screw"]["Ours"]


def test_without_masks_there_are_no_pixel_metrics_at_all(study, rows):
    rows = [replace(row, metrics={"image_AUROC": 0.5}) for row in rows]
    means = summarise(study, rows, "MVTecAD").means
    assert means["CLIP"] == {"image_AUROC": Mean(50.0, None, 1)}
    assert means["Ours"] == {"image_AUROC": Mean(50.0, 0.0, 3)}


def test_data_sets_of_a_study_are_those_it_has_rows_for(study, rows):
    assert datasets_of(study, rows) == ["MVTecAD", "Procedural"]
    assert datasets_of(study, [replace(row, setting="other") for row in rows]) == []


@settings(deadline=None, max_examples=60)
@given(
    jobs=st.dictionaries(
        st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.integers(0, 2)),
        st.none() | st.floats(0, 1),
        max_size=18,
    )
)
def test_means_are_over_what_all_methods_have_whatever_is_missing(jobs):
    study = Study("s", "S", "table", ("image_AUROC",), {"A": "a", "B": "b"})
    rows = [
        Row("Visa", category, setting, seed, {}, 1.0, "broken")
        if value is None
        else Row("Visa", category, setting, seed, {"image_AUROC": value}, 1.0)
        for (setting, category, seed), value in jobs.items()
    ]
    summary = summarise(study, rows, "Visa")
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
    for label, setting in study.rows.items():
        mean = summary.means.get(label, {}).get("image_AUROC")
        if setting not in measured or not common:
            assert mean is None
            continue
        by_seed = measured[setting].loc[sorted(common)].mean().to_numpy()
        assert mean.value == pytest.approx(100 * by_seed.mean())
        assert mean.seeds == len(by_seed)
        assert mean.spread == (None if len(by_seed) == 1 else pytest.approx(100 * np.std(by_seed, ddof=1), abs=1e-9))
