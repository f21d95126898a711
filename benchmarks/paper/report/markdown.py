"""The parts of the report that are text: tables of figures and the sentences around them."""

import re
from collections.abc import Iterable
from itertools import pairwise

import pandas as pd

from benchmarks.paper.plan import Study
from benchmarks.paper.report.summary import Summary
from benchmarks.paper.results import KEY

NOTHING = "–"
RIGHT = "---:"


def grid(header: list[str], lines: Iterable[list[str]], alignment: str = "---") -> str:
    """A table in Markdown.

    Args:
        header: Names of the columns.
        lines: Cells in Markdown, as many a line as there are columns.
        alignment: Markdown's sign for that of all columns but the first, which is aligned to the left.

    Returns:
        The table, without a line break at its end.
    """
    rule = ["---", *[alignment] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *lines))


def escape(text: str) -> str:
    """Makes any text show as it is in a cell of a table, in a single line."""
    # An underscore inside a word has no meaning, so that names stay readable in the source.
    escaped = re.sub(r"[\\`*\[\]<>|&]|_(?=_)|(?<=_)_|\b_|_\b", r"\\\g<0>", text)
    return " ".join(escaped.split())


def metric_name(metric: str) -> str:
    """The name of a metric with a space in it, such as "pixel AUROC"."""
    return metric.replace("_", " ")


def signed(difference: float) -> str:
    """A difference in per cent with its sign and one decimal; 0.0 has none."""
    text = f"{difference:+.1f}".replace("-", "−")
    return "0.0" if text in {"+0.0", "−0.0"} else text


def with_spreads(figures: pd.DataFrame) -> pd.Series:
    """Each ``mean`` with one decimal and, of several seeds, its ``standard_deviation``."""
    means = figures["mean"].map("{:.1f}".format, na_action="ignore").fillna(NOTHING).astype(object)
    return means + figures.standard_deviation.map(" ± {:.1f}".format, na_action="ignore").fillna("").astype(object)


def overall_table(study: Study, summary: Summary) -> str:
    """Means over categories beside the paper's figures, then the rows that only the paper has.

    The best measured value of each metric is bold and the second underlined, as they are shown: equal figures are
    marked alike. With one measured row, nothing is marked.

    Args:
        study: The study.
        summary: Its figures on a data set.

    Returns:
        The table.
    """
    means = summary.means
    marks = means["mean"].groupby("metric").transform(_marks)
    cells = marks.combine(with_spreads(means), str.format)
    for (label, metric), difference in means.difference[means.published.notna()].items():
        figure = study.published_figure(summary.dataset, label, metric)
        quoted = f"{figure:.1f}" if isinstance(figure, float | int) else escape(str(figure))
        if label in study.rows:
            shown = "" if pd.isna(difference) else f" ({signed(difference)})"
            cells[label, metric] += f"<br>paper {quoted}{shown}"
        else:
            cells[label, metric] = quoted
    lines = [
        [escape(label) + ("" if label in study.rows else " (paper)"), *cells[label]]
        for label in means.index.unique("row")
    ]
    return grid([study.x_label, *map(metric_name, study.metrics)], lines, RIGHT)


def _marks(means: pd.Series) -> pd.Series:
    """Templates of the best and second-best values."""
    ranks = means.map("{:.1f}".format, na_action="ignore").astype(float).rank(method="dense", ascending=False)
    templates = {1: "**{}**", 2: "<u>{}</u>"} if means.count() > 1 else {}
    return pd.Series([templates.get(rank, "{}") for rank in ranks], means.index)


def category_tables(study: Study, summary: Summary) -> str:
    """A table a headline metric, with categories as lines and the study's rows as columns, folded.

    Args:
        study: The study; its headline metrics are the AUROCs or, where it has none, its first metric.
        summary: Its figures on a data set.

    Returns:
        HTML and Markdown.
    """
    cells = with_spreads(summary.by_category)
    parts = []
    for metric in [metric for metric in study.metrics if metric.endswith("_AUROC")] or study.metrics[:1]:
        lines = [
            [escape(category), *(cells.get((category, label, metric), NOTHING) for label in study.rows)]
            for category in summary.categories
        ]
        parts.append(grid([metric_name(metric), *map(escape, study.rows)], lines, RIGHT))
    return "\n\n".join(["<details><summary>Categories</summary>", *parts, "</details>"])


def gaps(summary: Summary) -> str:
    """Sentences that say what the means leave out, and why; empty where nothing is missing.

    Args:
        summary: A study's figures on a data set.

    Returns:
        One line.
    """
    sentences = []
    if len(summary.missing):
        missing = "; ".join(
            f"{escape(label)}: "
            + ", ".join(f"{escape(name)} ({_seeds(some.seed)})" for name, some in absent.groupby("category"))
            for label, absent in summary.missing.groupby("row", observed=True)
        )
        sentences.append(
            f"The means are over the {len(summary.complete)} of {len(summary.categories)} categories that every row "
            f"has with all its seeds. Missing: {missing}."
        )
    for label, lost in summary.lost_seeds.groupby("row", observed=True):
        sentences.append(f"{escape(label)} has no result of {_seeds(lost.seed)} on any category.")
    if summary.without_value:
        lacking = (
            f"{metric_name(metric)}: {escape(', '.join(categories))}"
            for metric, categories in summary.without_value.items()
        )
        sentences.append(f"Categories without a value are left out, too ({'; '.join(lacking)}).")
    if summary.unmeasured:
        sentences.append(f"No result yet: {escape(', '.join(summary.unmeasured))}.")
    return " ".join(sentences)


def order_table(study: Study, summary: Summary) -> str:
    """Whether the methods come out in the paper's order, neighbour by neighbour, beside the paper's own differences.

    The order holds where a mean is larger than that of the label before; labels without one are left out.

    Args:
        study: A study with chains.
        summary: Its figures on a data set.

    Returns:
        The table.
    """
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for chain in study.order:
        for metric in study.metrics:
            measured = summary.means.xs(metric, level="metric").loc[chain].dropna(subset="mean")
            steps = measured[["mean", "published"]].diff()[1:]
            for pair, step, published in zip(pairwise(measured.index), steps["mean"], steps.published, strict=True):
                verdict = "holds" if step > 0 else "does not hold"
                paper = "" if pd.isna(published) else f" (paper {signed(published)})"
                cells.setdefault(pair, {})[metric] = f"{verdict}: {signed(step)}{paper}"
    lines = [
        [f"{escape(worse)} \\< {escape(better)}", *(verdicts.get(metric, NOTHING) for metric in study.metrics)]
        for (worse, better), verdicts in cells.items()
    ]
    return grid(["", *map(metric_name, study.metrics)], lines, RIGHT)


def failed_rows(rows: pd.DataFrame) -> str:
    """The rows that failed, with their reasons.

    Args:
        rows: Rows of any studies.

    Returns:
        A table, or a sentence where none failed.
    """
    failed = rows.loc[rows.error.notna(), [*KEY, "error"]].astype(str)
    lines = [[*map(escape, line)] for line in failed.itertuples(index=False)]
    return grid(["data set", "category", "setting", "seed", "reason"], lines) if lines else "No job failed."


def _seeds(seeds: pd.Series) -> str:
    return ("seed " if len(seeds) == 1 else "seeds ") + ", ".join(map(str, sorted(seeds)))
