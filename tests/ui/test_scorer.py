"""A set of images is scored as each other's references, and as nothing else."""

import io
import threading
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dual_image_clip.defects import small_map
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
