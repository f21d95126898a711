"""What checkpoints carry along beside weights and arguments; to be mixed into a Lightning module."""

from typing import Any

from dual_image_clip.hooks.golden import GoldenImages
from dual_image_clip.hooks.pre_processing import require_same_resolution


class CarriesWhatWasInUse:
    """Keeps the class name, the resolution and the golden images that were in use in checkpoints.

    Attributes:
        class_name: The class name in use.
        golden: The golden images.
        model: The model.
    """

    class_name: str | None
    golden: GoldenImages
    model: Any

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the class name, the resolution and the golden images that were in use."""
        super().on_save_checkpoint(checkpoint)  # type: ignore[misc]
        checkpoint.update(dual_image_clip_class_name=self.class_name, dual_image_clip_image_size=self.model.image_size)
        checkpoint["dual_image_clip_golden_paths"] = self.golden.encoded
        if self.golden.encoded:
            # Their tokens are in the checkpoint, so that it is of use where the folder is not.
            checkpoint["hyper_parameters"]["few_shot_source"] = None

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the class name and the golden images that were in use."""
        require_same_resolution(checkpoint.get("dual_image_clip_image_size"), self.model.image_size)
        super().on_load_checkpoint(checkpoint)  # type: ignore[misc]
        self.class_name = checkpoint.get("dual_image_clip_class_name")
        if paths := checkpoint.get("dual_image_clip_golden_paths"):
            self.golden.restore(paths)
