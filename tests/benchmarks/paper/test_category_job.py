from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.paper import category_job
from benchmarks.paper.category_job import Examples, Wanted, run_job
from benchmarks.paper.features import CategoryFeatures
from benchmarks.paper.images import load_images
from benchmarks.paper.methods import score
from benchmarks.paper.metrics import compute_metrics
from benchmarks.paper.plan import Plan, Setting
from benchmarks.paper.report.sheet import draw_sheet
from benchmarks.paper.results import METRICS, Row, Spent
from dual_image_clip.photos import UnusableImageError

SETTINGS = [
    Setting("clip"),
    Setting("musc2"),
    Setting("ours", num_references=0, adaptation_steps=0),
    Setting("ours"),
]


@pytest.fixture
def plan(mvtec):
    return Plan(data=mvtec, seeds=[3, 1], examples=4, output="unused")


def wanted(plan, settings=SETTINGS):
    return [Wanted(setting, seed) for seed in plan.seeds for setting in settings]


def by_kind(outcomes, kind):
    return [each for each in outcomes if isinstance(each, kind)]


def test_every_row_is_what_its_setting_and_seed_give_alone(plan, tiny):
    outcomes = list(run_job(plan, "bottle", wanted(plan), tiny, with_examples=False))
    rows = by_kind(outcomes, Row)
    assert {row.key for row in rows} == {
        ("MVTecAD", "bottle", setting.key, seed) for setting in SETTINGS for seed in plan.seeds
    }
    assert len(rows) == len(SETTINGS) * len(plan.seeds)
    assert all(row.error is None and row.seconds >= 0 and set(row.metrics) == set(METRICS) for row in rows)
    images = load_images(plan.data, "bottle", 64)
    for setting, seed in wanted(plan):
        alone = compute_metrics(score(CategoryFeatures(images, tiny, 32), setting, seed), images)
        (row,) = (row for row in rows if (row.setting, row.seed) == (setting.key, seed))
        assert row.metrics == pytest.approx(alone, abs=1e-6)


def test_what_no_seed_changes_is_measured_once(plan, tiny, monkeypatch):
    measured = []
    monkeypatch.setattr(category_job, "compute_metrics", lambda *given: measured.append(1) or compute_metrics(*given))
    rows = by_kind(run_job(plan, "bottle", wanted(plan), tiny, with_examples=False), Row)
    assert len(rows) == 8
    # Two settings for each of two seeds, two for both.
    assert len(measured) == 2 * 2 + 2


def test_a_row_is_there_as_soon_as_it_is_known(plan, tiny):
    job = run_job(plan, "bottle", wanted(plan), tiny, with_examples=True)
    first = next(job)
    assert isinstance(first, Row)
    # Seeds one after the other, in whatever order they are asked for.
    assert [row.seed for row in [first, *by_kind(job, Row)]] == [1] * 4 + [3] * 4


def test_examples_make_a_sheet(plan, tiny, tmp_path):
    outcomes = list(run_job(plan, "bottle", wanted(plan), tiny, with_examples=True))
    (examples,) = by_kind(outcomes, Examples)
    assert examples.category == "bottle"
    assert len(examples.examples) == 4
    for example in examples.examples:
        assert example.title in {"bottle, success", "bottle, failure"}
        assert list(example.maps) == list(example.ranges) == ["A^V", "A^L", "A^T", "final"]
        assert all(values.shape == (64, 64) for values in [*example.maps.values(), example.mask])
        for name, (low, high) in example.ranges.items():
            assert low < high
            assert example.maps[name].min() >= low
        assert example.mask.any() == example.is_anomalous
    assert any(example.is_anomalous for example in examples.examples)
    assert not all(example.is_anomalous for example in examples.examples)
    path = tmp_path / "sheet.png"
    draw_sheet(examples.examples, path)
    assert np.asarray(Image.open(path)).std() > 0


def test_examples_have_the_scores_of_the_first_seed_and_success_means_success(plan, tiny):
    (examples,) = by_kind(run_job(plan, "bottle", [], tiny, with_examples=True), Examples)
    images = load_images(plan.data, "bottle", 64)
    scores = score(CategoryFeatures(images, tiny, 32), Setting("ours"), seed=3).images
    anomalous, normal = scores[images.labels], scores[~images.labels]
    expected = {
        ("bottle, success", True): anomalous.max(),
        ("bottle, failure", True): anomalous.min(),
        ("bottle, success", False): normal.min(),
        ("bottle, failure", False): normal.max(),
    }
    found = {(each.title, each.is_anomalous): each.score for each in examples.examples}
    assert found == pytest.approx({key: float(value) for key, value in expected.items()}, abs=1e-5)


def test_examples_need_no_tower_pass_of_their_own(plan, tiny):
    seen = []
    tiny.clip.visual.conv1.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    counts = []
    for with_examples in (False, True):
        seen.clear()
        list(run_job(plan, "bottle", wanted(plan), tiny, with_examples))
        counts.append(sum(seen))
    assert counts[0] == counts[1] == 8 * (1 + 1 + len(plan.seeds))


def test_what_it_took_and_would_have_taken_alone(plan, tiny):
    (spent,) = by_kind(run_job(plan, "bottle", wanted(plan), tiny, with_examples=True), Spent)
    (of_one,) = by_kind(run_job(plan, "bottle", wanted(plan)[3:4], tiny, with_examples=False), Spent)
    assert spent.seconds_alone > spent.seconds > 0
    # One setting alone shares nothing; only the bookkeeping is not counted.
    assert 0.5 * of_one.seconds < of_one.seconds_alone <= of_one.seconds
    assert not by_kind(run_job(plan, "bottle", [], tiny, with_examples=True), Spent)


def test_a_setting_that_fails_does_not_stop_the_others(plan, tiny):
    settings = [Setting("ours", num_references=50), *SETTINGS]
    outcomes = list(run_job(plan, "bottle", wanted(plan, settings), tiny, with_examples=True))
    failed = [row for row in by_kind(outcomes, Row) if row.error]
    assert [row.setting for row in failed] == [settings[0].key] * 2
    assert failed[0].error == "ValueError: 8 images have at most 7 partners each, not 50"
    assert failed[0].metrics == {}
    assert len(by_kind(outcomes, Row)) == 10
    assert by_kind(outcomes, Examples)
    assert by_kind(outcomes, Spent)


def test_images_that_cannot_be_read_fail_every_row_with_the_files_name(plan, tiny):
    path = Path(plan.data.root) / "bottle" / "test" / "good" / "001.png"
    path.write_bytes(path.read_bytes()[:500])
    outcomes = list(run_job(plan, "bottle", wanted(plan), tiny, with_examples=True))
    assert len(outcomes) == 8
    assert all(str(path) in row.error and row.error.startswith("UnusableImageError: ") for row in outcomes)
    with pytest.raises(UnusableImageError, match=r"001\.png"):
        list(run_job(plan, "bottle", [], tiny, with_examples=True))


def test_a_class_name_of_the_plan_wins_over_the_category(plan, tiny, monkeypatch):
    names = []

    def watched(category, *given):
        names.append(category.class_name)
        return CategoryFeatures(category, *given)

    monkeypatch.setattr(category_job, "CategoryFeatures", watched)
    list(run_job(plan, "bottle", [], tiny, with_examples=False))
    plan.class_name = "metal nut"
    list(run_job(plan, "bottle", [], tiny, with_examples=False))
    assert names == ["bottle", "metal nut"]


def test_a_category_without_masks(tiny, mvtec):
    mvtec.name, mvtec.root, mvtec.categories = "Folder", f"{mvtec.root}/bottle", None
    mvtec.arguments = {"name": "plates", "normal_dir": "train/good", "normal_test_dir": "test/good"}
    mvtec.arguments["abnormal_dir"] = "test/spot"
    plan = Plan(data=mvtec, seeds=[0], examples=2, output="unused")
    outcomes = list(run_job(plan, "plates", wanted(plan), tiny, with_examples=True))
    assert all(set(row.metrics) == {"image_AUROC", "image_F1Max", "image_AUPR"} for row in by_kind(outcomes, Row))
    (examples,) = by_kind(outcomes, Examples)
    assert not any(example.mask.any() for example in examples.examples)


def test_nothing_of_a_job_needs_a_gradient(plan, tiny):
    with torch.enable_grad():
        list(run_job(plan, "bottle", wanted(plan)[:4], tiny, with_examples=False))
    assert all(weight.grad is None for weight in tiny.clip.parameters())
