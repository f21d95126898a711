import json

import pytest
import torch
from sklearn.metrics import roc_auc_score

from benchmarks.checkpoint import sets
from benchmarks.checkpoint.scorers import features_of
from benchmarks.checkpoint.sets import drawn_category
from benchmarks.paper.methods import score
from benchmarks.paper.peers.musc import rescore
from benchmarks.paper.plan import Setting
from benchmarks.steps import __main__ as command
from benchmarks.steps import rows
from benchmarks.steps.rows import ROWS
from dual_image_clip import BEST
from dual_image_clip.weights import EMBEDDED, load_backbone
from tests.helpers import assert_same

SEED = 3


@pytest.fixture(scope="module")
def gears():
    return drawn_category("gear", 0, 6)


@pytest.fixture(scope="module")
def features(gears):
    return features_of(gears, load_backbone(EMBEDDED, EMBEDDED))


@pytest.fixture(scope="module")
def best(features):
    return score(features, Setting("ours", **BEST), SEED)


@pytest.mark.parametrize("row", ROWS)
def test_every_row_scores_every_image(row, features):
    images, maps = ROWS[row](features, SEED)
    assert images.shape == (12,)
    assert maps.shape == (12, 240, 240)
    assert images.isfinite().all()
    assert maps.isfinite().all()


def test_best_is_the_preset(features, best):
    assert_same(ROWS["Best"](features, SEED), best)


def test_no_two_rows_are_the_same(features):
    found = [ROWS[row](features, SEED).images for row in ROWS]
    assert all(not torch.equal(one, other) for index, one in enumerate(found) for other in found[:index])


@pytest.mark.parametrize(
    "do_nothing", [lambda f: rows.neighbourhoods((1,), f, SEED), lambda f: rows.depths((), f, SEED)]
)
def test_a_step_of_no_length_changes_nothing(do_nothing, features, best):
    assert_same(do_nothing(features), best, 1e-4)


def test_steps_of_the_image_score_leave_the_map_alone(features, best):
    for row in ("Best, 3×3 mean before the maximum", "Best, RsCIN over all images"):
        assert_same(ROWS[row](features, SEED).maps, best.maps)
    rescored = ROWS["Best, RsCIN over all images"](features, SEED).images
    assert_same(rescored, rescore(best.images, features.two_paths.class_token[:, 0]))


def test_adapter_that_starts_at_zero_and_hardly_moves_changes_nothing(features):
    still = rows.adapted_from_zero(1e-9, features, SEED)
    assert_same(still, score(features, Setting("ours", **{**BEST, "lambda_2": 1.5}), SEED), 1e-3)


def test_command_prints_gains_and_writes_the_areas(monkeypatch, tmp_path, capsys, features, gears):
    monkeypatch.setattr(sets, "HELD_OUT_FAMILIES", ("gear",))
    output = tmp_path / "areas.json"
    typed = ["--sets", "held_out_families", "--rows", "Ours", "Best", "--seeds", "0", "1", "--count", "6"]
    monkeypatch.setattr("sys.argv", ["benchmarks.steps", *typed, "--output", str(output)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("logging.disable", lambda level: None)
        command.main()
    by_seed = json.loads(output.read_text())["held_out_families"]
    expected = [roc_auc_score(gears.labels, ROWS[row](features, 0).images) for row in ("Ours", "Best")]
    assert [by_seed[0][row][0] for row in ("Ours", "Best")] == pytest.approx(expected)
    gains = [each["Best"][0] - each["Ours"][0] for each in by_seed]
    printed = capsys.readouterr().out
    assert f"{sum(gains) / 2:+.3f} ± {abs(gains[0] - gains[1]) / 2**0.5:.3f}" in printed
    assert "held_out_families, 2 seeds" in printed


def test_images_have_the_side_of_the_backbone(monkeypatch, capsys):
    seen = []

    def spy(seed, count, size):
        seen.append(size)
        return iter([drawn_category("gear", seed, count, size=size)])

    monkeypatch.setitem(command.SETS, "validation", spy)
    typed = ["--sets", "validation", "--rows", "Ours", "--count", "5", "--image-size", "96"]
    monkeypatch.setattr("sys.argv", ["benchmarks.steps", *typed])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("logging.disable", lambda level: None)
        command.main()
    assert seen == [96]
    assert "validation, 1 seeds" in capsys.readouterr().out


def test_too_few_images_are_refused_before_any_work(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["benchmarks.steps", "--count", "4"])
    with pytest.raises(SystemExit):
        command.main()
    assert "--count is 4; expected 5 or more" in capsys.readouterr().err


def test_photographs_to_choose_by_are_none_of_those_reported():
    chosen, reported = (
        set(next(command.SETS[name](0, 16, 32)).paths) for name in ("solar_cells_to_choose", "solar_cells")
    )
    assert len(chosen) == len(reported) == 320
    assert not chosen & reported
