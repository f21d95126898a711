"""The promise of a threshold, against counting, and over many draws."""

import numpy as np
import pytest

from dual_image_clip.conformal import TooFewPhotosError, conformal_threshold, require_enough
from tests.helpers import refusal

DRAWS = 2000


def draw_lognormal(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return generator.lognormal(size=shape)


def draw_two_kinds(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """One photo in twenty is of another kind, as under another lamp."""
    return generator.normal(size=shape) + 6 * (generator.random(shape) < 0.05)


def by_counting(scores: list[float], rate: float) -> float:
    """The smallest of the scores whose conformal p-value is at most the rate."""
    kept = [each for each in scores if (sum(other > each for other in scores) + 1) / (len(scores) + 1) <= rate + 1e-12]
    return min(kept)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.07, 0.1, 0.29, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("count", [9, 19, 99, 100, 150])
def test_threshold_is_that_of_counting(count, rate):
    scores = np.random.default_rng(count).normal(size=count).tolist()
    if (count + 1) * rate < 1 - 1e-12:
        with pytest.raises(TooFewPhotosError):
            conformal_threshold(scores, rate)
        return
    # Rates that a float does not hold make no rank more.
    assert conformal_threshold(scores, rate) == by_counting(scores, rate)


@pytest.mark.parametrize("draw", [draw_lognormal, draw_two_kinds])
@pytest.mark.parametrize(("count", "rate"), [(19, 0.05), (50, 0.1), (99, 0.01), (150, 0.02)])
def test_promised_rate_holds_over_many_draws_and_is_not_far_from_it(count, rate, draw):
    generator = np.random.default_rng(1)
    good, later = draw(generator, (DRAWS, count)), draw(generator, (DRAWS, 50))
    alarms = np.array([(new > conformal_threshold(old, rate)).mean() for old, new in zip(good, later, strict=True)])
    error = alarms.std() / np.sqrt(DRAWS)
    assert alarms.mean() <= rate + 3 * error
    assert alarms.mean() >= rate - 1 / (count + 1) - 3 * error


def test_more_alarms_than_promised_are_no_good_photos_fault_alone():
    """One rank less breaks the promise, so the test above would see it."""
    generator = np.random.default_rng(2)
    good, later = generator.normal(size=(DRAWS, 99)), generator.normal(size=(DRAWS, 50))
    alarms = (later > np.sort(good, axis=1)[:, -2:-1]).mean(axis=1)
    assert alarms.mean() > 0.01 + 3 * alarms.std() / np.sqrt(DRAWS)


@pytest.mark.parametrize(
    ("photos", "references", "rate", "said"),
    [
        (98, 0, 0.01, "98, and it takes 99; they allow 0.0102 at best"),
        (197, 1, 0.01, "197, and it takes 198, because each is compared with 1 other"),
        (29, 1, 0.05, "they allow 0.0667 at best"),
        (8, 8, 0.5, "they allow none"),
        (0, 0, 0.5, "they allow none"),
    ],
)
def test_too_few_photos_are_told_with_the_rate_that_they_allow(photos, references, rate, said):
    with pytest.raises(TooFewPhotosError, match=said):
        require_enough(photos, references, rate)


# The last is what 98 photos are said to allow.
@pytest.mark.parametrize(("photos", "references", "rate"), [(99, 0, 0.01), (198, 1, 0.01), (98, 0, 0.0102)])
def test_enough_photos_are_enough(photos, references, rate):
    assert refusal(require_enough, photos, references, rate) is None
    assert refusal(require_enough, photos - 1, references, rate) is not None


@pytest.mark.parametrize("rate", [0, 1, -0.1, 2, float("nan")])
def test_rate_that_is_none_is_refused(rate):
    with pytest.raises(ValueError, match="false_alarm_rate must lie above 0 and below 1"):
        require_enough(1000, 0, rate)
