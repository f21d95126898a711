"""Measures a checkpoint of the small architecture beside an untrained one and two detectors that learn nothing.

Example:
    python -m benchmarks.checkpoint --seeds 0 1 2
    python -m benchmarks.checkpoint --pretrained runs/training/NAME/NAME.safetensors --sets validation
"""

import argparse
import json
import logging
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import open_clip
import torch
from kornia.enhance import normalize
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.fft import dctn
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from benchmarks.checkpoint.sets import TEST_SETS, TestSet
from dual_image_clip import DualImageCLIP
from dual_image_clip.method import ScoreWeights, random_partners, upsample_map
from dual_image_clip.weights import EMBEDDED

BATCH_SIZE = 20
MANY_REFERENCES = 8
DCT_SIZE = 8


class Setting(NamedTuple):
    """One way to score images.

    Attributes:
        weights: λ₁ … λ₅.
        num_references: References of each image.
        adaptation_steps: Steps of the test-time adaptation.
    """

    weights: ScoreWeights = ScoreWeights()
    num_references: int = 1
    adaptation_steps: int = 0


TEXT_ONLY = ScoreWeights(lambda_1=0.0, lambda_4=0.0)
VISUAL_ONLY = ScoreWeights(lambda_2=0.0, lambda_3=0.0, lambda_5=0.0)
SETTINGS = {
    "text": Setting(TEXT_ONLY, num_references=0),
    "visual": Setting(VISUAL_ONLY),
    "joint": Setting(),
    "joint, adapted": Setting(adaptation_steps=2),
    f"visual, {MANY_REFERENCES} references": Setting(VISUAL_ONLY, MANY_REFERENCES),
    f"joint, {MANY_REFERENCES} references": Setting(num_references=MANY_REFERENCES),
}
REPORTED = tuple(name for name in TEST_SETS if name != "validation")
UNTRAINED = ("text", "visual", "joint")


class Scores(NamedTuple):
    """Scores of images ``(N,)`` and, where there are maps, of pixels ``(N, H, W)``."""

    images: Tensor
    pixels: Tensor | None


Scorer: TypeAlias = Callable[[TestSet], Scores]


class Areas(NamedTuple):
    """AUROC of images and of pixels; the latter is NaN where there are no masks."""

    image: float
    pixel: float


def main() -> None:
    """Measures, prints a table for each set and writes the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default=EMBEDDED, help="architecture (default: %(default)s)")
    parser.add_argument("--configs", type=Path, help="folder with the configuration of another architecture")
    parser.add_argument("--pretrained", default=EMBEDDED, help="weights: a file (default: those in the package)")
    parser.add_argument(
        "--sets", nargs="+", choices=TEST_SETS, default=[name for name in TEST_SETS if name != "validation"]
    )
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--count", type=int, default=20, help="images of each kind and category (default: %(default)s)")
    parser.add_argument("--baselines", action=argparse.BooleanOptionalAction, default=True, help="measure them, too")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    if arguments.configs:
        open_clip.add_model_config(arguments.configs)

    scorers = make_scorers(arguments.backbone, arguments.pretrained, arguments.settings, arguments.baselines)
    for name, milliseconds in time_an_image(arguments.backbone).items():
        print(f"{name}: {milliseconds:.1f} ms an image, {torch.get_num_threads()} threads, bfloat16 autocast")
    figures = {}
    for name in arguments.sets:
        figures[name] = measure(
            [test_set for seed in arguments.seeds for test_set in TEST_SETS[name](seed, arguments.count)], scorers
        )
        Console(width=120).print(as_table(name, figures[name], len(arguments.seeds)))
    if arguments.output:
        plain = {
            name: {row: [area._asdict() for area in areas] for row, areas in rows.items()}
            for name, rows in figures.items()
        }
        arguments.output.write_text(json.dumps(plain, indent=1))


def measure(sets: list[TestSet], scorers: dict[str, Scorer]) -> dict[str, list[Areas]]:
    """Measures all scorers on some sets.

    Args:
        sets: The sets.
        scorers: The scorers.

    Returns:
        For every scorer, its figures on each set.
    """
    figures = defaultdict(list)
    for test_set in track(sets, transient=True):
        for name, scorer in scorers.items():
            figures[name].append(areas_under_curves(scorer(test_set), test_set))
    return dict(figures)


def make_scorers(backbone: str, pretrained: str | None, settings: list[str], baselines: bool) -> dict[str, Scorer]:
    """Makes all that a set is scored with.

    Args:
        backbone: An architecture.
        pretrained: Its weights.
        settings: Names of the detector's settings.
        baselines: Whether to add the untrained detector and what learns nothing.

    Returns:
        Scorers by name.
    """
    scorers: dict[str, Scorer] = {name: detector(backbone, pretrained, SETTINGS[name]) for name in settings}
    if baselines:
        scorers |= {f"untrained, {name}": detector(backbone, None, SETTINGS[name]) for name in UNTRAINED}
        scorers |= {"nearest neighbour of DCT patches": dct_scores, "darkness": darkness_scores}
    return scorers


def detector(backbone: str, pretrained: str | None, setting: Setting, seed: int = 0) -> Scorer:
    """Makes the package's detector.

    Args:
        backbone: An architecture.
        pretrained: Its weights.
        setting: How to score.
        seed: Seed of the detector, and of the weights where there are none.

    Returns:
        The detector as a scorer.
    """
    lightning_model = make_detector(backbone, pretrained, setting, seed)
    model = lightning_model.model

    def score(test_set: TestSet) -> Scores:
        lightning_model.set_class_name(test_set.category.replace("_", " "))
        model.reset()
        images = normalize(
            torch.from_numpy(test_set.images).permute(0, 3, 1, 2).float() / 255, model.image_mean, model.image_std
        )
        batches = [model(batch) for batch in images.split(BATCH_SIZE)]
        return Scores(
            torch.cat([batch.pred_score for batch in batches]), torch.cat([batch.anomaly_map for batch in batches])
        )

    return score


def make_detector(backbone: str, pretrained: str | None, setting: Setting, seed: int = 0) -> DualImageCLIP:
    """The Lightning module of a setting; see :func:`detector`."""
    torch.manual_seed(seed)
    return DualImageCLIP(
        backbone=backbone,
        pretrained=pretrained,
        num_references=setting.num_references,
        adaptation_steps=setting.adaptation_steps,
        seed=seed,
        **setting.weights._asdict(),
    )


def time_an_image(backbone: str, rounds: int = 9) -> dict[str, float]:
    """Times the detector, on random images and with random weights, which cost the same.

    Args:
        backbone: An architecture.
        rounds: Counted rounds, of which the median is taken.

    Returns:
        Milliseconds an image, without and with adaptation.
    """
    figures = {}
    for name in ("joint", "joint, adapted"):
        lightning_model = make_detector(backbone, None, SETTINGS[name])
        images = torch.randn(BATCH_SIZE, 3, *lightning_model.backbone.image_size)
        lightning_model.set_class_name("object")
        seconds = []
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            for _ in range(rounds + 1):
                start = time.perf_counter()
                lightning_model.model(images)
                seconds.append(time.perf_counter() - start)
        figures[name] = 1000 * statistics.median(seconds[1:]) / BATCH_SIZE
    return figures


def dct_scores(test_set: TestSet, patch: int = 16, seed: int = 0) -> Scores:
    """Distance of each patch's lowest cosine frequencies to the nearest patch of another image.

    Args:
        test_set: The images.
        patch: Side of a patch in pixels.
        seed: Seed of the pairing.

    Returns:
        Scores of images and pixels.
    """
    grey = test_set.images.mean(axis=3) / 255
    count, height, width = grey.shape
    patches = grey.reshape(count, height // patch, patch, width // patch, patch).swapaxes(2, 3)
    frequencies = dctn(patches, axes=(3, 4), norm="ortho")[..., :DCT_SIZE, :DCT_SIZE]
    tokens = torch.from_numpy(frequencies.reshape(count, -1, DCT_SIZE**2)).float()
    partners = random_partners(count, 1, torch.Generator().manual_seed(seed))[:, 0]
    distances = torch.cdist(tokens, tokens[partners]).amin(dim=2).unflatten(1, patches.shape[1:3])
    return Scores(distances.amax(dim=(1, 2)), upsample_map(distances, (height, width)))


def darkness_scores(test_set: TestSet) -> Scores:
    """How dark an image is, and each of its pixels."""
    darkness = 1 - torch.from_numpy(test_set.images).float().mean(dim=3) / 255
    return Scores(darkness.mean(dim=(1, 2)), darkness)


def areas_under_curves(scores: Scores, test_set: TestSet) -> Areas:
    """AUROC of images and pixels."""
    pixel = float("nan")
    if test_set.masks is not None and scores.pixels is not None:
        pixel = float(binary_auroc(scores.pixels.flatten(), torch.from_numpy(test_set.masks).flatten()))
    return Areas(float(binary_auroc(scores.images, torch.from_numpy(test_set.labels))), pixel)


def as_table(name: str, rows: dict[str, list[Areas]], num_seeds: int) -> Table:
    """A table of means over categories and, with several seeds, the spread of those means."""
    table = Table("scorer", "image AUROC", "pixel AUROC", title=f"{name}, {num_seeds} seeds")
    for row, areas in rows.items():
        by_seed = np.array(areas).reshape(num_seeds, -1, 2).mean(axis=1)
        table.add_row(row, *(_mean_and_spread(column) for column in by_seed.T))
    return table


def _mean_and_spread(values: np.ndarray) -> str:
    if np.isnan(values).any():
        return "–"
    return f"{values.mean():.3f}" + (f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
