"""What a run depended on: what checkpoints carry along, and settings of scores; mixed into a Lightning module."""

from typing import Any

from dual_image_clip.hooks.golden import GoldenImages
from dual_image_clip.hooks.pre_processing import require_same_resolution
from dual_image_clip.photos import PhotoReader
from dual_image_clip.threshold_file import Limits, score_settings


class CarriesWhatWasInUse:
    """Keeps the class name, the resolution and the golden images that were in use in checkpoints.

    Attributes:
        class_name: The class name in use.
        golden: The golden images.
        hparams: Arguments of the model.
        limits: The thresholds that were given.
        reader: Reads photos, of which its regions count.
        model: The model.
    """

    class_name: str | None
    golden: GoldenImages
    hparams: Any
    limits: Limits
    reader: PhotoReader
    model: Any

    @property
    def score_settings(self) -> dict[str, Any]:
        """What scores depend on, by which a file of thresholds is recognised."""
        return score_settings(self.hparams, self.golden, self.reader.regions)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the class name, the resolution and the golden images that were in use."""
        super().on_save_checkpoint(checkpoint)  # type: ignore[misc]
        checkpoint.update(dual_image_clip_class_name=self.class_name, dual_image_clip_image_size=self.model.image_size)
        checkpoint["dual_image_clip_golden_paths"] = self.golden.encoded
        if self.golden.encoded:
            # Their tokens are in the checkpoint, so that it is of use where the folder is not.
            checkpoint["hyper_parameters"]["few_shot_source"] = None
        # The post-processor's, which was read from a file, is in the checkpoint, too.
        if not isinstance(checkpoint["hyper_parameters"]["threshold"], float | int | None):
            checkpoint["hyper_parameters"]["threshold"] = self.limits.image

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the class name and the golden images that were in use."""
        require_same_resolution(checkpoint.get("dual_image_clip_image_size"), self.model.image_size)
        super().on_load_checkpoint(checkpoint)  # type: ignore[misc]
        self.class_name = checkpoint.get("dual_image_clip_class_name")
        if paths := checkpoint.get("dual_image_clip_golden_paths"):
            self.golden.restore(paths)
