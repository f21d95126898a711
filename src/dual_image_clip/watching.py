"""Pictures in, records out: what is done with each picture of a line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dual_image_clip.photos import PhotoReader, UnusableImageError
from dual_image_clip.prediction import OutputFolder, draw_heatmap, encoded
from dual_image_clip.records import score_record
from dual_image_clip.sources import Picture
from dual_image_clip.streaming import StreamingDetector, StreamingResult, as_pixels


class Watcher:
    """Scores pictures, keeps heatmaps of those that are labelled anomalous, and gives a record of each.

    Args:
        detector: Scores them.
        reader: Reads those that are files.
        heatmaps: Where heatmaps are kept.
        give: Is given the records: what :func:`~dual_image_clip.records.score_record` says, what the source knows of
            the picture, and ``heatmap``, its file or ``None``; of a picture that cannot be scored, ``name`` and
            ``error``.
        tell: Is told in one line what else goes wrong.

    Attributes:
        scored: Number of pictures that were scored.
        anomalous: Of these, those that were labelled anomalous.
        refused: Pictures that could not be scored.
        lost: Heatmaps that could not be written.
    """

    def __init__(
        self,
        detector: StreamingDetector,
        reader: PhotoReader,
        heatmaps: OutputFolder,
        give: Callable[[dict[str, Any]], object],
        tell: Callable[[str], object],
    ) -> None:
        self._detector, self._reader, self._heatmaps = detector, reader, heatmaps
        self._give, self._tell = give, tell
        self.scored = self.anomalous = self.refused = self.lost = 0

    def __call__(self, picture: Picture) -> None:
        """Scores a picture and gives its record.

        Args:
            picture: The picture.
        """
        try:
            record = self._scored(picture)
        except UnusableImageError as error:
            record = self._refused(picture, error.reason)
        except (ValueError, MemoryError, torch.OutOfMemoryError) as error:
            record = self._refused(picture, " ".join(str(error).split()) or "does not fit into memory")
        self._give(record)

    def _scored(self, picture: Picture) -> dict[str, Any]:
        if isinstance(picture.image, UnusableImageError):
            raise picture.image
        pixels = as_pixels(picture.image, self._reader)
        result = self._detector(pixels, picture.name)
        self.scored += 1
        record = score_record(picture.name, result, (pixels.shape[-2], pixels.shape[-1]))
        heatmap = None
        if record["label"] == "anomalous":
            self.anomalous += 1
            heatmap = self._keep_heatmap(picture, pixels, result)
        return {"name": record.pop("name"), **picture.facts, **record, "heatmap": heatmap and str(heatmap)}

    def _refused(self, picture: Picture, reason: str) -> dict[str, Any]:
        self.refused += 1
        return {"name": picture.name, **picture.facts, "error": reason}

    def _keep_heatmap(self, picture: Picture, pixels: torch.Tensor, result: StreamingResult) -> Path | None:
        name = f"{picture.place}.jpg"
        if self._heatmaps.write(name, encoded(draw_heatmap(pixels, result.anomaly_map, result.defects), name)):
            return self._heatmaps.folder / name
        self.lost += 1
        self._tell(f"no heatmap of {picture.name}: {self._heatmaps.failures.pop()}")
        return None
