"""Models that share the weights of their backbone, and those that do not."""

import pytest

from dual_image_clip.weights import load_backbone, sharing_weights
from tests.helpers import TINY


def test_equal_arguments_give_one_model_as_long_as_weights_are_shared():
    with sharing_weights():
        first = load_backbone(TINY, None)
        assert load_backbone(TINY, None).clip is first.clip
        assert load_backbone(TINY, None, 32).clip is not first.clip
    alone = load_backbone(TINY, None)
    assert alone.clip is not first.clip
    assert load_backbone(TINY, None).clip is not alone.clip
    with sharing_weights():
        assert load_backbone(TINY, None).clip is not first.clip


def test_what_could_not_be_loaded_is_tried_again(tmp_path):
    with sharing_weights():
        for _ in range(2):
            with pytest.raises(FileNotFoundError):
                load_backbone(TINY, tmp_path / "nowhere.pt")
