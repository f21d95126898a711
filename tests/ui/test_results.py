"""What the page shows, against values worked out by hand."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from dual_image_clip.photos import UnusableFile
from dual_image_clip.prediction import ColourScale, Outcome, Prediction, Sketch, draw_overlay
from dual_image_clip.ui.results import caption, gallery, golden_samples, problem, relabel, summary, table


def make_sketch(values) -> Sketch:
    file = io.BytesIO()
    Image.new("RGB", (64, 32), (90, 120, 150)).save(file, "JPEG", quality=95)
    return Sketch(file.getvalue(), torch.tensor(values).half())


def make_outcome(threshold: float | None = 0.5) -> Outcome:
    """Scores 0.75, 0.5 and 0.25."""
    maps = ([[0.0, 0.8]], [[0.1, 0.1]], [[0.0, 0.4]])
    predictions = [
        Prediction(f"{index}.png", 0.75 - 0.25 * index, "normal", 1, make_sketch(values))
        for index, values in enumerate(maps)
    ]
    return Outcome(predictions, {"": threshold}, [], 3)


@pytest.mark.parametrize(
    ("threshold", "labels"),
    [
        (0.0, ["anomalous", "anomalous", "anomalous"]),
        (0.3, ["anomalous", "anomalous", "normal"]),
        (0.5, ["anomalous", "normal", "normal"]),
        (1.0, ["normal", "normal", "normal"]),
    ],
)
def test_relabel(threshold, labels):
    outcome = relabel(make_outcome(), threshold)
    assert [each.label for each in outcome.predictions] == labels
    assert outcome.threshold == threshold
    assert outcome.num_anomalous == labels.count("anomalous")


def test_overlay_is_photo_at_0_heat_at_1_and_a_mixture_between():
    sketch, scale = make_sketch([[0.0, 1.0]]), ColourScale(0.0, 1.0)
    photo, mixture, heat = (np.asarray(draw_overlay(sketch, scale, alpha)).astype(float) for alpha in (0, 0.25, 1))
    np.testing.assert_allclose(photo, np.broadcast_to([90, 120, 150], photo.shape), atol=2)
    red, _, blue = heat[16, 0]
    assert blue > red + 100
    red, _, blue = heat[16, 63]
    assert red > blue + 100
    np.testing.assert_allclose(mixture, 0.75 * photo + 0.25 * heat, atol=1)


def test_colours_mean_the_same_in_all_pictures():
    pictures = [np.asarray(picture).astype(int) for picture, _ in gallery(make_outcome(), 1.0)]
    hottest = [picture[16, 63, 0] - picture[16, 63, 2] for picture in pictures]
    # 0.8 is the largest value of all and red; 0.4 of another image is not, though it is the largest there.
    assert hottest[0] > 100
    assert hottest[2] < hottest[0] - 50
    assert hottest[1] < hottest[2]


def test_defects_follow_the_threshold_and_are_outlined():
    plain = make_outcome()._replace(predictions=[each._replace(size=(320, 640)) for each in make_outcome().predictions])
    strict, lenient = relabel(plain, 0.6), relabel(plain, 0.3)
    # Of the first image, the right half has its score; of the second, both have.
    assert [len(each.defects) for each in strict.predictions] == [1, 0, 0]
    assert [len(each.defects) for each in lenient.predictions] == [1, 1, 0]
    left, top, width, height = strict.predictions[0].defects[0].box
    assert (left > 320, top, left + width, height) == (True, 0, 640, 320)
    for outcome in (strict, lenient):
        for each, (drawn, _), (empty, _) in zip(
            outcome.predictions, gallery(outcome, 0.5), gallery(plain, 0.5), strict=True
        ):
            assert (drawn.tobytes() != empty.tobytes()) == bool(each.defects)


def test_defects_stay_where_pixels_have_a_threshold_of_their_own():
    found = relabel(make_outcome(), 0.3)
    moved = relabel(found, 0.6, pixels_follow=False)
    assert [each.label for each in moved.predictions] == ["anomalous", "normal", "normal"]
    assert [each.defects for each in moved.predictions] == [each.defects for each in found.predictions]
    assert any(each.defects for each in moved.predictions)


def test_captions_are_in_order():
    captions = [text for _, text in gallery(relabel(make_outcome(), 0.5), 0.5)]
    assert captions == ["0.png: 0.750, anomalous", "1.png: 0.500, normal", "2.png: 0.250, normal"]
    assert caption(make_outcome().predictions[2]._replace(label="undecided")) == "2.png: 0.250, undecided"


def test_table():
    assert table(relabel(make_outcome(), 0.5)) == [
        ["1", "0.png", "0.750", "anomalous"],
        ["2", "1.png", "0.500", "normal"],
        ["3", "2.png", "0.250", "normal"],
    ]


def test_summary_counts_and_names_what_is_missing():
    outcome = relabel(make_outcome(), 0.3)._replace(unusable=[UnusableFile("<b>.png", "is <i>broken</i>")])
    text = summary(outcome)
    assert "3 images scored, 2 anomalous" in text
    assert "&lt;b&gt;.png is &lt;i&gt;broken&lt;/i&gt;." in text
    assert "<i>" not in text
    assert "slider" not in text


def test_summary_of_few_images():
    assert "move the slider" in summary(make_outcome(threshold=None))
    alone = make_outcome()._replace(predictions=make_outcome().predictions[:1])
    assert "1 image scored" in summary(alone)
    assert "text alone" in summary(alone)


def test_problem_is_text():
    assert "&lt;b&gt;" in problem("<b>")


def test_golden_samples_are_counted():
    assert golden_samples(0, 0) == "<strong>0 golden samples.</strong>"
    assert golden_samples(1, 0) == "<strong>1 golden sample.</strong>"
    assert golden_samples(3, 2).startswith("<strong>5 golden samples.</strong> 2 accepted here: yours alone,")
