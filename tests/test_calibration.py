"""Good photos, scored as later ones will be, and the thresholds that come of it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dual_image_clip import DualImageCLIP, calibration
from dual_image_clip.calibration import GoodScore, calibrate, find_suspicious
from dual_image_clip.conformal import TooFewPhotosError, conformal_threshold
from tests.drawn_data import make_photos, save
from tests.helpers import cloudy_images, predict, tiny_model


def detector(**arguments) -> DualImageCLIP:
    return tiny_model(**{"class_name": "plate", "adaptation_steps": 0, "temperature": 0.1, **arguments})


def photos_of(folder: Path) -> list[str]:
    return sorted(map(str, folder.iterdir()))


@pytest.fixture
def good(tmp_path) -> Path:
    return make_photos(tmp_path / "good", normal=13, defective=0)


@pytest.fixture
def counted(monkeypatch) -> list[list[float]]:
    """Scores that thresholds were taken from."""
    seen = []

    def look(scores: list[float], rate: float) -> float:
        seen.append(list(scores))
        return conformal_threshold(scores, rate)

    monkeypatch.setattr(calibration, "conformal_threshold", look)
    return seen


def test_with_golden_photos_thresholds_are_those_of_the_predictions(good, tmp_path):
    """One folder serves as both: what is drawn from it as golden is left out, and so are copies of it."""
    golden = {"num_references": 0, "k_shot": 4, "few_shot_source": good}
    drawn = [Path(path) for path in detector(**golden).golden.paths]
    photos = [*photos_of(good), str(save(np.asarray(Image.open(drawn[0])), tmp_path / "copy.png"))]
    found = calibrate(detector(**golden), photos, 0.3)
    # As a user will score later photos: in another folder.
    later = tmp_path / "later"
    later.mkdir()
    for path in {*good.iterdir()} - {*drawn}:
        shutil.copy(path, later)
    items = list(predict(detector(**golden), tmp_path, data_path=later).values())
    assert found.photos == found.counted == len(items) == 9
    # Of nine, k = ⌈10 · 0.7⌉.
    for value, name in ((found.threshold, "pred_score"), (found.map_threshold, "anomaly_map")):
        seventh = sorted(getattr(item, name).max().item() for item in items)[6]
        assert value == pytest.approx(seventh, abs=2e-5)


def test_scores_that_count_have_no_photo_in_common(good, counted):
    model, photos = detector(num_references=2), photos_of(good)
    found = calibrate(model, photos, 0.5)
    assert (found.photos, found.counted) == (13, 4)
    before = counted[0]
    assert len(before) == found.counted
    another = (255 * cloudy_images(1, (120, 120), 9)[0].permute(1, 2, 0)).byte().numpy()
    for path in photos:
        original = Path(path).read_bytes()
        save(another, Path(path))
        calibrate(model, photos, 0.5)
        assert (np.abs(np.subtract(counted[-2], before)) > 1e-6).sum() <= 1
        Path(path).write_bytes(original)


def test_promised_rate_holds_over_many_splits_of_scored_photos():
    """Scores of a real model, with partners: computed once for all pairs, drawn as calibration and prediction do."""
    model, generator = detector(num_references=1), np.random.default_rng(0)
    model.set_class_name("plate")
    count, rate, draws = 80, 0.1, 1500
    encoded = model.model.encode(model.pre_process(cloudy_images(count)))
    references = encoded.patches.unsqueeze(1).expand(-1, count, -1, -1)
    scores = torch.stack([model.model.score(encoded, [each]).pred_score for each in references], dim=1).numpy()
    alarms = []
    for _ in range(draws):
        order = generator.permutation(count)
        old, new = order[:58].reshape(-1, 2), order[58:].reshape(-1, 2)
        threshold = conformal_threshold(scores[old[:, 0], old[:, 1]].tolist(), rate)
        alarms.append((scores[new[:, 0], new[:, 1]] > threshold).mean())
    error = np.std(alarms) / np.sqrt(draws)
    assert rate - 1 / 30 - 3 * error <= np.mean(alarms) <= rate + 3 * error


def test_outliers_are_found_among_enough_photos():
    scores = [GoodScore(f"{index}.png", 0.3 + 0.001 * index, 0.5, True) for index in range(9)]
    odd = [GoodScore("worst.png", 0.9, 0.5, False), GoodScore("bad.png", 0.8, 0.5, True)]
    assert find_suspicious([*odd, *scores]) == (("worst.png", 0.9), ("bad.png", 0.8))
    assert find_suspicious(scores) == ()
    assert find_suspicious([*odd, *scores[:5]]) == ()


def test_unusable_photos_are_passed_over_until_there_are_too_few(good):
    for index in range(2):
        (good / f"broken_{index}.png").write_text("no image")
    passed_over = []
    model = detector(num_references=0)
    found = calibrate(model, photos_of(good), 0.1, pass_over=passed_over.append)
    assert found.photos == 13
    assert sorted(Path(each.path).name for each in passed_over) == ["broken_0.png", "broken_1.png"]
    # 15 files allow 0.07, 13 photos do not.
    with pytest.raises(TooFewPhotosError, match=r"1[34], and it takes 14"):
        calibrate(model, photos_of(good), 0.07)


def test_thresholds_do_not_depend_on_what_the_model_has_seen(good):
    model, fresh = detector(), detector()
    predict(model, good.parent, data_path=good)
    model.post_processor._image_threshold.fill_(0.5)
    model.post_processor.image_min.fill_(0.2)
    found, expected = (calibrate(each, photos_of(good), 0.2) for each in (model, fresh))
    assert (found.threshold, found.map_threshold) == (expected.threshold, expected.map_threshold)


def test_progress_reaches_its_end(good):
    told = []
    calibrate(detector(num_references=0), photos_of(good), 0.2, progress=lambda *each: told.append(each))
    assert told == [(done, 13) for done in range(14)]
