"""The embedded checkpoint finds defects: on products of families, and with kinds of defect, that it never saw."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from benchmarks.checkpoint.__main__ import Scorer, Scores, Setting, detector
from benchmarks.checkpoint.sets import TestSet, drawn_category
from dual_image_clip import DualImageCLIP
from dual_image_clip.method import PseudoAnomalyGenerator, ScoreWeights
from dual_image_clip.weights import EMBEDDED
from tests.helpers import seeded

FAMILIES = ("carpet", "foam", "granite", "mesh", "gear", "cookie", "zipper", "button")
COUNT = 10
SEED = 7
# What the checkpoint reaches on these 160 images, less a margin.
IMAGE_BOUND = 0.60
PIXEL_BOUND = 0.64

NO_REFERENCE = ScoreWeights(lambda_1=0.0, lambda_4=0.0)
TABLE_3 = {
    "base": Setting(NO_REFERENCE, num_references=0),
    "+ TTA": Setting(NO_REFERENCE, num_references=0, adaptation_steps=2),
    "+ pair": Setting(),
    "both": Setting(adaptation_steps=2),
}


@pytest.fixture(scope="module")
def unseen() -> list[TestSet]:
    return [drawn_category(family, SEED, COUNT) for family in FAMILIES]


def mean_aurocs(sets: list[TestSet], scores: list[Scores]) -> tuple[float, float]:
    images = [roc_auc_score(each.labels, score.images) for each, score in zip(sets, scores, strict=True)]
    pixels = [roc_auc_score(each.masks.ravel(), score.pixels.ravel()) for each, score in zip(sets, scores, strict=True)]
    return float(np.mean(images)), float(np.mean(pixels))


def assert_detects(sets: list[TestSet], scorer: Scorer) -> None:
    image, pixel = mean_aurocs(sets, [scorer(each) for each in sets])
    assert image > IMAGE_BOUND
    assert pixel > PIXEL_BOUND


@pytest.mark.parametrize("row", TABLE_3)
def test_every_row_of_table_3_detects(unseen, row):
    assert_detects(unseen, detector(EMBEDDED, EMBEDDED, TABLE_3[row]))


def test_an_untrained_encoder_does_not(unseen):
    with pytest.raises(AssertionError):
        assert_detects(unseen, detector(EMBEDDED, None, TABLE_3["both"]))


def test_an_encoder_that_mixes_its_patches_up_does_not(unseen, monkeypatch):
    from dual_image_clip.method import DualPathEncoder

    as_grid = DualPathEncoder._as_grid

    def mixed(self, local, images):
        order = torch.randperm(local.shape[1] - 1, generator=seeded(0))
        return as_grid(self, torch.cat([local[:, :1], local[:, 1:][:, order]], dim=1), images)

    monkeypatch.setattr(DualPathEncoder, "_as_grid", mixed)
    with pytest.raises(AssertionError):
        assert_detects(unseen, detector(EMBEDDED, EMBEDDED, TABLE_3["both"]))


@pytest.mark.parametrize("row", ["base", "both"])
def test_swapped_texts_do_not(unseen, monkeypatch, row):
    encode = DualImageCLIP._encode_class_name

    def swapped(self, class_name):
        encode(self, class_name)
        self.model.text_embeddings.copy_(self.model.text_embeddings.flip(0))

    monkeypatch.setattr(DualImageCLIP, "_encode_class_name", swapped)
    with pytest.raises(AssertionError):
        assert_detects(unseen, detector(EMBEDDED, EMBEDDED, TABLE_3[row]))


def test_shuffled_masks_and_labels_are_not_found(unseen):
    rng = np.random.default_rng(0)
    shuffled = []
    for each in unseen:
        order = rng.permutation(len(each.images))
        shuffled.append(TestSet(each.category, each.images, each.labels[order], each.masks[order]))
    with pytest.raises(AssertionError):
        assert_detects(shuffled, detector(EMBEDDED, EMBEDDED, TABLE_3["both"]))


def test_detector_scores_are_those_of_the_model(unseen):
    """The benchmark measures what a user gets: the pre-processor's images, the Lightning module's model."""
    model = DualImageCLIP(backbone=EMBEDDED)
    model.set_class_name("zipper")
    zipper = unseen[FAMILIES.index("zipper")]
    images = torch.from_numpy(zipper.images).permute(0, 3, 1, 2).float() / 255
    expected = model.model(model.pre_processor(images))
    found = detector(EMBEDDED, EMBEDDED, TABLE_3["both"])(zipper)
    torch.testing.assert_close(found.images, expected.pred_score)
    torch.testing.assert_close(found.pixels, expected.anomaly_map)


def test_adaptation_changes_the_map_where_it_was_told_to_look(unseen):
    """The pseudo-anomalous region is what Eq. 10 is about: there the adapted copy scores above the adapted image."""
    scorers = {steps: detector(EMBEDDED, EMBEDDED, Setting(adaptation_steps=steps)) for steps in (0, 2)}
    for each in unseen:
        before, after = (scorers[steps](each).pixels for steps in (0, 2))
        mask = torch.from_numpy(each.masks)
        assert ((after - before).abs()[mask] > 1e-3).float().mean() > 0.5


def test_a_pseudo_anomaly_lights_up(unseen):
    scorer = detector(EMBEDDED, EMBEDDED, TABLE_3["both"])
    good = [each.images[~each.labels] for each in unseen]
    corrupted, clean = [], []
    for each, images in zip(unseen, good, strict=True):
        half = len(images) // 2
        pseudo = PseudoAnomalyGenerator(seed=1)(torch.from_numpy(images[:half]).permute(0, 3, 1, 2).float() / 255)
        spoiled = (pseudo.images * 255).round().byte().permute(0, 2, 3, 1).numpy()
        masks = np.concatenate([pseudo.masks[:, 0].numpy() > 0, np.zeros(images[half:].shape[:3], bool)])
        both = np.concatenate([spoiled, images[half:]])
        corrupted.append(TestSet(each.category, both, np.arange(len(both)) < half, masks))
        clean.append(scorer(corrupted[-1]))
    image, pixel = mean_aurocs(corrupted, clean)
    assert image > IMAGE_BOUND
    assert pixel > PIXEL_BOUND
