"""Thresholds that keep a rate of false alarms, from photos known to be good.

The promise: a good photo that comes later, exchangeable with these, lies above the threshold with a probability of at
most the rate that was asked for. Split conformal prediction gives it for any distribution of scores: of n of them that
are independent, the threshold is the k-th smallest with k = ⌈(n + 1)(1 − rate)⌉, and n is large enough where k ≤ n.

It holds as far as the n photos are scored as later ones will be, and independently of each other:

- Against golden images, which are the same for all. A photo that is itself golden is left out, by its content, because
  nothing is as like it as itself; so a folder may be given as both, and the photos that are not drawn from it count.
- Against other photos, as ``num_references`` asks for: in groups of a photo and its references, none of which is in
  another group. Scores of a group know of each other, so only the first of each counts; that costs photos, and golden
  images and ``num_references=0`` do without. Every photo of a group is scored all the same: all are looked at for
  defects. Later photos have references that need not be good, which this cannot know.

For pixels the same holds for the largest value of a photo's anomaly map: a good photo has any anomalous pixel with a
probability of at most the rate.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from hashlib import sha256
from typing import NamedTuple

import torch

from dual_image_clip.hooks import LabelFreePostProcessor, robust_limit
from dual_image_clip.lightning_model import DualImageCLIP
from dual_image_clip.one_image import SCORING, encode_one, own_post_processor, score_one
from dual_image_clip.photos import UnusableFile, UnusableImageError, file_of
from dual_image_clip.threshold_file import Calibration
from dual_image_clip.torch_model import EncodedImages

# Of the robust rule that finds outliers: deviations above the median, and the least deviation that is assumed.
_Z_SCORE, _SMALLEST_DEVIATION = 3.5, 0.01
_DIGITS = 6

Progress = Callable[[int, int], object]
"""Told how many photos are done, and how many there are."""


class TooFewPhotosError(ValueError):
    """There are too few photos for the rate of false alarms."""


class GoodScore(NamedTuple):
    """What is said about a photo that is known to be good.

    Attributes:
        path: The photo.
        score: Its score, in 0..1.
        hottest: Largest value of its anomaly map, in 0..1.
        counts: Whether it is independent of the others that count.
    """

    path: str
    score: float
    hottest: float
    counts: bool


class _Photo(NamedTuple):
    path: str
    encoded: EncodedImages
    size: tuple[int, int]


def conformal_threshold(scores: Sequence[float], false_alarm_rate: float) -> float:
    """The smallest threshold that keeps a rate of false alarms, whatever the distribution of scores.

    Args:
        scores: Scores of n good photos, independent of each other.
        false_alarm_rate: Probability, above 0 and below 1, with which one more may lie above the threshold.

    Returns:
        The k-th smallest score, k = ⌈(n + 1)(1 − rate)⌉.

    Raises:
        TooFewPhotosError: There are fewer than 1 / rate − 1 scores.

    Example:
        >>> conformal_threshold([0.1, 0.2, 0.3, 0.4], 0.25)
        0.4
    """
    require_enough(len(scores), 0, false_alarm_rate)
    # A binary fraction of 0.01 is a little more or less.
    rank = math.ceil((len(scores) + 1) * (1 - Fraction(str(false_alarm_rate))))
    return sorted(scores)[max(rank, 1) - 1]


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
    if counted >= needed:
        return
    # Rounded up, so that it is allowed as it is read.
    allowed = math.ceil(1000 / (counted + 1)) / 1000
    best = f"they allow {allowed:g} at best" if counted else "they allow none"
    msg = (
        f"too few good photos for a false-alarm rate of {false_alarm_rate:g}: {photos} where it takes {needed * group}"
    )
    if num_references:
        msg += (
            f", because each is compared with {num_references} other(s) that count no more ({needed} do with golden "
            "images and num_references=0)"
        )
    raise TooFewPhotosError(f"{msg}; {best}")


def calibrate(
    model: DualImageCLIP,
    photos: Sequence[str],
    false_alarm_rate: float,
    progress: Progress = lambda _done, _total: None,
    pass_over: Callable[[UnusableFile], object] = lambda _file: None,
) -> Calibration:
    """Finds the thresholds that keep a rate of false alarms.

    Args:
        model: What to score with, with a class name. It must not be used otherwise at the same time.
        photos: Photos known to be good; golden ones among them are left out.
        false_alarm_rate: Share of good photos that may be called anomalous, above 0 and below 1.
        progress: Is told how far it is.
        pass_over: Is told of photos that cannot be used.

    Returns:
        The thresholds.

    Raises:
        TooFewPhotosError: There are too few photos for that rate.
        ValueError: The rate is out of its range.
    """
    num_references = model.model.references.num_references
    require_enough(len(without_golden(model, photos)), num_references, false_alarm_rate)
    # The model belongs to the calibration until the last of its photos.
    with SCORING:
        model.eval().complete()
        scores = list(_scores(model, without_golden(model, photos), false_alarm_rate, progress, pass_over))
    counted = [each for each in scores if each.counts]
    return Calibration(
        threshold=_rounded_up(conformal_threshold([each.score for each in counted], false_alarm_rate)),
        map_threshold=_rounded_up(conformal_threshold([each.hottest for each in counted], false_alarm_rate)),
        false_alarm_rate=false_alarm_rate,
        photos=len(scores),
        counted=len(counted),
        suspicious=find_suspicious(scores),
        settings={**model.score_settings, "class_name": model.class_name},
    )


def without_golden(model: DualImageCLIP, photos: Sequence[str]) -> list[str]:
    """Photos that are not among the golden ones, neither as files nor as copies of them.

    Args:
        model: The model, of whose golden images at least the files are known.
        photos: The photos.

    Returns:
        The others, in an order that is random and depends on their names and the model's seed only.
    """
    golden = {_content(path) for path in model.golden.paths}
    others = sorted(path for path in photos if not golden or _content(path) not in golden)
    order = torch.randperm(len(others), generator=torch.Generator().manual_seed(model.seed))
    return [others[index] for index in order.tolist()]


def find_suspicious(scores: Sequence[GoodScore]) -> tuple[tuple[str, float], ...]:
    """Photos that look defective among the others.

    Args:
        scores: Of all.

    Returns:
        Path and score of each whose score is an outlier, the highest first; none of fewer than eight photos.
    """
    limit = robust_limit(torch.tensor([each.score for each in scores]), _Z_SCORE, _SMALLEST_DEVIATION)
    return tuple(sorted(((each.path, each.score) for each in scores if each.score > limit), key=lambda each: -each[1]))


def _scores(
    model: DualImageCLIP,
    photos: Sequence[str],
    false_alarm_rate: float,
    progress: Progress,
    pass_over: Callable[[UnusableFile], object],
) -> Iterator[GoodScore]:
    """Scores photos in groups of one and its references; those left in the end borrow from the last group."""
    num_references = model.model.references.num_references
    model.model.reset()
    post_processor, usable = own_post_processor(model), len(photos)
    group: list[_Photo] = []
    before: list[_Photo] = []
    for number, path in enumerate(photos):
        progress(number, len(photos))
        try:
            group.append(_read(model, path))
        except UnusableImageError as error:
            pass_over(UnusableFile(error.name, error.reason))
            usable -= 1
            require_enough(usable, num_references, false_alarm_rate)
        if len(group) == num_references + 1:
            yield from _score_group(model, post_processor, group, [])
            before, group = group, []
    # Too few to be a group, they are looked at for defects only.
    yield from _score_group(model, post_processor, group, before)
    progress(len(photos), len(photos))


def _score_group(
    model: DualImageCLIP, post_processor: LabelFreePostProcessor, group: Sequence[_Photo], before: Sequence[_Photo]
) -> Iterator[GoodScore]:
    num_references = model.model.references.num_references
    for index, photo in enumerate(group):
        others = [*group[:index], *group[index + 1 :], *before][:num_references]
        references = [each.encoded.patches for each in others]
        found = score_one(model, post_processor, photo.encoded, references, photo.size)
        counts = (index == 0 and not before) or not num_references
        yield GoodScore(photo.path, found.score, float(found.anomaly_map.max()), counts)


def _read(model: DualImageCLIP, path: str) -> _Photo:
    pixels = model.reader.read(path)
    return _Photo(path, encode_one(model, pixels, path), (pixels.shape[-2], pixels.shape[-1]))


def _content(path: str) -> tuple[str, int] | str:
    file, page = file_of(path)
    try:
        return sha256(file.read_bytes()).hexdigest(), page
    except OSError:
        # It is told when its turn comes.
        return path


def _rounded_up(value: float) -> float:
    """A number to be read by people, which no score that it was taken from lies above."""
    return min(1.0, math.ceil(value * 10**_DIGITS) / 10**_DIGITS)
