"""What is said about a photo, for programs: plain types that JSON has, the same wherever photos are scored."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dual_image_clip.defects import Defect
from dual_image_clip.one_image import OneScore
from dual_image_clip.prediction import Outcome, Prediction

_DIGITS = 6


def defect_record(defect: Defect) -> dict[str, Any]:
    """Describes a defect.

    Args:
        defect: The defect.

    Returns:
        ``left``, ``top``, ``width`` and ``height`` of its box and ``area`` in pixels of the photo, ``share`` of the
        photo's pixels, ``largest`` and ``mean`` score of its pixels.
    """
    left, top, width, height = defect.box
    return {
        **{"left": left, "top": top, "width": width, "height": height, "area": defect.area},
        "share": defect.share,
        "largest": _rounded(defect.largest),
        "mean": _rounded(defect.mean),
    }


def score_record(name: str, score: OneScore, size: tuple[int, int]) -> dict[str, Any]:
    """Describes what was found in a photo.

    Args:
        name: What its user calls the photo.
        score: What was found.
        size: Its height and width in pixels.

    Returns:
        ``name``, ``width``, ``height``, ``score``, ``label`` (``"normal"`` or ``"anomalous"``), ``threshold``,
        ``num_references`` and ``defects``; label and threshold are ``None`` as long as there is no threshold.
    """
    # A threshold of 1, above which there is no score, stands for none.
    undecided = score.threshold >= 1
    return {
        "name": name,
        "width": size[1],
        "height": size[0],
        "score": _rounded(score.score),
        "label": None if undecided else "anomalous" if score.label else "normal",
        "threshold": None if undecided else _rounded(score.threshold),
        "num_references": score.num_references,
        "defects": [defect_record(each) for each in score.defects],
    }


def outcome_record(outcome: Outcome, files: Mapping[str, Path]) -> dict[str, Any]:
    """Describes what was found in the photos of a run.

    Args:
        outcome: What was found.
        files: Files that were written, by name.

    Returns:
        ``images``, each as :func:`score_record` has it, with ``heatmap`` and, where there are several products,
        ``product``, the highest score (of each product) first; the number of those that are ``anomalous``;
        ``unusable`` files, ``name`` and ``reason`` of each; the number of those ``left_out`` by an early end; and
        ``files`` by their name.
    """
    return {
        "images": [_prediction_record(each, outcome) for each in outcome.predictions],
        "anomalous": outcome.num_anomalous,
        "unusable": [{"name": each.path, "reason": each.reason} for each in outcome.unusable],
        "left_out": outcome.num_left_out,
        "files": {name: str(path) for name, path in files.items()},
    }


def _prediction_record(prediction: Prediction, outcome: Outcome) -> dict[str, Any]:
    threshold = outcome.threshold_of(prediction)
    return {
        "name": prediction.path,
        **({"product": prediction.product} if outcome.has_products else {}),
        "width": prediction.size[1],
        "height": prediction.size[0],
        "score": _rounded(prediction.score),
        "label": None if threshold is None else prediction.label,
        "threshold": None if threshold is None else _rounded(threshold),
        "num_references": prediction.num_references,
        "defects": [defect_record(each) for each in prediction.defects],
        "heatmap": prediction.heatmap or None,
    }


def _rounded(value: float) -> float:
    return round(float(value), _DIGITS)
