"""The histogram counts every score once, where it belongs."""

import numpy as np
import pytest

from dual_image_clip.prediction.histogram import BOTTOM, HEIGHT, LEFT, RIGHT, WIDTH, histogram


@pytest.mark.parametrize("threshold", [None, 0.31, 0.9])
@pytest.mark.parametrize("count", [1, 8, 500])
def test_every_score_is_counted_within_the_picture(count, threshold):
    scores = np.random.default_rng(0).normal(0.3, 0.05, count).tolist()
    drawn = histogram(scores, threshold)
    assert sum(bar.num_scores for bar in drawn.bars) == count
    for bar in drawn.bars:
        assert sum(bar.low <= score < bar.high for score in scores) == bar.num_scores
        assert LEFT <= bar.x < bar.x + bar.width <= WIDTH - RIGHT
        assert bar.y + bar.height == pytest.approx(HEIGHT - BOTTOM)
    assert max(bar.num_scores for bar in drawn.bars) == drawn.most


def test_bars_right_of_the_line_are_those_above_the_threshold():
    drawn = histogram([0.1, 0.12, 0.14, 0.5], 0.3)
    right = [bar for bar in drawn.bars if bar.x > drawn.threshold.x]
    assert [bar.num_scores for bar in right] == [1]
    assert drawn.threshold.text == "0.300"


def test_scores_that_are_all_alike():
    assert [bar.num_scores for bar in histogram([0.2] * 9, None).bars] == [9]
