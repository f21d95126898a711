"""DualImageCLIP as an anomalib model.

Paper:
    Dual-Image Enhanced CLIP for Zero-Shot Anomaly Detection, Zhang, Deng, Bao and Li.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from anomalib import LearningType
from anomalib.data import AnomalibDataset, ImageBatch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from lightning.pytorch import Callback
from torch import Tensor, nn

from dual_image_clip.class_names import DEFAULT_CLASS_NAME, class_name_from_category
from dual_image_clip.export import ExportsDetector
from dual_image_clip.hooks import (
    CarriesWhatWasInUse,
    GoldenImages,
    ImagesAhead,
    LabelFreePostProcessor,
    PaperEvaluator,
    PlainOutput,
    PreparesRun,
    ScoresOnce,
    UnusableFiles,
    clip_pre_processor,
    evaluated_image_paths,
    require_enough_images,
    shuffle_samples,
)
from dual_image_clip.method import (
    AdaptationSettings,
    DualPathEncoder,
    PseudoAnomalyGenerator,
    ReferencePool,
    ReferenceSettings,
    ScoreWeights,
    TextSettings,
)
from dual_image_clip.photos import PhotoReader
from dual_image_clip.prediction import CollectsPredictions, HeatmapVisualizer, PredictionReport
from dual_image_clip.regions import load_regions
from dual_image_clip.threshold_file import limits_from
from dual_image_clip.torch_model import DualImageCLIPModel
from dual_image_clip.weights import class_embeddings, load_backbone


class DualImageCLIP(  # type: ignore[misc]
    PlainOutput, PreparesRun, ScoresOnce, CarriesWhatWasInUse, ExportsDetector, AnomalibModule
):
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

    Checkpoints carry golden samples along. Test images are put into a random order first, because anomalib sorts them
    by defect and partners are drawn from the same batch; with ``strategy="ddp"``, from that of the same process.

    Args:
        class_name: What the images show, such as ``"metal nut"``; else the datamodule's category, else ``"object"``.
        backbone: An architecture known to open_clip, with a plain ViT image tower, or
            :data:`dual_image_clip.weights.EMBEDDED`.
        pretrained: A tag of open_clip's for it, a local ``.safetensors`` or PyTorch checkpoint,
            :data:`dual_image_clip.weights.EMBEDDED`, or ``None`` for random weights.
        image_size: Resolution: pixels that the short side of an image is brought to, and side of the squares that the
            tower is given; a multiple of the patch size. ``None`` takes the backbone's own, the paper's 240.
        num_references: Unlabelled images that each image is compared with; 0 for none (Fig. 5a).
        aggregation: What becomes of the distances to several references: ``"minimum"`` (Eq. 5), ``"lowest_third"`` or
            ``"median"``; see :class:`~dual_image_clip.method.ReferenceSettings`.
        k_shot: Golden samples, known to be good, that each image is compared with as well.
        few_shot_source: Folder or image file that they are drawn from, else the datamodule's good training images.
        lambda_1: Weight of A^V in the anomaly map (Eq. 12); see :class:`~dual_image_clip.method.ScoreWeights`.
        lambda_2: Weight of A^T, or where nothing is adapted A^L, in the anomaly map (Eq. 12).
        lambda_3: Weight of the class token's text score in the image score (Eq. 13).
        lambda_4: Weight of the largest A^V in the image score (Eq. 13).
        lambda_5: Weight of the largest A^T in the image score (Eq. 13).
        peak_share: Share of an image's patches, the highest, whose mean is "the largest" (Eq. 13); 0 for the maximum.
        beta: Weight of the similarity loss; see :class:`~dual_image_clip.method.AdaptationSettings`.
        temperature: τ of Eq. 1. ``None`` takes the one the backbone learned, 0.01 for LAION's.
        adaptation_steps: AdamW steps of the test-time adaptation; 0 switches it off, and its tower pass.
        learning_rate: AdamW's learning rate.
        texture_dir: Folder of textures for the pseudo anomalies, such as DTD; else they are made from the image itself.
        smooth: Whether to smooth anomaly maps with a 3×3 mean over patches.
        regions: Where photos are inspected: a mask picture, a folder of them, or a JSON file of polygons; see
            :func:`dual_image_clip.regions.load_regions`. Outside there is no score, no reference and no ground truth.
        threshold: Image score above which an image is anomalous, in 0..1 as predicted without ground truth, or a file
            of :func:`dual_image_clip.calibration.calibrate`, which has one for pixels, too, and must have been made
            with these settings; see :class:`~dual_image_clip.hooks.LabelFreePostProcessor` for what sets it else.
        value_range: Values of photos of more than 8 bits that become 0 and 1; see :mod:`dual_image_clip.photos`.
        seed: Seed of the pairing, the golden samples, the pseudo anomalies, the adapter's start and evaluation's order.
        pre_processor: Pre-processor, or whether to use the default: short side to ``image_size``.
        post_processor: Post-processor, or whether to use the default.
        evaluator: Evaluator, or whether to use the default: the paper's six metrics.
        visualizer: Visualizer, or whether to use :class:`~dual_image_clip.prediction.HeatmapVisualizer`.

    Raises:
        ValueError: An argument is out of its range, the backbone or tag is unknown, or a checkpoint does not fit.
        RegionError: ``regions`` cannot be used.
        ThresholdFileError: ``threshold`` is a file that cannot be used, or was made with other settings.
        GoldenImageError: ``few_shot_source`` does not exist, has fewer than ``k_shot`` images, or is given without it.
        TypeError: The backbone has no plain ViT image tower.
        WeightsUnavailableError: The weights could not be downloaded.
    """

    def __init__(
        self,
        class_name: str | None = None,
        backbone: str = "ViT-B-16-plus-240",
        pretrained: str | Path | None = "laion400m_e32",
        image_size: int | None = None,
        num_references: int = 1,
        aggregation: str = "minimum",
        k_shot: int = 0,
        few_shot_source: str | Path | None = None,
        lambda_1: float = 1.0,
        lambda_2: float = 1.5,
        lambda_3: float = 1.0,
        lambda_4: float = 1.0,
        lambda_5: float = 1.0,
        peak_share: float = 0.0,
        beta: float = 0.5,
        temperature: float | None = None,
        adaptation_steps: int = 2,
        learning_rate: float = 0.001,
        texture_dir: str | Path | None = None,
        smooth: bool = True,
        regions: str | Path | None = None,
        threshold: float | str | Path | None = None,
        value_range: tuple[float, float] | None = None,
        seed: int = 0,
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        self.keep_back_log_messages()
        super().__init__(
            pre_processor=pre_processor, post_processor=post_processor, evaluator=evaluator, visualizer=visualizer
        )
        # All that can be wrong with an argument is found before weights are loaded.
        text = TextSettings(class_name, temperature)
        references = ReferenceSettings(num_references, aggregation, k_shot, few_shot_source)
        weights = ScoreWeights(lambda_1, lambda_2, lambda_3, lambda_4, lambda_5, peak_share)
        adaptation = AdaptationSettings(adaptation_steps, learning_rate, beta)
        inspected = None if regions is None else load_regions(regions)
        self.reader = PhotoReader(value_range=value_range, regions=inspected)
        pseudo_anomalies = PseudoAnomalyGenerator(texture_dir, seed)
        self.golden = GoldenImages(references.k_shot, references.few_shot_source, seed)
        self.limits = limits_from(threshold, lambda: self.score_settings)
        if post_processor is True:
            self.post_processor = LabelFreePostProcessor(
                weights.score_maximum, weights.map_maximum, self.limits.image, map_threshold=self.limits.pixels
            )
        self.class_name = self._chosen_class_name = text.class_name
        self.seed = seed
        self.backbone = load_backbone(backbone, pretrained, image_size)
        self.model: DualImageCLIPModel = DualImageCLIPModel(
            encoder=DualPathEncoder(self.backbone.clip.visual),
            references=ReferencePool(references.num_references, seed),
            pseudo_anomalies=pseudo_anomalies,
            adaptation=adaptation,
            weights=weights,
            temperature=self.backbone.temperature if text.temperature is None else text.temperature,
            image_size=self.backbone.image_size,
            image_mean=self.backbone.image_mean,
            image_std=self.backbone.image_std,
            smooth=smooth,
            seed=seed,
            aggregation=references.aggregation,
            regions=inspected,
        )
        self.reader = replace(self.reader, patch_size=self.model.encoder.patch_size)
        if pre_processor is True:
            size = min(self.backbone.image_size)
            self.pre_processor = clip_pre_processor(size, self.backbone.image_mean, self.backbone.image_std)

    def set_class_name(self, class_name: str) -> None:
        """Tells the model what the images show, such as ``"metal nut"``, whatever a datamodule says."""
        self._encode_class_name(class_name)
        self._chosen_class_name = class_name

    def _encode_class_name(self, class_name: str) -> None:
        self.limits.require_class_name(class_name)
        self.model.text_embeddings.copy_(class_embeddings(self.backbone, class_name))
        self.class_name = class_name

    def _find_class_name(self) -> str:
        if self._chosen_class_name is not None:
            return self._chosen_class_name
        category = getattr(self._datamodule, "category", None)
        # Without a datamodule, the name in use stays: a checkpoint's, or that of the last evaluation.
        return class_name_from_category(category) if category else self.class_name or DEFAULT_CLASS_NAME

    def pre_process(self, image: Tensor) -> Tensor:
        """Prepares an image ``(1, 3, H, W)`` in 0..1 for the model, on its device, as the trainer prepares batches."""
        transform: Any = getattr(self.pre_processor, "transform", None)
        return transform(image.to(self.device)) if transform else image.to(self.device)

    def load_golden_images(self) -> None:
        """Encodes the golden images, as evaluations do by themselves."""
        self.golden.give_to(self.model, self._datamodule, self.pre_process, self.reader)

    def complete(self) -> None:
        """Encodes the class name and the golden images, as the beginning of a run does."""
        self._encode_class_name(self._find_class_name())
        self.load_golden_images()

    @property
    def _datamodule(self) -> Any:
        # The public property raises where there is no trainer.
        return getattr(self._trainer, "datamodule", None)

    def setup(self, stage: str) -> None:
        """Chooses golden images, encodes the class name and puts the images to be evaluated into a random order."""
        del stage
        self.golden.choose(self._datamodule)
        self._encode_class_name(self._find_class_name())
        for name in ("val_data", "test_data"):
            dataset = getattr(self._datamodule, name, None)
            if isinstance(dataset, AnomalibDataset):
                shuffle_samples(dataset, self.seed)

    def _start_run(self) -> None:
        require_enough_images(self.trainer, self.model.references.num_references)
        self.golden.require_apart_from(evaluated_image_paths(self.trainer))
        self.load_golden_images()
        self.model.reset()

    on_validation_epoch_start = on_test_epoch_start = on_predict_epoch_start = _start_run

    def predict_step(self, batch: ImageBatch, batch_idx: int, dataloader_idx: int = 0) -> Any:  # type: ignore[override]
        """Scores a batch of pre-processed images: adds ``pred_score``, ``anomaly_map`` and ``num_references`` to it."""
        del batch_idx
        images, names = cast("Tensor", batch.image), cast("list[str] | None", batch.image_path)
        ahead = ImagesAhead(self.trainer, dataloader_idx, names or (), self.reader, self.pre_process)
        compared = self.compare_once(images, names, ahead)
        scored: Any = batch.update(**compared.predictions._asdict())
        scored.num_references, scored.inspected = compared.num_references, compared.inspected
        return scored

    validation_step = test_step = predict_step  # type: ignore[assignment]
    configure_visualizer = staticmethod(HeatmapVisualizer)

    def val_dataloader(self) -> list:
        """No validation data of its own, so that predicting on a folder does without; a datamodule's comes first."""
        return []

    @staticmethod
    def configure_optimizers() -> None:
        """Nothing is trained."""

    def configure_callbacks(self) -> Sequence[Callback]:
        """Adds those for distributed runs, unusable files and the report, which the trainer may have been given."""
        given: list[Any] = getattr(self._trainer, "callbacks", [])
        report = next((each for each in given if isinstance(each, CollectsPredictions)), PredictionReport())
        components: Any = super().configure_callbacks()
        # The report reads the labels that the post-processor, one of the components, has set.
        return [UnusableFiles(self.reader), *components, report]

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
        """Bilinear resizing to a height and width, by default of the short side to 240, and CLIP's normalisation."""
        return clip_pre_processor(image_size or 240)

    @staticmethod
    def configure_post_processor() -> LabelFreePostProcessor:
        """The post-processor, which labels images with or without ground truth."""
        weights = ScoreWeights()
        return LabelFreePostProcessor(weights.score_maximum, weights.map_maximum)

    @staticmethod
    def configure_evaluator() -> Evaluator:
        """The paper's six metrics (section 4.1), each where there are labels or masks for it and it is defined."""
        return PaperEvaluator()
