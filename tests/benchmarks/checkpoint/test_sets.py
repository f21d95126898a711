import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image

from benchmarks.checkpoint.sets import TEST_SETS, drawn_category
from dual_image_clip.procedural import FAMILIES, HELD_OUT_DEFECTS, HELD_OUT_FAMILIES, Category

ABLE = {family for family in FAMILIES if set(FAMILIES[family].defects()) & set(HELD_OUT_DEFECTS)}


def families_of(name: str) -> set[str]:
    return {each.paths[0].partition("/")[0] for each in TEST_SETS[name](0, 1)}


def test_a_drawn_category_is_what_the_renderer_draws_in_random_order():
    drawn, product = drawn_category("gear", 3, 4), Category("gear", 3, 240)
    assert drawn.class_name == "gear"
    assert drawn.labels.sum() == 4
    assert drawn.labels.tolist() != sorted(drawn.labels.tolist())
    for path, image, label, mask in zip(drawn.paths, drawn.images, drawn.labels, drawn.masks, strict=True):
        _, kind, file = path.split("/")
        index = int(file.removesuffix(".png"))
        assert label == (kind == "anomalous") == mask.any()
        if label:
            expected, _ = product.anomalous("anomalous", index, product.defects[index % len(product.defects)])
        else:
            expected = product.normal("test", index)
        np.testing.assert_array_equal((255 * image).round().permute(1, 2, 0), expected)


def test_held_out_defects_alone_are_drawn_where_they_are_asked_for(monkeypatch):
    asked = []
    draw = Category.anomalous
    monkeypatch.setattr(Category, "anomalous", lambda self, *what: asked.append(what[2]) or draw(self, *what))
    drawn_category("screw", 0, 5, only_held_out_defects=True)
    assert len(asked) == 5
    assert set(asked) <= set(HELD_OUT_DEFECTS)


def test_drawn_sets_have_the_families_they_say():
    assert families_of("held_out_families") == families_of("validation") == set(HELD_OUT_FAMILIES)
    assert families_of("held_out_families_and_defects") == set(HELD_OUT_FAMILIES) & ABLE
    assert families_of("held_out_defects") == ABLE - set(HELD_OUT_FAMILIES)


def test_validation_shows_none_of_the_products_that_are_reported():
    reported, kept_back = (next(iter(TEST_SETS[name](0, 1))) for name in ("held_out_families", "validation"))
    assert not torch.equal(reported.images, kept_back.images)


def test_sets_repeat_themselves_and_another_seed_differs():
    first, again, other = (drawn_category("gear", seed, 2) for seed in (0, 0, 1))
    torch.testing.assert_close(first.images, again.images, rtol=0, atol=0)
    assert not torch.equal(first.images, other.images)


@pytest.mark.parametrize("name", ["solar_cells", "textile_local", "textile_global"])
def test_photographs_are_those_of_their_files(name):
    (photographs,) = TEST_SETS[name](0, 1)
    assert photographs.images.shape == (20, 3, 240, 240)
    assert photographs.labels.sum() == 10
    assert photographs.masks is None
    assert len(set(photographs.paths)) == 20
    for path, image in zip(photographs.paths, photographs.images, strict=True):
        with Image.open(path) as file:
            expected = torch.from_numpy(np.array(file.convert("RGB").resize((24, 24), Image.Resampling.BOX))) / 255
        assert (F.avg_pool2d(image, 10).permute(1, 2, 0) - expected).abs().mean() < 0.01


@pytest.mark.parametrize("name", ["solar_cells", "textile_local"])
def test_known_good_photographs_are_none_of_those_that_are_scored(name):
    for seed in (0, 1):
        (photographs,) = TEST_SETS[name](seed, 1)
        assert photographs.known_good.shape == (8, 3, 240, 240)
        differences = (photographs.known_good[:, None] - photographs.images[None]).abs().amax(dim=(2, 3, 4))
        assert differences.min() > 0


def test_known_good_drawings_are_of_the_same_product_and_none_of_those_that_are_scored():
    gears = drawn_category("gear", 3, 4)
    drawn = np.stack([Category("gear", 3, 240).normal("train", index) for index in range(8)])
    assert torch.equal(gears.known_good, torch.from_numpy(drawn).permute(0, 3, 1, 2).float() / 255)
    assert (gears.known_good[:, None] - gears.images[None]).abs().amax(dim=(2, 3, 4)).min() > 0
