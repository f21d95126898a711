"""What ``anomalib test`` costs beside the model itself: validation, reading, metrics, heatmaps.

Runs ViT-B-16-plus-240 with random weights (speed does not depend on their values) on drawn products, as the command
does, and prints seconds an image and their ratio. The model's are of one pass over the images, however many there were;
both times are taken in the same run, so that drift of the machine meets both.

Example:
    python -m benchmarks.speed evaluation --images 16
"""

import argparse
import tempfile
import warnings
from pathlib import Path
from typing import Any
from unittest.mock import patch

from anomalib.engine import Engine

from benchmarks.speed.folder import FAMILY, Stopwatch
from benchmarks.speed.instruments import CLASS_NAME, describe_machine, elapsed, random_model
from dual_image_clip.procedural import Procedural


class ModelStopwatch(Stopwatch):
    """Adds up the seconds that a model takes, and the images that it scores."""

    images = 0

    def __call__(self, *arguments: Any) -> Any:
        """Passes a batch on, the first of the arguments."""
        self.images += len(arguments[0])
        return super().__call__(*arguments)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("--images", type=int, default=64, help="number of images (default: %(default)s)")
    parser.add_argument("--size", type=int, default=1024, help="side of an image in pixels (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=8, help="images in a batch (default: %(default)s)")
    parser.add_argument("--adaptation-steps", type=int, default=2, help="of the adaptation (default: %(default)s)")


def main(arguments: argparse.Namespace) -> None:
    """Draws products, tests, prints."""
    warnings.simplefilter("ignore")
    count, size = arguments.images, arguments.size
    with tempfile.TemporaryDirectory() as folder:
        data = Procedural(
            root=Path(folder) / "data",
            category=FAMILY,
            image_size=size,
            num_train=1,
            num_test_normal=count - count // 2,
            num_test_anomalous=count // 2,
            eval_batch_size=arguments.batch_size,
        )
        data.prepare_data()
        whole, watch = time_test(data, Path(folder) / "output", arguments.adaptation_steps)
    alone = watch.seconds / watch.images
    print(f"{describe_machine()}; {count} images of {size}×{size} pixels, {watch.images} scored")
    print(f"whole test     {whole / count:.3f} s an image")
    print(f"model alone    {alone:.3f} s an image")
    print(f"ratio          {whole / count / alone:.2f}")


def time_test(data: Procedural, output: Path, adaptation_steps: int) -> tuple[float, ModelStopwatch]:
    """Times a test.

    Args:
        data: The images, drawn already.
        output: Folder of heatmaps.
        adaptation_steps: Steps of the adaptation.

    Returns:
        Seconds of the whole run, and what of it was the model's.
    """
    model = random_model(adaptation_steps=adaptation_steps)
    # The text of a category is encoded once on a machine, which is no matter of images.
    model.set_class_name(CLASS_NAME)
    engine = Engine(default_root_dir=output, logger=False)
    with patch.object(model.model, "compare", ModelStopwatch(model.model.compare)) as stopwatch:
        whole = elapsed(lambda: engine.test(model=model, datamodule=data, verbose=False))
    return whole, stopwatch
