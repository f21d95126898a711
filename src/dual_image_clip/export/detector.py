"""Export to torch, ONNX and OpenVINO: a detector that needs neither a trainer nor other images."""

import copy
import logging
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from anomalib.data import InferenceBatch
from anomalib.deploy import CompressionType, ExportType
from anomalib.models.components.base.export_mixin import ExportMixin
from lightning import LightningModule
from torch import Tensor, nn

from dual_image_clip.export.closed_form import fit_adapters_in_closed_form
from dual_image_clip.export.decision import Decision
from dual_image_clip.export.fixed_encoder import FixedSizeEncoder
from dual_image_clip.export.fixed_pseudo_anomaly import FixedPseudoAnomaly, fixed_pseudo_anomaly
from dual_image_clip.export.fixed_transform import fixed_transform, output_size
from dual_image_clip.export.thresholds_in_files import with_thresholds
from dual_image_clip.hooks import LabelFreePostProcessor
from dual_image_clip.method import (
    AdaptationSettings,
    AdaptationTask,
    Adapters,
    DualPathEncoder,
    PseudoAnomalies,
    PseudoAnomalyGenerator,
    ReferencePool,
    all_at_once,
    tile_layout,
)
from dual_image_clip.regions import MaskFolder, Regions
from dual_image_clip.torch_model import DualImageCLIPModel, TellsRegions

logger = logging.getLogger(__name__)

_PACKAGES = {
    ExportType.TORCH: (),
    ExportType.ONNX: ("onnx", "onnxscript"),
    ExportType.OPENVINO: ("onnx", "onnxscript", "openvino"),
}
# The exporter writes 18; an older one would be converted.
_OPSET = 18
# A protocol buffer ends at 2 GiB.
_LARGEST_FILE = 2**31 - 2**24


class ExportableModel(DualImageCLIPModel):
    """The model with everything that a graph cannot hold replaced: autograd, randomness and memory of images seen.

    Its only references are the golden images, and its pseudo anomaly is the same for every image.

    Args:
        model: The model.
        encoder: Its encoder, or one of the same weights.
        pseudo_anomalies: Corrupts images, the same way every time.
        regions: Say where images are inspected; ``None`` for everywhere.
    """

    def __init__(
        self,
        model: DualImageCLIPModel,
        encoder: DualPathEncoder,
        pseudo_anomalies: nn.Module,
        regions: TellsRegions | None = None,
    ) -> None:
        super().__init__(
            encoder=encoder,
            references=ReferencePool(0, 0),
            pseudo_anomalies=model.pseudo_anomalies,
            adaptation=model.adaptation,
            weights=model.weights,
            temperature=model.temperature,
            image_size=model.image_size,
            image_mean=model.image_mean.tolist(),
            image_std=model.image_std.tolist(),
            smooth=model.smooth,
            aggregation=model.aggregation,
        )
        self.load_state_dict(model.state_dict())
        self.regions = regions
        self.pseudo_anomalies = pseudo_anomalies  # type: ignore[assignment]
        self.in_portions = all_at_once
        self.adapter_weight, self.adapter_bias = model.adapter_weight.cpu(), model.adapter_bias.cpu()
        self.to(model.text_embeddings.device)

    def forward(self, images: Tensor, *unused: Any) -> InferenceBatch:
        """Scores each image of a batch on its own.

        Args:
            images: Images normalised for CLIP, ``(B, 3, H, W)``.
            *unused: Not used.

        Returns:
            ``pred_score`` ``(B,)`` and ``anomaly_map`` ``(B, H, W)``.
        """
        return self.score(self.encode(images), references=[])

    @staticmethod
    def fit(start: Adapters, task: AdaptationTask, settings: AdaptationSettings) -> Adapters:
        """Fits the adapters without autograd, which a graph cannot hold."""
        return fit_adapters_in_closed_form(start, task, settings)


class FixedRegions(nn.Module):
    """The region of images of one size, as a graph can hold it.

    Args:
        pixels: Pixels inside, boolean, ``(H, W)``.
    """

    pixels: Tensor

    def __init__(self, pixels: Tensor) -> None:
        super().__init__()
        self.register_buffer("pixels", pixels, persistent=False)

    def mask(self, name: str | None, size: tuple[int, int]) -> Tensor:
        """The pixels inside, whatever the name."""
        del name, size
        return self.pixels


class _SameForEveryImage(FixedPseudoAnomaly):
    """The fixed pseudo anomaly of any image size, drawn anew from the same seed for every batch."""

    def __init__(self, generator: PseudoAnomalyGenerator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, images: Tensor, rows: slice = slice(None)) -> PseudoAnomalies:
        del rows
        return fixed_pseudo_anomaly(self.generator, (images.shape[-2], images.shape[-1])).to(images)(images)


class ExportableDetector(ExportMixin, LightningModule):
    """Pre-processing, model and post-processing in one module, which anomalib's inferencers can run.

    Args:
        model: The model, with text embeddings and, where there are some, golden images.
        pre_processor: Its ``transform`` is applied to images in 0..1; ``None`` for none.
        post_processor: Scales and labels predictions; ``None`` for none.
        input_size: Height and width of all images, of which a graph is made. Without it images may have any size, and
            only the export to torch is possible.

    Raises:
        ValueError: There is nothing to compare images with, and text does not count.
    """

    def __init__(
        self,
        model: DualImageCLIPModel,
        pre_processor: nn.Module | None,
        post_processor: nn.Module | None,
        input_size: tuple[int, int] | None,
    ) -> None:
        super().__init__()
        _require_something_to_compare(model)
        _warn_of_no_threshold(post_processor)
        transform: Any = getattr(pre_processor, "transform", None)
        encoder, regions = model.encoder, model.regions
        if input_size is None:
            pseudo_anomalies: nn.Module = _SameForEveryImage(copy.deepcopy(model.pseudo_anomalies))
        else:
            size = output_size(transform, input_size)
            encoder = FixedSizeEncoder(encoder, tile_layout(size, model.image_size).tile_size)
            pseudo_anomalies = fixed_pseudo_anomaly(model.pseudo_anomalies, size)
            transform = fixed_transform(transform, input_size)
            regions = regions and FixedRegions(regions.mask(None, size))
        self.transform = transform
        self.model = ExportableModel(model, encoder, pseudo_anomalies, regions)
        self.post_processor = post_processor
        if isinstance(post_processor, LabelFreePostProcessor) and post_processor.enable_thresholding:
            self.post_processor = Decision(post_processor)
        self.to(model.text_embeddings.device).eval()

    @torch.no_grad()
    def forward(self, images: Tensor) -> InferenceBatch:
        """Finds defects.

        Args:
            images: Images ``(B, 3, H, W)`` in 0..1.

        Returns:
            ``pred_score`` and ``pred_label`` ``(B,)``, ``anomaly_map`` and ``pred_mask`` ``(B, H', W')``, of the size
            that images have behind the pre-processor.
        """
        predictions = self.model(images if self.transform is None else self.transform(images))
        if self.post_processor is not None:
            predictions = self.post_processor(predictions)
        return self._inside(predictions)

    def _inside(self, predictions: InferenceBatch) -> InferenceBatch:
        """Has nothing outside the regions, where the scale of ground truth may have another zero."""
        anomaly_map, mask = predictions.anomaly_map, predictions.pred_mask
        regions: Any = self.model.regions
        if regions is None or anomaly_map is None:
            return predictions
        inside = regions.mask(None, (anomaly_map.shape[-2], anomaly_map.shape[-1])).to(anomaly_map.device)
        return predictions._replace(anomaly_map=anomaly_map * inside, pred_mask=None if mask is None else mask & inside)

    def to_onnx(  # type: ignore[override]
        self, export_root: Path | str, model_file_name: str = "model", input_size: Any = None, **kwargs: Any
    ) -> Path:
        """Exports to ONNX, by default in the oldest version that needs no conversion and in as few files as possible.

        Args:
            export_root: Folder.
            model_file_name: Name of the file without its suffix.
            input_size: Height and width of the images.
            **kwargs: Arguments of ``torch.onnx.export``.

        Returns:
            Path of the file.
        """
        num_bytes = sum(
            each.numel() * each.element_size() for each in self.state_dict().values() if torch.is_tensor(each)
        )
        defaults = {"opset_version": _OPSET, "external_data": num_bytes > _LARGEST_FILE, "verbose": False}
        to_onnx = partial(super().to_onnx, export_root, model_file_name, input_size, **{**defaults, **kwargs})
        return with_thresholds(self.post_processor, to_onnx)

    def to_openvino(self, *args: Any, **kwargs: Any) -> Path:
        """Exports to OpenVINO; see the parent's."""
        path = with_thresholds(self.post_processor, partial(super().to_openvino, *args, **kwargs))
        # A file cannot carry this setting along.
        logger.warning(
            "Where a processor has bfloat16, OpenVINO computes in it, which falsifies maps, above all adapted ones: "
            'run the file with config={"INFERENCE_PRECISION_HINT": "f32"}.'
        )
        return path


def require_exportable(
    model: DualImageCLIPModel,
    pre_processor: nn.Module | None,
    export_type: ExportType,
    input_size: tuple[int, int] | None = None,
    compression_type: CompressionType | None = None,
) -> None:
    """Checks, before any work is done, that a model can be exported.

    Args:
        model: The model.
        pre_processor: What resizes images.
        export_type: Kind of file.
        input_size: Height and width of the images of a graph.
        compression_type: Compression of an OpenVINO model.

    Raises:
        ModuleNotFoundError: A package is missing.
        ValueError: The kind of file cannot hold this model, or the model takes no images of this size.
    """
    missing = [name for name in _PACKAGES[export_type] if find_spec(name) is None]
    if missing:
        msg = f"{export_type.value} export needs {', '.join(missing)}: pip install 'dual-image-clip[export]'"
        raise ModuleNotFoundError(msg, name=missing[0])
    if compression_type is not None and CompressionType(compression_type) != CompressionType.FP16:
        msg = (
            f"compression to {CompressionType(compression_type).value} is not supported: a temperature of 0.01 "
            "enlarges every error of the patch tokens a hundred times. Use fp16 or none"
        )
        raise ValueError(msg)
    if export_type == ExportType.TORCH and model.adaptation.steps and model.pseudo_anomalies.has_textures:
        msg = (
            "torch export cannot hold the folder texture_dir, because a torch file takes images of any size: "
            "export to onnx or openvino, leave texture_dir out, or set adaptation_steps=0"
        )
        raise ValueError(msg)
    if isinstance(model.regions, MaskFolder):
        msg = (
            f"regions={str(model.regions.source)!r} has a mask for each photo, but images have no names where a "
            "file is run: set regions to one mask or to polygons"
        )
        raise ValueError(msg)
    if input_size is not None:
        if isinstance(model.regions, Regions):
            model.regions.require_fits(input_size, "input_size")
        _require_size(model, output_size(getattr(pre_processor, "transform", None), input_size), input_size)


def _require_size(model: DualImageCLIPModel, size: tuple[int, int], input_size: tuple[int, int]) -> None:
    tile = tile_layout(size, model.image_size).tile_size
    patch = model.encoder.patch_size
    if tile[0] % patch[0] or tile[1] % patch[1]:
        msg = (
            f"input_size={input_size} cannot be exported: images become {size[0]}×{size[1]}, and tiles of "
            f"{tile[0]}×{tile[1]} are no multiple of the {patch[0]}×{patch[1]} patches"
        )
        raise ValueError(msg)


def _require_something_to_compare(model: DualImageCLIPModel) -> None:
    if model.num_golden:
        return
    weights = model.weights
    if not weights.lambda_2 or not weights.lambda_3 + weights.lambda_5:
        msg = (
            "without golden images an exported model has text alone to go by, but lambda_2=0 or lambda_3=lambda_5=0: "
            "set k_shot and few_shot_source"
        )
        raise ValueError(msg)
    logger.warning(
        "The exported model has no golden images and never sees other images: it scores by text%s alone. "
        "Set k_shot and few_shot_source to put golden images into the file.",
        " and adaptation" if model.adaptation.steps else "",
    )


def _warn_of_no_threshold(post_processor: nn.Module | None) -> None:
    if isinstance(post_processor, LabelFreePostProcessor) and post_processor.current_threshold() >= 1:
        logger.warning(
            "The exported model calls no image anomalous, because no threshold is known: set threshold, or validate on "
            "images with ground truth first. Scores and maps do not depend on it."
        )
