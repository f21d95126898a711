"""The model under anomalib's Engine."""

from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib import LearningType
from anomalib.data import Folder, ImageBatch, MVTecAD
from anomalib.engine import Engine
from sklearn.metrics import average_precision_score, roc_auc_score

from dual_image_clip import DualImageCLIP
from dual_image_clip.weights import EMBEDDED
from tests.drawn_data import make_category, make_photos


def make_model(**arguments) -> DualImageCLIP:
    return DualImageCLIP(**{"backbone": EMBEDDED, **arguments})


def make_engine(folder: Path, **arguments) -> Engine:
    return Engine(default_root_dir=folder, accelerator="cpu", enable_progress_bar=False, **arguments)


def make_data(root: Path, **arguments) -> MVTecAD:
    return MVTecAD(root=root, **{"num_workers": 0, "eval_batch_size": 8, **arguments})


def predict(folder: Path, data: MVTecAD, **arguments) -> dict[str, ImageBatch]:
    batches = make_engine(folder).predict(model=make_model(visualizer=False, **arguments), datamodule=data)
    return {item.image_path: item for batch in batches for item in batch}


def test_metrics_equal_those_of_scikit_learn(mvtec, tmp_path):
    result = make_engine(tmp_path).test(model=make_model(), datamodule=make_data(mvtec), verbose=False)[0]
    items = predict(tmp_path, make_data(mvtec)).values()
    labels = [bool(item.gt_label) for item in items]
    scores = [float(item.pred_score) for item in items]
    masks = np.concatenate([item.gt_mask.numpy().ravel() for item in items])
    maps = np.concatenate([item.anomaly_map.numpy().ravel() for item in items])
    assert result["image_AUROC"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-4)
    assert result["image_AUPR"] == pytest.approx(average_precision_score(labels, scores), abs=0.02)
    assert result["pixel_AUROC"] == pytest.approx(roc_auc_score(masks > 0, maps), abs=1e-3)


def test_a_seed_repeats_a_run_bit_for_bit_and_another_does_not(mvtec, tmp_path):
    first, again, other = (predict(tmp_path, make_data(mvtec), seed=seed) for seed in (3, 3, 4))
    assert list(first) == list(again) != list(other)
    for path, item in first.items():
        assert torch.equal(item.anomaly_map, again[path].anomaly_map)
        assert torch.equal(item.pred_score, again[path].pred_score)
    assert any(not torch.equal(item.pred_score, other[path].pred_score) for path, item in first.items())


def test_validation_and_test_score_alike(mvtec, tmp_path):
    # Thresholds come from validation, so they only mean something when testing gives the very same scores.
    model = make_model(visualizer=False)
    make_engine(tmp_path).validate(model=model, datamodule=make_data(mvtec), verbose=False)
    raw = [item.pred_score for item in predict(tmp_path, make_data(mvtec), post_processor=False).values()]
    assert float(model.post_processor.image_min) == float(min(raw))
    assert float(model.post_processor.image_max) == float(max(raw))


def test_images_are_evaluated_in_an_order_that_is_not_sorted_by_defect(mvtec, tmp_path):
    paths = list(predict(tmp_path, make_data(mvtec)))
    assert sorted(paths) != paths
    assert len(set(paths)) == len(paths) == len(list((mvtec / "bottle" / "test").rglob("*.png")))


def test_predictions_have_labels_and_masks_where_there_is_ground_truth(mvtec, tmp_path):
    items = predict(tmp_path, make_data(mvtec)).values()
    assert all(item.pred_label.dtype == item.pred_mask.dtype == torch.bool for item in items)
    assert any(bool(item.pred_label) for item in items)
    assert any(item.pred_mask.any() for item in items)


@pytest.mark.parametrize("size", [(1000, 1500), (1500, 1000)], ids=["wide", "tall"])
def test_non_square_images_keep_their_geometry(size, workspace, tmp_path):
    make_category(workspace / "data" / "bottle", normal=3, defective=2, size=size)
    items = predict(tmp_path, make_data(workspace / "data"))
    expected = (240, 360) if size[0] < size[1] else (360, 240)
    for item in items.values():
        assert item.anomaly_map.shape[-2:] == item.gt_mask.shape[-2:] == item.image.shape[-2:] == expected
    masks = torch.cat([item.gt_mask.ravel() for item in items.values()]) > 0
    maps = torch.cat([item.anomaly_map.ravel() for item in items.values()])
    assert roc_auc_score(masks.numpy(), maps.numpy()) > 0.8


@pytest.mark.parametrize("reduced", ["bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("steps", [0, 2])
def test_bfloat16_gives_nearly_the_scores_of_float32(steps, reduced, mvtec, tmp_path):
    scores = []
    for precision in ("32-true", reduced):
        engine = make_engine(tmp_path, precision=precision)
        model = make_model(post_processor=False, visualizer=False, adaptation_steps=steps)
        batches = engine.predict(model=model, datamodule=make_data(mvtec))
        scores.append(torch.cat([batch.pred_score for batch in batches]))
    assert scores[1].dtype == torch.float32
    if steps:
        # Single images depend on how their pseudo anomaly is rounded.
        assert torch.corrcoef(torch.stack(scores))[0, 1] > 0.99
    else:
        torch.testing.assert_close(scores[0], scores[1], atol=0.05, rtol=0)
    assert not torch.equal(scores[0], scores[1])


def test_photos_without_labels(photos, tmp_path):
    def run() -> list[ImageBatch]:
        return make_engine(tmp_path).predict(model=make_model(visualizer=False), data_path=photos)

    batches, again = run(), run()
    scores = torch.cat([batch.pred_score for batch in batches])
    assert torch.equal(scores, torch.cat([batch.pred_score for batch in again]))
    assert torch.isfinite(scores).all()
    assert ((scores >= 0) & (scores <= 1)).all()
    for batch in batches:
        assert batch.pred_label.dtype == torch.bool
        assert torch.isfinite(batch.anomaly_map).all()
    spoilt = [bool(batch.pred_label) for batch in batches if "spoilt" in batch.image_path[0]]
    assert spoilt == [True]


def test_an_explicit_threshold_replaces_the_rule(photos, tmp_path):
    for threshold, expected in [(0.0, True), (1.0, False)]:
        model = make_model(visualizer=False, threshold=threshold)
        batches = make_engine(tmp_path).predict(model=model, data_path=photos)
        assert {bool(batch.pred_label) for batch in batches} == {expected}


def test_lone_images_are_compared_with_the_one_before(photos, tmp_path):
    model = make_model(visualizer=False, post_processor=False, adaptation_steps=0)
    batches = make_engine(tmp_path).predict(model=model, data_path=photos)
    images = [batch.image for batch in batches]
    # The first looks ahead to the second, every other one back to the one before it.
    for index, batch in enumerate(batches):
        partner = images[1] if index == 0 else images[index - 1]
        model.model.reset()
        expected = model.model(torch.cat([batch.image, partner])).pred_score[0]
        torch.testing.assert_close(batch.pred_score[0], expected, atol=1e-4, rtol=0)


def test_one_model_serves_one_category_after_the_other(mvtec, photos, tmp_path):
    make_category(mvtec / "metal_nut")
    model = make_model(visualizer=False, adaptation_steps=0)
    embeddings = []
    for category, name in [("bottle", "bottle"), ("metal_nut", "metal nut")]:
        make_engine(tmp_path).test(model=model, datamodule=make_data(mvtec, category=category), verbose=False)
        assert model.class_name == name
        embeddings.append(model.model.text_embeddings.clone())
    assert not torch.equal(*embeddings)
    make_engine(tmp_path).predict(model=model, data_path=photos)
    assert model.class_name == "metal nut"
    model.set_class_name("plate")
    make_engine(tmp_path).test(model=model, datamodule=make_data(mvtec), verbose=False)
    assert model.class_name == "plate"


def test_a_checkpoint_round_trips(mvtec, photos, tmp_path):
    model, engine = make_model(visualizer=False, threshold=0.4, seed=5), make_engine(tmp_path)
    engine.test(model=model, datamodule=make_data(mvtec), verbose=False)
    engine.trainer.save_checkpoint(tmp_path / "model.ckpt")
    restored = DualImageCLIP.load_from_checkpoint(tmp_path / "model.ckpt", visualizer=False)
    assert restored.model.references.seed == 5
    predictions = []
    for each in (model, restored):
        batches = make_engine(tmp_path).predict(model=each, data_path=photos)
        predictions.append(torch.cat([batch.anomaly_map for batch in batches]))
        assert each.class_name == "bottle"
    assert torch.equal(*predictions)


def test_a_checkpoint_brings_its_weights_along(mvtec, tmp_path):
    model, engine = make_model(pretrained=None), make_engine(tmp_path)
    engine.validate(model=model, datamodule=make_data(mvtec), verbose=False)
    engine.trainer.save_checkpoint(tmp_path / "model.ckpt")
    restored = DualImageCLIP.load_from_checkpoint(tmp_path / "model.ckpt")
    images = torch.randn(2, 3, 240, 240)
    model.model.reset()
    assert torch.equal(model.model(images).pred_score, restored.model(images).pred_score)


def test_training_is_validation(mvtec, tmp_path):
    model = make_model(visualizer=False)
    before = {name: weight.clone() for name, weight in model.model.encoder.state_dict().items()}
    make_engine(tmp_path).train(model=model, datamodule=make_data(mvtec))
    assert model.learning_type is LearningType.ZERO_SHOT
    assert all(torch.equal(weight, before[name]) for name, weight in model.model.encoder.state_dict().items())


def test_more_references_than_a_batch_has_come_from_earlier_batches(mvtec, tmp_path):
    items = predict(tmp_path, make_data(mvtec, eval_batch_size=2), num_references=5)
    assert len(items) == 12
    assert all(torch.isfinite(item.anomaly_map).all() for item in items.values())


def test_normal_photos_alone(workspace, tmp_path):
    photos = make_photos(workspace / "normal", normal=9, defective=0)
    data = Folder(
        name="plates", normal_dir=photos, normal_test_dir=photos, num_workers=0, val_split_mode="same_as_test"
    )
    result = make_engine(tmp_path).test(model=make_model(), datamodule=data, verbose=False)[0]
    assert set(result) >= {"image_AUROC"}
