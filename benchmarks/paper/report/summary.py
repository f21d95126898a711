"""Means over categories and spreads over seeds, and what had to be left out of them."""

import math
from dataclasses import dataclass

import pandas as pd

from benchmarks.paper.plan import Study, as_number

_STATISTICS = {"mean": "mean", "standard_deviation": "std", "seeds": "count"}


@dataclass(frozen=True)
class Summary:
    """A study's figures on one data set. Labels stand in the study's order, in columns and indices named ``row``.

    Attributes:
        dataset: The data set.
        categories: All categories that the study was run on, sorted.
        complete: Those that every measured label has all its seeds of.
        means: Figures in per cent by ``row`` and ``metric``, of the study's labels and then of those that only the
            paper has: ``mean`` and ``standard_deviation`` (of a sample, ddof 1) over as many ``seeds``, each a mean
            over as many ``categories``; the paper's figure (``published``), and the ``difference`` between mean and
            that. What does not exist is missing.
        by_category: ``mean`` and ``standard_deviation`` by ``category``, ``row`` and ``metric``, of whatever seeds
            there are.
        missing: A line for each ``row``, ``category`` and ``seed`` without a result.
        lost_seeds: ``row`` and ``seed`` that were tried, but have a result on no category; they are not in ``missing``.
        without_value: Categories that were measured, but have no value for a metric, by metric.
        unmeasured: Labels that have no result at all.
    """

    dataset: str
    categories: list[str]
    complete: list[str]
    means: pd.DataFrame
    by_category: pd.DataFrame
    missing: pd.DataFrame
    lost_seeds: pd.DataFrame
    without_value: dict[str, list[str]]
    unmeasured: list[str]


def datasets_of(study: Study, rows: pd.DataFrame) -> list[str]:
    """Data sets that a study has rows for.

    Args:
        study: The study.
        rows: Rows of any studies, see :meth:`benchmarks.paper.results.ResultsFile.rows`.

    Returns:
        Their names, in the order of the rows.
    """
    return list(rows.dataset[rows.setting.isin(_labels(study).setting)].unique())


def summarise(study: Study, rows: pd.DataFrame, dataset: str) -> Summary:
    """Averages a study's rows on one data set.

    For every seed, the mean over categories is taken; then mean and standard deviation over seeds. So that the means
    of all labels are comparable, they are over those categories that every label has all its seeds of. A label that has
    no result at all does not restrict the categories.

    Args:
        study: The study.
        rows: Rows of any studies, see :meth:`benchmarks.paper.results.ResultsFile.rows`.
        dataset: The data set.

    Returns:
        The summary.
    """
    tried = _labels(study).merge(rows[rows.dataset == dataset], on="setting")
    found = tried[tried.error.isna()]
    missing = _without(found[["row", "seed"]].merge(tried[["category"]].drop_duplicates(), how="cross"), found)
    categories = sorted(tried.category.unique())
    complete = [category for category in categories if category not in set(missing.category)]
    values = found.melt(["row", "category", "seed"], study.metrics, "metric")
    values["value"] *= 100
    lacking = values[values.value.isna()]
    return Summary(
        dataset=dataset,
        categories=categories,
        complete=complete,
        means=_means(study, dataset, _without(values[values.category.isin(complete)], lacking[["category", "metric"]])),
        by_category=values.groupby(["category", "row", "metric"], observed=True).value.agg(**_STATISTICS),
        missing=missing,
        lost_seeds=_without(tried.loc[tried.row.isin(found.row), ["row", "seed"]], found),
        without_value={
            metric: sorted(some.unique())
            for metric in study.metrics
            if len(some := lacking.category[lacking.metric == metric])
        },
        unmeasured=[label for label in study.rows if label not in set(found.row)],
    )


def _labels(study: Study) -> pd.DataFrame:
    labels = pd.CategoricalIndex(study.rows, categories=list(study.rows))
    return pd.DataFrame({"row": labels, "setting": [setting.key for setting in study.rows.values()]})


def _without(lines: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """Different lines that have no equal in others, in the columns that both have."""
    shared = [column for column in lines if column in others]
    joined = lines.drop_duplicates().merge(others[shared].drop_duplicates(), how="left", on=shared, indicator=True)
    return joined[joined["_merge"] == "left_only"].drop(columns="_merge")


def _means(study: Study, dataset: str, values: pd.DataFrame) -> pd.DataFrame:
    labels = [*study.rows, *study.quoted_labels(dataset)]
    lines = pd.MultiIndex.from_product([labels, study.metrics], names=["row", "metric"])
    by_seed = values.groupby(["row", "metric", "seed"], observed=True).value.mean()
    means = by_seed.groupby(["row", "metric"], observed=True).agg(**_STATISTICS)
    means["categories"] = values.groupby(["row", "metric"], observed=True).category.nunique()
    means = means.reindex(lines).astype({"seeds": "Int64", "categories": "Int64"})
    figures = [study.published_figure(dataset, *line) for line in lines]
    means["published"] = [math.nan if figure is None else as_number(figure) for figure in figures]
    means["difference"] = means["mean"] - means.published
    return means
