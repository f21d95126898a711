"""Metrics over images of any sizes, against those of anomalib where it has them."""

import logging
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from anomalib import metrics as stock
from anomalib.data import ImageBatch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import label
from sklearn.metrics import roc_auc_score
from torch import Tensor, distributed
from torchmetrics import Metric

from dual_image_clip.hooks import metrics as ours
from dual_image_clip.hooks.metrics import PaperEvaluator, paper_metrics
from dual_image_clip.hooks.post_processing import AdaptiveThreshold
from tests.helpers import uniform

patient = settings(deadline=None, max_examples=40)
FIELDS = {"image": ("pred_score", "gt_label"), "pixel": ("anomaly_map", "gt_mask")}
IMAGE = ["image_AUROC", "image_F1Max", "image_AUPR"]
PIXEL = ["pixel_AUROC", "pixel_F1Max", "pixel_AUPRO"]
LOGGER = ours.__name__


def blobs(count: int, size: tuple[int, int], seed: int) -> Tensor:
    """Masks ``(count, H, W)`` with several regions each."""
    coarse = uniform(count, 1, size[0] // 4, size[1] // 4, seed=seed)
    return F.interpolate(coarse, size)[:, 0] > 0.6


def batch_of(maps: Tensor, masks: Tensor | None) -> ImageBatch:
    """Images that are as anomalous as their hottest pixel, and defective where their mask is not empty."""
    labels = None if masks is None else masks.flatten(1).any(dim=1)
    scores = maps.flatten(1).amax(dim=1)
    image = torch.zeros(len(maps), 3, 4, 4)
    return ImageBatch(image=image, anomaly_map=maps, pred_score=scores, gt_mask=masks, gt_label=labels)


def batches_of(sizes: list[tuple[int, int, int]], seed: int = 0) -> list[ImageBatch]:
    """A batch for each count, height and width, every other image a good one."""
    batches = []
    for index, (count, *size) in enumerate(sizes, 100 * seed):
        masks = blobs(count, tuple(size), seed=index)
        masks[::2] = False
        # Few different values, so that there are ties.
        maps = (uniform(count, *size, seed=1000 + index) + 0.5 * masks).mul(20).round() / 30
        batches.append(batch_of(maps, masks))
    return batches


def measured(batches: list[ImageBatch]) -> dict[str, float | None]:
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for metric in paper_metrics():
            for batch in batches:
                metric.update(batch)
            found[metric.name] = None if metric.compute() is None else float(metric.compute())
    return found


def measured_by_anomalib(batches: list[ImageBatch], names: list[str]) -> dict[str, float]:
    found = {}
    for name in names:
        kind, metric_name = name.split("_")
        metric = getattr(stock, metric_name)(fields=FIELDS[kind], prefix=f"{kind}_")
        for batch in batches:
            metric.update(batch)
        found[name] = float(metric.compute())
    return found


# Values


@patient
@given(st.lists(st.integers(2, 4), min_size=1, max_size=3), st.integers(0, 1000))
def test_images_of_one_size_are_measured_as_by_anomalib(counts, seed):
    batches = batches_of([(count, 16, 24) for count in counts], seed)
    assert measured(batches) == pytest.approx(measured_by_anomalib(batches, IMAGE + PIXEL), abs=1e-6)


def per_region_overlap(batches: list[ImageBatch], largest_rate: float = 0.3) -> float:
    """AUPRO as it is defined, region by region and threshold by threshold."""
    background, regions = [], []
    for item in (item for batch in batches for item in batch):
        labels, count = label(item.gt_mask.numpy(), structure=np.ones((3, 3)))
        background.append(item.anomaly_map.numpy()[labels == 0])
        regions += [item.anomaly_map.numpy()[labels == number] for number in range(1, count + 1)]
    good = np.concatenate(background)
    thresholds = np.unique(np.concatenate([good, *regions]))[::-1]
    rates = np.array([0, *((good >= each).mean() for each in thresholds)])
    overlaps = np.array([0, *(np.mean([(region >= each).mean() for region in regions]) for each in thresholds)])
    inside = rates < largest_rate
    rates, last = np.append(rates[inside], largest_rate), np.interp(largest_rate, rates, overlaps)
    return float(np.trapezoid(np.append(overlaps[inside], last), rates) / largest_rate)


@patient
@given(st.lists(st.tuples(st.integers(2, 4), st.integers(8, 40), st.integers(8, 40)), min_size=1, max_size=4))
def test_images_of_all_sizes_are_measured_together(sizes):
    batches = batches_of(sizes)
    # These do not ask where pixels lie.
    expected = measured_by_anomalib(batches, [*IMAGE, "pixel_AUROC", "pixel_F1Max"])
    assert measured(batches) == pytest.approx({**expected, "pixel_AUPRO": per_region_overlap(batches)}, abs=1e-5)


@patient
@given(seed=st.integers(0, 999))
def test_pixels_that_were_not_inspected_do_not_count(seed):
    """Metrics are those of pictures from which what lies outside was cut off, and need no ground of it."""
    (whole,) = batches_of([(4, 20, 24)], seed)
    inspected = torch.zeros(4, 20, 24, dtype=torch.bool)
    inspected[:, 4:16, :14] = True
    whole.inspected = inspected
    whole.anomaly_map = whole.anomaly_map.where(inspected, torch.tensor(9.0))
    part = batch_of(whole.anomaly_map[:, 4:16, :14], whole.gt_mask[:, 4:16, :14])
    found, expected = measured([whole]), measured([part])
    for name in PIXEL:
        assert found[name] == pytest.approx(expected[name], abs=1e-6)


@patient
@given(seed=st.integers(0, 999))
def test_ground_truths_threshold_is_that_of_inspected_pixels(seed):
    (whole,) = batches_of([(4, 20, 24)], seed)
    whole.inspected = torch.zeros(4, 20, 24, dtype=torch.bool)
    whole.inspected[:, 4:16, :14] = True
    part = batch_of(whole.anomaly_map[:, 4:16, :14], whole.gt_mask[:, 4:16, :14])
    thresholds = []
    for batch in (whole, part):
        metric = AdaptiveThreshold(fields=["anomaly_map", "gt_mask"], strict=False)
        metric.update(batch)
        thresholds.append(float(metric.compute()))
    assert thresholds[0] == pytest.approx(thresholds[1])


def test_inspected_pixels_are_brought_to_the_size_of_the_masks():
    (batch,) = batches_of([(2, 20, 24)])
    small = SimpleNamespace(
        anomaly_map=F.interpolate(batch.anomaly_map[:, None], (10, 12))[:, 0],
        gt_mask=batch.gt_mask,
        inspected=torch.ones(2, 10, 12, dtype=torch.bool),
    )
    found = ours.compared(small, FIELDS["pixel"])
    assert found.inspected.shape == batch.gt_mask.shape
    assert found.inspected.all()


def test_a_mask_without_background_is_a_region():
    maps, masks = uniform(2, 16, 16), torch.zeros(2, 16, 16, dtype=torch.bool)
    masks[1] = True
    assert measured([batch_of(maps, masks)])["pixel_AUPRO"] == pytest.approx(
        per_region_overlap([batch_of(maps, masks)]), abs=1e-5
    )


@pytest.mark.parametrize("size", [(32, 48), (8, 12)])
def test_maps_are_brought_to_the_size_of_their_masks(size):
    (batch,) = batches_of([(4, 16, 24)])
    maps = torch.as_tensor(batch.anomaly_map)
    small = batch_of(F.interpolate(maps[:, None], size, mode="bilinear")[:, 0], batch.gt_mask)
    back = F.interpolate(small.anomaly_map[:, None], (16, 24), mode="bilinear")[:, 0]
    expected = measured_by_anomalib([batch_of(back, batch.gt_mask)], PIXEL)
    assert {name: measured([small])[name] for name in PIXEL} == pytest.approx(expected, abs=1e-6)
    threshold, at_size = (AdaptiveThreshold(fields=FIELDS["pixel"], strict=False) for _ in range(2))
    threshold.update(small)
    at_size.update(batch_of(back, batch.gt_mask))
    assert threshold.compute() == at_size.compute()


def test_a_metric_starts_anew_after_a_reset():
    first, second = batches_of([(4, 16, 24), (4, 32, 16)])
    expected = measured([second])
    for metric in paper_metrics():
        metric.update(first)
        metric.compute()
        metric.reset()
        metric.update(batch_of(uniform(2, 16, 24), torch.zeros(2, 16, 24, dtype=torch.bool)))
        assert metric.compute() is None
        metric.reset()
        metric.update(second)
        assert float(metric.compute()) == expected[metric.name]


# Several processes


@pytest.mark.parametrize("shares", [[0, 0, 1, 1], [0, 1, 0, 1], [1, 1, 1, 0]])
def test_processes_measure_what_one_would(shares, monkeypatch):
    batches = batches_of([(2, 16, 24), (3, 24, 16), (2, 32, 32), (2, 16, 24)])
    expected = measured(batches)
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda *_: 2)
    for kinds in zip(paper_metrics(), paper_metrics(), strict=True):
        for rank, metric in enumerate(kinds):
            monkeypatch.setattr(distributed, "get_rank", lambda *_, rank=rank: rank)
            for share, batch in zip(shares, batches, strict=True):
                if share == rank:
                    metric.update(batch)
        assert joined(*kinds) == pytest.approx(expected[kinds[0].name], abs=1e-6)


def joined(metric: Metric, other: Metric) -> float:
    """What torchmetrics computes from the states of two processes, which it adds up or puts one behind the other."""
    for one, two in zip(metric.modules(), other.modules(), strict=True):
        for name in getattr(one, "_defaults", {}):
            mine, others = getattr(one, name), getattr(two, name)
            setattr(one, name, mine + others)
        one.distributed_available_fn = lambda: False
    return float(metric.compute())


# Where nothing is defined


@pytest.mark.parametrize(("defective", "missing"), [(False, "defective"), (True, "good")])
def test_nothing_is_measured_on_one_kind_alone(defective, missing):
    masks = torch.full((3, 16, 24), defective)
    for metric in paper_metrics():
        metric.update(batch_of(uniform(3, 16, 24), masks))
        assert metric.compute() is None
        assert metric.missing == missing


def test_defective_images_alone_have_metrics_of_pixels():
    masks = blobs(4, (16, 24), seed=0)
    found = measured([batch_of(uniform(4, 16, 24), masks)])
    assert [found[name] for name in IMAGE] == [None] * 3
    assert found["pixel_AUROC"] == pytest.approx(roc_auc_score(masks.flatten(), uniform(4, 16, 24).flatten()), abs=1e-5)


def test_nothing_is_measured_without_truth():
    assert set(measured([batch_of(uniform(2, 16, 24), None)]).values()) == {None}


@pytest.mark.parametrize(
    ("stage", "verbose", "said"), [("test", True, 1), ("validation", True, 1), ("validation", False, 0)]
)
def test_it_is_said_once_which_metric_is_not_defined(stage, verbose, said, caplog):
    evaluator = PaperEvaluator()
    logged = {}
    evaluator.log = logged.__setitem__
    loop = SimpleNamespace(verbose=verbose)
    trainer = SimpleNamespace(barebones=False, is_global_zero=True, validate_loop=loop)
    masks = torch.zeros(3, 16, 24, dtype=torch.bool)
    getattr(evaluator, f"on_{stage}_batch_end")(trainer, None, None, batch_of(uniform(3, 16, 24), masks), 0)
    with caplog.at_level(logging.WARNING, LOGGER):
        getattr(evaluator, f"on_{stage}_epoch_end")(trainer, None)
    assert list(logged) == IMAGE + PIXEL
    assert caplog.messages.count("image_AUROC is not defined: no defective images") == said
    assert caplog.messages.count("pixel_AUPRO is not defined: no defective pixels") == said
    assert len(caplog.messages) == 6 * said
