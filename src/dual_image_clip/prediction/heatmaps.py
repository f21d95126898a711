"""Heatmaps: a picture for each photo, in which the place that looks unlike the rest can be found."""

import io
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from anomalib.data import ImageItem
from anomalib.visualization import ImageVisualizer
from lightning import Trainer
from PIL import Image
from torch import Tensor

from dual_image_clip.callers import called_from
from dual_image_clip.defects import Defect, small_map
from dual_image_clip.hooks import LabelFreePostProcessor, defects_of, evaluated_image_paths
from dual_image_clip.photos import UnusableImageError, open_photo
from dual_image_clip.prediction.batches import images_of, names_of, size_of
from dual_image_clip.prediction.output_folder import OutputFolder
from dual_image_clip.prediction.panels import draw_panels, outline_panels, panel_size
from dual_image_clip.prediction.picture_names import PNG, picture_name, picture_names

logger = logging.getLogger(__name__)

_SIXTEEN_BITS = 65535
_TITLE_SIZE = 20


class _Scored(NamedTuple):
    """What the defects of a photo are found from: its score, its anomaly map, made small, its height and width."""

    score: float
    anomaly_map: Tensor
    size: tuple[int, int]


class HeatmapVisualizer(ImageVisualizer):
    """Writes a heatmap for each image of a test or a prediction, in anomalib's drawing.

    Each has a file of its own, under the image's path below the folder that all images of the run have in common, or as
    anomalib has it below the root of a known data set. Files of earlier runs are replaced, and no others. The images
    are shown as they were scored, with their aspect ratio.

    Defects are outlined, boxed and numbered. Where no ground truth has set a threshold, it follows from all images of
    the run: they are drawn at the end, and until then a small anomaly map of each image is kept.

    Args:
        output_dir: Where they go. Without it, ``images`` in the trainer's folder.
        maps_dir: Where anomaly maps of the photos' own size go: PNG of 16 bits, 65535 for 1. Without it, nowhere.
        root: A folder that holds all photos, for a run on some of those below it: pictures are under the path below it.
        min_area: Pixels of the photo that a defect must have at least to be drawn.
    """

    def __init__(
        self,
        output_dir: str | Path | None = None,
        maps_dir: str | Path | None = None,
        root: str | Path | None = None,
        min_area: int = 0,
    ) -> None:
        # In anomalib's own size, the title of the second panel is wider than the panel.
        super().__init__(output_dir=output_dir, text_config={"size": _TITLE_SIZE})
        self.maps_dir = maps_dir
        self.root = root
        self.min_area = min_area
        self._heatmaps = self._maps = OutputFolder(Path())
        self._names: dict[str, str] = {}
        self._map_names: dict[str, str] = {}
        self._written: set[str] = set()
        self._waiting: dict[str, _Scored] = {}

    @property
    def failures(self) -> list[str]:
        """Files of the last run that could not be written, each with the reason."""
        return [failure for folder, _ in self._files() for failure in folder.failures]

    def heatmap_of(self, photo: str) -> Path | None:
        """The heatmap of a photo of the run, or ``None`` where there is none."""
        return self._heatmaps.folder / self._names[photo] if photo in self._written else None

    def on_predict_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Claims the files.

        Args:
            trainer: The trainer.
            pl_module: Not used.

        Raises:
            OutputError: A file that was not written here is in the place of one, another run is writing there, or
                nothing can be written.
        """
        del pl_module
        self._written, self._waiting = set(), {}
        self._name_files(trainer, evaluated_image_paths(trainer))
        for folder, names in self._files():
            folder.claim(names, main=trainer.is_global_zero)
        # What another process has begun to write must not be taken for somebody else's.
        trainer.strategy.barrier()

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Looks whether the test that follows could claim its files, so that it is not refused after half of the work.

        Args:
            trainer: The trainer.
            pl_module: Not used.

        Raises:
            OutputError: As for :meth:`on_predict_start`.
        """
        del pl_module
        dataset: Any = getattr(getattr(trainer, "datamodule", None), "test_data", None)
        if called_from("anomalib.engine.engine", "test") and hasattr(dataset, "samples"):
            self._name_files(trainer, map(str, dataset.samples["image_path"]))
            for folder, names in self._files():
                folder.require_own(names)

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Writes the heatmaps of a batch, and its maps."""
        del trainer, batch, dataloader_idx
        post_processor = pl_module.post_processor
        outlined = outputs.pred_mask is not None and isinstance(post_processor, LabelFreePostProcessor)
        for index, (photo, image) in enumerate(
            zip(names_of(outputs, batch_idx), images_of(outputs, pl_module), strict=True)
        ):
            anomaly_map = outputs.anomaly_map[index].float().cpu()
            mask = _item(outputs.pred_mask, index)
            item = ImageItem(
                image=image,
                anomaly_map=anomaly_map,
                gt_mask=_item(outputs.gt_mask, index),
                # Its panel is left for the outlines, which look the same whenever they are drawn.
                pred_mask=torch.zeros_like(anomaly_map, dtype=torch.bool) if outlined else mask,
            )
            size = size_of(photo, anomaly_map)
            scored = _Scored(float(outputs.pred_score[index]), small_map(anomaly_map), size) if outlined else None
            self._write(photo, item, size, scored, post_processor)

    def on_predict_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Completes the heatmaps."""
        self.complete(pl_module.post_processor)
        # No other run may begin before the last process has written its last mask.
        trainer.strategy.barrier()
        self.release()

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        """Completes the heatmaps of a test; those of a prediction wait until the predictions have been collected.

        Args:
            trainer: The trainer.
            pl_module: The model.
            exception: Not used.
        """
        del exception
        if trainer.testing:
            self.complete(pl_module.post_processor)
            self.release()

    on_test_start = on_predict_start
    on_test_batch_end = on_predict_batch_end
    on_test_end = on_predict_end

    def complete(self, post_processor: Any) -> None:
        """Outlines the defects that had to wait for the threshold, and says which pictures could not be written.

        Args:
            post_processor: Has the threshold by now.
        """
        waiting, self._waiting = self._waiting, {}
        for photo, scored in waiting.items():
            if defects := self._defects_of(scored, post_processor):
                self._add_outlines(photo, defects, scored.size)
        if self.failures:
            logger.error("%d picture(s) could not be written, the first: %s", len(self.failures), self.failures[0])

    def release(self) -> None:
        """Lets other runs write where this one has written."""
        for folder, _ in self._files():
            folder.release()

    def _name_files(self, trainer: Trainer, photos: Iterable[str]) -> None:
        datamodule, photos = getattr(trainer, "datamodule", None), list(photos)
        known = getattr(datamodule, "name", None), getattr(datamodule, "category", None)
        self._heatmaps = OutputFolder(Path(self.output_dir or Path(trainer.default_root_dir) / "images"))
        self._names = picture_names(photos, *known, root=self.root)
        if self.maps_dir:
            self._maps = OutputFolder(Path(self.maps_dir))
            self._map_names = picture_names(photos, *known, formats=PNG, root=self.root)

    def _files(self) -> list[tuple[OutputFolder, Iterable[str]]]:
        """Folders, and the names of the files that go there."""
        files: list[tuple[OutputFolder, Iterable[str]]] = [(self._heatmaps, self._names.values())]
        return [*files, (self._maps, self._map_names.values())] if self.maps_dir else files

    def _write(
        self, photo: str, item: ImageItem, size: tuple[int, int], scored: _Scored | None, post_processor: Any
    ) -> None:
        # A data set may not have listed its photos.
        name = self._names.setdefault(photo, picture_name(photo))
        waits = scored is not None and _threshold_follows(post_processor)
        picture = draw_panels(self, item, panel_size(size))
        if scored is not None and not waits and (defects := self._defects_of(scored, post_processor)):
            picture = outline_panels(picture, panel_size(size), defects, size)
        if self._heatmaps.write(name, encoded(picture, name)):
            self._written.add(photo)
            if scored is not None and waits:
                self._waiting[photo] = scored
        if self.maps_dir:
            map_name = self._map_names.setdefault(photo, picture_name(photo, formats=PNG))
            self._maps.write(map_name, encoded(sixteen_bits(item.anomaly_map, size), map_name))  # type: ignore[arg-type]

    def _defects_of(self, scored: _Scored, post_processor: LabelFreePostProcessor) -> tuple[Defect, ...]:
        return defects_of(post_processor, *scored, min_area=self.min_area)

    def _add_outlines(self, photo: str, defects: tuple[Defect, ...], size: tuple[int, int]) -> None:
        name = self._names[photo]
        try:
            with open_photo(self._heatmaps.folder / name) as picture:
                complete = outline_panels(picture, panel_size(size), defects, size)
        except UnusableImageError as error:
            self._heatmaps.failures.append(str(error))
        else:
            self._heatmaps.write(name, encoded(complete, name))


def encoded(picture: Image.Image, name: str) -> Callable[[Path], object]:
    """Encodes a picture, to be written by an :class:`~dual_image_clip.prediction.OutputFolder`.

    Args:
        picture: The picture.
        name: Its file, whose suffix tells the format.

    Returns:
        Writes it at a path.
    """
    file = io.BytesIO()
    picture.save(file, Image.registered_extensions()[Path(name).suffix.lower()])
    # Pillow itself, where it writes JPEG, BMP and TIFF, does not notice that the disk is full before the last bytes.
    return lambda path: path.write_bytes(file.getvalue())


def _threshold_follows(post_processor: Any) -> bool:
    """Whether the threshold follows from the images of the run, so that it is known at its end."""
    return isinstance(post_processor, LabelFreePostProcessor) and bool(torch.isnan(post_processor.image_threshold))


def _item(values: Tensor | None, index: int) -> Tensor | None:
    return None if values is None else values[index].cpu()


def sixteen_bits(anomaly_map: Tensor, size: tuple[int, int]) -> Image.Image:
    """Draws an anomaly map for programs.

    Args:
        anomaly_map: Values in 0..1, ``(h, w)``.
        size: Height and width of the picture.

    Returns:
        Grey picture of 16 bits, 65535 for 1.
    """
    full = F.interpolate(anomaly_map[None, None], size, mode="bilinear")[0, 0]
    return Image.fromarray(full.clamp(0, 1).mul(_SIXTEEN_BITS).round().numpy().astype("uint16"))
