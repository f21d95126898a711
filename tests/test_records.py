"""What programs are told about a photo."""

import json
from pathlib import Path

import torch

from dual_image_clip.defects import find_defects
from dual_image_clip.one_image import OneScore
from dual_image_clip.photos import UnusableFile
from dual_image_clip.prediction import Outcome, Prediction, make_sketch
from dual_image_clip.records import defect_record, outcome_record, score_record

SIZE = (20, 30)


def spots() -> torch.Tensor:
    scores = torch.zeros(SIZE)
    scores[2:5, 10:16], scores[15, 3] = 0.7, 0.9
    return scores


def test_a_defect_is_told_in_pixels_of_the_photo():
    first, second = find_defects(spots(), 0.5, SIZE)
    assert defect_record(first) == {
        **{"left": 3, "top": 15, "width": 1, "height": 1, "area": 1},
        **{"share": 1 / 600, "largest": 0.9, "mean": 0.9},
    }
    assert defect_record(second) == {
        **{"left": 10, "top": 2, "width": 6, "height": 3, "area": 18},
        **{"share": 0.03, "largest": 0.7, "mean": 0.7},
    }


def record(score: float, label: bool, threshold: float) -> dict:
    defects = find_defects(spots(), threshold, SIZE)
    return score_record("a.png", OneScore(score, label, spots(), threshold, 3, defects), SIZE)


def test_a_photo_is_told_with_its_defects():
    found = record(0.9, True, 0.5)
    assert json.loads(json.dumps(found)) == found
    assert [each["area"] for each in found.pop("defects")] == [1, 18]
    assert found == {
        **{"name": "a.png", "width": 30, "height": 20, "score": 0.9, "label": "anomalous", "threshold": 0.5},
        "num_references": 3,
    }
    assert record(0.4, False, 0.95)["label"] == "normal"


def test_without_a_threshold_there_is_no_label():
    found = record(0.9, False, 1.0)
    assert found["label"] is None
    assert found["threshold"] is None
    assert found["defects"] == []


def prediction(name: str, score: float, label: str, **others) -> Prediction:
    return Prediction(name, score, label, 2, make_sketch(torch.rand(3, 20, 30), spots()), size=SIZE, **others)


def test_a_run_is_told_as_its_photos_are():
    defects = find_defects(spots(), 0.5, SIZE)
    found = [
        prediction("b.png", 0.9, "anomalous", defects=defects, heatmap="images/b.png"),
        prediction("a.png", 0.4, "normal"),
    ]
    outcome = Outcome(found, {"": 0.5}, [UnusableFile("c.png", "is broken")], 5)
    told = outcome_record(outcome, {"report.html": Path("out/report.html")})
    assert json.loads(json.dumps(told)) == told
    first, second = told.pop("images")
    assert first.pop("heatmap") == "images/b.png"
    assert first == score_record("b.png", OneScore(0.9, True, spots(), 0.5, 2, defects), SIZE)
    assert (second["label"], second["heatmap"], second["defects"]) == ("normal", None, [])
    assert told == {
        **{"anomalous": 1, "left_out": 2, "files": {"report.html": "out/report.html"}},
        "unusable": [{"name": "c.png", "reason": "is broken"}],
    }


def test_photos_of_several_products_are_told_with_theirs():
    found = [prediction("a.png", 0.9, "undecided", product="cable"), prediction("b.png", 0.3, "normal", product="nut")]
    told = outcome_record(Outcome(found, {"cable": None, "nut": 0.5}, [], 2), {})["images"]
    assert [(each["product"], each["label"], each["threshold"]) for each in told] == [
        ("cable", None, None),
        ("nut", "normal", 0.5),
    ]
