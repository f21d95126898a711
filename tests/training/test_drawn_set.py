import numpy as np
import pytest
import torch

from dual_image_clip.procedural import FAMILIES, HELD_OUT_DEFECTS, HELD_OUT_FAMILIES, Category, generator
from training import drawn_set
from training.batches import add_pseudo_anomalies, cover_of_patches, draw_batch, photograph
from training.drawn_set import draw_training_set, load_training_set
from training.recipe import TRAINING_FAMILIES, DataRecipe

SMALL = DataRecipe(families=["weave", "nut"], products=2, pairs=4)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    draw_training_set(folder, SMALL)
    return folder, load_training_set(folder, SMALL)


def test_nothing_held_out_is_trained_on():
    assert set(TRAINING_FAMILIES).isdisjoint(HELD_OUT_FAMILIES)
    assert set(TRAINING_FAMILIES) | set(HELD_OUT_FAMILIES) == set(FAMILIES)


def test_training_set_is_what_the_renderer_draws(drawn):
    _, families = drawn
    nut = families[1]
    category = Category("nut", SMALL.first_seed + 1)
    np.testing.assert_array_equal(nut.images[1, 2, 0], category.normal("train", 2))
    kinds = [kind for kind in category.defects if kind not in HELD_OUT_DEFECTS]
    rng = generator(category.seed, "nut", "kinds of defect")
    chosen = [str(rng.choice(kinds)) for _ in range(4)]
    image, mask = category.anomalous("train", 2, chosen[2])
    np.testing.assert_array_equal(nut.images[1, 2, 1], image)
    np.testing.assert_array_equal(nut.masks[1, 2] > 0, mask)


def test_defects_of_training_are_never_held_out(tmp_path, monkeypatch):
    asked = []

    class Watched(Category):
        def anomalous(self, role, index, defect):
            asked.append(defect)
            return super().anomalous(role, index, defect)

    monkeypatch.setattr(drawn_set, "Category", Watched)
    drawn_set._draw_family("strap", tmp_path, DataRecipe(products=8))
    assert len(asked) == 32
    assert set(asked).isdisjoint(HELD_OUT_DEFECTS)
    assert len(set(asked)) > 4


def test_only_what_is_missing_is_drawn_again(drawn, monkeypatch):
    folder, families = drawn
    monkeypatch.setattr(drawn_set, "_draw_family", None)  # would fail if it were called
    draw_training_set(folder, SMALL)
    assert [family.name for family in families] == SMALL.families


def test_batch_repeats_itself_and_another_seed_differs(drawn):
    _, families = drawn
    first, again, other = (draw_batch(families, 3, 160, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.images, again.images)
    np.testing.assert_array_equal(first.masks, again.masks)
    assert not np.array_equal(first.images, other.images)


def test_good_images_have_no_mask_and_defective_ones_mostly_have(drawn):
    _, families = drawn
    batch = draw_batch(families, 40, 160, np.random.default_rng(0))
    shown = batch.masks.reshape(40, 4, -1).any(axis=2)
    assert not shown[:, :2].any()
    assert shown[:, 2:].mean() > 0.8


def test_masks_lie_on_what_differs_between_twins(drawn):
    _, families = drawn
    for family in families:
        rng, seen = np.random.default_rng(4), 0
        for _ in range(30):
            batch = draw_batch([family], 1, 240, rng)
            if batch.pairs[0, 0] != batch.pairs[0, 2] or not batch.masks[2].any() or batch.masks[2].all():
                continue
            change = np.abs(batch.images[2].astype(int) - batch.images[0]).max(axis=2)
            mask = batch.masks[2] > 127
            assert change[mask].mean() > 3 * change[~mask].mean()
            seen += 1
        assert seen > 5


def test_twins_are_cut_at_the_same_place(drawn):
    _, families = drawn
    rng, seen = np.random.default_rng(0), 0
    for _ in range(40):
        batch = draw_batch(families, 1, 160, rng)
        if (batch.pairs[0, :2] == batch.pairs[0, 2:]).all():
            good, defective, masks = batch.images[:2].astype(int), batch.images[2:], batch.masks[2:] > 0
            assert np.abs(good - defective)[~masks].mean() < 2
            seen += 1
    assert seen > 5


def test_blended_products_show_both_families_and_keep_their_defects(drawn):
    _, families = drawn
    plain, blended = (draw_batch(families, 30, 160, np.random.default_rng(5), blended_share=share) for share in (0, 1))
    assert not np.array_equal(plain.images, blended.images)
    again = draw_batch(families, 30, 160, np.random.default_rng(5), blended_share=1)
    np.testing.assert_array_equal(again.images, blended.images)
    twins = [index for index, pairs in enumerate(blended.pairs) if (pairs[:2] == pairs[2:]).all()]
    assert twins
    inside, outside = [], []
    for product in twins:
        for place in (2, 3):
            mask = blended.masks[4 * product + place] > 127
            if mask.any() and not mask.all() and blended.families[product] == 1:
                good = blended.images[4 * product + place - 2].astype(int)
                change = np.abs(blended.images[4 * product + place] - good).max(axis=2)
                inside.append(change[mask].mean())
                outside.append(change[~mask].mean())
    # The same other product shines through both twins only if it is an object; where it is a texture, it moves.
    assert np.mean(inside) > np.mean(outside)


def test_pseudo_anomaly_replaces_the_last_image_by_a_corrupted_good_one(drawn):
    _, families = drawn
    batch = draw_batch(families, 6, 160, np.random.default_rng(0))
    before = batch.images.copy()
    add_pseudo_anomalies(batch, 1.0, np.random.default_rng(1))
    for product in range(6):
        good, last = before[4 * product + 1], batch.images[4 * product + 3]
        mask = batch.masks[4 * product + 3] > 0
        assert mask.any()
        assert (good[~mask] == last[~mask]).all()
        assert (good[mask] != last[mask]).any()
    assert (batch.pairs[:, 3] == batch.pairs[:, 1]).all()
    untouched = np.arange(24) % 4 != 3
    np.testing.assert_array_equal(batch.images[untouched], before[untouched])


def test_cover_of_a_patch_is_the_share_of_its_pixels():
    masks = np.zeros((1, 32, 32), np.uint8)
    masks[0, :8, 16:24] = 255
    assert cover_of_patches(masks, 16).tolist() == [[0, 0.25, 0, 0]]


def test_one_products_pictures_are_taken_alike():
    flat = np.full((8, 16, 16, 3), (200, 120, 40), np.uint8)
    taken = photograph(flat, torch.Generator().manual_seed(0)).mean(dim=(2, 3)).view(2, 4, 3)
    within = (taken - taken.mean(dim=1, keepdim=True)).abs().max()
    between = (taken[0].mean(0) - taken[1].mean(0)).abs().max()
    assert within < between
    again = photograph(flat, torch.Generator().manual_seed(0)).mean(dim=(2, 3)).view(2, 4, 3)
    torch.testing.assert_close(taken, again)
