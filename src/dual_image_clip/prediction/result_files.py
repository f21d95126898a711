"""The files that tell what a prediction has found: the list, the defects and the report."""

import logging
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from dual_image_clip.prediction.defect_files import write_annotations, write_defects
from dual_image_clip.prediction.html_report import write_report
from dual_image_clip.prediction.output_folder import OutputFolder
from dual_image_clip.prediction.predictions import Outcome, csv_text, on_one_line, write_csv
from dual_image_clip.prediction.settings import versions

logger = logging.getLogger(__name__)

CSV_NAME = "predictions.csv"
DEFECTS_NAME = "defects.csv"
ANNOTATIONS_NAME = "annotations.json"
REPORT_NAME = "report.html"
_NAMES = CSV_NAME, DEFECTS_NAME, ANNOTATIONS_NAME, REPORT_NAME
_MOST_NAMED = 5


class ResultFiles:
    """Writes the list of images, their defects as a table and as annotations of COCO, and the report.

    The list goes into a temporary folder where its own cannot take it.

    Args:
        folder: Where they go.

    Attributes:
        folder: See above.
        written: Files that were written, by name: :data:`CSV_NAME`, :data:`DEFECTS_NAME`, :data:`ANNOTATIONS_NAME` and
            :data:`REPORT_NAME`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.written: dict[str, Path] = {}
        self._output = OutputFolder(folder)

    @property
    def failures(self) -> list[str]:
        """Files that could not be written, each with the reason."""
        return self._output.failures

    def require_own(self) -> None:
        """Tells before a run whether it could :meth:`claim` its files.

        Raises:
            OutputError: See :meth:`~dual_image_clip.prediction.OutputFolder.require_own`.
        """
        self._output.require_own(_NAMES)

    def claim(self, main: bool = True) -> None:
        """Begins a run, see :meth:`~dual_image_clip.prediction.OutputFolder.claim`.

        Args:
            main: Of several processes, whether this is the one that writes.

        Raises:
            OutputError: A file that was not written here is in the place of one, another run is writing there, or
                nothing can be written.
        """
        self._output.claim(_NAMES, main=main)

    def write_list(self, outcome: Outcome) -> None:
        """Writes the list and the defects; where the list cannot be written at all, it is logged.

        Args:
            outcome: What the run has found.
        """
        if not self._write(self._output, CSV_NAME, partial(write_csv, outcome)):
            self._write_list_elsewhere(outcome)
        self._write(self._output, DEFECTS_NAME, partial(write_defects, outcome))
        self._write(self._output, ANNOTATIONS_NAME, partial(write_annotations, outcome))

    def write_report(self, outcome: Outcome, settings: dict[str, str]) -> None:
        """Writes the report, and says what could not be used, what could not be written, and where the rest is.

        Args:
            outcome: What the run has found.
            settings: Settings of the model by name.
        """
        self._write(self._output, REPORT_NAME, partial(write_report, outcome, settings, versions()))
        for failure in self.failures:
            logger.error("%s", failure)
        if CSV_NAME in self.written and self.written[CSV_NAME].parent != self.folder:
            logger.error("The list is in %s instead.", self.written[CSV_NAME])
        _say_what_is_unusable(outcome)
        logger.info("Results: %s", ", ".join(map(str, self.written.values())))

    def release(self) -> None:
        """Ends the run: others may write here."""
        self._output.release()

    def _write_list_elsewhere(self, outcome: Outcome) -> None:
        try:
            spare = OutputFolder(Path(tempfile.mkdtemp(prefix="dual-image-clip-")))
            written = self._write(spare, CSV_NAME, partial(write_csv, outcome))
        except OSError:
            written = False
        if not written:
            logger.error("The list could not be written anywhere. It is:\n%s", csv_text(outcome))

    def _write(self, output: OutputFolder, name: str, write: Callable[[Path], None]) -> bool:
        if written := output.write(name, write):
            self.written[name] = output.folder / name
        return written


def _say_what_is_unusable(outcome: Outcome) -> None:
    if not outcome.unusable:
        return
    named = "".join(f"\n  {on_one_line(each.path)}: {each.reason}" for each in outcome.unusable[:_MOST_NAMED])
    more = len(outcome.unusable) - _MOST_NAMED
    logger.warning(
        "%d file(s) could not be used:%s%s",
        len(outcome.unusable),
        named,
        f"\n  and {more} more" if more > 0 else "",
    )
