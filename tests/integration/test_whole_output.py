"""Every line that the commands print, with only times, paths and numbers of many digits made the same everywhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dual_image_clip.weights import EMBEDDED
from tests.drawn_data import make_photos, save

BIN = Path(sys.executable).parent
MODEL = ["--model", "DualImageCLIP", "--model.backbone", EMBEDDED, "--model.adaptation_steps", "0"]
DEMO = (
    f"{EMBEDDED} is a small demonstration model, trained on drawn images and pieces of eighteen photographs. It is not "
    "CLIP: use it to try the package, and ViT-B-16-plus-240 with laion400m_e32 to find defects."
)
# What anomalib's imports say, with any model.
_OF_IMPORTS = ("timm.models.layers", "anomalib.models.image.dinomaly.components.layers")
_SAME = (
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}", "TIME"),
    (r"━+ (\d+/\d+) [\d:]+ • [\d:]+ [\d.]+it/s", r"BAR \1"),
    (r"Testing took [\d.]+ seconds", "Testing took N seconds"),
    (r": [\d.]+ FPS", ": N FPS"),
    (r"0\.\d{9,}", lambda number: f"{float(number[0]):.1f}".ljust(len(number[0]))),
    (r"│ +(\S+) +│ +(\S+) +│", r"\1 \2"),
)


def whole_output(command: list, **environment: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    environment |= {"COLUMNS": "80", "CUDA_VISIBLE_DEVICES": ""}
    environment["PYTHONWARNINGS"] = ",".join(f"ignore::FutureWarning:{module}" for module in _OF_IMPORTS)
    result = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, check=False, env=os.environ | environment
    )
    return result.returncode, same_everywhere(result.stdout), same_everywhere(result.stderr)


def same_everywhere(text: str) -> str:
    text = text.replace(str(Path.cwd()), "HERE")
    for pattern, replacement in _SAME:
        text = re.sub(pattern, replacement, text)
    return "\n".join(line.rstrip() for line in text.splitlines())


@pytest.fixture
def spoilt_photos(workspace: Path) -> Path:
    """Eleven photos, and two files that are of no use."""
    folder = make_photos(workspace / "photos")
    (folder / "broken.png").write_text("not an image")
    save(np.zeros((8, 40, 3), dtype=np.uint8), folder / "speck.png")
    return folder


UNUSABLE = """\
2 file(s) could not be used:
  {0}/broken.png: cannot be read as an image (cannot identify image file)
  {0}/speck.png: has 8×40 pixels, less than one 16×16 patch"""


def test_own_command(spoilt_photos):
    arguments = ["--class-name", "plate", "--backbone", EMBEDDED, "--adaptation-steps", "0", "--output", "out"]
    code, out, err = whole_output([BIN / "dual-image-clip", "predict", "photos", *arguments])
    assert code == 0
    # Of two good photos, another processor may find the other more suspicious.
    assert re.sub(r"0\.\d{3}", "SCORE", re.sub(r"plate_\d{3}", "plate_N", out)) == "\n".join(
        [
            "11 images, 1 anomalous",
            "Most suspicious:",
            "  SCORE  anomalous  photos/spoilt_000.png",
            "  SCORE  normal  photos/plate_N.png",
            "  SCORE  normal  photos/plate_N.png",
            "Results: out/report.html, predictions.csv, defects.csv, annotations.json; heatmaps: out/images",
        ]
    )
    assert err == "\n".join([DEMO, "Predicting BAR 13/13", UNUSABLE.format("photos")])


def test_predict_of_the_stock_command(spoilt_photos):
    code, out, err = whole_output([BIN / "anomalib", "predict", *MODEL, "--data", "photos"])
    assert (code, out) == (0, "")
    results = "HERE/results/DualImageCLIP/latest"
    assert err == "\n".join(
        [
            f"TIME - dual_image_clip.weights.backbone - WARNING - {DEMO}",
            "GPU available: False, used: False",
            "Predicting BAR 13/13",
            f"TIME - dual_image_clip.prediction.result_files - WARNING - {UNUSABLE.format('HERE/photos')}",
            "TIME - dual_image_clip.prediction.result_files - INFO - Results: "
            f"{results}/predictions.csv, {results}/defects.csv, {results}/annotations.json, {results}/report.html",
        ]
    )


@pytest.mark.parametrize("masks", [True, False])
def test_test_of_the_stock_command(masks, mvtec):
    data = ["MVTec"]
    if not masks:
        folders = {"root": mvtec / "bottle" / "test", "normal_dir": "good", "abnormal_dir": "spot"}
        settings = {"name": "plates", "normal_test_dir": "good", "val_split_mode": "same_as_test", **folders}
        data = ["Folder", *(part for name, value in settings.items() for part in (f"--data.{name}", value))]
    code, out, err = whole_output([BIN / "anomalib", "test", *MODEL, "--data", *data, "--data.num_workers", "0"])
    assert code == 0
    figures = ["image_AUPR 1.0", "image_AUROC 1.0", "image_F1Max 1.0"]
    if masks:
        figures += ["pixel_AUPRO 1.0", "pixel_AUROC 1.0", "pixel_F1Max 0.6"]
    assert out.splitlines() == [
        "┏━━━━━━━━━━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━━━━━━━━━━━━━━┓",
        "┃        Test metric        ┃       DataLoader 0        ┃",
        "┡━━━━━━━━━━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━━━━━━━━━━━━━━┩",
        *figures,
        "└───────────────────────────┴───────────────────────────┘",
    ]
    assert err == "\n".join(
        [
            f"TIME - dual_image_clip.weights.backbone - WARNING - {DEMO}",
            "GPU available: False, used: False",
            "TIME - anomalib.engine.engine - INFO - Running validation before testing to collect normalization metrics "
            "and/or thresholds.",
            "Validation BAR 1/1",
            "TIME - anomalib.callbacks.timer - INFO - Testing took N seconds",
            "Throughput (batch_size=None) : N FPS",
            "Testing BAR 1/1",
        ]
    )


def test_a_mistake_in_the_stock_command(photos):
    command = [BIN / "anomalib", "predict", *MODEL, "--data", photos, "--model.num_references", "50"]
    code, out, err = whole_output(command)
    assert (code, out) == (1, "")
    *_, last = err.splitlines()
    assert last.startswith("anomalib: error: num_references=50, but there are 11 images")
    assert last.endswith("(DUAL_IMAGE_CLIP_DEBUG=1 shows where)")
    assert len(err.splitlines()) == 4
    code, out, err = whole_output(command, DUAL_IMAGE_CLIP_DEBUG="1")
    assert code == 1
    assert "Traceback (most recent call last)" in err
    assert "require_enough_images" in err
