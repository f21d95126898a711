"""What images cost that come one at a time: latency as a ratio to a bare pass of the image tower, and memory.

Runs ViT-B-16-plus-240 with random weights (speed does not depend on their values), without adaptation, and prints a
table. Linux only.

Example:
    python -m benchmarks.speed stream
    python -m benchmarks.speed stream --count 50 --precision bfloat16
"""

import argparse
import logging
import statistics
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.speed.tower import (
    BACKBONE,
    CLASS_NAME,
    IMAGE_SIZE,
    describe_machine,
    elapsed,
    ordinary_path,
    random_model,
)
from dual_image_clip.streaming import StreamingDetector

REFERENCES = 8
# By then the references are all there, and so are the buffers of torch.
WARM_UP = 2 * REFERENCES
# Bare passes are spread over the run, so that drift of the machine meets them as well.
BARE_EVERY = 5
PRECISIONS = ("float32", "bfloat16")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="images (default: %(default)s)")
    parser.add_argument("--precision", choices=PRECISIONS, default=PRECISIONS[0], help="(default: %(default)s)")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=arguments.precision == "bfloat16"):
        rows = measure(arguments.count)
    table = Table("measure", "value", title=f"{BACKBONE}, {arguments.precision}, {describe_machine()}")
    for name, value in rows:
        table.add_row(name, value)
    Console(width=120).print(table)


def measure(count: int) -> list[tuple[str, str]]:
    """Scores random images one by one.

    Args:
        count: Images after those to warm up with.

    Returns:
        Rows of the table: what was measured, and its value.
    """
    model = random_model(adaptation_steps=0)
    model.class_name = CLASS_NAME
    clip = model.backbone.clip
    generator = torch.Generator().manual_seed(0)
    detector = StreamingDetector(model, REFERENCES)
    detected: list[float] = []
    bare: dict[str, list[float]] = {"open_clip's encode_image": [], "the same layers with this package's attention": []}

    def score_images(number: int) -> None:
        for index in range(number):
            image = torch.rand(3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)
            detected.append(elapsed(lambda image=image: detector(image)))  # type: ignore[misc]
            if index % BARE_EVERY == 0:
                batch = image.unsqueeze(0)
                open_clips, own = bare.values()
                open_clips.append(elapsed(lambda batch=batch: clip.encode_image(batch)))  # type: ignore[misc]
                own.append(elapsed(lambda batch=batch: ordinary_path(clip.visual, batch)))  # type: ignore[misc]

    score_images(WARM_UP)
    for times in (detected, *bare.values()):
        times.clear()
    at_start = resident_megabytes()
    score_images(count)
    at_end = resident_megabytes()
    latency = statistics.median(detected)
    return [
        (f"median latency of {count} images, {REFERENCES} references", f"{1000 * latency:.0f} ms"),
        ("99 of 100 images took at most", f"{1000 * torch.tensor(detected).quantile(0.99).item():.0f} ms"),
        *(
            (
                f"against a bare pass of one image, {name}",
                f"{latency / statistics.median(times):.2f} × {1000 * statistics.median(times):.0f} ms",
            )
            for name, times in bare.items()
        ),
        (f"resident memory after {WARM_UP} images", f"{at_start:.1f} MB"),
        (f"resident memory after {WARM_UP + count} images", f"{at_end:.1f} MB"),
    ]


def resident_megabytes() -> float:
    """Resident memory of this process in MB (10⁶ bytes)."""
    status = Path("/proc/self/status").read_text()
    kibibytes = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    return kibibytes * 1024 / 1e6


if __name__ == "__main__":
    main()
