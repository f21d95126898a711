"""Reruns the paper's tables and figures: measured beside published, our method beside its peers.

Example:
    python -m benchmarks.paper configs/benchmarks/table1.yaml
    python -m benchmarks.paper configs/benchmarks/table3.yaml data.name=Visa data.root=datasets/visa seeds=[0,1]
    python -m benchmarks.paper configs/benchmarks/demo.yaml
"""

import argparse
import hashlib
import json
import logging
import os
import platform
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.paper.category_job import Examples, Spent, Wanted
from benchmarks.paper.engines import ENGINES, Job
from benchmarks.paper.images import all_categories
from benchmarks.paper.plan import Plan, read_plan
from benchmarks.paper.report.sheet import draw_sheet
from benchmarks.paper.report.writer import write_report
from benchmarks.paper.results import ResultsFile, Row
from dual_image_clip.weights import Backbone, load_backbone

TIMES = "times.jsonl"
_COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
    TextColumn("left"),
    TimeRemainingColumn(),
)


def main() -> None:
    """Runs what is missing and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="YAML file, such as configs/benchmarks/table1.yaml")
    parser.add_argument("changes", nargs="*", metavar="key=value", help="changes, such as data.root=… or seeds=[0,1]")
    arguments = parser.parse_args()
    console = Console()
    try:
        plan = read_plan(arguments.config, arguments.changes)
        report, failed = run(plan, console)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    console.print(f"The report is in {report}", soft_wrap=True)
    if failed:
        parser.exit(1, f"{failed} rows failed; the report says why\n")


def run(plan: Plan, console: Console) -> tuple[Path, int]:
    """Runs what the results file lacks, and writes the report of all that it has.

    Args:
        plan: The run.
        console: Where progress is shown.

    Returns:
        The report, and the number of rows that failed.

    Raises:
        ValueError: The plan names what there is not, or the results file is of another run.
        OSError: The weights are not to be had, or the output folder cannot be written.
    """
    output = Path(plan.output)
    studies = plan.studies_to_report()
    categories = all_categories(plan.data)
    description = plan.description()
    path = output / "results.jsonl"
    # A run that cannot begin must not leave a file behind that refuses the mended one.
    backbone = None if path.is_file() else load_weights(plan)
    results = ResultsFile(path, hashlib.sha256(description.encode()).hexdigest()[:16], description)
    jobs = missing_jobs(plan, categories, results, output)
    if jobs:
        run_jobs(plan, jobs, backbone or load_weights(plan), results, console, output)
    rows = [row for row in results.rows() if _belongs(row, plan, categories)]
    sheets = [path for path in (sheet_of(output, category) for category in categories) if path.is_file()]
    context = _context(plan, len(categories), read_spent(output / TIMES))
    return write_report(studies, rows, output, context, sheets), sum(row.error is not None for row in rows)


def load_weights(plan: Plan) -> Backbone:
    """Loads the plan's CLIP model.

    Args:
        plan: The run.

    Returns:
        The model.

    Raises:
        ValueError: The architecture or tag is unknown, the tower is no plain ViT, or the file is no checkpoint for it.
        OSError: The weights are not to be had.
    """
    try:
        return load_backbone(plan.backbone, plan.pretrained)
    except TypeError as error:
        msg = f"backbone={plan.backbone!r}: {error}"
        raise ValueError(msg) from None


def missing_jobs(plan: Plan, categories: list[str], results: ResultsFile, output: Path) -> list[Job]:
    """What is still to be done.

    Args:
        plan: The run.
        categories: Its categories.
        results: What there is already.
        output: Folder of the sheets.

    Returns:
        A job for each category that lacks rows or its sheet.
    """
    done = results.done()
    jobs = []
    for category in categories:
        wanted = [
            Wanted(setting, seed)
            for seed in plan.seeds
            for setting in plan.settings.values()
            if (plan.data.name, category, setting.key, seed) not in done
        ]
        with_examples = plan.examples > 0 and not sheet_of(output, category).is_file()
        if wanted or with_examples:
            jobs.append(Job(category, wanted, with_examples))
    return jobs


def run_jobs(
    plan: Plan, jobs: list[Job], backbone: Backbone, results: ResultsFile, console: Console, output: Path
) -> None:
    """Runs jobs and keeps every row as soon as it is there.

    Args:
        plan: The run.
        jobs: The jobs.
        backbone: The CLIP model.
        results: Where rows are appended.
        console: Where progress is shown.
        output: Folder of the sheets, and of a file that says what each job took.
    """
    pending = {job.category: {(each.setting.key, each.seed) for each in job.wanted} for job in jobs}
    with Progress(*_COLUMNS, console=console) as progress:
        task = progress.add_task("rows", total=sum(map(len, pending.values())))
        for job, outcome in ENGINES[plan.engine](plan, jobs, backbone):
            progress.update(task, description=job.category)
            if isinstance(outcome, Row):
                results.append(outcome)
                pending[job.category].discard((outcome.setting, outcome.seed))
                progress.advance(task)
            elif isinstance(outcome, Examples):
                sheet = sheet_of(output, outcome.category)
                sheet.parent.mkdir(parents=True, exist_ok=True)
                draw_sheet(outcome.examples, sheet)
            elif isinstance(outcome, Spent):
                with (output / TIMES).open("a") as file:
                    file.write(json.dumps(outcome) + "\n")
            else:
                # The job as a whole broke down; its rows say so.
                reason = f"{type(outcome).__name__}: {outcome}"
                if not pending[job.category]:
                    console.print(f"{job.category}: no heatmaps: {reason}", markup=False, soft_wrap=True)
                for setting, seed in pending.pop(job.category):
                    results.append(Row(plan.data.name, job.category, setting, seed, {}, 0.0, reason))
                    progress.advance(task)
                pending[job.category] = set()


def read_spent(path: Path) -> list[Spent]:
    """What all jobs of a run took, also those of earlier calls.

    Args:
        path: The file that :func:`run_jobs` has written, if there is one.

    Returns:
        A value for each job that came to its end.
    """
    lines = path.read_text().splitlines() if path.is_file() else []
    spent = []
    for line in lines:
        # A line may be torn by a crash; it is worth less than the run.
        with suppress(ValueError, TypeError):
            spent.append(Spent(*json.loads(line)))
    return spent


def sheet_of(output: Path, category: str) -> Path:
    """Where the heatmaps of a category are."""
    return output / "sheets" / f"{category}.png"


def _belongs(row: Row, plan: Plan, categories: list[str]) -> bool:
    return row.category in categories and row.seed in plan.seeds and row.setting in plan.settings


def _context(plan: Plan, num_categories: int, spent: list[Spent]) -> dict[str, str]:
    packages = ("torch", "anomalib", "open_clip_torch")
    context = {
        "Backbone": f"{plan.backbone}, weights {plan.pretrained}",
        "Data": f"{plan.data.name}, {num_categories} categories",
        "Seeds": ", ".join(map(str, plan.seeds)),
        "Machine": f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, engine {plan.engine}",
        "Versions": ", ".join(f"{name} {version(name)}" for name in packages),
    }
    if spent:
        once, alone = (sum(each) for each in zip(*spent, strict=True))
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


if __name__ == "__main__":
    logging.getLogger("dual_image_clip").setLevel(logging.ERROR)
    main()
