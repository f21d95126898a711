"""Images that are larger than the tower's square."""

import pytest
import torch

from dual_image_clip.method import ScoreWeights
from tests.helpers import assert_same
from tests.torch_model.tiny import VISUAL_ONLY, build, names, some_images

CLASS_TOKEN_ONLY = ScoreWeights(0.0, 1.0, 1.0, 0.0, 0.0)


@pytest.mark.parametrize("size", [(64, 64), (64, 96), (160, 64), (64, 100)], ids=str)
@pytest.mark.parametrize("steps", [0, 2])
def test_result_has_the_geometry_of_the_image(tiny_clip, size, steps):
    predictions = build(tiny_clip, steps=steps)(some_images(2, size), names(2))
    assert predictions.pred_score.shape == (2,)
    assert predictions.anomaly_map.shape == (2, *size)


@pytest.mark.parametrize("side_by_side", [True, False], ids=["wide", "tall"])
def test_image_of_two_halves_scores_as_its_tiles_do(tiny_clip, side_by_side):
    halves = some_images(2)
    image = torch.cat([halves[0], halves[1]], dim=2 if side_by_side else 1)[None]
    by_half = build(tiny_clip, references=0, steps=0)(halves)
    whole = build(tiny_clip, references=0, steps=0)(image)
    assert_same(whole.anomaly_map[0], torch.cat([*by_half.anomaly_map], dim=1 if side_by_side else 0))
    class_score = build(tiny_clip, references=0, steps=0, weights=CLASS_TOKEN_ONLY)
    assert_same(class_score(image).pred_score[0], class_score(halves).pred_score.mean())
    patch_score = build(tiny_clip, references=0, steps=0, weights=ScoreWeights(1, 1, 0, 0, 1))
    assert_same(patch_score(image).pred_score[0], patch_score(halves).pred_score.max())


def test_patches_are_looked_for_in_all_tiles_of_the_reference(tiny_clip):
    one, two = some_images(2)
    model = build(tiny_clip, steps=0, weights=VISUAL_ONLY)
    model(torch.cat([one, two], dim=2)[None], ["reference.png"])
    predictions = model(torch.cat([two, one], dim=2)[None], ["query.png"])
    assert_same(predictions.anomaly_map, torch.zeros(1, 64, 128))


def test_size_that_does_not_fit_the_patches_is_refused(tiny_clip):
    with pytest.raises(ValueError, match="multiples of 16"):
        build(tiny_clip)(some_images(2, (40, 64)))


def test_image_of_too_many_tiles_is_refused(tiny_clip):
    with pytest.raises(ValueError, match="tiles"):
        build(tiny_clip)(torch.zeros(1, 3, 64, 64 * 65))
