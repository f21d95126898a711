"""What a prediction run says about each image, and the CSV file of it."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from dual_image_clip.defects import Defect
from dual_image_clip.photos import UnusableFile
from dual_image_clip.prediction.sketch import Sketch

HEADER = ("path", "score", "label", "threshold", "num_references")
DEFECT_COLUMNS = ("defects", "largest_defect")


class Prediction(NamedTuple):
    """What was found in one image.

    Attributes:
        path: Image file.
        score: Image score, in 0..1.
        label: ``"anomalous"``, ``"normal"``, or ``"undecided"`` where there is no threshold.
        num_references: Other images that it was compared with, golden ones included.
        sketch: Small pictures for the report.
        heatmap: Its large picture, relative to the folder of list and report; empty where there is none.
        defects: Where it is anomalous, in pixels of the photo, the most anomalous place first.
        product: The product that it shows, where a run has several; else empty.
        size: Height and width of the photo as a viewer shows it, in pixels.
    """

    path: str
    score: float
    label: str
    num_references: int
    sketch: Sketch
    heatmap: str = ""
    defects: tuple[Defect, ...] = ()
    product: str = ""
    size: tuple[int, int] = (1, 1)

    @property
    def largest_area(self) -> int:
        """Pixels of its largest defect; 0 where there is none."""
        return max((each.area for each in self.defects), default=0)


class Outcome(NamedTuple):
    """What a run has found.

    Attributes:
        predictions: One for each image, highest score first.
        thresholds: Scores above which an image is anomalous, by product; ``None`` where there is none. Where photos
            are of one product, its name is empty.
        unusable: Files that were passed over.
        total: Files that there were, including those that an early end has left out.
    """

    predictions: list[Prediction]
    thresholds: dict[str, float | None]
    unusable: list[UnusableFile]
    total: int

    @property
    def threshold(self) -> float | None:
        """The threshold where photos are of one product; ``None`` where there is none, or several products."""
        return self.thresholds.get("")

    def threshold_of(self, prediction: Prediction) -> float | None:
        """The threshold that an image was labelled by, or ``None``.

        Args:
            prediction: One of the outcome's.
        """
        return self.thresholds.get(prediction.product)

    @property
    def has_products(self) -> bool:
        """Whether photos are of several products, or of one that has a name."""
        return any(self.thresholds)

    @property
    def num_anomalous(self) -> int:
        """Images that are called anomalous."""
        return sum(each.label == "anomalous" for each in self.predictions)

    @property
    def num_left_out(self) -> int:
        """Files that an early end of the run has left out."""
        return max(0, self.total - len(self.predictions) - len(self.unusable))


def decide(score: float, threshold: float | None) -> str:
    """Labels an image.

    Args:
        score: Its score.
        threshold: Score above which it is anomalous, or ``None``.

    Returns:
        A label, see :class:`Prediction`.
    """
    if threshold is None:
        return "undecided"
    return "anomalous" if score > threshold else "normal"


def rank(predictions: Iterable[Prediction]) -> list[Prediction]:
    """Sorts predictions, highest score first; equal ones by path, so that the order repeats itself."""
    return sorted(predictions, key=lambda prediction: (-prediction.score, prediction.path))


def write_csv(outcome: Outcome, path: Path) -> None:
    """Writes the list of :func:`csv_text`.

    Args:
        outcome: What the run has found.
        path: CSV file, UTF-8.
    """
    path.write_text(csv_text(outcome), encoding="utf-8", newline="")


def csv_text(outcome: Outcome) -> str:
    """A table with one row an image, highest score first; with columns of heatmaps and products where there are any.

    Args:
        outcome: What the run has found.

    Returns:
        Its rows, separated by commas.
    """
    drawn = any(each.heatmap for each in outcome.predictions)
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow([*HEADER, *["heatmap"] * drawn, *DEFECT_COLUMNS, *["product"] * outcome.has_products])
    for each in outcome.predictions:
        limit = outcome.threshold_of(each)
        threshold = "" if limit is None else f"{limit:.6f}"
        row = [printable(each.path), f"{each.score:.6f}", each.label, threshold, each.num_references]
        row += [*[printable(each.heatmap)] * drawn, len(each.defects), each.largest_area]
        writer.writerow([*row, *[printable(each.product)] * outcome.has_products])
    return text.getvalue()


def printable(text: str) -> str:
    r"""Replaces what is no UTF-8 in the name of a file, which may hold any bytes.

    Args:
        text: Such as a path.

    Returns:
        The same with escapes such as ``\udcff``.
    """
    return text.encode("utf-8", errors="backslashreplace").decode()


def on_one_line(name: str) -> str:
    r"""Makes the name of a file, which may hold line breaks, fit to be one line of several.

    Args:
        name: Such as a path.

    Returns:
        The same with escapes such as ``\n`` and ``\udcff`` for what cannot be printed.
    """
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in name)
