"""A benchmark from its plan to its report: what is missing is run, and all that there is is reported."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch
from rich.console import Console

from benchmarks.paper.images import all_categories
from benchmarks.paper.missing_jobs import find_missing_jobs, run_jobs, sheet_of
from benchmarks.paper.plan import Plan
from benchmarks.paper.report.writer import write_report
from benchmarks.paper.results import ResultsFile
from dual_image_clip.weights import Backbone, load_backbone

PACKAGES = ("torch", "anomalib", "open_clip_torch")


def run_benchmark(plan: Plan, console: Console) -> tuple[Path, int]:
    """Runs what the results file lacks, and writes the report of all that it has.

    Args:
        plan: The run.
        console: Where progress is shown.

    Returns:
        The report, and the number of rows that failed.

    Raises:
        ValueError: The plan names what there is not, the tower is no plain ViT, or the results file is of another run.
        OSError: The weights are not to be had, or the output folder cannot be written.
    """
    output = Path(plan.output)
    categories = all_categories(plan.data)
    path = output / "results.sqlite"
    if (old := output / "results.jsonl").is_file():
        console.print(f"{old} is of an earlier version and is not read", markup=False, soft_wrap=True)
    # A run that cannot begin must not leave a file behind that refuses the mended one.
    backbone = None if path.is_file() else _load_backbone(plan)
    results = ResultsFile(path, plan.description())
    if jobs := find_missing_jobs(plan, categories, results):
        run_jobs(plan, jobs, backbone or _load_backbone(plan), results, console)
    rows = results.rows()
    rows = rows[rows.category.isin(categories) & rows.seed.isin(plan.seeds) & rows.setting.isin(plan.settings)]
    sheets = [sheet for category in categories if (sheet := sheet_of(plan, category)).is_file()]
    report = write_report(plan.studies, rows, output, _context(plan, len(categories), results.spent()), sheets)
    return report, int(rows.error.notna().sum())


def _load_backbone(plan: Plan) -> Backbone:
    try:
        return load_backbone(plan.backbone, plan.pretrained)
    except TypeError as error:
        msg = f"backbone={plan.backbone!r}: {error}"
        raise ValueError(msg) from None


def _context(plan: Plan, num_categories: int, spent: pd.DataFrame) -> dict[str, str]:
    context = {
        "Backbone": f"{plan.backbone}, weights {plan.pretrained}",
        "Data": f"{plan.data.name}, {num_categories} categories",
        "Seeds": ", ".join(map(str, plan.seeds)),
        "Machine": f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, engine {plan.engine}",
        "Versions": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
    }
    if len(spent):
        once, alone = spent.sum()
        context["Time"] = f"{once:.0f} s, the sum over {len(spent)} jobs, metrics included"
        context["Encode once"] = (
            f"{alone / once:.1f} × faster than every setting alone, {alone:.0f} s by measured parts"
        )
    return context


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
