import math
from types import SimpleNamespace

import pytest
import torch
from anomalib.data import ImageBatch, InferenceBatch
from anomalib.post_processing import PostProcessor
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import median_abs_deviation
from torch import Tensor

from dual_image_clip.hooks.post_processing import LabelFreePostProcessor, pixel_scores, robust_limit
from tests.helpers import seeded, uniform

patient = settings(deadline=None)
SCORE_MAXIMUM, MAP_MAXIMUM = 4.0, 3.5
TRAINER, MODULE = SimpleNamespace(), SimpleNamespace()


def post_processor(**arguments) -> LabelFreePostProcessor:
    return LabelFreePostProcessor(SCORE_MAXIMUM, MAP_MAXIMUM, **arguments)


def batch_of(scores: list[float] | Tensor, maps: Tensor | None = None, **ground_truth) -> ImageBatch:
    scores = torch.as_tensor(scores, dtype=torch.float)
    return ImageBatch(
        image=torch.zeros(len(scores), 3, 4, 4), pred_score=scores.clone(), anomaly_map=maps, **ground_truth
    )


def normal_scores(count: int, seed: int = 0) -> Tensor:
    return 1.5 + 0.1 * torch.randn(count, generator=seeded(seed)).clamp(-2, 2)


def predict(processor: PostProcessor, *batches: ImageBatch, stage: str = "predict") -> list[ImageBatch]:
    """What a trainer does with batches of predictions, and what it returns."""
    if stage == "predict":
        processor.on_predict_epoch_start(TRAINER, MODULE)
    for index, batch in enumerate(batches):
        getattr(processor, f"on_{stage}_batch_end")(TRAINER, MODULE, batch, None, index)
    if stage == "predict":
        trainer = SimpleNamespace(predict_loop=SimpleNamespace(predictions=list(batches)))
        processor.on_predict_epoch_end(trainer, MODULE)
    return list(batches)


def validate(processor: PostProcessor, *batches: ImageBatch) -> None:
    processor.on_validation_epoch_start(TRAINER, MODULE)
    for index, batch in enumerate(batches):
        processor.on_validation_batch_end(TRAINER, MODULE, batch, None, index)
    processor.on_validation_epoch_end(TRAINER, MODULE)


# The limit

finite = st.floats(-100, 100, width=32)


@patient
@given(st.lists(finite, min_size=8, max_size=60), st.floats(0, 10), st.floats(0.001, 1))
def test_limit_is_so_many_robust_deviations_above_the_median(values, z_score, smallest):
    tensor = torch.tensor(values)
    deviation = max(1.4826 * median_abs_deviation(tensor.double().numpy()), smallest)
    expected = tensor.double().quantile(0.5).item() + z_score * deviation
    assert robust_limit(tensor, z_score, smallest) == pytest.approx(expected, abs=2e-3)


def test_deviation_estimates_that_of_a_normal_distribution():
    values = 5 + 2 * torch.randn(100_000, generator=seeded(0))
    assert robust_limit(values, 3.0, 0.0) == pytest.approx(5 + 3 * 2, abs=0.1)


@pytest.mark.parametrize("count", range(8))
def test_fewer_than_eight_values_set_no_limit(count):
    assert robust_limit(torch.arange(count).float(), 3.5, 0.01) == math.inf


@pytest.mark.parametrize("count", [8, 9, 100])
def test_values_all_alike_have_a_limit_above_them(count):
    assert robust_limit(torch.full((count,), 2.0), 3.0, 0.01) == pytest.approx(2.03)


def test_a_few_outliers_hardly_move_the_limit():
    values = normal_scores(50)
    spoilt = torch.cat([values, torch.tensor([3.9] * 5)])
    assert robust_limit(spoilt, 3.5, 0.01) == pytest.approx(robust_limit(values, 3.5, 0.01), abs=0.15)


# Without ground truth


@patient
@given(st.lists(st.floats(0, SCORE_MAXIMUM, width=32), min_size=1, max_size=20))
def test_scores_are_divided_by_their_maximum(scores):
    (batch,) = predict(post_processor(), batch_of(scores))
    assert batch.pred_score.tolist() == pytest.approx([score / SCORE_MAXIMUM for score in scores], abs=1e-6)
    assert ((batch.pred_score >= 0) & (batch.pred_score <= 1)).all()


def test_maps_are_divided_by_their_maximum():
    maps = MAP_MAXIMUM * torch.rand(3, 4, 5)
    (batch,) = predict(post_processor(), batch_of([0.1, 0.2, 0.3], maps.clone()))
    torch.testing.assert_close(batch.anomaly_map, maps / MAP_MAXIMUM)


def test_score_means_the_same_whatever_else_was_seen():
    after_normal = predict(post_processor(), batch_of(normal_scores(20)), batch_of([2.5]))[-1]
    after_anomalous = predict(post_processor(), batch_of(normal_scores(20) + 2), batch_of([2.5]))[-1]
    alone = predict(post_processor(), batch_of([2.5]))[-1]
    assert after_normal.pred_score == after_anomalous.pred_score == alone.pred_score


@pytest.mark.parametrize("stage", ["predict", "test"])
def test_fewer_than_eight_images_are_not_called_anomalous(stage):
    maps = torch.rand(7, 4, 4)
    maps[-1, 0, 0] = MAP_MAXIMUM
    (batch,) = predict(post_processor(), batch_of([1.0] * 6 + [SCORE_MAXIMUM], maps), stage=stage)
    assert batch.pred_label.dtype == torch.bool
    assert not batch.pred_label.any()
    assert not batch.pred_mask.any()


@pytest.mark.parametrize("size", [1, 5, 40])
def test_identical_images_are_not_called_anomalous(size):
    # What is random in the adaptation lets identical images differ a little.
    scores = 1.3 + 0.005 * uniform(40)
    batches = [batch_of(chunk, torch.full((len(chunk), 4, 4), 0.7)) for chunk in scores.split(size)]
    for batch in predict(post_processor(), *batches):
        assert not batch.pred_label.any()
        assert not batch.pred_mask.any()


@pytest.mark.parametrize("position", [0, 3, 15, 29])
@pytest.mark.parametrize("size", [1, 8, 30])
@pytest.mark.parametrize("normalize", [True, False])
def test_one_clear_outlier_is_labelled_wherever_it_comes(position, size, normalize):
    scores = normal_scores(30)
    scores[position] = 3.0
    batches = predict(post_processor(enable_normalization=normalize), *map(batch_of, scores.split(size)))
    labels = torch.cat([batch.pred_label for batch in batches])
    assert labels.nonzero().flatten().tolist() == [position]


@pytest.mark.parametrize("stage", ["predict", "test"])
def test_outlier_is_labelled_at_once_when_enough_images_were_seen(stage):
    processor = post_processor()
    predict(processor, batch_of(normal_scores(20)), stage="test")
    for score, label in [(1.5, False), (3.0, True), (1.6, False)]:
        batch = batch_of([score])
        processor.on_predict_batch_end(TRAINER, MODULE, batch, None, 0)
        assert batch.pred_label.tolist() == [label]


def outlier_among_normal(position: int, count: int = 30) -> tuple[Tensor, Tensor]:
    """Scores ``(count,)`` and maps ``(count, 6, 6)``; the outlier's hottest pixels are no hotter than others'."""
    scores = normal_scores(count)
    scores[position] = 3.0
    maps = 0.5 + torch.rand(count, 6, 6, generator=torch.Generator().manual_seed(0))
    maps[position] = 0.1
    maps[position, 2:4, 1:3] = 0.9
    return scores, maps


@pytest.mark.parametrize("threshold", [None, 0.6])
@pytest.mark.parametrize("size", [1, 8, 30])
@pytest.mark.parametrize("position", [0, 3, 29])
def test_masks_agree_with_labels_wherever_an_image_comes(position, size, threshold):
    scores, maps = outlier_among_normal(position)
    batches = map(batch_of, scores.split(size), maps.clone().split(size))
    masks = torch.cat([batch.pred_mask for batch in predict(post_processor(threshold=threshold), *batches)])
    assert masks.nonzero().tolist() == [[position, y, x] for y in (2, 3) for x in (1, 2)]


def test_equal_images_have_equal_masks():
    scores, maps = outlier_among_normal(0)
    scores[-1], maps[-1] = scores[0], maps[0]
    batches = predict(post_processor(), *map(batch_of, scores.split(1), maps.split(1)))
    assert batches[0].pred_mask.any()
    assert torch.equal(batches[0].pred_mask, batches[-1].pred_mask)


scores_of_images = st.floats(0, SCORE_MAXIMUM, width=32)
values_of_maps = st.floats(0, MAP_MAXIMUM, width=32, allow_subnormal=False)


@patient
@given(st.floats(0, 1), st.lists(st.tuples(scores_of_images, st.lists(values_of_maps, min_size=6, max_size=6))))
def test_an_image_has_pixels_in_its_mask_just_where_it_is_called_anomalous(threshold, images):
    for score, values in [*images, (SCORE_MAXIMUM, [MAP_MAXIMUM] * 6)]:
        maps = torch.tensor(values).reshape(1, 2, 3)
        found = post_processor(threshold=threshold)(InferenceBatch(torch.tensor([score]), None, maps, None))
        hottest = (maps == maps.max()) & (maps > 0)
        if found.pred_label:
            assert found.pred_mask[hottest].all()
        else:
            assert not found.pred_mask.any()


@patient
@given(scores_of_images, st.lists(values_of_maps, min_size=6, max_size=6))
def test_pixels_have_the_share_of_the_score_that_they_have_of_the_hottest(score, values):
    maps = torch.tensor([values]).reshape(1, 2, 3)
    found = pixel_scores(torch.tensor([score]), maps)
    expected = [score * value / (max(values) or 1) for value in values]
    assert found.flatten().tolist() == pytest.approx(expected, rel=1e-5, abs=1e-12)
    assert float(found.max()) == (score if max(values) else 0.0)


def test_the_threshold_of_scores_is_that_of_pixel_scores():
    processor = post_processor()
    (batch,) = predict(processor, batch_of(*outlier_among_normal(5)))
    assert batch.pred_mask.any()
    found = pixel_scores(batch.pred_score, batch.anomaly_map)
    assert torch.equal(batch.pred_mask, found > processor.current_threshold())


@pytest.mark.parametrize("z_score", [1.0, 3.5, 8.0])
def test_labels_follow_the_z_score(z_score):
    scores = normal_scores(50)
    scores[:5] += torch.tensor([0.1, 0.2, 0.4, 0.6, 1.0])
    (batch,) = predict(post_processor(z_score=z_score), batch_of(scores))
    limit = robust_limit(scores, z_score, 0.01 * SCORE_MAXIMUM)
    assert torch.equal(batch.pred_label, scores > limit)


def test_a_new_run_forgets_the_last():
    processor = post_processor()
    predict(processor, batch_of(normal_scores(30)))
    (batch,) = predict(processor, batch_of([3.9]))
    assert not batch.pred_label.any()
    validate(processor)
    (batch,) = predict(processor, batch_of([3.9]), stage="test")
    assert not batch.pred_label.any()


def test_only_kept_predictions_of_images_are_labelled_anew():
    processor = post_processor()
    processor.on_predict_epoch_start(TRAINER, MODULE)
    for predictions in (None, [], ["something else"], [ImageBatch(image=torch.zeros(1, 3, 4, 4))]):
        trainer = SimpleNamespace(predict_loop=SimpleNamespace(predictions=predictions))
        processor.on_predict_epoch_end(trainer, MODULE)


def test_predictions_of_several_loaders_are_labelled_anew():
    processor = post_processor()
    first, second = batch_of([3.0]), batch_of(normal_scores(30))
    processor.on_predict_epoch_start(TRAINER, MODULE)
    for loader, batch in enumerate([first, second]):
        processor.on_predict_batch_end(TRAINER, MODULE, batch, None, 0, loader)
    # The trainer keeps a list for each loader then.
    trainer = SimpleNamespace(predict_loop=SimpleNamespace(predictions=[[first], [second]]))
    processor.on_predict_epoch_end(trainer, MODULE)
    assert first.pred_label.tolist() == [True]


@pytest.mark.parametrize("threshold", [0.3, 0.6])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("count", [1, 20])
def test_explicit_threshold_wins_over_the_rule(threshold, normalize, count):
    low, high = (SCORE_MAXIMUM * (threshold + step) for step in (-0.01, 0.01))
    scores = torch.tensor([low, high] * count)
    for stage in ("predict", "test"):
        processor = post_processor(threshold=threshold, enable_normalization=normalize)
        (batch,) = predict(processor, batch_of(scores), stage=stage)
        assert batch.pred_label.tolist() == [False, True] * count


@pytest.mark.parametrize("threshold", [0.3, 0.6])
def test_explicit_threshold_holds_for_a_call_without_a_trainer(threshold):
    scores = SCORE_MAXIMUM * torch.tensor([threshold - 0.01, threshold + 0.01])
    predictions = post_processor(threshold=threshold)(InferenceBatch(scores, None, torch.rand(2, 4, 4), None))
    torch.testing.assert_close(predictions.pred_score, scores / SCORE_MAXIMUM)
    assert predictions.pred_label.tolist() == [False, True]


def test_labels_can_be_switched_off():
    (batch,) = predict(post_processor(enable_thresholding=False), batch_of(normal_scores(20)))
    assert batch.pred_label is None
    assert batch.pred_mask is None


@pytest.mark.parametrize("with_maps", [True, False])
@pytest.mark.parametrize("value", [0.0, SCORE_MAXIMUM])
@pytest.mark.parametrize("stage", ["predict", "test"])
def test_results_are_never_nan(value, with_maps, stage):
    processor = post_processor()
    maps = torch.full((4, 4, 4), value and MAP_MAXIMUM) if with_maps else None
    batches = [batch_of([value] * 4, None if maps is None else maps.clone()) for _ in range(4)]
    for batch in predict(processor, *batches, stage=stage):
        assert batch.pred_score.tolist() == [value / SCORE_MAXIMUM] * 4
        assert not batch.pred_label.any()
        assert batch.pred_label.dtype == torch.bool
        if with_maps:
            assert torch.isfinite(batch.anomaly_map).all()
            assert batch.pred_mask.dtype == torch.bool


# With ground truth


def labelled_batches(with_masks: bool = True) -> list[ImageBatch]:
    generator = seeded(0)
    batches = []
    for _ in range(4):
        labels = torch.rand(8, generator=generator) < 0.4
        masks = torch.zeros(8, 4, 4, dtype=torch.bool)
        masks[labels, 1:3, 1:3] = True
        scores = 1.0 + labels + torch.randn(8, generator=generator).clamp(-2, 2) / 2
        maps = (1 + masks + torch.rand(8, 4, 4, generator=generator)).float()
        truth = {"gt_label": labels, "gt_mask": masks} if with_masks else {"gt_label": labels}
        batches.append(batch_of(scores, maps, **truth))
    return batches


def test_ground_truth_gives_the_results_of_the_stock_post_processor():
    ours, stock = post_processor(), PostProcessor(enable_threshold_matching=False)
    validate(ours, *labelled_batches())
    validate(stock, *labelled_batches())
    names = ("_image_threshold", "_pixel_threshold", "image_min", "image_max", "pixel_min", "pixel_max")
    for name in names:
        assert torch.isfinite(getattr(stock, name))
        assert torch.equal(getattr(ours, name), getattr(stock, name)), name
    for stage in ("test", "predict"):
        expected = labelled_batches()
        for index, batch in enumerate(expected):
            getattr(stock, f"on_{stage}_batch_end")(TRAINER, MODULE, batch, None, index)
        for one, two in zip(predict(ours, *labelled_batches(), stage=stage), expected, strict=True):
            assert torch.equal(one.pred_score, two.pred_score)
            assert torch.equal(one.pred_label, two.pred_label)
            assert torch.equal(one.anomaly_map, two.anomaly_map)
            assert torch.equal(one.pred_mask, two.pred_mask)


def test_image_labels_without_masks_leave_masks_to_the_rule():
    processor, stock = post_processor(), PostProcessor()
    validate(processor, *labelled_batches(with_masks=False))
    validate(stock, *labelled_batches(with_masks=False))
    assert torch.equal(processor._image_threshold, stock._image_threshold)
    results = predict(processor, *labelled_batches(with_masks=False), stage="test")
    for batch, raw in zip(results, labelled_batches(), strict=True):
        expected = pixel_scores(raw.pred_score, raw.anomaly_map) > stock._image_threshold
        assert 0 < expected.sum() < expected.numel()
        assert torch.equal(expected.flatten(1).any(dim=1), batch.pred_label)
        assert batch.pred_mask.dtype == torch.bool
        assert torch.equal(batch.pred_mask, expected)
        assert torch.equal(batch.pred_label, raw.pred_score > stock._image_threshold)
        # The threshold of the scores has no say in the scale of the maps.
        scaled = (raw.anomaly_map - stock.pixel_min) / (stock.pixel_max - stock.pixel_min)
        torch.testing.assert_close(batch.anomaly_map, scaled)


@pytest.mark.parametrize("sensitivity", [0.3, 0.8])
def test_masks_follow_the_sensitivity_of_labels(sensitivity):
    processor = post_processor(image_sensitivity=sensitivity)
    validate(processor, *labelled_batches(with_masks=False))
    results = predict(processor, *labelled_batches(with_masks=False), stage="test")
    labels = torch.cat([batch.pred_label for batch in results])
    assert 0 < labels.sum() < len(labels)
    assert torch.equal(torch.cat([batch.pred_mask for batch in results]).flatten(1).any(dim=1), labels)


def test_explicit_threshold_wins_over_ground_truth():
    processor = post_processor(threshold=0.4)
    validate(processor, *labelled_batches())
    scores = torch.cat([batch.pred_score for batch in labelled_batches()])
    results = predict(processor, *labelled_batches(), stage="test")
    labels = torch.cat([batch.pred_label for batch in results])
    assert torch.equal(labels, scores > 0.4 * SCORE_MAXIMUM)
    assert torch.equal(torch.cat([batch.pred_mask for batch in results]).flatten(1).any(dim=1), labels)


# Checkpoints


def test_settings_survive_a_checkpoint():
    saved = LabelFreePostProcessor(3.0, 2.0, threshold=0.4, z_score=5.0, image_sensitivity=0.3)
    restored = LabelFreePostProcessor()
    restored.load_checkpoint_config(saved.checkpoint_config())
    restored.load_state_dict(saved.state_dict())
    assert restored.checkpoint_config() == saved.checkpoint_config()
    assert (restored.score_maximum, restored.map_maximum) == (3.0, 2.0)
    assert (restored.threshold, restored.z_score, restored.image_sensitivity) == (0.4, 5.0, 0.3)
    scores, maps = 3 * torch.rand(20), 2 * torch.rand(20, 4, 4)
    (one,) = predict(saved, batch_of(scores, maps.clone()))
    (two,) = predict(restored, batch_of(scores, maps.clone()))
    assert torch.equal(one.pred_score, two.pred_score)
    assert torch.equal(one.pred_label, two.pred_label)
    assert torch.equal(one.anomaly_map, two.anomaly_map)
    assert torch.equal(one.pred_mask, two.pred_mask)


def test_thresholds_of_ground_truth_survive_a_checkpoint():
    saved, restored = post_processor(), post_processor()
    validate(saved, *labelled_batches())
    restored.load_checkpoint_config(saved.checkpoint_config())
    restored.load_state_dict(saved.state_dict())
    for one, two in zip(predict(saved, *labelled_batches()), predict(restored, *labelled_batches()), strict=True):
        assert torch.equal(one.pred_label, two.pred_label)
        assert torch.equal(one.pred_score, two.pred_score)
