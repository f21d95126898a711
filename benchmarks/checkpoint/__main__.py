"""Measures a checkpoint of the small architecture beside an untrained one and two detectors that learn nothing.

Example:
    python -m benchmarks.checkpoint --seeds 0 1 2
    python -m benchmarks.checkpoint --pretrained runs/training/NAME/NAME.safetensors --sets validation
"""

import argparse
import json
import logging
from pathlib import Path

import open_clip
import torch
from rich.console import Console
from rich.progress import track

from benchmarks.checkpoint.areas import areas_of_scorers, as_table
from benchmarks.checkpoint.scorers import SETTINGS, Scorers, untrained_backbone
from benchmarks.checkpoint.sets import TEST_SETS
from benchmarks.checkpoint.timing import milliseconds_an_image
from dual_image_clip.weights import EMBEDDED, load_backbone


def main() -> None:
    """Measures, prints a table for each set and writes the figures as JSON."""
    arguments = read_arguments()
    logging.disable(logging.WARNING)
    if arguments.configs:
        open_clip.add_model_config(arguments.configs)
    scorers = Scorers(
        load_backbone(arguments.backbone, arguments.pretrained),
        arguments.settings,
        untrained_backbone(arguments.backbone) if arguments.baselines else None,
    )
    for name, milliseconds in milliseconds_an_image(arguments.backbone).items():
        print(f"{name}: {milliseconds:.1f} ms an image, {torch.get_num_threads()} threads, bfloat16 autocast")
    figures = {}
    for name in arguments.sets:
        categories = (each for seed in arguments.seeds for each in TEST_SETS[name](seed, arguments.count))
        areas = areas_of_scorers(track(categories, transient=True), scorers)
        Console(width=120).print(as_table(name, areas, len(arguments.seeds)))
        figures[name] = {row: [each._asdict() for each in column] for row, column in areas.items()}
    if arguments.output:
        arguments.output.write_text(json.dumps(figures, indent=1), encoding="utf-8")


def read_arguments() -> argparse.Namespace:
    """The command line."""
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
    return parser.parse_args()


if __name__ == "__main__":
    main()
