"""What a prediction on a folder costs beside the model itself: reading, drawing, the list and the report.

Runs ViT-B-16-plus-240 with random weights (speed does not depend on their values) on drawn photos, as the command
``dual-image-clip predict`` does, and prints seconds an image and their ratio. Both times are taken in the same run, so
that drift of the machine meets both.

Example:
    python -m benchmarks.speed folder --images 20
"""

import argparse
import logging
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from anomalib.engine import Engine
from anomalib.visualization import ImageVisualizer
from PIL import Image
from torch import nn

from benchmarks.speed.tower import BACKBONE, CLASS_NAME, describe_machine
from dual_image_clip import DualImageCLIP
from dual_image_clip.procedural.render import Category

_FAMILY = "nut"


class Stopwatch:
    """Adds up the time that is spent inside a module.

    Args:
        module: The module.
    """

    def __init__(self, module: nn.Module) -> None:
        self.seconds = 0.0
        self._start = 0.0
        module.register_forward_pre_hook(self._begin)
        module.register_forward_hook(self._end)

    def _begin(self, *args: Any) -> None:
        del args
        self._start = time.perf_counter()

    def _end(self, *args: Any) -> None:
        del args
        self.seconds += time.perf_counter() - self._start


def main() -> None:
    """Draws photos, predicts, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20, help="number of photos (default: 20)")
    parser.add_argument("--size", type=int, default=1024, help="side of a photo in pixels (default: 1024)")
    parser.add_argument("--adaptation-steps", type=int, default=2, help="steps of the adaptation (default: 2)")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw_photos(folder / "photos", arguments.images, arguments.size)
        model = DualImageCLIP(
            class_name=CLASS_NAME,
            backbone=BACKBONE,
            pretrained=None,
            adaptation_steps=arguments.adaptation_steps,
            visualizer=ImageVisualizer(output_dir=folder / "output" / "images"),
        )
        # The text of a category is encoded once on a machine, which is no matter of images.
        model.set_class_name(CLASS_NAME)
        whole, inside = measure(model, folder)
        size = (folder / "output" / "report.html").stat().st_size
    print(f"{describe_machine()}; {arguments.images} photos of {arguments.size}×{arguments.size} pixels")
    print(f"whole run      {whole / arguments.images:.3f} s an image")
    print(f"model alone    {inside / arguments.images:.3f} s an image")
    print(f"ratio          {whole / inside:.2f}")
    print(f"report         {size / arguments.images / 1000:.1f} kB an image")


def draw_photos(folder: Path, count: int, side: int) -> None:
    """Writes photos as a camera does, in JPEG.

    Args:
        folder: Where.
        count: How many.
        side: Width and height in pixels.
    """
    folder.mkdir()
    product = Category(_FAMILY)
    for index in range(count):
        photo = Image.fromarray(product.normal("benchmark", index))
        photo.resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{index:05}.jpg")


def measure(model: DualImageCLIP, folder: Path) -> tuple[float, float]:
    """Times a prediction.

    Args:
        model: The model.
        folder: Holds ``photos``, gains ``output``.

    Returns:
        Seconds of the whole run, and those of them that were spent in the model.
    """
    stopwatch = Stopwatch(model.model)
    model.prediction_report.folder = folder / "output"
    engine = Engine(default_root_dir=folder / "output", logger=False)
    start = time.perf_counter()
    engine.predict(model=model, data_path=folder / "photos", return_predictions=False)
    return time.perf_counter() - start, stopwatch.seconds


if __name__ == "__main__":
    main()
