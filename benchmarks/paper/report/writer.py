"""Writes a report: a page in Markdown with its figures, and the same figures as CSV."""

import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from benchmarks.paper.plan import Study
from benchmarks.paper.report import markdown
from benchmarks.paper.report.curves import draw_curves
from benchmarks.paper.report.summary import Summary, datasets_of, summarise

HOW_TO_READ = (
    "All figures are per cent: for every seed, the mean over categories, then the mean and, of several seeds, ± the "
    "standard deviation over seeds. Bold is the best measured value of a column, underlined the second; below a value "
    "is the paper's, with the difference between the two. Rows marked “(paper)” are quoted, not measured."
)
MEAN_COLUMNS = (
    *("study", "row", "setting", "dataset", "metric"),
    *("mean", "standard_deviation", "seeds", "categories", "published", "difference"),
)


def write_report(
    studies: dict[str, Study], rows: pd.DataFrame, folder: Path, context: dict[str, str], sheets: list[Path]
) -> Path:
    """Writes ``report.md``, a ``.png`` file for every study with curves, ``results.csv`` and ``tables.csv``.

    ``results.csv`` has the rows with fractions in 0..1, ``tables.csv`` a line for every study, label, data set and
    metric in per cent; what does not exist is empty.

    Args:
        studies: What to report on, by a name for files.
        rows: Rows of the results, see :meth:`benchmarks.paper.results.ResultsFile.rows`.
        folder: Where to write; made where it does not exist.
        context: What was run where, in words, for the top of the report.
        sheets: Pictures of heatmaps, to be shown at its end.

    Returns:
        Path of ``report.md``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    summaries = {
        name: [summarise(study, rows, dataset) for dataset in datasets_of(study, rows)]
        for name, study in studies.items()
    }
    parts = ["# Benchmark report", markdown.grid(["", ""], [[*map(markdown.escape, item)] for item in context.items()])]
    parts.append(HOW_TO_READ)
    for name, study in studies.items():
        parts += _study_parts(name, study, summaries[name], folder)
    parts += ["## Failed jobs", markdown.failed_rows(rows)]
    if sheets:
        parts += ["## Heatmaps", *(_picture(sheet.stem, sheet, folder) for sheet in sheets)]
    path = folder / "report.md"
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    rows.to_csv(folder / "results.csv", index=False)
    means = [_mean_lines(name, study, summary) for name, study in studies.items() for summary in summaries[name]]
    pd.concat(means or [pd.DataFrame(columns=MEAN_COLUMNS)]).to_csv(folder / "tables.csv", index=False)
    return path


def _study_parts(name: str, study: Study, summaries: list[Summary], folder: Path) -> Iterable[str]:
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
            yield markdown.order_table(study, summary)
    if study.layout == "curve":
        path = folder / f"{name}.png"
        draw_curves(study, summaries, path)
        yield _picture(study.title, path, folder)


def _picture(title: str, path: Path, folder: Path) -> str:
    return f"![{markdown.escape(title)}]({quote(Path(os.path.relpath(path, folder)).as_posix())})"


def _mean_lines(name: str, study: Study, summary: Summary) -> pd.DataFrame:
    keys = {label: setting.key for label, setting in study.rows.items()}
    lines = summary.means.reset_index()
    lines = lines.assign(study=name, setting=lines.row.map(keys), dataset=summary.dataset)
    return lines[list(MEAN_COLUMNS)]
