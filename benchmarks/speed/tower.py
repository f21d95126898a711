"""What the method costs, as ratios to a bare pass of the image tower.

Runs ViT-B-16-plus-240 with random weights (speed does not depend on their values) and prints a table. Linux only.

Example:
    python -m benchmarks.speed --batch-size 8 --rounds 5
"""

import argparse
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from rich.console import Console
from rich.table import Table
from torch import Tensor

from dual_image_clip import DualImageCLIP
from dual_image_clip.method import encode_ensemble, merge_heads, project_to_heads, prompt_ensemble, residual_block
from dual_image_clip.weights import cached_text_embeddings

BACKBONE = "ViT-B-16-plus-240"
IMAGE_SIZE = 240
CLASS_NAME = "metal nut"
MEMORY_BATCH = 32
PRECISIONS = {"float32": False, "bfloat16 autocast": True}


def main() -> None:
    """Measures and prints everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=8, help="images in a batch (default: 8)")
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds, of which medians are taken (default: 5)")
    parser.add_argument("--peak-memory", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    if arguments.peak_memory:
        print(measure_peak_memory())
        return

    table = Table("measure", "value", title=f"{BACKBONE}, random weights, {describe_machine()}", show_lines=False)
    for name, value in [
        *tower_rows(arguments.batch_size, arguments.rounds),
        *text_rows(),
        *process_rows(),
    ]:
        table.add_row(name, value)
    Console(width=120).print(table)


def tower_rows(batch_size: int, rounds: int) -> list[tuple[str, str]]:
    """Time of an image with and without adaptation against a bare pass, in both precisions."""
    adapting = random_model(adaptation_steps=2)
    direct = random_model(adaptation_steps=0)
    clip = adapting.backbone.clip
    images = torch.randn(batch_size, 3, IMAGE_SIZE, IMAGE_SIZE)
    candidates: dict[str, Callable[[], object]] = {
        "bare pass, open_clip's encode_image": lambda: clip.encode_image(images),
        "bare pass, the same layers with this package's attention": lambda: ordinary_path(clip.visual, images),
        "without adaptation": lambda: direct.model(images),
        "with adaptation, 2 steps": lambda: adapting.model(images),
    }
    rows = []
    for precision, enabled in PRECISIONS.items():
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            seconds = time_in_turn(candidates, rounds)
        bare, own_bare, *_ = seconds
        for name, times in seconds.items():
            ratios = " and ".join(f"{median_ratio(times, seconds[base]):.2f}" for base in (bare, own_bare))
            rows.append(
                (
                    f"{precision}, batch {batch_size}: {name}",
                    f"{1000 * statistics.median(times) / batch_size:.0f} ms an image, {ratios} × the bare passes",
                )
            )
    return rows


def text_rows() -> list[tuple[str, str]]:
    """Time to set up one object category: the plain way, cut to the longest prompt, and from the cache."""
    model = random_model()
    clip, tokenizer = model.backbone.clip, model.backbone.tokenizer
    ensemble = prompt_ensemble(CLASS_NAME)

    def plain() -> None:
        with torch.no_grad():
            for prompts in ensemble:
                tokens = tokenizer(prompts)
                F.normalize(torch.cat([clip.encode_text(chunk) for chunk in tokens.split(128)]), dim=-1)

    def cached() -> None:
        cached_text_embeddings(clip, ensemble, lambda: encode_ensemble(clip, tokenizer, ensemble))

    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        seconds = {name: elapsed(run) for name, run in [("plain", plain), ("cold", cached), ("warm", cached)]}
    return [
        ("text of a category, all 77 tokens of every prompt", f"{seconds['plain']:.1f} s"),
        (
            "text of a category, cold",
            f"{seconds['cold']:.1f} s, {seconds['cold'] / seconds['plain']:.2f} × the plain way",
        ),
        ("text of a category, from the cache", f"{1000 * seconds['warm']:.0f} ms"),
    ]


def process_rows() -> list[tuple[str, str]]:
    """Peak memory of a process, and what the plugin adds to the start of one."""
    peak = subprocess.run(
        [sys.executable, "-m", "benchmarks.speed", "--peak-memory"], check=True, capture_output=True, text=True
    ).stdout.strip()
    return [
        (f"peak memory of a process, batch {MEMORY_BATCH} with adaptation, float32", f"{float(peak):.2f} GB"),
        ("plugin, in an interpreter that never imports anomalib", f"{measure_plugin_start():.2f} ms"),
    ]


def random_model(adaptation_steps: int = 2) -> DualImageCLIP:
    """The full-size model with random weights and random text embeddings."""
    model = DualImageCLIP(backbone=BACKBONE, pretrained=None, adaptation_steps=adaptation_steps)
    model.model.text_embeddings.copy_(F.normalize(torch.randn_like(model.model.text_embeddings), dim=-1))
    return model


def ordinary_path(tower: Any, images: Tensor) -> Tensor:
    """The image tower's class token, computed with the attention kernels that the package uses."""
    patches = tower.conv1(images).flatten(2).transpose(1, 2)
    class_token = tower.class_embedding.expand(len(images), 1, -1)
    tokens = tower.ln_pre(torch.cat([class_token.to(patches), patches], dim=1) + tower.positional_embedding)
    for block in tower.transformer.resblocks:
        query, key, value = project_to_heads(block.attn, block.ln_1(tokens))
        attended = merge_heads(block.attn, F.scaled_dot_product_attention(query, key, value))
        tokens = residual_block(block, tokens, attended)
    return tower.ln_post(tokens[:, 0]) @ tower.proj


def time_in_turn(candidates: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Times the candidates one after the other, round by round, so that drift of the machine meets all of them."""
    for run in candidates.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            seconds[name].append(elapsed(run))
    return seconds


def elapsed(run: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def median_ratio(times: list[float], base: list[float]) -> float:
    """Median of the ratios round by round."""
    return statistics.median(time / other for time, other in zip(times, base, strict=True))


def measure_peak_memory() -> float:
    """Peak resident memory of this process in GB (10⁹ bytes) after two batches with adaptation."""
    model = random_model()
    for _ in range(2):
        model.model(torch.randn(MEMORY_BATCH, 3, IMAGE_SIZE, IMAGE_SIZE))
    # Not getrusage: a process inherits the peak of the one that started it.
    status = Path("/proc/self/status").read_text()
    kibibytes = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return kibibytes * 1024 / 1e9


def measure_plugin_start(repeats: int = 15) -> float:
    """Median milliseconds that the ``.pth`` line takes in a fresh interpreter."""
    code = (
        "import time; start = time.perf_counter(); import dual_image_clip.plugin as plugin; plugin.install(); "
        "print(1000 * (time.perf_counter() - start))"
    )
    # -S skips .pth files, so that the import measured is the first one.
    path = os.pathsep.join(entry for entry in sys.path if entry)
    environment = {**os.environ, "PYTHONPATH": path}
    runs = [
        subprocess.run(
            [sys.executable, "-S", "-c", code], check=True, capture_output=True, text=True, env=environment
        ).stdout
        for _ in range(repeats)
    ]
    return statistics.median(map(float, runs))


def describe_machine() -> str:
    """Processor, cores and versions."""
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(line.split(":")[1].strip() for line in cpuinfo if line.startswith("model name"))
    return f"{model}, {torch.get_num_threads()} threads, torch {torch.__version__}"


if __name__ == "__main__":
    main()
