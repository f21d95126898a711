"""What the method costs, as ratios to a bare pass of the image tower.

Runs ViT-B-16-plus-240 with random weights (speed does not depend on their values) and prints a table. Linux only.

Example:
    python -m benchmarks.speed tower --batch-size 8 --rounds 5
"""

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from unittest.mock import patch

import torch
import torch.nn.functional as F  # noqa: N812

from benchmarks.paper.peers.clip import ordinary_path
from benchmarks.speed.instruments import (
    CLASS_NAME,
    elapsed,
    memory_megabytes,
    print_table,
    random_images,
    random_model,
    time_in_turn,
)
from dual_image_clip import BEST
from dual_image_clip.method import encode_ensemble, prompt_ensemble
from dual_image_clip.weights import cached_text_embeddings

MEMORY_BATCH = 32
LARGE = 512
ONE_BY_ONE = 48
PRECISIONS = {"float32": False, "bfloat16 autocast": True}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("--batch-size", type=int, default=8, help="images in a batch (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; medians are taken (default: %(default)s)")


def main(arguments: argparse.Namespace) -> None:
    """Measures and prints everything."""
    rows = [*tower_rows(arguments.batch_size, arguments.rounds), *text_rows(), *process_rows()]
    print_table("random weights", rows)


def tower_rows(batch_size: int, rounds: int) -> list[tuple[str, str]]:
    """Time of an image with and without adaptation, and with the preset, against a bare pass, in both precisions."""
    adapting = random_model(adaptation_steps=2)
    direct = random_model(adaptation_steps=0)
    best = random_model(**BEST)
    clip = adapting.backbone.clip
    images = random_images(adapting, batch_size)
    candidates: dict[str, Callable[[], object]] = {
        "bare pass, open_clip's encode_image": lambda: clip.encode_image(images),
        "bare pass, the same layers with this package's attention": lambda: ordinary_path(clip.visual, images),
        "without adaptation": lambda: direct.model(images),
        "with adaptation, 2 steps": lambda: adapting.model(images),
        f"BEST, {BEST['num_references']} references": lambda: best.model(images),
    }
    rows = []
    for precision, enabled in PRECISIONS.items():
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            seconds = time_in_turn(candidates, rounds)
        bare, own_bare, *_ = seconds.values()
        for name, times in seconds.items():
            cost = f"{1000 * statistics.median(times) / batch_size:.0f} ms an image"
            ratios = f"{median_ratio(times, bare):.2f} and {median_ratio(times, own_bare):.2f} × the bare passes"
            rows.append((f"{precision}, batch {batch_size}: {name}", f"{cost}, {ratios}"))
    return rows


def median_ratio(times: list[float], base: list[float]) -> float:
    """Median of the ratios round by round."""
    return statistics.median(time / other for time, other in zip(times, base, strict=True))


def text_rows() -> list[tuple[str, str]]:
    """Time to set up one object category: the plain way, cut to the longest prompt, and from the cache."""
    backbone = random_model().backbone
    clip, tokenizer = backbone.clip, backbone.tokenizer
    ensemble = prompt_ensemble(CLASS_NAME)

    def encode_plainly() -> None:
        with torch.no_grad():
            for prompts in ensemble:
                tokens = tokenizer(prompts)
                F.normalize(torch.cat([clip.encode_text(chunk) for chunk in tokens.split(128)]), dim=-1)

    def encode() -> None:
        cached_text_embeddings(clip, ensemble, lambda: encode_ensemble(clip, tokenizer, ensemble))

    plain = elapsed(encode_plainly)
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, XDG_CACHE_HOME=folder):
        cold, warm = elapsed(encode), elapsed(encode)
    return [
        ("text of a category, all 77 tokens of every prompt", f"{plain:.1f} s"),
        ("text of a category, cold", f"{cold:.1f} s, {cold / plain:.2f} × the plain way"),
        ("text of a category, from the cache", f"{1000 * warm:.0f} ms"),
    ]


def process_rows() -> list[tuple[str, str]]:
    """Peak memory of a process, and what the plugin adds to the start of one."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh_process:
        peak = fresh_process.submit(peak_memory_gigabytes).result()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh_process:
        before, after = fresh_process.submit(memory_of_one_by_one).result()
    return [
        (f"peak memory of a process, batch {MEMORY_BATCH} with adaptation, float32", f"{peak:.2f} GB"),
        (f"BEST at {LARGE} pixels, one image after the other: once there are all references", f"{before:.0f} MB"),
        (f"the same, {ONE_BY_ONE} images later", f"{after:.0f} MB"),
        ("plugin, in an interpreter that never imports anomalib", f"{plugin_start_milliseconds():.2f} ms"),
    ]


def peak_memory_gigabytes() -> float:
    """Peak resident memory of this process in GB (10⁹ bytes) after two batches with adaptation."""
    model = random_model()
    for _ in range(2):
        model.model(random_images(model, MEMORY_BATCH))
    # Not getrusage: a process inherits the peak of the one that started it.
    return memory_megabytes("VmHWM") / 1000


def memory_of_one_by_one() -> tuple[float, float]:
    """Resident memory of this process in MB with the preset, when it has all its references and many images later."""
    model = random_model(**BEST, image_size=LARGE)
    by_then = []
    for count in (model.model.references.room, ONE_BY_ONE):
        for _ in range(count):
            model.model(random_images(model, 1))
        by_then.append(memory_megabytes("VmRSS"))
    before, after = by_then
    return before, after


def plugin_start_milliseconds(repeats: int = 15) -> float:
    """Median of what the ``.pth`` line takes in a fresh interpreter."""
    code = (
        "import time; start = time.perf_counter(); import dual_image_clip.plugin as plugin; plugin.install(); "
        "print(1000 * (time.perf_counter() - start))"
    )
    # -S skips .pth files, so that the import measured is the first one.
    command = [sys.executable, "-S", "-c", code]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    outputs = [subprocess.check_output(command, text=True, env=environment) for _ in range(repeats)]
    return statistics.median(map(float, outputs))
