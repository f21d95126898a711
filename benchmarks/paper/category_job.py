"""A job: all that a run wants to know of one category, row by row."""

import time
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.paper.features import CategoryFeatures
from benchmarks.paper.images import CategoryImages, load_golden_images, load_images
from benchmarks.paper.methods import adapted_map, depends_on_seed, language_map, reference_map, score
from benchmarks.paper.metrics import compute_metrics
from benchmarks.paper.plan import OURS, Plan, Setting
from benchmarks.paper.report.sheet import Example, choose_examples
from benchmarks.paper.results import Row, Spent
from dual_image_clip.method import to_pixels
from dual_image_clip.weights import Backbone


class Wanted(NamedTuple):
    """A row that is wanted of a category."""

    setting: Setting
    seed: int


class Examples(NamedTuple):
    """Images for the sheet of heatmaps, successes and failures."""

    category: str
    examples: list[Example]


JobResult: TypeAlias = Row | Examples | Spent
"""What comes of a job, piece by piece."""


def run_job(
    plan: Plan, category: str, wanted: Sequence[Wanted], backbone: Backbone, with_examples: bool
) -> Iterator[JobResult]:
    """Measures a category.

    Args:
        plan: The run.
        category: The category.
        wanted: The rows.
        backbone: The CLIP model.
        with_examples: Whether to draw heatmaps, too.

    Yields:
        Every row as soon as it is known, also of what failed; then what it took; then examples.

    Raises:
        Exception: There are no examples, whatever the reason; the rows are complete.
    """
    start = time.perf_counter()
    device = torch.device("cuda" if torch.cuda.is_available() and plan.gpus else "cpu")
    backbone.clip.to(device)
    try:
        features = _open(plan, category, backbone)
    except Exception as error:
        if not wanted:
            raise
        yield from (_failed(plan, category, each, error) for each in wanted)
        return
    reading = time.perf_counter() - start
    keys = defaultdict(set)
    for seed in sorted({each.seed for each in wanted}):
        for each in wanted:
            if each.seed == seed:
                keys[each.setting.key].add(_key(each))
                yield _run(plan, category, each, features)
        # The examples are of the first seed.
        if not with_examples or seed != plan.seeds[0]:
            features.done_with_seed(seed)
    if wanted:
        alone = sum(reading + features.memo.seconds_alone(each) for each in keys.values())
        yield Spent(time.perf_counter() - start, alone)
    if with_examples:
        yield Examples(category, choose_and_draw(features, Setting(OURS), plan.seeds[0], plan.examples, category))


def _open(plan: Plan, category: str, backbone: Backbone) -> CategoryFeatures:
    images = load_images(plan.data, category, min(backbone.image_size))
    if plan.class_name:
        images = images._replace(class_name=plan.class_name)
    size = (images.images.shape[-2], images.images.shape[-1])
    return CategoryFeatures(
        images,
        backbone,
        plan.batch_size,
        plan.texture_dir,
        lambda count, seed: load_golden_images(plan.data, category, count, seed, size),
    )


def _key(wanted: Wanted) -> Hashable:
    """What no seed changes is measured once and stands for all of them."""
    setting, seed = wanted
    return ("metrics", setting.key, seed) if depends_on_seed(setting) else ("metrics", setting.key)


def _run(plan: Plan, category: str, wanted: Wanted, features: CategoryFeatures) -> Row:
    setting, seed = wanted
    start = time.perf_counter()
    try:
        metrics = features.memo(
            _key(wanted), lambda: compute_metrics(score(features, setting, seed), features.category)
        )
    except Exception as error:
        return _failed(plan, category, wanted, error)
    return Row(plan.data.name, category, setting.key, seed, metrics, time.perf_counter() - start)


def _failed(plan: Plan, category: str, wanted: Wanted, error: Exception) -> Row:
    reason = f"{type(error).__name__}: {error}"
    return Row(plan.data.name, category, wanted.setting.key, wanted.seed, {}, 0.0, reason)


@torch.inference_mode()
def choose_and_draw(features: CategoryFeatures, setting: Setting, seed: int, count: int, name: str) -> list[Example]:
    """Chooses images by their score and maps them.

    Args:
        features: The images.
        setting: How they are scored.
        seed: Seed of the scores.
        count: Images, half of them successes.
        name: Category, for the titles.

    Returns:
        The examples.
    """
    scores = score(features, setting, seed)
    labels = features.category.labels.numpy()
    successes, failures = choose_examples(scores.images.cpu().numpy(), labels, count // 2)
    patch_maps = {
        "A^V": reference_map(features, setting, seed),
        "A^L": language_map(features),
        "A^T": adapted_map(features, setting, seed),
    }
    maps = {name: to_pixels(each, features.layout) for name, each in patch_maps.items() if each is not None}
    ranges = {**dict.fromkeys(maps, (0.0, 1.0)), "final": (0.0, setting.weights.map_maximum / 2)}
    maps["final"] = scores.maps
    return [
        Example(
            title=f"{name}, {'success' if index in successes else 'failure'}",
            image=_as_picture(features.category, index),
            mask=_mask(features.category, index),
            maps={name: each[index].cpu().numpy() for name, each in maps.items()},
            ranges=ranges,
            score=float(scores.images[index]),
            is_anomalous=bool(labels[index]),
        )
        for index in (*successes, *failures)
    ]


def _as_picture(category: CategoryImages, index: int) -> NDArray[np.uint8]:
    return np.asarray((category.images[index] * 255).round().byte().permute(1, 2, 0).numpy(), np.uint8)


def _mask(category: CategoryImages, index: int) -> NDArray[np.bool_]:
    if category.masks is None:
        return np.zeros(tuple(category.images.shape[-2:]), np.bool_)
    return np.asarray(category.masks[index].numpy(), np.bool_)
