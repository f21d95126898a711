"""Pictures and masks: every family with each of its defects."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dual_image_clip.procedural import DEFECTS, FAMILIES, HELD_OUT_DEFECTS, HELD_OUT_FAMILIES, Category
from dual_image_clip.procedural.defects import SURFACE_DEFECTS

SMALL = 96
JUST_VISIBLE = 0.06
FAR = 0.06

CASES = [(family, defect) for family in FAMILIES for defect in FAMILIES[family].defects()]


def _change(pair) -> np.ndarray:
    return np.abs(pair.defective - pair.clean).max(axis=2)


def _blurred(change: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(change, (0, 0), 0.7)


def test_there_are_enough_families_and_defects():
    assert len(FAMILIES) >= 30
    assert len(DEFECTS) >= 12
    kinds = {family.is_object for family in FAMILIES.values()}
    assert kinds == {True, False}


def test_held_out_families_are_some_textures_and_some_objects():
    assert len(HELD_OUT_FAMILIES) >= 10
    trainable = [name for name, family in FAMILIES.items() if not family.held_out]
    assert trainable
    assert not set(HELD_OUT_FAMILIES) & set(trainable)
    assert {FAMILIES[name].is_object for name in HELD_OUT_FAMILIES} == {True, False}


def test_held_out_defects_leave_something_to_train_on_in_every_family():
    assert len(HELD_OUT_DEFECTS) >= 3
    assert set(HELD_OUT_DEFECTS) < set(DEFECTS)
    assert set(HELD_OUT_DEFECTS) & set(SURFACE_DEFECTS)
    assert set(HELD_OUT_DEFECTS) - set(SURFACE_DEFECTS)
    for family in FAMILIES.values():
        assert set(family.defects()) - set(HELD_OUT_DEFECTS)


def test_every_defect_belongs_to_a_family_and_none_is_unknown():
    used = {defect for family in FAMILIES.values() for defect in family.defects()}
    assert used == set(DEFECTS)
    for family in FAMILIES.values():
        assert len(set(family.defects())) == len(family.defects())


@pytest.mark.parametrize(("family", "defect"), CASES, ids=["-".join(case) for case in CASES])
def test_mask_marks_what_changed_and_nothing_else(family, defect):
    pair = Category(family, seed=3, image_size=SMALL).pair("test", 0, defect)
    change = _change(pair)
    assert pair.mask.shape == (SMALL, SMALL)
    assert pair.mask.any()
    assert pair.clean.dtype == pair.defective.dtype == np.float32
    assert change[pair.mask].mean() > 0.02
    if pair.mask.all():
        return
    outside = ~pair.mask
    assert change[pair.mask].mean() > 3 * change[outside].mean()
    assert np.quantile(_blurred(change)[outside], 0.995) < JUST_VISIBLE
    away = cv2.distanceTransform(outside.astype(np.uint8), cv2.DIST_L2, 5)
    assert not change[away > FAR * SMALL].any()


@pytest.mark.parametrize("family", FAMILIES)
def test_two_good_products_look_alike_but_are_not_identical(family):
    category = Category(family, image_size=SMALL)
    first, second = category.normal("train", 0), category.normal("train", 1)
    assert first.shape == (SMALL, SMALL, 3)
    assert first.dtype == np.uint8
    assert (first != second).mean() > 0.2
    assert np.abs(first.mean(axis=(0, 1)) - second.mean(axis=(0, 1))).max() < 60
    assert first.std() > 2


def test_an_image_does_not_depend_on_what_was_drawn_before():
    fresh = Category("gear", seed=5, image_size=SMALL).normal("train", 7)
    used = Category("gear", seed=5, image_size=SMALL)
    used.anomalous("test", 0, "missing_part")
    used.normal("train", 6)
    np.testing.assert_array_equal(used.normal("train", 7), fresh)


def test_roles_indices_and_seeds_give_other_images():
    category = Category("nut", image_size=SMALL)
    image = category.normal("train", 0)
    for other in (
        category.normal("test", 0),
        category.normal("train", 1),
        Category("nut", seed=1, image_size=SMALL).normal("train", 0),
    ):
        assert (other != image).any()


def test_the_anomalous_image_shows_the_pair_behind_it():
    category = Category("pill", image_size=SMALL)
    image, mask = category.anomalous("test", 2, "broken_edge")
    pair = category.pair("test", 2, "broken_edge")
    np.testing.assert_array_equal(mask, pair.mask)
    assert np.corrcoef(image.mean(axis=2).ravel(), pair.defective.mean(axis=2).ravel())[0, 1] > 0.9


def test_another_process_draws_the_same_bytes():
    program = (
        "import hashlib; from dual_image_clip.procedural import Category; "
        f"image, mask = Category('zipper', 2, {SMALL}).anomalous('test', 1, 'missing_part'); "
        "print(hashlib.sha256(image.tobytes() + mask.tobytes()).hexdigest())"
    )
    digests = {
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
        for _ in range(2)
    }
    assert len(digests) == 1


def test_rendering_needs_neither_torch_nor_anomalib():
    program = (
        "import sys; from dual_image_clip.procedural import Category; "
        f"Category('gear', 0, {SMALL}).normal('train', 0); "
        "sys.exit('torch' in sys.modules or 'anomalib' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_package_itself_does_not_import_the_renderer():
    program = "import sys, dual_image_clip; sys.exit('dual_image_clip.procedural' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_unknown_category_lists_all_names():
    with pytest.raises(ValueError, match="gera") as error:
        Category("gera")
    assert all(name in str(error.value) for name in FAMILIES)


def test_unknown_defect_lists_those_of_the_category():
    with pytest.raises(ValueError, match=r"gear has no defect 'thread_fault'.*missing_part"):
        Category("gear").pair("test", 0, "thread_fault")


def test_too_small_an_image_is_refused():
    with pytest.raises(ValueError, match="image_size"):
        Category("gear", image_size=16)


@settings(max_examples=25, deadline=None)
@given(
    case=st.sampled_from(CASES),
    seed=st.integers(0, 10**6),
    index=st.integers(0, 10**4),
    size=st.sampled_from([64, 97, 128]),
)
def test_any_seed_index_and_size_can_be_drawn(case, seed, index, size):
    family, defect = case
    image, mask = Category(family, seed, size).anomalous("test", index, defect)
    assert image.shape == (size, size, 3)
    assert mask.any()


@pytest.mark.parametrize("seed", [3, 1016])
def test_print_on_a_bottle_top_can_be_read(seed):
    _, mask = Category("bottle_top", seed).anomalous("train", 0, "misprint")
    assert mask.any()
