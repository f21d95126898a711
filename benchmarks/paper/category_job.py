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
from benchmarks.paper.metrics import measure
from benchmarks.paper.plan import OURS, Plan, Setting
from benchmarks.paper.report.sheet import Example, choose_examples
from benchmarks.paper.results import Row
from dual_image_clip.method import ScoreWeights, merge_tiles, upsample_map
from dual_image_clip.weights import Backbone


class Wanted(NamedTuple):
    """A row that is wanted of a category."""

    setting: Setting
    seed: int


class Spent(NamedTuple):
    """What a job took.

    Attributes:
        seconds: Seconds in all.
        seconds_alone: What they would have been with every setting run alone: its own reading, tower passes and text,
            shared by its seeds only. A sum of measured parts.
    """

    seconds: float
    seconds_alone: float


class Examples(NamedTuple):
    """Images for the sheet of heatmaps, successes and failures."""

    category: str
    examples: list[Example]


Outcome: TypeAlias = Row | Examples | Spent


def run_job(
    plan: Plan, category: str, wanted: Sequence[Wanted], backbone: Backbone, with_examples: bool
) -> Iterator[Outcome]:
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
        metrics = features.memo(_key(wanted), lambda: measure(score(features, setting, seed), features.category))
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
    weights = ScoreWeights(setting.lambda_1, setting.lambda_2)
    labels = features.category.labels.numpy()
    successes, failures = choose_examples(scores.images.cpu().numpy(), labels, count // 2)
    maps = {
        "A^V": (reference_map(features, setting, seed), (0.0, 1.0)),
        "A^L": (language_map(features), (0.0, 1.0)),
        "A^T": (adapted_map(features, setting, seed), (0.0, 1.0)),
    }
    as_pixels = {key: _to_pixels(features, patches) for key, (patches, _) in maps.items() if patches is not None}
    ranges = {key: limits for key, (_, limits) in maps.items() if key in as_pixels}
    as_pixels["final"], ranges["final"] = scores.maps.cpu().numpy(), (0.0, weights.map_maximum / 2)
    return [
        Example(
            title=f"{name}, {'success' if index in successes else 'failure'}",
            image=_as_picture(features.category, index),
            mask=_mask(features.category, index),
            maps={key: pixels[index] for key, pixels in as_pixels.items()},
            ranges=ranges,
            score=float(scores.images[index]),
            is_anomalous=bool(labels[index]),
        )
        for index in (*successes, *failures)
    ]


def _to_pixels(features: CategoryFeatures, patches: torch.Tensor) -> NDArray[np.float32]:
    layout = features.layout
    tiles = patches.unflatten(1, (layout.num_tiles, -1)).flatten(0, 1)
    return np.asarray(merge_tiles(upsample_map(tiles, layout.tile_size), layout).cpu().numpy(), np.float32)


def _as_picture(category: CategoryImages, index: int) -> NDArray[np.uint8]:
    return np.asarray((category.images[index] * 255).round().byte().permute(1, 2, 0).numpy(), np.uint8)


def _mask(category: CategoryImages, index: int) -> NDArray[np.bool_]:
    if category.masks is None:
        return np.zeros(tuple(category.images.shape[-2:]), np.bool_)
    return np.asarray(category.masks[index].numpy(), np.bool_)
