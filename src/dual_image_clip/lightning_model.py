"""DualImageCLIP as an anomalib model.

Paper:
    Dual-Image Enhanced CLIP for Zero-Shot Anomaly Detection, Zhang, Deng, Bao and Li.

Example:
    >>> from anomalib.data import MVTecAD
    >>> from anomalib.engine import Engine
    >>> from dual_image_clip import DualImageCLIP
    >>> Engine().test(model=DualImageCLIP(), datamodule=MVTecAD(category="bottle"))  # doctest: +SKIP
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from anomalib import LearningType
from anomalib.data import AnomalibDataset, ImageBatch
from anomalib.deploy import CompressionType, ExportType
from anomalib.metrics import AUPR, AUPRO, AUROC, Evaluator, F1Max
from anomalib.models.components import AnomalibModule
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from lightning.pytorch import Callback
from open_clip.transform import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor, nn
from torchvision.transforms.v2 import Compose, Normalize, Resize

from dual_image_clip.export.detector import ExportableDetector, require_exportable
from dual_image_clip.hooks.distributed import EachImageOnce
from dual_image_clip.hooks.golden import GoldenImages
from dual_image_clip.hooks.image_files import (
    ImageFileGuard,
    evaluated_image_paths,
    evaluation_datasets,
    holds_a_patch,
    read_image_file,
    require_patch_sized,
    restore_bit_depth,
)
from dual_image_clip.hooks.post_processing import LabelFreePostProcessor
from dual_image_clip.hooks.unusable_files import SkipUnusableFiles
from dual_image_clip.method import (
    AdaptationSettings,
    DualPathEncoder,
    PseudoAnomalyGenerator,
    ReferencePool,
    ScoreWeights,
    encode_ensemble,
    prompt_ensemble,
)
from dual_image_clip.method.prompts import DEFAULT_CLASS_NAME, class_name_from_category
from dual_image_clip.method.references import shuffle_samples
from dual_image_clip.method.scoring import require_aggregation
from dual_image_clip.prediction.report import PredictionReport
from dual_image_clip.torch_model import DualImageCLIPModel, LookAhead
from dual_image_clip.weights import cached_text_embeddings, load_backbone

logger = logging.getLogger(__name__)

__all__ = ["DualImageCLIP"]

_DEFAULT_IMAGE_SIZE = 240


class DualImageCLIP(AnomalibModule):
    """Finds defects in images of a product it was never trained on.

    Unlabelled images are scored with text prompts, with each other as references, and with a small adapter that is
    fitted to each of them. The defaults are the paper's ("Ours+" of its Table 1); its ablations are settings:

    ====================== =====================================================================
    text only ("base")     ``num_references=0, adaptation_steps=0, lambda_2=1``
    base + TTA             ``num_references=0``
    text and reference     ``adaptation_steps=0, lambda_2=1`` ("Ours")
    all                    defaults ("Ours+")
    visual only            ``adaptation_steps=0, lambda_2=0, lambda_3=0, lambda_5=0``
    ====================== =====================================================================

    Golden samples, images known to be good, serve every image as references where ``k_shot`` asks for them: besides
    its unlabelled partners, or with ``num_references=0`` in their place. A checkpoint carries them along, so a model
    restored from it keeps them and needs no folder.

    Before an evaluation the images of a datamodule's test set are put into a random order, because anomalib sorts them
    by defect and partners are drawn from the same batch.

    On several devices (``strategy="ddp"``) every image is scored once, by one of the processes. An image's partners are
    among those of its own process, so scores depend a little on the number of devices. ``Engine.predict`` returns to
    each process the predictions of its own images.

    Args:
        class_name: What the images show, such as ``"metal nut"``. Without it, the category of the datamodule, else
            ``"object"``.
        backbone: An architecture known to open_clip, with a plain ViT image tower, or
            :data:`dual_image_clip.weights.backbone.EMBEDDED`.
        pretrained: A tag of open_clip's for it, a local ``.safetensors`` or PyTorch checkpoint,
            :data:`dual_image_clip.weights.backbone.EMBEDDED`, or ``None`` for random weights.
        num_references: Unlabelled images that each image is compared with; 0 for none (Fig. 5a).
        aggregation: What becomes of the distances to several references: ``"minimum"`` (the paper's Eq. 5),
            ``"lowest_third"`` or ``"median"``, which one anomalous reference cannot spoil; see
            :func:`~dual_image_clip.method.scoring.aggregate_references` for when each is right.
        k_shot: Golden samples that each image is compared with, drawn at random from the seed.
        few_shot_source: Folder (searched with its subfolders) or image file that golden samples are drawn from.
            Without it, the good images of the datamodule's training set.
        lambda_1: Weight of A^V in the anomaly map (Eq. 12).
        lambda_2: Weight of A^T in the anomaly map (Eq. 12). Where nothing is adapted, of A^L, whose weight in Eq. 6
            is 1.
        lambda_3: Weight of the class token's text score in the image score (Eq. 13).
        lambda_4: Weight of the largest A^V in the image score (Eq. 13).
        lambda_5: Weight of the largest A^T in the image score (Eq. 13).
        beta: Weight of the similarity loss in the adaptation.
        temperature: τ of Eq. 1. ``None`` takes the one the backbone learned, 0.01 for LAION's.
        adaptation_steps: AdamW steps of the test-time adaptation; 0 switches it off, and its tower pass.
        learning_rate: AdamW's learning rate.
        texture_dir: Folder of textures for the pseudo anomalies, such as DTD. Without it, they are made from the image
            itself.
        smooth: Whether to smooth anomaly maps with a 3×3 mean over patches.
        threshold: Image score above which an image is anomalous, in 0..1 as predicted without ground truth. Without it,
            ground truth sets the threshold, or else a robust z-score (see
            :class:`~dual_image_clip.hooks.post_processing.LabelFreePostProcessor`).
        seed: Seed of the pairing, the golden samples, the pseudo anomalies, the adapter's start and the order of
            evaluation.
        pre_processor: Pre-processor, or whether to use the default: short side to the backbone's image size.
        post_processor: Post-processor, or whether to use the default.
        evaluator: Evaluator, or whether to use the default: the paper's six metrics.
        visualizer: Visualizer, or whether to use anomalib's.

    Raises:
        ValueError: An argument is out of its range, the backbone or tag is unknown, or a checkpoint does not fit.
        GoldenImageError: ``few_shot_source`` does not exist or has fewer than ``k_shot`` images, or it is given without
            ``k_shot``.
        TypeError: The backbone has no plain ViT image tower.
        WeightsUnavailableError: The weights could not be downloaded.
    """

    def __init__(
        self,
        class_name: str | None = None,
        backbone: str = "ViT-B-16-plus-240",
        pretrained: str | Path | None = "laion400m_e32",
        num_references: int = 1,
        lambda_1: float = 1.0,
        lambda_2: float = 1.5,
        lambda_3: float = 1.0,
        lambda_4: float = 1.0,
        lambda_5: float = 1.0,
        beta: float = 0.5,
        temperature: float | None = None,
        adaptation_steps: int = 2,
        learning_rate: float = 0.001,
        texture_dir: str | Path | None = None,
        smooth: bool = True,
        threshold: float | None = None,
        seed: int = 0,
        aggregation: str = "minimum",
        k_shot: int = 0,
        few_shot_source: str | Path | None = None,
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        super().__init__(
            pre_processor=pre_processor, post_processor=post_processor, evaluator=evaluator, visualizer=visualizer
        )
        weights = ScoreWeights(lambda_1, lambda_2, lambda_3, lambda_4, lambda_5)
        _require_at_least(0, num_references=num_references, k_shot=k_shot, adaptation_steps=adaptation_steps, beta=beta)
        _require_at_least(0, **weights._asdict())
        _require_positive(learning_rate=learning_rate, temperature=temperature)
        _require_some_score(weights)
        _require_share(threshold=threshold)
        require_aggregation(aggregation)
        if class_name is not None:
            prompt_ensemble(class_name)

        self.class_name = self._chosen_class_name = class_name
        self.seed = seed
        self.golden = GoldenImages(k_shot, few_shot_source, seed)
        self._encoded_golden_paths: list[str] = []
        self.backbone = load_backbone(backbone, pretrained)
        self.model: DualImageCLIPModel = DualImageCLIPModel(
            encoder=DualPathEncoder(self.backbone.clip.visual),
            references=ReferencePool(num_references, seed),
            pseudo_anomalies=PseudoAnomalyGenerator(texture_dir, seed),
            adaptation=AdaptationSettings(adaptation_steps, learning_rate, beta),
            weights=weights,
            temperature=self.backbone.temperature if temperature is None else temperature,
            image_size=self.backbone.image_size,
            image_mean=self.backbone.image_mean,
            image_std=self.backbone.image_std,
            smooth=smooth,
            seed=seed,
            aggregation=aggregation,
        )
        if pre_processor is True:
            self.pre_processor = _clip_pre_processor(
                min(self.backbone.image_size), self.backbone.image_mean, self.backbone.image_std
            )
        if post_processor is True:
            self.post_processor = LabelFreePostProcessor(weights.score_maximum, weights.map_maximum, threshold)
        self.skip_unusable_files = SkipUnusableFiles(self.model.encoder.patch_size)
        self.prediction_report = PredictionReport(self.skip_unusable_files)

    def set_class_name(self, class_name: str) -> None:
        """Tells the model what the images show, whatever a datamodule says.

        Args:
            class_name: Such as ``"metal nut"``.

        Raises:
            ValueError: It has no letters.
        """
        self._encode_class_name(class_name)
        self._chosen_class_name = class_name

    def _encode_class_name(self, class_name: str) -> None:
        ensemble = prompt_ensemble(class_name)
        clip = self.backbone.clip
        embeddings = cached_text_embeddings(
            clip, ensemble, lambda: encode_ensemble(clip, self.backbone.tokenizer, ensemble)
        )
        self.class_name = class_name
        self.model.text_embeddings.copy_(embeddings)

    def pre_process(self, image: Tensor) -> Tensor:
        """Prepares an image for the model as the trainer prepares batches.

        Args:
            image: Image ``(1, 3, H, W)`` in 0..1.

        Returns:
            Image ``(1, 3, H, W)``, resized and normalised, on the model's device.
        """
        transform: Any = getattr(self.pre_processor, "transform", None)
        image = image.to(self.device)
        return transform(image) if transform else image

    def load_golden_images(self) -> None:
        """Encodes the golden images, unless the model has them already; evaluations do so themselves.

        Raises:
            GoldenImageError: There is neither a folder nor a training set to take them from.
            UnreadableImageError: One of them cannot be decoded.
            ValueError: One of them is smaller than a patch.
        """
        datamodule = getattr(self._trainer, "datamodule", None)
        self.golden.choose(datamodule)
        paths = self.golden.paths
        if paths == self._encoded_golden_paths:
            return
        # What a datamodule does to test images, golden ones need as well.
        augmentations = getattr(getattr(datamodule, "test_data", None), "augmentations", None) or nn.Identity()
        self.model.set_golden_images(self._read_golden_image(path, augmentations) for path in paths)
        self._encoded_golden_paths = list(paths)

    def _read_golden_image(self, path: str, augmentations: Callable[[Tensor], Tensor]) -> Tensor:
        image = read_image_file(path)
        require_patch_sized([path], self.model.encoder.patch_size)
        return self.pre_process(augmentations(image).unsqueeze(0))

    def setup(self, stage: str) -> None:
        """Chooses golden images, encodes the class name and puts the images to be evaluated into a random order.

        Args:
            stage: Not used.

        Raises:
            GoldenImageError: There is neither a folder nor a training set to take golden images from.
        """
        del stage
        datamodule = getattr(self.trainer, "datamodule", None)
        self.golden.choose(datamodule)
        self._encode_class_name(self._find_class_name())
        for name in ("val_data", "test_data"):
            dataset = getattr(datamodule, name, None)
            if isinstance(dataset, AnomalibDataset):
                shuffle_samples(dataset, self.seed)

    def on_validation_epoch_start(self) -> None:
        """Starts a run anew."""
        self._start_run()

    def on_test_epoch_start(self) -> None:
        """Starts a run anew."""
        self._start_run()

    def on_predict_epoch_start(self) -> None:
        """Starts a run anew."""
        self._start_run()

    def validation_step(self, batch: ImageBatch, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Scores a batch; see :meth:`predict_step`."""
        return self.predict_step(batch, batch_idx, dataloader_idx)

    def test_step(  # type: ignore[override]
        self, batch: ImageBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> Any:
        """Scores a batch; see :meth:`predict_step`."""
        return self.predict_step(batch, batch_idx, dataloader_idx)

    def predict_step(  # type: ignore[override]
        self, batch: ImageBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> Any:
        """Scores a batch of images.

        Args:
            batch: Pre-processed images.
            batch_idx: Not used.
            dataloader_idx: Which of several data loaders the batch is from.

        Returns:
            The batch with ``pred_score`` and ``anomaly_map``.
        """
        del batch_idx
        identities = batch.image_path
        predictions = self.model(batch.image, identities, self._look_ahead(identities or [], dataloader_idx))
        return batch.update(**predictions._asdict())

    def val_dataloader(self) -> list:
        """No validation data of its own, so that predicting on a folder does without; a datamodule's comes first."""
        return []

    @staticmethod
    def configure_optimizers() -> None:
        """Nothing is trained."""
        return

    def configure_callbacks(self) -> Sequence[Callback]:
        """Adds callbacks for distributed runs, for image files that need care, and for the report of predictions."""
        callbacks = super().configure_callbacks()
        return [
            EachImageOnce(),
            self.skip_unusable_files,
            ImageFileGuard(self.model.encoder.patch_size),
            *(callbacks if isinstance(callbacks, Sequence) else [callbacks]),
            self.prediction_report,
        ]

    def to_torch(self, export_root: Path | str, model_file_name: str = "model") -> Path:
        """Exports a detector of single images, of any size, see :mod:`dual_image_clip.export.detector`.

        Args:
            export_root: Folder.
            model_file_name: Name of the file without its suffix.

        Returns:
            Path of the file, which anomalib's ``TorchInferencer`` reads.

        Raises:
            ValueError: The model has a folder of textures, or nothing to go by without other images.
        """
        return self._exportable(ExportType.TORCH).to_torch(export_root, model_file_name)

    def to_onnx(  # type: ignore[override]
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        **kwargs: Any,
    ) -> Path:
        """Exports a detector of single images, of one size, see :mod:`dual_image_clip.export.detector`.

        Args:
            export_root: Folder.
            model_file_name: Name of the file without its suffix.
            input_size: Height and width of the images that it will get; the backbone's image size by default.
            **kwargs: Arguments of ``torch.onnx.export``.

        Returns:
            Path of the file.

        Raises:
            ModuleNotFoundError: A package is missing.
            ValueError: The model takes no images of this size, or has nothing to go by without other images.
        """
        size = input_size or self.backbone.image_size
        return self._exportable(ExportType.ONNX, size).to_onnx(export_root, model_file_name, size, **kwargs)

    def to_openvino(  # type: ignore[override]
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        compression_type: CompressionType | None = None,
        **kwargs: Any,
    ) -> Path:
        """Exports a detector of single images, of one size, see :mod:`dual_image_clip.export.detector`.

        Args:
            export_root: Folder.
            model_file_name: Name of the file without its suffix.
            input_size: Height and width of the images that it will get; the backbone's image size by default.
            compression_type: ``FP16`` or none.
            **kwargs: Further arguments of anomalib's ``to_openvino``.

        Returns:
            Path of the file, which anomalib's ``OpenVINOInferencer`` reads.

        Raises:
            ModuleNotFoundError: A package is missing.
            ValueError: The compression is another, the model takes no images of this size, or it has nothing to go by
                without other images.
        """
        size = input_size or self.backbone.image_size
        detector = self._exportable(ExportType.OPENVINO, size, compression_type)
        return detector.to_openvino(export_root, model_file_name, size, compression_type, **kwargs)

    def _exportable(
        self,
        export_type: ExportType,
        input_size: tuple[int, int] | None = None,
        compression_type: CompressionType | None = None,
    ) -> ExportableDetector:
        require_exportable(self.model, self.pre_processor, export_type, input_size, compression_type)
        self._encode_class_name(self._chosen_class_name or self.class_name or DEFAULT_CLASS_NAME)
        self.load_golden_images()
        return ExportableDetector(self.model, self.pre_processor, self.post_processor, input_size)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the class name and the golden images that were in use."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["dual_image_clip_class_name"] = self.class_name
        checkpoint["dual_image_clip_golden_paths"] = self._encoded_golden_paths
        if self._encoded_golden_paths:
            # Their tokens are in the checkpoint, so that it is of use where the folder is not.
            checkpoint["hyper_parameters"]["few_shot_source"] = None

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the class name and the golden images that were in use."""
        super().on_load_checkpoint(checkpoint)
        self.class_name = checkpoint.get("dual_image_clip_class_name")
        self._encoded_golden_paths = checkpoint.get("dual_image_clip_golden_paths", [])
        if self._encoded_golden_paths:
            self.golden.restore(self._encoded_golden_paths)

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """No special arguments."""
        return {}

    @property
    def learning_type(self) -> LearningType:
        """Few-shot with golden images, else zero-shot: nothing is learned before images are scored."""
        return LearningType.FEW_SHOT if self.golden.k_shot else LearningType.ZERO_SHOT

    @staticmethod
    def configure_pre_processor(image_size: tuple[int, int] | None = None) -> PreProcessor:
        """The pre-processor for CLIP's images.

        Args:
            image_size: Height and width in pixels. Without it, the short side becomes 240 and the aspect ratio stays
                (supplement, section 1).

        Returns:
            Bilinear resizing and CLIP's normalisation.
        """
        return _clip_pre_processor(image_size or _DEFAULT_IMAGE_SIZE, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)

    @staticmethod
    def configure_post_processor() -> LabelFreePostProcessor:
        """The post-processor, which labels images with or without ground truth."""
        weights = ScoreWeights()
        return LabelFreePostProcessor(weights.score_maximum, weights.map_maximum)

    @staticmethod
    def configure_evaluator() -> Evaluator:
        """The paper's six metrics (section 4.1), each where there are labels or masks for it."""
        image, pixel = ["pred_score", "gt_label"], ["anomaly_map", "gt_mask"]
        return Evaluator(
            test_metrics=[
                AUROC(fields=image, prefix="image_", strict=False),
                F1Max(fields=image, prefix="image_", strict=False),
                AUPR(fields=image, prefix="image_", strict=False),
                AUROC(fields=pixel, prefix="pixel_", strict=False),
                F1Max(fields=pixel, prefix="pixel_", strict=False),
                AUPRO(fields=pixel, prefix="pixel_", strict=False),
            ]
        )

    def _find_class_name(self) -> str:
        if self._chosen_class_name is not None:
            return self._chosen_class_name
        category = getattr(getattr(self.trainer, "datamodule", None), "category", None)
        if category:
            return class_name_from_category(category)
        # Without a datamodule, the name in use stays: a checkpoint's, or that of the last evaluation.
        return self.class_name or DEFAULT_CLASS_NAME

    def _start_run(self) -> None:
        wanted = self.model.references.num_references
        for dataset in evaluation_datasets(self.trainer):
            # A single image is scored without reference; more references than images are a mistake.
            if hasattr(dataset, "__len__") and wanted > max(1, len(dataset) - 1):
                msg = (
                    f"num_references={wanted}, but {type(dataset).__name__} has {len(dataset)} images: "
                    f"set num_references to {len(dataset) - 1} or less"
                )
                raise ValueError(msg)
        self.golden.require_apart_from(evaluated_image_paths(self.trainer))
        self.load_golden_images()
        self.model.reset()

    def _look_ahead(self, identities: Sequence[str], dataloader_idx: int) -> LookAhead:
        def further_images(count: int) -> Iterator[tuple[str, Tensor]]:
            datasets = evaluation_datasets(self.trainer)
            dataset = datasets[dataloader_idx] if dataloader_idx < len(datasets) else ()
            patch_size = self.model.encoder.patch_size
            for item in _readable_items(dataset):
                if item.image_path in identities or not holds_a_patch(item.image.shape[-2:], patch_size):
                    continue
                image: Any = item.image.unsqueeze(0)
                restore_bit_depth(ImageBatch(image=image, image_path=[item.image_path]))
                yield item.image_path, self.pre_process(image)
                count -= 1
                if count == 0:
                    return

        return further_images


def _readable_items(dataset: Any) -> Iterator[Any]:
    """Items of a data set that have an image and a path; one that cannot be read is reported when its turn comes."""
    for index in range(len(dataset)):
        try:
            item = dataset[index]
        except (OSError, SyntaxError):
            continue
        if getattr(item, "image_path", None) is not None:
            yield item


def _clip_pre_processor(size: int | tuple[int, int], mean: Sequence[float], std: Sequence[float]) -> PreProcessor:
    return PreProcessor(Compose([Resize(size, antialias=True), Normalize(mean=list(mean), std=list(std))]))


def _require_at_least(least: float, **arguments: float) -> None:
    for name, value in arguments.items():
        if not value >= least:
            msg = f"{name} must be at least {least}, got {value}"
            raise ValueError(msg)


def _require_positive(**arguments: float | None) -> None:
    for name, value in arguments.items():
        if value is not None and not value > 0:
            msg = f"{name} must be greater than 0, got {value}"
            raise ValueError(msg)


def _require_share(**arguments: float | None) -> None:
    for name, value in arguments.items():
        if value is not None and not 0 <= value <= 1:
            msg = f"{name} must lie in 0..1, got {value}"
            raise ValueError(msg)


def _require_some_score(weights: ScoreWeights) -> None:
    if weights.map_maximum == 0 or weights.score_maximum == 0:
        msg = "lambda_1 and lambda_2 must not both be 0, nor lambda_3, lambda_4 and lambda_5 all"
        raise ValueError(msg)
