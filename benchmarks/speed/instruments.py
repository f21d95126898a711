"""What the measurements share: a model with random weights, a clock, the memory of a process, the machine."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from rich.console import Console
from rich.table import Table
from torch import Tensor

from dual_image_clip import DualImageCLIP

BACKBONE = "ViT-B-16-plus-240"
CLASS_NAME = "metal nut"


def random_model(backbone: str = BACKBONE, **arguments: Any) -> DualImageCLIP:
    """A model with random weights and random text embeddings; speed does not depend on their values.

    Args:
        backbone: The architecture.
        arguments: Further arguments of the model.

    Returns:
        The model.
    """
    model = DualImageCLIP(backbone=backbone, pretrained=None, **arguments)
    model.model.text_embeddings.copy_(F.normalize(torch.randn_like(model.model.text_embeddings), dim=-1))
    return model


def random_images(model: DualImageCLIP, count: int) -> Tensor:
    """Images of the size that the model was made for, ``(count, 3, H, W)``."""
    return torch.randn(count, 3, *model.backbone.image_size)


def elapsed(run: Callable[..., object], *arguments: Any) -> float:
    """Seconds that a call takes.

    Args:
        run: What is called.
        arguments: What it is called with.

    Returns:
        The seconds.
    """
    start = time.perf_counter()
    run(*arguments)
    return time.perf_counter() - start


def time_in_turn(candidates: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Times candidates one after the other, round by round, so that drift of the machine meets all of them.

    Args:
        candidates: What is called, by name; once each before the first round.
        rounds: Number of rounds.

    Returns:
        Seconds of each round by name.
    """
    for run in candidates.values():
        run()
    by_round = [{name: elapsed(run) for name, run in candidates.items()} for _ in range(rounds)]
    return {name: [seconds[name] for seconds in by_round] for name in candidates}


def memory_megabytes(entry: str) -> float:
    """Resident memory of this process in MB (10⁶ bytes).

    Args:
        entry: A line of Linux's ``/proc/self/status``: ``VmRSS`` for now, ``VmHWM`` for the peak.

    Returns:
        The memory.
    """
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    kibibytes = next(int(line.split()[1]) for line in status.splitlines() if line.startswith(entry))
    return kibibytes * 1024 / 1e6


def describe_machine() -> str:
    """Processor, threads and version of torch."""
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    processor = next(line.split(":")[1].strip() for line in cpuinfo if line.startswith("model name"))
    return f"{processor}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def print_table(about: str, rows: list[tuple[str, str]]) -> None:
    """Prints what was measured.

    Args:
        about: What was run, for the title, beside backbone and machine.
        rows: What was measured, and its value.
    """
    table = Table("measure", "value", title=f"{BACKBONE}, {about}, {describe_machine()}")
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table)
