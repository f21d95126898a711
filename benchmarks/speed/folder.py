"""What a prediction on a folder costs beside the model itself: reading, drawing, the list and the report.

Runs ViT-B-16-plus-240 with random weights (speed does not depend on their values) on drawn photos, as the command
``dual-image-clip predict`` does, and prints seconds an image and their ratio. Both times are taken in the same run, so
that drift of the machine meets both.

Example:
    python -m benchmarks.speed folder --images 20
"""

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from anomalib.engine import Engine
from PIL import Image

from benchmarks.speed.instruments import CLASS_NAME, describe_machine, elapsed, random_model
from dual_image_clip.hooks import PhotoFolder
from dual_image_clip.prediction import REPORT_NAME, HeatmapVisualizer, PredictionReport
from dual_image_clip.procedural import Category

FAMILY = "nut"


class Stopwatch:
    """Adds up the seconds that calls take.

    Args:
        run: What is called.
    """

    def __init__(self, run: Callable[..., Any]) -> None:
        self.seconds = 0.0
        self._run = run

    def __call__(self, *arguments: Any) -> Any:
        """Passes a call on."""
        start = time.perf_counter()
        result = self._run(*arguments)
        self.seconds += time.perf_counter() - start
        return result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("--images", type=int, default=20, help="number of photos (default: %(default)s)")
    parser.add_argument("--size", type=int, default=1024, help="side of a photo in pixels (default: %(default)s)")
    parser.add_argument("--adaptation-steps", type=int, default=2, help="of the adaptation (default: %(default)s)")


def main(arguments: argparse.Namespace) -> None:
    """Draws photos, predicts, prints."""
    warnings.simplefilter("ignore")
    count = arguments.images
    with tempfile.TemporaryDirectory() as name:
        photos, output = Path(name) / "photos", Path(name) / "output"
        draw_photos(photos, count, arguments.size)
        whole, inside = time_prediction(photos, output, arguments.adaptation_steps)
        size = (output / REPORT_NAME).stat().st_size
    print(f"{describe_machine()}; {count} photos of {arguments.size}×{arguments.size} pixels")
    print(f"whole run      {whole / count:.3f} s an image")
    print(f"model alone    {inside / count:.3f} s an image")
    print(f"ratio          {whole / inside:.2f}")
    print(f"report         {size / count / 1000:.1f} kB an image")


def draw_photos(folder: Path, count: int, side: int) -> None:
    """Writes photos as a camera does, in JPEG.

    Args:
        folder: Where.
        count: How many.
        side: Width and height in pixels.
    """
    folder.mkdir()
    product = Category(FAMILY)
    for index in range(count):
        photo = Image.fromarray(product.normal("benchmark", index))
        photo.resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{index:05}.jpg")


def time_prediction(photos: Path, output: Path, adaptation_steps: int) -> tuple[float, float]:
    """Times a prediction.

    Args:
        photos: Folder of the photos.
        output: Folder of heatmaps, list and report.
        adaptation_steps: Steps of the adaptation.

    Returns:
        Seconds of the whole run, and those of them that were spent in the model.
    """
    model = random_model(adaptation_steps=adaptation_steps, visualizer=HeatmapVisualizer(output / "heatmaps"))
    # The text of a category is encoded once on a machine, which is no matter of images.
    model.set_class_name(CLASS_NAME)
    engine = Engine(default_root_dir=output, logger=False, callbacks=[PredictionReport(output)])
    with patch.object(model.model, "compare", Stopwatch(model.model.compare)) as stopwatch:
        whole = elapsed(lambda: engine.predict(model=model, dataset=PhotoFolder(photos), return_predictions=False))
    return whole, stopwatch.seconds
