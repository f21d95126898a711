"""What is said about a photo, for programs: plain types that JSON has, the same wherever photos are scored."""

from typing import Any

from dual_image_clip.defects import Defect
from dual_image_clip.one_image import OneScore

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


def _rounded(value: float) -> float:
    return round(float(value), _DIGITS)
