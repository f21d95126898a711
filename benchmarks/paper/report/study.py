"""What a table or a figure of the paper consists of, and what the paper printed there."""

from dataclasses import dataclass, field
from itertools import chain
from typing import TypeAlias

from benchmarks.paper.results import METRICS

LAYOUTS = ("table", "curve")

Published: TypeAlias = dict[str, dict[str, dict[str, float | str]]]


@dataclass(frozen=True)
class Study:
    """One table or figure.

    Attributes:
        name: Name for files, such as "table1".
        title: Heading.
        layout: "table", or "curve" for a table with a figure.
        metrics: Names from :data:`benchmarks.paper.results.METRICS`, in the order of the columns.
        rows: Key of the setting by the label that is shown, in order; a curve's labels are its x values.
        published: The paper's figures by data set, label and metric: per cent, or text such as "92.8 ± 0.2". Labels
            that are not in ``rows`` are quoted without a measurement.
        x_label: Name of a curve's x axis.
        order: Chains of labels from worse to better, which the report checks.

    Raises:
        ValueError: If a layout or metric is unknown, a curve's label or a published value is not a number, or
            ``order`` names a label that is not in ``rows``.
    """

    name: str
    title: str
    layout: str
    metrics: tuple[str, ...]
    rows: dict[str, str]
    published: Published = field(default_factory=dict)
    x_label: str = ""
    order: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        """Checks what would otherwise show only when the report is written, hours later."""
        if self.layout not in LAYOUTS:
            raise ValueError(f"{self.name}: layout is {self.layout!r}, but must be one of {', '.join(LAYOUTS)}")
        quoted = [values for labels in self.published.values() for values in labels.values()]
        if unknown := set(chain(self.metrics, *quoted)) - set(METRICS):
            raise ValueError(
                f"{self.name}: no such metric: {', '.join(sorted(unknown))}; there are {', '.join(METRICS)}"
            )
        if unknown := set(chain(*self.order)) - set(self.rows):
            raise ValueError(f"{self.name}: order names what is not in rows: {', '.join(sorted(unknown))}")
        numbers = [value for values in quoted for value in values.values()]
        if self.layout == "curve":
            numbers += chain(self.rows, *self.published.values())
        for number in numbers:
            try:
                as_number(number)
            except ValueError as error:
                raise ValueError(f"{self.name}: {number!r} is not a number") from error

    def published_value(self, dataset: str, label: str, metric: str) -> float | None:
        """The paper's figure in per cent, without its spread, or ``None`` where it has none."""
        value = self.published.get(dataset, {}).get(label, {}).get(metric)
        return None if value is None else as_number(value)

    def quoted_labels(self, dataset: str) -> list[str]:
        """Labels that only the paper has figures for on a data set."""
        return [label for label in self.published.get(dataset, {}) if label not in self.rows]


def as_number(value: float | str) -> float:
    """The number of a published value: of "92.8 ± 0.2", 92.8.

    Args:
        value: A number, or text that begins with one.

    Returns:
        The number.

    Raises:
        ValueError: If the text does not begin with a number.
    """
    return float(value.partition("±")[0]) if isinstance(value, str) else float(value)
