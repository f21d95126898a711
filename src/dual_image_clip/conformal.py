"""Split conformal prediction: a threshold of scores with a promise, whatever their distribution; imports no torch."""

import math
from collections.abc import Sequence
from fractions import Fraction


class TooFewPhotosError(ValueError):
    """There are too few photos for a rate of false alarms."""


def conformal_threshold(scores: Sequence[float], false_alarm_rate: float) -> float:
    """The smallest threshold that keeps a rate of false alarms.

    Args:
        scores: Scores of n good photos, independent of each other.
        false_alarm_rate: Probability, above 0 and below 1, with which one more may lie above the threshold.

    Returns:
        The k-th smallest score, k = ⌈(n + 1)(1 − rate)⌉.

    Raises:
        TooFewPhotosError: There are fewer than 1 / rate − 1 scores.
        ValueError: The rate is not above 0 and below 1.

    Example:
        >>> conformal_threshold([0.1, 0.2, 0.3, 0.4], 0.25)
        0.4
    """
    require_enough(len(scores), 0, false_alarm_rate)
    # A binary fraction of 0.01 is a little more or less.
    rank = math.ceil((len(scores) + 1) * (1 - Fraction(str(false_alarm_rate))))
    return sorted(scores)[rank - 1]


def require_enough(photos: int, num_references: int, false_alarm_rate: float) -> None:
    """Refuses a rate of false alarms that so few photos cannot promise.

    Args:
        photos: Number of good photos.
        num_references: Number of others that each is compared with.
        false_alarm_rate: The rate.

    Raises:
        TooFewPhotosError: There are too few; the rate that they allow is named.
        ValueError: The rate is not above 0 and below 1.
    """
    if not 0 < false_alarm_rate < 1:
        msg = f"false_alarm_rate must lie above 0 and below 1, got {false_alarm_rate}"
        raise ValueError(msg)
    group = num_references + 1
    counted, needed = photos // group, math.ceil(1 / Fraction(str(false_alarm_rate))) - 1
    if counted >= max(needed, 1):
        return
    msg = f"too few good photos for a false-alarm rate of {false_alarm_rate:g}: {photos}, and it takes {needed * group}"
    if num_references:
        msg += (
            f", because each is compared with {num_references} other(s), which do not count ({needed} suffice with "
            "golden images and num_references=0)"
        )
    # Rounded up, so that it is allowed as it is read.
    allowed = math.ceil(10_000 / (counted + 1)) / 10_000
    raise TooFewPhotosError(f"{msg}; they allow {f'{allowed:g} at best' if counted else 'none'}")
