"""Figures of how metrics change with a number, such as that of references or of steps."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.paper.plan import Study
from benchmarks.paper.report.summary import Summary

KINDS = ("pixel", "image")
PANEL_SIZE = (5.2, 4.0)
DPI = 130


def draw_curves(study: Study, summaries: list[Summary], path: Path) -> None:
    """Draws a study's metrics over its x values: a row of panels a data set, a panel a kind of metric.

    Bars are standard deviations over seeds. The paper's figures are dashed, in the metric's colour.

    Args:
        study: A study whose labels are numbers.
        summaries: Its summaries, at least one.
        path: The ``.png`` file to write.
    """
    kinds = [kind for kind in KINDS if any(metric.startswith(kind) for metric in study.metrics)]
    width, height = PANEL_SIZE
    figure = Figure((width * len(kinds), height * len(summaries)), layout="constrained")
    figure.suptitle(study.title, fontsize=13)
    panels = figure.subplots(len(summaries), len(kinds), squeeze=False)
    for summary, row in zip(summaries, panels, strict=True):
        for kind, axes in zip(kinds, row, strict=True):
            _draw_panel(axes, study, summary, kind)
    figure.savefig(path, dpi=DPI)


def _draw_panel(axes: Axes, study: Study, summary: Summary, kind: str) -> None:
    metrics = [metric for metric in study.metrics if metric.startswith(kind)]
    for index, metric in enumerate(metrics):
        name, colour = metric.removeprefix(f"{kind}_"), f"C{index}"
        means = summary.means.xs(metric, level="metric")
        points = means.set_axis(means.index.astype(float)).sort_index()
        measured, published = points.dropna(subset="mean"), points.published.dropna()
        if len(measured):
            axes.errorbar(
                measured.index,
                measured["mean"],
                yerr=measured.standard_deviation,
                color=colour,
                marker="o",
                markersize=4,
                capsize=3,
                label=name,
            )
        if len(published):
            # A plain line would come before all measured ones in the legend.
            axes.errorbar(published.index, published, color=colour, marker="x", linestyle="--", label=f"{name}, paper")
    axes.set_title(f"{summary.dataset}, {kind} metrics", fontsize=11)
    axes.set_xlabel(study.x_label)
    axes.set_ylabel("mean over categories (per cent)")
    axes.set_xticks([float(label) for label in study.rows], list(study.rows))
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, fontsize=9, frameon=False)
