"""A small study with made-up rows: three methods, three categories, three seeds."""

import numpy as np
import pytest

from benchmarks.paper.plan import Setting, Study
from benchmarks.paper.results import METRICS, Row

SETTINGS = {
    "CLIP": Setting("clip"),
    "Ours": Setting("ours", adaptation_steps=0),
    "Ours+": Setting("ours", adaptation_steps=2),
}


@pytest.fixture
def study():
    published = {
        "MVTecAD": {
            "CLIP": {"pixel_AUROC": 19.5, "image_AUROC": 74.0},
            "Ours+": {"pixel_AUROC": "92.8 ± 0.2"},
            "MuSc": {"image_AUROC": 97.8},
        }
    }
    order = [["CLIP", "Ours", "Ours+"], ["CLIP", "Ours+"]]
    return Study("Table 1", rows=SETTINGS, order=order, published=published)


@pytest.fixture
def curve():
    published = {"MVTecAD": {"1": {"pixel_AUROC": 50.0}, "4": {"pixel_AUROC": 60.0}}}
    rows = dict(zip("012", SETTINGS.values(), strict=True))
    return Study("Figure 5a", "curve", rows=rows, published=published, x_label="reference images")


@pytest.fixture
def rows():
    """CLIP has one seed, the others three."""
    chance = np.random.default_rng(0)
    return [
        Row(
            dataset, category, setting.key, seed, dict(zip(METRICS, chance.uniform(0, 1, 6).tolist(), strict=True)), 1.5
        )
        for dataset in ("MVTecAD", "Procedural")
        for category in ("bottle", "metal_nut", "screw")
        for setting in SETTINGS.values()
        for seed in range(1 if setting.method == "clip" else 3)
    ]
