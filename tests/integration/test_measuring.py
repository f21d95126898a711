"""What is measured, and what masks show: of images of all sizes, without defects or masks, and by exported files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import Folder, ImageBatch
from anomalib.metrics import AUROC, Evaluator
from sklearn.metrics import roc_auc_score

from dual_image_clip import DualImageCLIP
from tests.drawn_data import draw_plate, make_photos, save
from tests.helpers import cloudy_images, make_data, make_engine, make_model, predict, tiny_model

METRICS = {
    f"{kind}_{name}" for kind, third in (("image", "AUPR"), ("pixel", "AUPRO")) for name in ("AUROC", "F1Max", third)
}
SIZES = [(120, 120), (100, 150), (160, 110)]


@pytest.fixture
def plates(workspace: Path) -> Path:
    """Plates of several sizes, the defective ones with masks."""
    for index, size in enumerate(SIZES * 2):
        save(draw_plate(index, size)[0], workspace / "good" / f"{index}.png")
    for index, size in enumerate(SIZES):
        image, mask = draw_plate(50 + index, size, "spot")
        save(image, workspace / "bad" / f"{index}.png")
        save(mask, workspace / "masks" / f"{index}_mask.png")
    return workspace


def folder_data(root: Path, **arguments) -> Folder:
    """Good plates twice, to choose references from and to measure, and by default defective ones with masks."""
    defective = {"abnormal_dir": root / "bad", "mask_dir": root / "masks"}
    settings = {"normal_dir": root / "good", "normal_test_dir": root / "good", "val_split_mode": "same_as_test"}
    return Folder(name="plates", num_workers=0, **{**settings, **defective, **arguments})


def plain_model(**arguments) -> DualImageCLIP:
    return make_model(**{"adaptation_steps": 0, **arguments})


def metrics_of(model: DualImageCLIP, data: Folder, folder: Path) -> dict[str, float]:
    return make_engine(folder).test(model=model, datamodule=data, verbose=False)[0]


# Sizes


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_images_of_several_sizes_are_measured_together(batch_size, plates, tmp_path):
    data = {"eval_batch_size": batch_size}
    found = metrics_of(plain_model(), folder_data(plates, **data), tmp_path)
    assert set(found) == METRICS
    items = predict(plain_model(), tmp_path, datamodule=folder_data(plates, **data)).values()
    assert len({item.anomaly_map.shape for item in items}) > 1
    masks = np.concatenate([item.gt_mask.numpy().ravel() for item in items])
    maps = np.concatenate([item.anomaly_map.numpy().ravel() for item in items])
    assert found["pixel_AUROC"] == pytest.approx(roc_auc_score(masks, maps), abs=1e-3)
    assert 0.5 < found["pixel_AUPRO"] <= 1


def test_masks_of_another_size_than_their_image_are_measured(plates, tmp_path):
    _, mask = draw_plate(50, SIZES[0], "spot")
    save(mask[::2], plates / "masks" / "0_mask.png")
    found = metrics_of(plain_model(), folder_data(plates, eval_batch_size=1), tmp_path)
    assert set(found) == METRICS
    assert found["pixel_AUROC"] > 0.8


# What is not defined


def test_without_defective_images_nothing_is_measured_and_it_is_said(plates, tmp_path, caplog):
    data = folder_data(plates, abnormal_dir=None, mask_dir=None)
    assert metrics_of(plain_model(), data, tmp_path) == {}
    for name in ("image_AUROC", "image_F1Max", "image_AUPR"):
        assert caplog.messages.count(f"{name} is not defined: no defective images") == 1


def test_without_validation_images_the_rule_labels(plates, tmp_path, recwarn):
    model = plain_model()
    assert set(metrics_of(model, folder_data(plates, val_split_mode="none"), tmp_path)) == METRICS
    assert torch.isnan(model.post_processor.image_threshold)
    good_alone = folder_data(plates, val_split_mode="none", abnormal_dir=None, mask_dir=None)
    assert metrics_of(plain_model(), good_alone, tmp_path) == {}
    assert not [each for each in recwarn if "across ranks is zero" in str(each.message)]


# Validation


@pytest.mark.parametrize("verbose", [True, False])
def test_a_validation_is_measured_as_a_test(verbose, mvtec, tmp_path):
    found = make_engine(tmp_path).validate(model=plain_model(), datamodule=make_data(mvtec), verbose=verbose)[0]
    tested = make_engine(tmp_path).test(model=plain_model(), datamodule=make_data(mvtec), verbose=False)[0]
    assert set(found) == METRICS
    assert found == pytest.approx(tested, abs=0.02)


def test_an_evaluator_of_the_users_is_left_alone(mvtec, tmp_path):
    evaluator = Evaluator(test_metrics=AUROC(fields=["pred_score", "gt_label"], prefix="my_"))
    model = plain_model(evaluator=evaluator)
    found = make_engine(tmp_path).test(model=model, datamodule=make_data(mvtec), verbose=False)[0]
    assert set(found) == {"my_AUROC"}


def test_a_checkpoint_that_knows_no_measured_validation_can_be_loaded(mvtec, tmp_path):
    model, engine = plain_model(), make_engine(tmp_path)
    engine.validate(model=model, datamodule=make_data(mvtec), verbose=False)
    engine.trainer.save_checkpoint(tmp_path / "model.ckpt")
    names = torch.load(tmp_path / "model.ckpt", weights_only=False)["state_dict"]
    assert [name for name in names if name.startswith("evaluator.")] == ["evaluator.test_metrics.5.fpr_limit"]
    DualImageCLIP.load_from_checkpoint(tmp_path / "model.ckpt")


# Masks that are missing


def test_a_folders_image_without_a_mask_is_named(plates, tmp_path):
    (plates / "masks" / "1_mask.png").unlink()
    with pytest.raises(ValueError, match=r"bad/1\.png has no mask: each defective image needs one mask"):
        metrics_of(plain_model(), folder_data(plates), tmp_path)


def test_an_image_of_a_known_layout_without_a_mask_is_named(mvtec, tmp_path):
    (mvtec / "bottle" / "ground_truth" / "spot" / "001_mask.png").unlink()
    with pytest.raises(ValueError, match=r"spot/001\.png has no mask"):
        make_engine(tmp_path).test(model=plain_model(), datamodule=make_data(mvtec), verbose=False)


# Masks that are predicted


def labels_and_masks(items: list[ImageBatch]) -> tuple[list[bool], list[bool]]:
    return [bool(item.pred_label) for item in items], [bool(item.pred_mask.any()) for item in items]


def test_a_few_photos_have_masks_where_a_threshold_calls_them_anomalous(workspace, tmp_path):
    photos = make_photos(workspace / "photos", normal=3, defective=1)
    scores = [float(item.pred_score) for item in predict(plain_model(), tmp_path, data_path=photos).values()]
    between = (sorted(scores)[-1] + sorted(scores)[-2]) / 2
    items = list(predict(plain_model(threshold=between), tmp_path, data_path=photos).values())
    labels, masked = labels_and_masks(items)
    assert masked == labels
    assert sum(labels) == 1


def test_masks_do_not_depend_on_the_order_of_photos(workspace, tmp_path):
    photos = make_photos(workspace / "photos", normal=12, defective=0)
    spoilt = draw_plate(5000, defect="spot")[0]
    first, last = save(spoilt, photos / "a.png"), save(spoilt, photos / "z.png")
    # Without other images to compare with, equal photos have equal scores.
    found = predict(plain_model(num_references=0), tmp_path, data_path=photos)
    labels, masked = labels_and_masks(list(found.values()))
    assert masked == labels
    assert found[str(first)].pred_mask.any()
    assert torch.equal(found[str(first)].pred_mask, found[str(last)].pred_mask)


@pytest.mark.open_clip
def test_exported_files_have_masks_where_the_threshold_calls_images_anomalous(tmp_path):
    onnxruntime, openvino = (pytest.importorskip(name) for name in ("onnxruntime", "openvino"))
    images = torch.cat([cloudy_images(3), 0.2 * cloudy_images(1, seed=1)])
    model = tiny_model(num_references=0, temperature=0.1, adaptation_steps=0, class_name="plate", threshold=0.0)
    model.complete()
    scores = torch.stack([found.pred_score for found in (model(model.pre_process(image[None])) for image in images)])
    model.post_processor.threshold = float(scores.median())
    path = make_engine(tmp_path, logger=False).export(model, export_type="onnx", export_root=tmp_path)
    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    by_onnx = dict(zip(names, session.run(None, {session.get_inputs()[0].name: images.numpy()}), strict=True))
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})({0: images.numpy()})
    by_openvino = {next(iter(output.names)): compiled[output] for output in compiled}
    for found in (by_onnx, by_openvino):
        labels = found["pred_label"].astype(bool)
        assert 0 < labels.sum() < len(labels)
        assert (found["pred_mask"].astype(bool).any(axis=(1, 2)) == labels).all()
