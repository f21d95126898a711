"""Thresholds that keep a rate of false alarms, from photos known to be good.

The promise: a good photo that comes later, exchangeable with these, lies above the threshold with a probability of at
most the rate that was asked for. :func:`~dual_image_clip.conformal.conformal_threshold` gives it for scores of any
distribution, as far as the photos are scored as later ones will be, and independently of each other:

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
from statistics import median
from typing import NamedTuple

import torch

from dual_image_clip.conformal import conformal_threshold, require_enough
from dual_image_clip.hooks import LabelFreePostProcessor, robust_limit
from dual_image_clip.lightning_model import DualImageCLIP
from dual_image_clip.one_image import SCORING, encode_one, score_one
from dual_image_clip.photos import UnusableFile, UnusableImageError, content_of
from dual_image_clip.threshold_file import Calibration
from dual_image_clip.torch_model import EncodedImages

# Of the robust rule that finds outliers: deviations above the median, and the least deviation that is assumed.
_Z_SCORE, _SMALLEST_DEVIATION = 3.5, 0.01
_DIGITS = 6

Progress = Callable[[int, int], object]
"""Told how many photos are done, and how many there are."""


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
    # The model belongs to the calibration until the last of its photos.
    with SCORING:
        model.eval().complete()
        others = without_golden(model, photos)
        require_enough(len(others), model.model.references.num_references, false_alarm_rate)
        scores = list(_scores(model, others, false_alarm_rate, progress, pass_over))
    counted = [each for each in scores if each.counts]
    return Calibration(
        threshold=_rounded_up(conformal_threshold([each.score for each in counted], false_alarm_rate)),
        map_threshold=_rounded_up(conformal_threshold([each.hottest for each in counted], false_alarm_rate)),
        false_alarm_rate=false_alarm_rate,
        photos=len(scores),
        counted=len(counted),
        median=median(each.score for each in scores),
        suspicious=find_suspicious(scores),
        settings={**model.score_settings, "class_name": model.class_name},
    )


def without_golden(model: DualImageCLIP, photos: Sequence[str]) -> list[str]:
    """Photos that are not among the golden ones, neither as files nor as copies of them.

    Args:
        model: The model, with its golden images.
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
    weights, usable = model.model.weights, len(photos)
    # The scale of predictions without ground truth, whatever the model has seen.
    post_processor = LabelFreePostProcessor(weights.score_maximum, weights.map_maximum).to(model.device)
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
    try:
        return content_of(path)
    except OSError:
        # It is told when its turn comes.
        return path


def _rounded_up(value: float) -> float:
    """A number to be read by people, which no score that it was taken from lies above."""
    return min(1.0, math.ceil(value * 10**_DIGITS) / 10**_DIGITS)
