"""Writes a report: a page in Markdown with its figures, and the same figures as CSV."""

import csv
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from benchmarks.paper.report import markdown
from benchmarks.paper.report.curves import draw_curves
from benchmarks.paper.report.study import Study
from benchmarks.paper.report.summary import Mean, Summary, datasets_of, summarise
from benchmarks.paper.results import METRICS, Row

HOW_TO_READ = (
    "All figures are per cent: for every seed, the mean over categories, then the mean and, of several seeds, ± the "
    "standard deviation over seeds. Bold is the best measured value of a column, underlined the second; below a value "
    "is the paper's, with the difference between the two. Rows marked “(paper)” are quoted, not measured."
)
JOB_COLUMNS = ("dataset", "category", "setting", "seed", *METRICS, "seconds", "error")
MEAN_COLUMNS = (
    *("study", "row", "setting", "dataset", "metric"),
    *("mean", "standard_deviation", "seeds", "categories", "published", "difference"),
)


def write_report(
    studies: list[Study], rows: list[Row], folder: Path, context: dict[str, str], sheets: list[Path]
) -> Path:
    """Writes ``report.md``, a ``.png`` file for every study with curves, ``results.csv`` and ``tables.csv``.

    ``results.csv`` has a line a job with fractions in 0..1, ``tables.csv`` a line for every study, row, data set and
    metric in per cent; what does not exist is empty.

    Args:
        studies: What to report on.
        rows: Rows of the results, one a job.
        folder: Where to write; made where it does not exist.
        context: What was run where, in words, for the top of the report.
        sheets: Pictures of heatmaps, to be shown at its end.

    Returns:
        Path of ``report.md``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    summaries = {
        study.name: [summarise(study, rows, dataset) for dataset in datasets_of(study, rows)] for study in studies
    }
    parts = ["# Benchmark report", markdown.grid(["", ""], [[*map(markdown.escape, item)] for item in context.items()])]
    parts.append(HOW_TO_READ)
    for study in studies:
        parts += _study_parts(study, summaries[study.name], rows, folder)
    parts += ["## Failed jobs", markdown.failed_jobs(rows)]
    if sheets:
        parts += ["## Heatmaps", *(_picture(sheet.stem, sheet, folder) for sheet in sheets)]
    path = folder / "report.md"
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    _write_csv(folder / "results.csv", JOB_COLUMNS, map(_job_line, rows))
    lines = (line for study in studies for summary in summaries[study.name] for line in _mean_lines(study, summary))
    _write_csv(folder / "tables.csv", MEAN_COLUMNS, lines)
    return path


def _study_parts(study: Study, summaries: list[Summary], rows: list[Row], folder: Path) -> Iterable[str]:
    yield f"## {study.title}"
    if not summaries:
        yield "There are no results yet."
        return
    for summary in summaries:
        yield f"### {summary.dataset}"
        yield markdown.overall_table(study, summary)
        if left_out := markdown.gaps(summary):
            yield left_out
        yield markdown.category_tables(study, summary)
        if study.order:
            yield "#### Order of methods"
            yield markdown.order_table(study, rows, summary.dataset)
    if study.layout == "curve":
        path = folder / f"{study.name}.png"
        draw_curves(study, summaries, path)
        yield _picture(study.title, path, folder)


def _picture(title: str, path: Path, folder: Path) -> str:
    return f"![{markdown.escape(title)}]({quote(Path(os.path.relpath(path, folder)).as_posix())})"


def _job_line(row: Row) -> dict[str, Any]:
    job = dict(zip(JOB_COLUMNS, row.job, strict=False))
    return {**job, **row.metrics, "seconds": row.seconds, "error": row.error}


def _mean_lines(study: Study, summary: Summary) -> Iterable[dict[str, Any]]:
    for label in (*study.rows, *study.quoted_labels(summary.dataset)):
        for metric in study.metrics:
            mean = summary.means.get(label, {}).get(metric)
            published = study.published_value(summary.dataset, label, metric)
            yield {
                "study": study.name,
                "row": label,
                "setting": study.rows.get(label),
                "dataset": summary.dataset,
                "metric": metric,
                **_mean_columns(mean, summary.averaged[metric]),
                "published": published,
                "difference": None if mean is None or published is None else mean.value - published,
            }


def _mean_columns(mean: Mean | None, categories: tuple[str, ...]) -> dict[str, float | None]:
    if mean is None:
        return {}
    return {
        "mean": mean.value,
        "standard_deviation": mean.spread,
        "seeds": mean.seeds,
        "categories": len(categories),
    }


def _write_csv(path: Path, columns: tuple[str, ...], lines: Iterable[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(lines)
