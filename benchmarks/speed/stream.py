"""What images cost that come one at a time: latency as a ratio to a bare pass of the image tower, and memory.

Runs ViT-B-16-plus-240 with random weights (speed does not depend on their values), without adaptation, and prints a
table. Linux only.

Example:
    python -m benchmarks.speed stream
    python -m benchmarks.speed stream --count 50 --precision bfloat16
"""

import argparse
import statistics
from typing import NamedTuple

import torch

from benchmarks.paper.peers.clip import ordinary_path
from benchmarks.speed.instruments import CLASS_NAME, elapsed, memory_megabytes, print_table, random_model
from dual_image_clip.streaming import StreamingDetector
from dual_image_clip.weights import Backbone

REFERENCES = 8
# By then the references are all there, and so are the buffers of torch.
WARM_UP = 2 * REFERENCES
# Bare passes are spread over the run, so that drift of the machine meets them as well.
BARE_EVERY = 5
PRECISIONS = ("float32", "bfloat16")


class Latencies(NamedTuple):
    """Seconds of single images.

    Attributes:
        detected: Of all images, by the detector.
        bare: Of some of them, a bare pass of open_clip's ``encode_image``.
        own_bare: Of the same ones, the same layers with this package's attention.
    """

    detected: list[float]
    bare: list[float]
    own_bare: list[float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("--count", type=int, default=1000, help="images (default: %(default)s)")
    parser.add_argument("--precision", choices=PRECISIONS, default=PRECISIONS[0], help="(default: %(default)s)")


def main(arguments: argparse.Namespace) -> None:
    """Measures and prints."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=arguments.precision == "bfloat16"):
        rows = stream_rows(arguments.count)
    print_table(arguments.precision, rows)


def stream_rows(count: int) -> list[tuple[str, str]]:
    """Scores random images one by one.

    Args:
        count: Images after those to warm up with.

    Returns:
        Rows of the table: what was measured, and its value.
    """
    model = random_model(adaptation_steps=0)
    model.class_name = CLASS_NAME
    detector = StreamingDetector(model, REFERENCES)
    time_images(detector, model.backbone, WARM_UP)
    at_start = memory_megabytes("VmRSS")
    seconds = time_images(detector, model.backbone, count)
    at_end = memory_megabytes("VmRSS")
    latency, bare, own_bare = map(statistics.median, seconds)
    slow = torch.tensor(seconds.detected).quantile(0.99).item()
    return [
        (f"median latency of {count} images, {REFERENCES} references", f"{1000 * latency:.0f} ms"),
        ("99 of 100 images took at most", f"{1000 * slow:.0f} ms"),
        ("against a bare pass of one image, open_clip's encode_image", _ratio(latency, bare)),
        ("against a bare pass of one image, the same layers with this package's attention", _ratio(latency, own_bare)),
        (f"resident memory after {WARM_UP} images", f"{at_start:.1f} MB"),
        (f"resident memory after {WARM_UP + count} images", f"{at_end:.1f} MB"),
    ]


def time_images(detector: StreamingDetector, backbone: Backbone, count: int) -> Latencies:
    """Times random images, and bare passes of every fifth of them.

    Args:
        detector: The detector.
        backbone: Its backbone.
        count: Number of images.

    Returns:
        What each took.
    """
    latencies = Latencies([], [], [])
    for index in range(count):
        images = torch.rand(1, 3, *backbone.image_size)
        latencies.detected.append(elapsed(detector, images[0]))
        if index % BARE_EVERY == 0:
            latencies.bare.append(elapsed(backbone.clip.encode_image, images))
            latencies.own_bare.append(elapsed(ordinary_path, backbone.clip.visual, images))
    return latencies


def _ratio(latency: float, bare: float) -> str:
    return f"{latency / bare:.2f} × {1000 * bare:.0f} ms"
