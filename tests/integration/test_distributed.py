"""Two processes on one machine share an evaluation."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.metrics import AUPRO
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from dual_image_clip.hooks.post_processing import robust_limit
from tests.drawn_data import draw_plate, make_category, make_photos, save
from tests.integration.commands import rows_of

# A user's script; Lightning runs it a second time for the other process. Every process writes down what it did.
SCRIPT = """
import json, os, sys
from pathlib import Path

import numpy as np
from anomalib.data import MVTecAD
from anomalib.engine import Engine
from lightning.pytorch import Callback

from dual_image_clip import DualImageCLIP
from dual_image_clip.weights.backbone import EMBEDDED

folder = Path(sys.argv[1])


class Notes(Callback):
    def __init__(self):
        self.batches = {"validate": [], "test": [], "predict": []}

    def on_validation_batch_end(self, trainer, module, outputs, batch, *args):
        self.batches["validate"].append(batch)

    def on_test_batch_end(self, trainer, module, outputs, batch, *args):
        self.batches["test"].append(batch)

    def on_predict_batch_end(self, trainer, module, outputs, batch, *args):
        self.batches["predict"].append(batch)


def run(name, action):
    notes, model = Notes(), DualImageCLIP(backbone=EMBEDDED, adaptation_steps=0)
    compare, compared = model.model.compare, []
    model.model.compare = lambda images, names, *others: compared.extend(names) or compare(images, names, *others)
    engine = Engine(
        default_root_dir=folder / "results" / name, accelerator="cpu", devices=2, strategy="ddp",
        enable_progress_bar=False, callbacks=[notes],
    )
    result = action(engine, model)
    items = {stage: [item for batch in batches for item in batch] for stage, batches in notes.batches.items()}
    rank = os.environ["LOCAL_RANK"]
    written = {
        "paths": {stage: [item.image_path for item in found] for stage, found in items.items()},
        "compared": compared,
        "scores": {item.image_path: float(item.pred_score) for item in items["test"] + items["predict"]},
        "metrics": result[0] if items["test"] else None,
        "labels": {batch.image_path[0]: bool(batch.pred_label) for batch in result} if items["predict"] else None,
        "thresholds": [float(model.post_processor.image_threshold), float(model.post_processor.pixel_threshold)],
    }
    (folder / f"{name}-{rank}.json").write_text(json.dumps(written))
    if items["test"]:
        np.savez(
            folder / f"{name}-{rank}.npz",
            paths=written["paths"]["test"],
            labels=[bool(item.gt_label) for item in items["test"]],
            scores=[float(item.pred_score) for item in items["test"]],
            maps=np.stack([item.anomaly_map.numpy() for item in items["test"]]),
            masks=np.stack([item.gt_mask.numpy() > 0 for item in items["test"]]),
        )


def test(name, **arguments):
    data = MVTecAD(root=folder / name, num_workers=0, eval_batch_size=2, **arguments)
    run(name, lambda engine, model: engine.test(model=model, datamodule=data, verbose=False))


def predict(name):
    run(name, lambda engine, model: engine.predict(model=model, data_path=folder / name))


if __name__ == "__main__":
    test("test7")
    test("test3")
    test("unvalidated3", val_split_mode="none")
    predict("photos11")
    predict("photos2")
"""
TESTS = ["test7", "test3"]
PHOTOS = ["photos11", "photos2"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Everything that the two processes wrote."""
    folder = tmp_path_factory.mktemp("distributed")
    make_category(folder / "test7" / "bottle", normal=3, defective=2)
    # A good image that looks defective makes figures that depend on how often each image counts.
    save(draw_plate(7, defect="spot")[0], folder / "test7" / "bottle" / "test" / "good" / "000.png")
    make_category(folder / "test3" / "bottle", normal=1, defective=1)
    make_category(folder / "unvalidated3" / "bottle", normal=1, defective=1)
    make_photos(folder / "photos11", normal=10, defective=1)
    make_photos(folder / "photos2", normal=1, defective=1)
    script = save_script(folder)
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, script, folder], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    notes = {
        name: [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in (0, 1)]
        for name in [*TESTS, *PHOTOS, "unvalidated3"]
    }
    return SimpleNamespace(folder=folder, notes=notes, log=done.stdout + done.stderr)


def save_script(folder: Path) -> Path:
    script = folder / "script.py"
    script.write_text(SCRIPT)
    return script


def images(folder: Path) -> list[str]:
    return sorted(map(str, folder.rglob("*.png")))


def gathered(runs: SimpleNamespace, name: str) -> dict[str, np.ndarray]:
    """What both processes found, each image once."""
    parts = [np.load(runs.folder / f"{name}-{rank}.npz") for rank in (0, 1)]
    both = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    _, once = np.unique(both["paths"], return_index=True)
    return {key: values[once] for key, values in both.items()}


def largest_f1(truth: np.ndarray, scores: np.ndarray) -> float:
    precision, recall, _ = precision_recall_curve(truth, scores)
    return float(np.max(2 * precision * recall / np.maximum(precision + recall, 1e-10)))


@pytest.mark.parametrize("name", TESTS + PHOTOS)
def test_every_image_is_scored_by_exactly_one_process(runs, name):
    where = f"{name}/bottle/test" if name in TESTS else name
    for stage in ("validate", "test") if name in TESTS else ("predict",):
        shares = [note["paths"][stage] for note in runs.notes[name]]
        assert Counter(shares[0] + shares[1]) == Counter(images(runs.folder / where))
        assert all(shares)
    # Those of a validation are not compared again in the test.
    compared = [note["compared"] for note in runs.notes[name]]
    assert Counter(compared[0] + compared[1]) == Counter(images(runs.folder / where))


def test_a_test_without_validation_images_is_shared_as_well(runs):
    notes = runs.notes["unvalidated3"]
    assert [note["paths"]["validate"] for note in notes] == [[], []]
    shares = [note["paths"]["test"] for note in notes]
    assert Counter(shares[0] + shares[1]) == Counter(images(runs.folder / "unvalidated3" / "bottle" / "test"))
    assert notes[0]["metrics"] == notes[1]["metrics"]


@pytest.mark.parametrize("name", TESTS + PHOTOS)
def test_every_image_has_one_heatmap(runs, name):
    drawn = [Path(path) for path in images(runs.folder / "results" / name)]
    scored = [Path(path) for note in runs.notes[name] for path in note["scores"]]
    # Of a folder of photos, heatmaps lie below the common folder; of a data set, in folders of defects.
    parts = slice(-1, None) if name in PHOTOS else slice(-2, None)
    assert Counter(path.parts[parts] for path in drawn) == Counter(path.parts[parts] for path in scored)


@pytest.mark.parametrize("name", TESTS)
def test_metrics_are_those_of_all_images_on_both_processes(runs, name):
    one, other = runs.notes[name]
    assert one["metrics"] == other["metrics"]
    assert one["thresholds"] == other["thresholds"]
    assert np.isfinite(one["thresholds"]).all()
    found = gathered(runs, name)
    aupro = AUPRO(fields=["anomaly_map", "gt_mask"])
    maps, masks = torch.from_numpy(found["maps"]), torch.from_numpy(found["masks"])
    aupro.update(ImageBatch(image=torch.zeros(len(maps), 3, *maps.shape[1:]), anomaly_map=maps, gt_mask=masks))
    pixels, truth = found["maps"].ravel(), found["masks"].ravel()
    expected = {
        "image_AUROC": roc_auc_score(found["labels"], found["scores"]),
        "image_F1Max": largest_f1(found["labels"], found["scores"]),
        "image_AUPR": average_precision_score(found["labels"], found["scores"]),
        "pixel_AUROC": roc_auc_score(truth, pixels),
        "pixel_F1Max": largest_f1(truth, pixels),
        "pixel_AUPRO": float(aupro.compute()),
    }
    assert one["metrics"] == pytest.approx(expected, abs=1e-5)


def test_no_image_goes_without_reference(runs):
    # With two photos each process has a single one, and with three images one of them has.
    assert "has no other image to be compared with" not in runs.log


def test_labels_of_photos_take_the_images_of_both_processes_into_account(runs):
    labels = {path: label for note in runs.notes["photos11"] for path, label in note["labels"].items()}
    scores = {path: score for note in runs.notes["photos11"] for path, score in note["scores"].items()}
    limit = robust_limit(torch.tensor(list(scores.values())), z_score=3.5, smallest_deviation=0.01)
    assert labels == {path: score > limit for path, score in scores.items()}
    # Neither process alone had the eight images that a label takes.
    assert all(len(note["labels"]) < 8 for note in runs.notes["photos11"])
    assert [Path(path).stem for path, label in labels.items() if label] == ["spoilt_000"]


def test_list_and_report_hold_the_images_of_both_processes(runs):
    (path,) = (runs.folder / "results" / "photos11").rglob("predictions.csv")
    rows = rows_of(path)
    expected = {path: label for note in runs.notes["photos11"] for path, label in note["labels"].items()}
    assert {row["path"]: row["label"] == "anomalous" for row in rows} == expected
    assert path.with_name("report.html").read_text().count('<li class="card') == 11
