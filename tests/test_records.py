"""What programs are told about a photo."""

import json

import torch

from dual_image_clip.defects import find_defects
from dual_image_clip.one_image import OneScore
from dual_image_clip.records import defect_record, score_record

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
