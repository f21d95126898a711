"""The parts of the report that are text: tables of figures and the sentences around them."""

import re

from benchmarks.paper.report.order import check_order
from benchmarks.paper.report.study import Study
from benchmarks.paper.report.summary import Mean, Summary
from benchmarks.paper.results import Row

NOTHING = "–"
RIGHT = "---:"


def grid(header: list[str], lines: list[list[str]], alignment: str = "---") -> str:
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


def with_spread(mean: Mean | None) -> str:
    """A mean with one decimal and, of several seeds, its standard deviation."""
    if mean is None:
        return NOTHING
    return f"{mean.value:.1f}" + ("" if mean.spread is None else f" ± {mean.spread:.1f}")


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
    marks = {metric: _marks(summary, metric) for metric in study.metrics}
    lines = [
        [escape(label), *(_cell(study, summary, label, metric, marks[metric]) for metric in study.metrics)]
        for label in study.rows
    ]
    published = study.published.get(summary.dataset, {})
    for label in study.quoted_labels(summary.dataset):
        lines.append([f"{escape(label)} (paper)", *(_quoted(published[label].get(metric)) for metric in study.metrics)])
    return grid([study.x_label, *map(metric_name, study.metrics)], lines, RIGHT)


def category_tables(study: Study, summary: Summary) -> str:
    """A table a headline metric, with categories as lines and the study's rows as columns, folded.

    Args:
        study: The study; its headline metrics are the AUROCs or, where it has none, its first metric.
        summary: Its figures on a data set.

    Returns:
        HTML and Markdown.
    """
    labels = list(study.rows)
    parts = []
    for metric in [metric for metric in study.metrics if metric.endswith("_AUROC")] or study.metrics[:1]:
        lines = [
            [escape(category), *(with_spread(by_label.get(label, {}).get(metric)) for label in labels)]
            for category, by_label in summary.by_category.items()
        ]
        parts.append(grid([metric_name(metric), *map(escape, labels)], lines, RIGHT))
    return "\n\n".join(["<details><summary>Categories</summary>", *parts, "</details>"])


def gaps(summary: Summary) -> str:
    """Sentences that say what the means leave out, and why; empty where nothing is missing.

    Args:
        summary: A study's figures on a data set.

    Returns:
        One line.
    """
    sentences = []
    if summary.missing:
        missing = "; ".join(_absent(label, absent) for label, absent in summary.missing.items())
        sentences.append(
            f"The means are over the {len(summary.complete)} of {len(summary.categories)} categories that every row "
            f"has with all its seeds. Missing: {missing}."
        )
    for label, seeds in summary.lost_seeds.items():
        sentences.append(f"{escape(label)} has no result of {_seeds(seeds)} on any category.")
    if summary.without_value:
        lacking = (
            f"{metric_name(metric)}: {escape(', '.join(categories))}"
            for metric, categories in summary.without_value.items()
        )
        sentences.append(f"Categories without a value are left out, too ({'; '.join(lacking)}).")
    if summary.unmeasured:
        sentences.append(f"No result yet: {escape(', '.join(summary.unmeasured))}.")
    return " ".join(sentences)


def order_table(study: Study, rows: list[Row], dataset: str) -> str:
    """Whether the methods come out in the paper's order, neighbour by neighbour, beside the paper's own differences.

    Args:
        study: A study with chains.
        rows: Rows of any studies.
        dataset: The data set.

    Returns:
        The table.
    """
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for chain in study.order:
        for metric in study.metrics:
            for worse, better, difference in check_order(study, rows, dataset, metric, chain):
                verdict = _verdict(difference) + _published_difference(study, dataset, worse, better, metric)
                cells.setdefault((worse, better), {})[metric] = verdict
    lines = [
        [f"{escape(worse)} \\< {escape(better)}", *(verdicts.get(metric, NOTHING) for metric in study.metrics)]
        for (worse, better), verdicts in cells.items()
    ]
    return grid(["", *map(metric_name, study.metrics)], lines, RIGHT)


def failed_jobs(rows: list[Row]) -> str:
    """The jobs that failed, with their reasons.

    Args:
        rows: Rows of any studies.

    Returns:
        A table, or a sentence where none failed.
    """
    lines = [
        [*map(escape, (row.dataset, row.category, row.setting)), str(row.seed), escape(row.error)]
        for row in rows
        if row.error is not None
    ]
    return grid(["data set", "category", "setting", "seed", "reason"], lines) if lines else "No job failed."


def _cell(study: Study, summary: Summary, label: str, metric: str, marks: dict[str, str]) -> str:
    mean = summary.means.get(label, {}).get(metric)
    text = marks.get(label, "{}").format(with_spread(mean))
    value = study.published_value(summary.dataset, label, metric)
    if value is None:
        return text
    difference = "" if mean is None else f" ({signed(mean.value - value)})"
    return f"{text}<br>paper {_quoted(study.published[summary.dataset][label][metric])}{difference}"


def _marks(summary: Summary, metric: str) -> dict[str, str]:
    """Templates of the best and second-best labels."""
    shown = {label: f"{means[metric].value:.1f}" for label, means in summary.means.items() if metric in means}
    ranked = sorted(set(shown.values()), key=float, reverse=True)
    templates = dict(zip(ranked[:2], ("**{}**", "<u>{}</u>"), strict=False))
    return {label: templates[text] for label, text in shown.items() if text in templates} if len(shown) > 1 else {}


def _quoted(value: float | str | None) -> str:
    if value is None:
        return NOTHING
    return escape(value) if isinstance(value, str) else f"{value:.1f}"


def _verdict(difference: float) -> str:
    return f"holds: {signed(difference)}" if difference > 0 else f"does not hold: {signed(difference)}"


def _published_difference(study: Study, dataset: str, worse: str, better: str, metric: str) -> str:
    low, high = (study.published_value(dataset, label, metric) for label in (worse, better))
    return "" if low is None or high is None else f" (paper {signed(high - low)})"


def _absent(label: str, absent: dict[str, tuple[int, ...]]) -> str:
    return f"{escape(label)}: " + ", ".join(f"{escape(name)} ({_seeds(seeds)})" for name, seeds in absent.items())


def _seeds(seeds: tuple[int, ...]) -> str:
    return ("seed " if len(seeds) == 1 else "seeds ") + ", ".join(map(str, seeds))
