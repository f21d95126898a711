"""Means over categories and spreads over seeds, and what had to be left out of them."""

import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from benchmarks.paper.report.study import Study
from benchmarks.paper.results import Row

# Metrics by label, category and seed, of the jobs that succeeded.
Values: TypeAlias = dict[str, dict[str, dict[int, dict[str, float]]]]


class Mean(NamedTuple):
    """A mean over seeds.

    Attributes:
        value: Per cent.
        spread: Standard deviation (of a sample, ddof 1) in per cent; ``None`` with a single seed.
        seeds: How many seeds there are.
    """

    value: float
    spread: float | None
    seeds: int


@dataclass(frozen=True)
class Summary:
    """A study's figures on one data set.

    Attributes:
        dataset: The data set.
        categories: All categories that a job of the study was run on, sorted.
        complete: Those that every measured label has all its seeds of.
        averaged: For each metric, the complete categories that have a value; all means of it are taken over these.
        means: Means over ``averaged`` by label and metric; a label or metric without any value is missing.
        by_category: Means of single categories by category, label and metric, of whatever seeds there are.
        missing: Seeds without a result by label and category.
        lost_seeds: By label, seeds that were tried, but have a result on no category; they are not in ``missing``.
        without_value: By metric, categories that were measured, but have no value for it.
        unmeasured: Labels that have no result at all.
    """

    dataset: str
    categories: tuple[str, ...]
    complete: tuple[str, ...]
    averaged: dict[str, tuple[str, ...]]
    means: dict[str, dict[str, Mean]]
    by_category: dict[str, dict[str, dict[str, Mean]]]
    missing: dict[str, dict[str, tuple[int, ...]]]
    lost_seeds: dict[str, tuple[int, ...]]
    without_value: dict[str, tuple[str, ...]]
    unmeasured: tuple[str, ...]


def datasets_of(study: Study, rows: list[Row]) -> list[str]:
    """Data sets that a study has rows for.

    Args:
        study: The study.
        rows: Rows of any studies.

    Returns:
        Their names, in the order of the rows.
    """
    settings = set(study.rows.values())
    return list(dict.fromkeys(row.dataset for row in rows if row.setting in settings))


def summarise(study: Study, rows: list[Row], dataset: str) -> Summary:
    """Averages a study's rows on one data set.

    For every seed, the mean over categories is taken; then mean and standard deviation over seeds. So that the means
    of all labels are comparable, they are over those categories that every label has all its seeds of. A label that has
    no result at all does not restrict the categories.

    Args:
        study: The study.
        rows: Rows of any studies, one a job.
        dataset: The data set.

    Returns:
        The summary.
    """
    tried = {label: _of_setting(rows, dataset, setting) for label, setting in study.rows.items()}
    categories = tuple(sorted({row.category for jobs in tried.values() for row in jobs}))
    values = {label: found for label, jobs in tried.items() if (found := _successful(jobs))}
    seeds = {label: sorted(set().union(*by_category.values())) for label, by_category in values.items()}
    missing = {
        label: {
            category: absent
            for category in categories
            if (absent := tuple(seed for seed in seeds[label] if seed not in values[label].get(category, {})))
        }
        for label in values
    }
    complete = tuple(name for name in categories if not any(name in absent for absent in missing.values()))
    averaged = {
        metric: tuple(category for category in complete if _has(values, category, metric)) for metric in study.metrics
    }
    return Summary(
        dataset=dataset,
        categories=categories,
        complete=complete,
        averaged=averaged,
        means={label: _overall(values[label], seeds[label], averaged) for label in values},
        by_category={category: _of_category(values, category, study.metrics) for category in categories},
        missing={label: absent for label, absent in missing.items() if absent},
        lost_seeds={
            label: lost
            for label in values
            if (lost := tuple(sorted({row.seed for row in tried[label]} - {*seeds[label]})))
        },
        without_value={
            metric: lacking
            for metric in study.metrics
            if (lacking := tuple(category for category in categories if not _has(values, category, metric)))
        },
        unmeasured=tuple(label for label in study.rows if label not in values),
    )


def _of_setting(rows: list[Row], dataset: str, setting: str) -> list[Row]:
    return [row for row in rows if (row.dataset, row.setting) == (dataset, setting)]


def _successful(jobs: list[Row]) -> dict[str, dict[int, dict[str, float]]]:
    found: dict[str, dict[int, dict[str, float]]] = defaultdict(dict)
    for row in jobs:
        if row.error is None:
            found[row.category][row.seed] = row.metrics
    return dict(found)


def _has(values: Values, category: str, metric: str) -> bool:
    """Whether no job on a category that succeeded lacks a metric."""
    return all(
        metric in metrics for by_category in values.values() for metrics in by_category.get(category, {}).values()
    )


def _overall(
    by_category: dict[str, dict[int, dict[str, float]]], seeds: list[int], averaged: dict[str, tuple[str, ...]]
) -> dict[str, Mean]:
    return {
        metric: _mean(
            statistics.fmean(by_category[category][seed][metric] for category in categories) for seed in seeds
        )
        for metric, categories in averaged.items()
        if categories
    }


def _of_category(values: Values, category: str, metrics: tuple[str, ...]) -> dict[str, dict[str, Mean]]:
    return {
        label: {
            metric: _mean(found)
            for metric in metrics
            if (found := [job[metric] for job in by_category.get(category, {}).values() if metric in job])
        }
        for label, by_category in values.items()
    }


def _mean(fractions: Iterable[float]) -> Mean:
    per_cent = [100 * fraction for fraction in fractions]
    spread = statistics.stdev(per_cent) if len(per_cent) > 1 else None
    return Mean(statistics.fmean(per_cent), spread, len(per_cent))
