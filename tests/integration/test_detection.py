"""The embedded checkpoint finds defects: on products of families, and with kinds of defect, that it never saw."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
import torch
from anomalib.data import InferenceBatch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from dual_image_clip import DualImageCLIP
from dual_image_clip.method import DualPathEncoder, ImageFeatures, PseudoAnomalyGenerator
from dual_image_clip.procedural import Category
from tests.helpers import make_model, seeded

FAMILIES = ("carpet", "foam", "granite", "mesh", "gear", "cookie", "zipper", "button")
COUNT = 10
SEED = 7
# What the checkpoint reaches on these 160 images, less a margin.
IMAGE_BOUND = 0.60
PIXEL_BOUND = 0.64

NO_REFERENCE = {"num_references": 0, "lambda_1": 0.0, "lambda_4": 0.0}
TABLE_3 = {
    "base": {**NO_REFERENCE, "adaptation_steps": 0},
    "+ TTA": NO_REFERENCE,
    "+ pair": {"adaptation_steps": 0},
    "both": {},
}


class Products(NamedTuple):
    family: str
    images: Tensor
    labels: Tensor
    masks: Tensor


@cache
def draw(family: str) -> Products:
    """As many good products as defective ones, in random order."""
    category = Category(family, SEED, 240)
    kinds = category.defects
    good = [(category.normal("test", index), np.zeros((240, 240), bool)) for index in range(COUNT)]
    bad = [category.anomalous("anomalous", index, kinds[index % len(kinds)]) for index in range(COUNT)]
    order = torch.randperm(2 * COUNT, generator=seeded(SEED))
    images, masks = (torch.from_numpy(np.stack(each))[order] for each in zip(*good, *bad, strict=True))
    return Products(family, images.permute(0, 3, 1, 2).float() / 255, order >= COUNT, masks)


def score(products: Products, model: DualImageCLIP) -> InferenceBatch:
    model.set_class_name(products.family)
    return model.model(model.pre_process(products.images))


@cache
def scores_of_row(row: str) -> list[InferenceBatch]:
    return [score(draw(family), make_model(**TABLE_3[row])) for family in FAMILIES]


def areas(products: list[Products], found: list[InferenceBatch]) -> tuple[float, float]:
    """AUROC of images and of pixels, means over the families."""
    pairs = list(zip(products, found, strict=True))
    images = np.mean([roc_auc_score(each.labels, scores.pred_score) for each, scores in pairs])
    pixels = np.mean([roc_auc_score(each.masks.ravel(), scores.anomaly_map.ravel()) for each, scores in pairs])
    return float(images), float(pixels)


def detects(products: list[Products], found: list[InferenceBatch]) -> bool:
    images, pixels = areas(products, found)
    return images > IMAGE_BOUND and pixels > PIXEL_BOUND


def scores_when(spoil: Callable[[DualImageCLIP], None], row: str = "both") -> list[InferenceBatch]:
    """Scores of a model that is spoilt, which happens when it knows its texts."""
    found = []
    for family in FAMILIES:
        model = make_model(**TABLE_3[row])
        model.set_class_name(family)
        spoil(model)
        found.append(model.model(model.pre_process(draw(family).images)))
    return found


@pytest.mark.parametrize("row", TABLE_3)
def test_every_row_of_table_3_detects(row):
    assert detects([draw(family) for family in FAMILIES], scores_of_row(row))


def test_an_untrained_encoder_does_not():
    torch.manual_seed(0)
    untrained = make_model(pretrained=None)
    assert not detects([draw(family) for family in FAMILIES], [score(draw(family), untrained) for family in FAMILIES])


class MixedUp(DualPathEncoder):
    """Patches in an order that is none."""

    def forward(self, images: Tensor) -> ImageFeatures:
        class_token, patch_tokens = super().forward(images)
        return ImageFeatures(class_token, self.mixed(patch_tokens))

    def patch_tokens(self, images: Tensor) -> Tensor:
        return self.mixed(super().patch_tokens(images))

    @staticmethod
    def mixed(tokens: Tensor) -> Tensor:
        flat = tokens.flatten(1, 2)
        return flat[:, torch.randperm(flat.shape[1], generator=seeded(0))].view_as(tokens)


def test_an_encoder_that_mixes_its_patches_up_does_not():
    def mix_up(model: DualImageCLIP) -> None:
        model.model.encoder = MixedUp(model.backbone.clip.visual)

    assert not detects([draw(family) for family in FAMILIES], scores_when(mix_up))


def swap_texts(model: DualImageCLIP) -> None:
    model.model.text_embeddings.copy_(model.model.text_embeddings.flip(0))


def test_swapped_texts_do_not():
    assert not detects([draw(family) for family in FAMILIES], scores_when(swap_texts, "base"))


def test_swapped_texts_take_back_some_of_what_a_partner_tells():
    products = [draw(family) for family in FAMILIES]
    right, swapped = areas(products, scores_of_row("both")), areas(products, scores_when(swap_texts))
    assert all(one > other + 0.02 for one, other in zip(right, swapped, strict=True))


def test_nothing_detects_where_labels_and_masks_are_shuffled():
    shuffled = []
    for number, products in enumerate(map(draw, FAMILIES)):
        order = torch.randperm(2 * COUNT, generator=seeded(number))
        shuffled.append(products._replace(labels=products.labels[order], masks=products.masks[order]))
    assert not detects(shuffled, scores_of_row("both"))


def test_adaptation_changes_the_map_where_the_defects_are():
    for family, before, after in zip(FAMILIES, scores_of_row("+ pair"), scores_of_row("both"), strict=True):
        change = (after.anomaly_map - before.anomaly_map).abs()
        assert (change[draw(family).masks] > 1e-3).float().mean() > 0.5


def test_a_pseudo_anomaly_lights_up():
    spoilt = []
    for products in map(draw, FAMILIES):
        good = products.images[~products.labels]
        pseudo = PseudoAnomalyGenerator(seed=1)(good[: COUNT // 2])
        masks = torch.cat([pseudo.masks[:, 0] > 0, torch.zeros(COUNT - COUNT // 2, 240, 240, dtype=torch.bool)])
        images = torch.cat([(pseudo.images * 255).round() / 255, good[COUNT // 2 :]])
        spoilt.append(Products(products.family, images, torch.arange(COUNT) < COUNT // 2, masks))
    model = make_model()
    assert detects(spoilt, [score(each, model) for each in spoilt])
