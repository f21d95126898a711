"""The model under anomalib's Engine."""

import numpy as np
import pytest
import torch
from anomalib import LearningType
from anomalib.data import ImageBatch
from sklearn.metrics import average_precision_score, roc_auc_score

from dual_image_clip import DualImageCLIP
from tests.drawn_data import make_category
from tests.helpers import assert_same, make_data, make_engine, make_model, predict


@pytest.fixture(scope="module")
def scored(tmp_path_factory) -> dict[str, ImageBatch]:
    """Items of a run with all defaults on a category with ground truth."""
    folder = tmp_path_factory.mktemp("scored")
    make_category(folder / "data" / "bottle")
    return predict(make_model(), folder, datamodule=make_data(folder / "data"))


def test_metrics_equal_those_of_scikit_learn(mvtec, scored, tmp_path):
    result = make_engine(tmp_path).test(model=make_model(), datamodule=make_data(mvtec), verbose=False)[0]
    items = scored.values()
    labels = [bool(item.gt_label) for item in items]
    scores = [float(item.pred_score) for item in items]
    masks = np.concatenate([item.gt_mask.numpy().ravel() for item in items])
    maps = np.concatenate([item.anomaly_map.numpy().ravel() for item in items])
    assert result["image_AUROC"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-4)
    assert result["image_AUPR"] == pytest.approx(average_precision_score(labels, scores), abs=0.02)
    assert result["pixel_AUROC"] == pytest.approx(roc_auc_score(masks > 0, maps), abs=1e-3)


def test_a_seed_repeats_a_run_bit_for_bit_and_another_does_not(mvtec, tmp_path):
    first, again, other = (predict(make_model(seed=seed), tmp_path, datamodule=make_data(mvtec)) for seed in (3, 3, 4))
    assert list(first) == list(again) != list(other)
    for path, item in first.items():
        assert torch.equal(item.anomaly_map, again[path].anomaly_map)
        assert torch.equal(item.pred_score, again[path].pred_score)
    assert any(not torch.equal(item.pred_score, other[path].pred_score) for path, item in first.items())


def test_validation_and_test_score_alike(mvtec, tmp_path):
    # Thresholds come from validation, so they only mean something when testing gives the very same scores.
    model = make_model()
    make_engine(tmp_path).validate(model=model, datamodule=make_data(mvtec), verbose=False)
    items = predict(make_model(post_processor=False), tmp_path, datamodule=make_data(mvtec)).values()
    raw = [item.pred_score for item in items]
    assert float(model.post_processor.image_min) == float(min(raw))
    assert float(model.post_processor.image_max) == float(max(raw))


def test_images_are_evaluated_in_an_order_that_is_not_sorted_by_defect(scored):
    paths = list(scored)
    assert sorted(paths) != paths
    assert len(set(paths)) == len(paths) == 6 + 2 * 3


def test_predictions_have_labels_and_masks_where_there_is_ground_truth(scored):
    items = scored.values()
    assert all(item.pred_label.dtype == item.pred_mask.dtype == torch.bool for item in items)
    assert any(bool(item.pred_label) for item in items)
    assert any(item.pred_mask.any() for item in items)


@pytest.mark.parametrize("size", [(400, 600), (600, 400)], ids=["wide", "tall"])
def test_non_square_images_keep_their_geometry(size, workspace, tmp_path):
    make_category(workspace / "data" / "bottle", normal=3, defective=2, size=size)
    items = predict(make_model(), tmp_path, datamodule=make_data(workspace / "data"))
    expected = (240, 360) if size[0] < size[1] else (360, 240)
    for item in items.values():
        assert item.anomaly_map.shape[-2:] == item.gt_mask.shape[-2:] == item.image.shape[-2:] == expected
    masks = torch.cat([item.gt_mask.ravel() for item in items.values()]) > 0
    maps = torch.cat([item.anomaly_map.ravel() for item in items.values()])
    assert roc_auc_score(masks.numpy(), maps.numpy()) > 0.8


@pytest.mark.open_clip
@pytest.mark.parametrize("reduced", ["bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("steps", [0, 2])
def test_bfloat16_gives_nearly_the_scores_of_float32(steps, reduced, mvtec, tmp_path):
    scores = []
    for precision in ("32-true", reduced):
        engine = make_engine(tmp_path, precision=precision)
        model = make_model(post_processor=False, adaptation_steps=steps)
        batches = engine.predict(model=model, datamodule=make_data(mvtec))
        scores.append(torch.cat([batch.pred_score for batch in batches]))
    assert scores[1].dtype == torch.float32
    if steps:
        # Single images depend on how their pseudo anomaly is rounded.
        assert torch.corrcoef(torch.stack(scores))[0, 1] > 0.99
    else:
        assert_same(scores[0], scores[1], 0.05)
    assert not torch.equal(scores[0], scores[1])


def test_photos_without_labels(photos, tmp_path):
    def run() -> list[ImageBatch]:
        return make_engine(tmp_path).predict(model=make_model(), data_path=photos)

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
        model = make_model(threshold=threshold)
        batches = make_engine(tmp_path).predict(model=model, data_path=photos)
        assert {bool(batch.pred_label) for batch in batches} == {expected}


def test_lone_images_are_compared_with_the_one_before(photos, tmp_path):
    model = make_model(post_processor=False, adaptation_steps=0)
    batches = make_engine(tmp_path).predict(model=model, data_path=photos)
    images = [batch.image for batch in batches]
    # The first looks ahead to the second, every other one back to the one before it.
    for index, batch in enumerate(batches):
        partner = images[1] if index == 0 else images[index - 1]
        model.model.reset()
        expected = model.model(torch.cat([batch.image, partner])).pred_score[0]
        assert_same(batch.pred_score[0], expected, 1e-4)


def test_one_model_serves_one_category_after_the_other(mvtec, photos, tmp_path):
    make_category(mvtec / "metal_nut")
    model = make_model(adaptation_steps=0)
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
    model, engine = make_model(threshold=0.4, seed=5), make_engine(tmp_path)
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


@pytest.mark.open_clip
def test_a_checkpoint_brings_its_weights_along(mvtec, tmp_path):
    model, engine = make_model(pretrained=None), make_engine(tmp_path)
    engine.validate(model=model, datamodule=make_data(mvtec), verbose=False)
    engine.trainer.save_checkpoint(tmp_path / "model.ckpt")
    restored = DualImageCLIP.load_from_checkpoint(tmp_path / "model.ckpt")
    images = torch.randn(2, 3, 240, 240)
    model.model.reset()
    assert torch.equal(model.model(images).pred_score, restored.model(images).pred_score)


def test_training_is_validation(mvtec, tmp_path):
    model = make_model()
    before = {name: weight.clone() for name, weight in model.model.encoder.state_dict().items()}
    make_engine(tmp_path).train(model=model, datamodule=make_data(mvtec))
    assert model.learning_type is LearningType.ZERO_SHOT
    assert all(torch.equal(weight, before[name]) for name, weight in model.model.encoder.state_dict().items())


def test_more_references_than_a_batch_has_come_from_earlier_batches(mvtec, tmp_path):
    items = predict(make_model(num_references=5), tmp_path, datamodule=make_data(mvtec, eval_batch_size=2))
    assert len(items) == 12
    assert all(torch.isfinite(item.anomaly_map).all() for item in items.values())
