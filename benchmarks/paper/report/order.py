"""Whether methods come out in the order in which the paper has them."""

from itertools import pairwise

from benchmarks.paper.report.study import Study
from benchmarks.paper.report.summary import summarise
from benchmarks.paper.results import Row


def check_order(
    study: Study, rows: list[Row], dataset: str, metric: str, order: tuple[str, ...]
) -> list[tuple[str, str, float]]:
    """Compares neighbours of a chain of methods; the order holds where the difference is above zero.

    Args:
        study: The study that has the methods.
        rows: Rows of any studies.
        dataset: The data set.
        metric: One of the study's metrics.
        order: Labels from worse to better; those without a mean are left out, and their neighbours compared.

    Returns:
        Worse label, better label, and how much larger the latter's mean is, in per cent (negative: it is smaller).
    """
    means = summarise(study, rows, dataset).means
    measured = [label for label in order if metric in means.get(label, {})]
    return [
        (worse, better, means[better][metric].value - means[worse][metric].value)
        for worse, better in pairwise(measured)
    ]
