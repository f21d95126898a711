"""A small study with made-up rows: three methods, three categories, three seeds."""

import numpy as np
import pytest

from benchmarks.paper.report.study import Study
from benchmarks.paper.results import METRICS, Row

LABELS = {"CLIP": "clip()", "Ours": "ours(steps=0)", "Ours+": "ours(steps=2)"}


@pytest.fixture
def study():
    published = {
        "MVTecAD": {
            "CLIP": {"pixel_AUROC": 19.5, "image_AUROC": 74.0},
            "Ours+": {"pixel_AUROC": "92.8 ± 0.2"},
            "MuSc": {"image_AUROC": 97.8},
        }
    }
    return Study(
        "table1", "Table 1", "table", METRICS, LABELS, published, order=(("CLIP", "Ours", "Ours+"), ("CLIP", "Ours+"))
    )


@pytest.fixture
def curve():
    published = {"MVTecAD": {"1": {"pixel_AUROC": 50.0}, "4": {"pixel_AUROC": 60.0}}}
    labels = {"0": "clip()", "1": "ours(steps=0)", "2": "ours(steps=2)"}
    return Study("fig5a", "Figure 5a", "curve", METRICS, labels, published, x_label="reference images")


@pytest.fixture
def rows():
    """CLIP has one seed, the others three."""
    chance = np.random.default_rng(0)
    return [
        Row(dataset, category, setting, seed, dict(zip(METRICS, chance.uniform(0, 1, 6).tolist(), strict=True)), 1.5)
        for dataset in ("MVTecAD", "Procedural")
        for category in ("bottle", "metal_nut", "screw")
        for setting in LABELS.values()
        for seed in range(1 if setting == "clip()" else 3)
    ]
