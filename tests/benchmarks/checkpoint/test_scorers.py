import pytest
import torch
from sklearn.metrics import roc_auc_score

from benchmarks.checkpoint.areas import areas_of_scorers, areas_under_curves, as_table
from benchmarks.checkpoint.scorers import (
    SETTINGS,
    UNTRAINED,
    Scorers,
    darkness_scores,
    dct_scores,
    untrained_backbone,
)
from benchmarks.checkpoint.sets import drawn_category
from dual_image_clip.weights import EMBEDDED, load_backbone
from tests.helpers import assert_same, make_model


@pytest.fixture(scope="module")
def gears():
    return drawn_category("gear", 0, 5)


@pytest.fixture(scope="module")
def scorers():
    return Scorers(load_backbone(EMBEDDED, EMBEDDED), list(SETTINGS), untrained_backbone(EMBEDDED))


@pytest.fixture(scope="module")
def scores(gears, scorers):
    return dict(scorers.scores(gears))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("text", {"num_references": 0, "adaptation_steps": 0, "lambda_1": 0.0, "lambda_4": 0.0}),
        ("visual", {"adaptation_steps": 0, "lambda_2": 0.0, "lambda_3": 0.0, "lambda_5": 0.0}),
        ("joint", {"adaptation_steps": 0}),
        ("joint, adapted", {}),
        ("joint, 8 references", {"adaptation_steps": 0, "num_references": 8}),
    ],
)
def test_scores_are_those_of_the_detector_on_all_images_at_once(gears, scores, name, arguments):
    model = make_model(**arguments)
    model.set_class_name("gear")
    expected = model.model(model.pre_processor(gears.images))
    assert_same(scores[name].images, expected.pred_score, 1e-4)
    assert_same(scores[name].maps, expected.anomaly_map, 1e-4)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("visual, 8 known-good", {"adaptation_steps": 0, "lambda_2": 0.0, "lambda_3": 0.0, "lambda_5": 0.0}),
        ("joint, 8 known-good", {"adaptation_steps": 0}),
    ],
)
def test_scores_beside_known_good_images_are_those_of_the_detector(gears, scores, name, arguments):
    model = make_model(num_references=0, **arguments)
    model.set_class_name("gear")
    model.model.set_golden_images([model.pre_processor(each[None]) for each in gears.known_good])
    expected = model.model(model.pre_processor(gears.images))
    assert_same(scores[name].images, expected.pred_score, 1e-4)
    assert_same(scores[name].maps, expected.anomaly_map, 1e-4)


def test_untrained_scores_are_of_other_weights_and_repeat_themselves(gears, scorers, scores):
    again = dict(scorers._replace(untrained=untrained_backbone(EMBEDDED)).scores(gears))
    for name in UNTRAINED:
        assert not torch.allclose(scores[f"untrained, {name}"].images, scores[name].images)
        assert_same(scores[f"untrained, {name}"].images, again[f"untrained, {name}"].images)


def test_without_baselines_there_are_the_chosen_settings_only(gears, scorers):
    chosen = scorers._replace(settings=["joint", "text"], untrained=None)
    assert [name for name, _ in chosen.scores(gears)] == ["joint", "text"]


def test_darkness_is_that_of_pixels_and_of_whole_images(gears):
    images = torch.ones_like(gears.images)
    images[0], images[1, :, :120] = 0, 0
    dark = darkness_scores(gears._replace(images=images))
    torch.testing.assert_close(dark.images[:3], torch.tensor([1.0, 0.5, 0.0]))
    assert dark.maps[1, 0, 0] == 1
    assert dark.maps[1, -1, 0] == 0


def test_dct_neighbours_see_what_no_other_image_has(gears):
    images = torch.rand(1, 3, 240, 240, generator=torch.Generator().manual_seed(0)).repeat(10, 1, 1, 1)
    images[4, :, 80:128, 160:208] = 0
    found = dct_scores(gears._replace(images=images))
    assert found.maps[4].argmax().div(240, rounding_mode="floor") in range(80, 128)
    assert found.maps[4].argmax() % 240 in range(160, 208)
    assert found.images[4] > 0.1


def test_areas_are_scikit_learns(gears, scores):
    for each in scores.values():
        areas = areas_under_curves(each, gears)
        assert areas.image == pytest.approx(roc_auc_score(gears.labels, each.images), abs=1e-5)
        assert areas.pixel == pytest.approx(roc_auc_score(gears.masks.flatten(), each.maps.flatten()), abs=1e-5)


def test_table_has_means_over_categories_and_the_spread_over_seeds():
    rows = {"detector": [(0.6, 0.7), (0.8, 0.9), (0.4, float("nan")), (0.6, 0.5)]}
    table = as_table("some", rows, num_seeds=2)
    assert [list(column.cells) for column in table.columns] == [["detector"], ["0.600 ± 0.141"], ["–"]]


def test_areas_of_categories_follow_each_other(gears, scorers):
    chosen = scorers._replace(settings=["text"], untrained=None)
    without_masks = gears._replace(masks=None, labels=~gears.labels)
    first, second = areas_of_scorers([gears, without_masks], chosen)["text"]
    assert first.image == pytest.approx(1 - second.image, abs=1e-5)
    assert second.pixel != second.pixel
