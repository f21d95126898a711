"""A set of images is scored as each other's references, and as nothing else."""

import io
import threading
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from dual_image_clip.defects import small_map
from dual_image_clip.photos import UnusableImageError
from dual_image_clip.streaming import StreamingDetector
from dual_image_clip.ui.scorer import Scorer
from tests.drawn_data import draw_plate, save
from tests.helpers import tiny_model


@pytest.fixture
def plates(tmp_path: Path) -> list[str]:
    """Nine plates of three sizes, the last one with a spot."""
    sizes = [(80, 80), (64, 120), (100, 64)]
    return [
        str(save(draw_plate(index, sizes[index % 3], "spot" if index == 8 else None)[0], tmp_path / f"{index}.png"))
        for index in range(9)
    ]


def ignore(share, text):
    del share, text


def scores(outcome):
    return {each.path: each.score for each in outcome.predictions}


def test_without_references_scores_are_those_of_a_stream(plates):
    outcome = Scorer(tiny_model(num_references=0, adaptation_steps=0))(plates, "plate", ignore)
    detector = StreamingDetector(tiny_model(class_name="plate", adaptation_steps=0), references=0)
    assert scores(outcome) == pytest.approx({path.rsplit("/")[-1]: detector(path).score for path in plates})


def test_two_images_of_different_sizes_are_each_others_reference(plates):
    outcome = Scorer(tiny_model(num_references=1, adaptation_steps=0))(plates[:2], "plate", ignore)
    for first, second in (plates[:2], plates[1::-1]):
        detector = StreamingDetector(tiny_model(class_name="plate", adaptation_steps=0), references=1)
        detector(first)
        assert scores(outcome)[second.rsplit("/")[-1]] == pytest.approx(detector(second).score, abs=1e-6)
    assert [each.num_references for each in outcome.predictions] == [1, 1]


def test_as_many_references_as_there_are(plates):
    scorer = Scorer(tiny_model(num_references=5, adaptation_steps=0))
    assert {each.num_references for each in scorer(plates, "plate", ignore).predictions} == {5}
    assert {each.num_references for each in scorer(plates[:3], "plate", ignore).predictions} == {2}
    assert {each.num_references for each in scorer(plates[:1], "plate", ignore).predictions} == {0}


def test_highest_score_comes_first_and_lies_in_0_to_1(plates):
    found = [each.score for each in Scorer(tiny_model())(plates, "plate", ignore).predictions]
    assert found == sorted(found, reverse=True)
    assert len(set(found)) == 9
    assert min(found) > 0
    assert max(found) < 1


def test_threshold_is_that_of_the_label_free_rule(plates):
    outcome = Scorer(tiny_model())(plates, "plate", ignore)
    values = np.array([each.score for each in outcome.predictions])
    deviation = max(1.4826 * np.median(abs(values - np.median(values))), 0.01)
    assert outcome.threshold == pytest.approx(np.median(values) + 3.5 * deviation, abs=1e-5)
    assert [each.label == "anomalous" for each in outcome.predictions] == list(values > outcome.threshold)
    assert [bool(each.defects) for each in outcome.predictions] == list(values > outcome.threshold)


def test_threshold_of_the_model_wins(plates):
    outcome = Scorer(tiny_model(threshold=0.01))(plates[:2], "plate", ignore)
    assert outcome.threshold == pytest.approx(0.01)
    assert [each.label for each in outcome.predictions] == ["anomalous"] * 2


def test_few_images_stay_undecided(plates):
    outcome = Scorer(tiny_model())(plates[:7], "plate", ignore)
    assert outcome.threshold is None
    assert {each.label for each in outcome.predictions} == {"undecided"}


def test_a_set_leaves_nothing_behind(plates):
    scorer = Scorer(tiny_model())
    before = scorer(plates, "plate", ignore)
    scorer(plates[5:], "wooden spoon", ignore)
    after = scorer(plates, "plate", ignore)
    assert scores(after) == scores(before)
    assert after.threshold == before.threshold


def test_class_name_matters(plates):
    scorer = Scorer(tiny_model())
    assert scores(scorer(plates, "plate", ignore)) != scores(scorer(plates, "wooden spoon", ignore))


def test_broken_files_are_named_and_the_others_scored(plates, tmp_path):
    (tmp_path / "broken.png").write_text("no image")
    outcome = Scorer(tiny_model())([*plates[:2], str(tmp_path / "broken.png")], "plate", ignore)
    assert sorted(scores(outcome)) == ["0.png", "1.png"]
    assert [each.path for each in outcome.unusable] == ["broken.png"]
    assert outcome.total == 3


def test_nothing_but_broken_files(tmp_path):
    (tmp_path / "broken.png").write_text("no image")
    outcome = Scorer(tiny_model())([str(tmp_path / "broken.png")], "plate", ignore)
    assert not outcome.predictions
    assert len(outcome.unusable) == 1


def test_map_is_that_of_the_image(tmp_path):
    path = str(save(draw_plate(3, (64, 64), "spot")[0], tmp_path / "spot.png"))
    outcome = Scorer(tiny_model(num_references=0, adaptation_steps=0))([path], "plate", ignore)
    expected = StreamingDetector(tiny_model(class_name="plate", adaptation_steps=0), references=0)(path).anomaly_map
    np.testing.assert_allclose(outcome.predictions[0].sketch.anomaly_map.float(), small_map(expected), atol=1e-3)


def test_photo_and_map_keep_the_shape_of_the_image(tmp_path):
    path = str(save(draw_plate(3, (300, 1200))[0], tmp_path / "long.png"))
    sketch = Scorer(tiny_model(adaptation_steps=0))([path], "plate", ignore).predictions[0].sketch
    assert sketch.anomaly_map.shape == (12, 48)
    assert Image.open(io.BytesIO(sketch.photo)).size == (640, 160)


def test_two_users_do_not_mix(plates):
    scorer = Scorer(tiny_model())
    order = []

    def user(name):
        def record(share, text):
            del share, text
            order.append(name)
            time.sleep(0.01)

        scorer(plates[:4], name, record)

    users = [threading.Thread(target=user, args=[name]) for name in ("plate", "spoon")]
    for each in users:
        each.start()
    for each in users:
        each.join()
    changes = sum(one != other for one, other in pairwise(order))
    assert len(order) == 18
    assert changes == 1


# Golden samples


VISUAL_ONLY = {"adaptation_steps": 0, "num_references": 0, "lambda_2": 0.0, "lambda_3": 0.0, "lambda_5": 0.0}


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    for index in range(2):
        save(draw_plate(50 + index, (80, 80))[0], tmp_path / "golden" / f"{index}.png")
    return tmp_path / "golden"


def test_golden_samples_of_the_model_are_compared_with(plates, golden):
    scorer = Scorer(tiny_model(k_shot=2, few_shot_source=golden, **VISUAL_ONLY))
    detector = StreamingDetector(
        tiny_model(class_name="plate", k_shot=2, few_shot_source=golden, **VISUAL_ONLY), references=0
    )
    outcome = scorer(plates, "plate", ignore)
    assert scores(outcome) == pytest.approx({path.rsplit("/")[-1]: detector(path).score for path in plates}, abs=1e-6)
    assert {each.num_references for each in outcome.predictions} == {2} == {scorer.num_golden}


def test_what_one_accepts_is_golden_for_nobody_else(plates, golden):
    scorer = Scorer(tiny_model(k_shot=2, few_shot_source=golden, **VISUAL_ONLY))
    before = scores(scorer(plates, "plate", ignore))
    one, other = scorer.own_golden(), scorer.own_golden()
    assert scorer.accept(one, plates, "3.png")
    assert not scorer.accept(one, plates, "3.png")
    assert scorer.accept(other, plates, "4.png")
    of_one, of_other = (scores(scorer(plates, "plate", ignore, each)) for each in (one, other))
    assert of_one["3.png"] == pytest.approx(0, abs=1e-6) == of_other["4.png"]
    assert min(of_one["4.png"], of_other["3.png"], before["3.png"]) > 1e-3
    assert all(score <= before[name] + 1e-6 for each in (of_one, of_other) for name, score in each.items())
    assert scores(scorer(plates, "plate", ignore)) == before
    assert (scorer.num_golden, len(one), list(one.accepted)) == (2, 3, ["3.png"])


def test_an_upload_that_is_gone_cannot_be_accepted(plates):
    scorer = Scorer(tiny_model(**VISUAL_ONLY))
    own = scorer.own_golden()
    Path(plates[0]).unlink()
    for name in ("0.png", "never.png"):
        with pytest.raises(UnusableImageError, match=f"{name} is no longer there: add it again"):
            scorer.accept(own, plates, name)
    assert len(own) == 0


def test_each_upload_has_the_mask_of_its_name(tmp_path):
    """Turned with it, where it was drawn as the sensor lies."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    photo = tmp_path / "upload" / "a.jpg"
    photo.parent.mkdir()
    Image.fromarray(draw_plate(0, (64, 96))[0]).save(photo, exif=exif)
    other = save(draw_plate(1, (96, 64))[0], tmp_path / "upload" / "b.png")
    left = np.zeros((64, 96), np.uint8)
    left[:, :48] = 255
    save(left, tmp_path / "masks" / "a.png")
    scorer = Scorer(tiny_model(adaptation_steps=0, regions=tmp_path / "masks"))
    outcome = scorer([str(photo), str(other)], "plate", ignore)
    assert [each.path for each in outcome.unusable] == ["b.png"]
    assert "has no mask in" in outcome.unusable[0].reason
    (found,) = outcome.predictions
    heat = found.sketch.anomaly_map.float()
    assert heat.shape[0] > heat.shape[1]
    # The left of the sensor is above.
    half = heat.shape[0] // 2
    assert (heat[: half - 1] > 0).all()
    assert (heat[half + 1 :] == 0).all()
    own = scorer.own_golden()
    assert scorer.accept(own, [str(photo)], "a.jpg")


def test_a_threshold_is_known_before_only_if_it_was_given():
    assert Scorer(tiny_model()).threshold is None
    assert Scorer(tiny_model(threshold=0.25)).threshold == pytest.approx(0.25)


def test_pixels_have_a_threshold_of_their_own_where_one_was_calibrated():
    model = tiny_model(threshold=0.25)
    assert not Scorer(model).has_pixel_threshold
    model.post_processor.map_threshold = 0.2
    assert Scorer(model).has_pixel_threshold
