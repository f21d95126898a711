"""Export methods for anomalib's engine, to be mixed into a Lightning module."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from anomalib.deploy import CompressionType, ExportType

from dual_image_clip.export.detector import ExportableDetector, require_exportable
from dual_image_clip.prediction import OutputError, OutputFolder
from dual_image_clip.threshold_file import Limits
from dual_image_clip.torch_model import DualImageCLIPModel

# Where anomalib writes: weights/<kind of file>/<name> and one of these.
_SUFFIXES = {
    ExportType.TORCH: (".pt",),
    ExportType.ONNX: (".onnx", ".onnx.data"),
    ExportType.OPENVINO: (".xml", ".bin"),
}


class ExportsDetector:
    """Exports a detector of single images, which needs neither a trainer nor other images.

    Only files of an earlier export are replaced, by whole ones.

    Attributes:
        model: The model.
        pre_processor: Its ``transform`` becomes part of the file.
        post_processor: Becomes part of the file.
        limits: The thresholds that the model was given.
    """

    model: DualImageCLIPModel
    pre_processor: Any
    post_processor: Any
    limits: Limits

    def complete(self) -> None:
        """Gives the model its text embeddings and golden images, which it otherwise gets when a run begins."""
        raise NotImplementedError

    def to_torch(self, export_root: Path | str, model_file_name: str = "model") -> Path:
        """Exports a detector of single images, of any size, see :mod:`dual_image_clip.export`.

        Args:
            export_root: Folder.
            model_file_name: Name of the file without its suffix.

        Returns:
            Path of the file, which anomalib's ``TorchInferencer`` reads.

        Raises:
            OutputError: A file of the name is there that no earlier export has written, or nothing can be written.
            ValueError: The model has a folder of textures, or nothing to go by without other images.
        """
        return self._export(
            lambda detector, root: detector.to_torch(root, model_file_name),
            ExportType.TORCH,
            export_root,
            model_file_name,
        )

    def to_onnx(
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        **kwargs: Any,
    ) -> Path:
        """Exports a detector of single images, of one size, see :mod:`dual_image_clip.export`.

        Args:
            export_root: Folder.
            model_file_name: Name of the file without its suffix.
            input_size: Height and width of the images that it will get; the model's image size by default.
            **kwargs: Arguments of ``torch.onnx.export``.

        Returns:
            Path of the file.

        Raises:
            ModuleNotFoundError: A package is missing.
            OutputError: A file of the name is there that no earlier export has written, or nothing can be written.
            ValueError: The model takes no images of this size, or has nothing to go by without other images.
        """
        size = input_size or self.model.image_size
        return self._export(
            lambda detector, root: detector.to_onnx(root, model_file_name, size, **kwargs),
            ExportType.ONNX,
            export_root,
            model_file_name,
            size,
        )

    def to_openvino(
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        compression_type: CompressionType | None = None,
        **kwargs: Any,
    ) -> Path:
        """Exports a detector of single images, of one size, see :mod:`dual_image_clip.export`.

        Args:
            export_root: Folder.
            model_file_name: Name of the file without its suffix.
            input_size: Height and width of the images that it will get; the model's image size by default.
            compression_type: ``FP16`` or none.
            **kwargs: Further arguments of anomalib's ``to_openvino``.

        Returns:
            Path of the file, which anomalib's ``OpenVINOInferencer`` reads.

        Raises:
            ModuleNotFoundError: A package is missing.
            OutputError: A file of the name is there that no earlier export has written, or nothing can be written.
            ValueError: The compression is another, the model takes no images of this size, or it has nothing to go by
                without other images.
        """
        size = input_size or self.model.image_size
        return self._export(
            lambda detector, root: detector.to_openvino(root, model_file_name, size, compression_type, **kwargs),
            ExportType.OPENVINO,
            export_root,
            model_file_name,
            size,
            compression_type,
        )

    def _export(
        self,
        write: Callable[[ExportableDetector, Path], Path],
        export_type: ExportType,
        export_root: Path | str,
        model_file_name: str,
        input_size: tuple[int, int] | None = None,
        compression_type: CompressionType | None = None,
    ) -> Path:
        """Has the files written beside their place, so that an export that fails leaves those of an earlier one."""
        # Where the file is run, there are golden images alone.
        self.limits.require_num_references(0)
        require_exportable(self.model, self.pre_processor, export_type, input_size, compression_type)
        folder = OutputFolder(Path(export_root) / "weights" / export_type.value)
        names = [f"{model_file_name}{suffix}" for suffix in _SUFFIXES[export_type]]
        folder.require_own(names)
        self.complete()
        detector = ExportableDetector(self.model, self.pre_processor, self.post_processor, input_size)
        with folder.claimed(names) as unfinished:
            written = write(detector, unfinished)
            # What belongs to the file goes first.
            for name in reversed(names):
                if (made := written.with_name(name)).exists() and not folder.write(name, made.rename):
                    raise OutputError(folder.failures[0])
        return folder.folder / written.name
