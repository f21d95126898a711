"""The jobs that a benchmark still lacks: what they are, and running them so that nothing is lost."""

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.paper.category_job import Examples, Wanted
from benchmarks.paper.engines import ENGINES, Job
from benchmarks.paper.plan import Plan
from benchmarks.paper.report.sheet import draw_sheet
from benchmarks.paper.results import ResultsFile, Row, Spent
from dual_image_clip.weights import Backbone

_COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
    TextColumn("left"),
    TimeRemainingColumn(),
)


def find_missing_jobs(plan: Plan, categories: list[str], results: ResultsFile) -> list[Job]:
    """What is still to be done.

    Args:
        plan: The run.
        categories: Its categories.
        results: What there is already.

    Returns:
        A job for each category that lacks rows or its sheet of heatmaps.
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
        with_examples = plan.examples > 0 and not sheet_of(plan, category).is_file()
        if wanted or with_examples:
            jobs.append(Job(category, wanted, with_examples))
    return jobs


def run_jobs(plan: Plan, jobs: list[Job], backbone: Backbone, results: ResultsFile, console: Console) -> None:
    """Runs jobs and keeps every row as soon as it is there.

    Args:
        plan: The run.
        jobs: The jobs.
        backbone: The CLIP model.
        results: Where rows and times are added.
        console: Where progress is shown.

    Raises:
        OSError: Results cannot be written.
    """
    pending = {job.category: {(each.setting.key, each.seed) for each in job.wanted} for job in jobs}
    with Progress(*_COLUMNS, console=console) as progress:
        task = progress.add_task("rows", total=sum(map(len, pending.values())))
        for job, result in ENGINES[plan.engine](plan, jobs, backbone):
            progress.update(task, description=job.category)
            if isinstance(result, Row):
                results.add(result)
                pending[job.category].discard((result.setting, result.seed))
                progress.advance(task)
            elif isinstance(result, Examples):
                sheet = sheet_of(plan, result.category)
                sheet.parent.mkdir(parents=True, exist_ok=True)
                draw_sheet(result.examples, sheet)
            elif isinstance(result, Spent):
                results.add_spent(result)
            else:
                # The job as a whole broke down; its rows say so.
                reason = f"{type(result).__name__}: {result}"
                if not pending[job.category]:
                    console.print(f"{job.category}: no heatmaps: {reason}", markup=False, soft_wrap=True)
                for setting, seed in pending.pop(job.category):
                    results.add(Row(plan.data.name, job.category, setting, seed, {}, 0.0, reason))
                    progress.advance(task)
                pending[job.category] = set()


def sheet_of(plan: Plan, category: str) -> Path:
    """Where the heatmaps of a category are."""
    return Path(plan.output) / "sheets" / f"{category}.png"
