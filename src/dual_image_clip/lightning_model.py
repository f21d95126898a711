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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from anomalib import LearningType
from anomalib.data import AnomalibDataset, ImageBatch
from anomalib.metrics import AUPR, AUPRO, AUROC, Evaluator, F1Max
from anomalib.models.components import AnomalibModule
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from lightning.pytorch import Callback
from open_clip.transform import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor, nn
from torchvision.transforms.v2 import Compose, Normalize, Resize

from dual_image_clip.adaptation import AdaptationSettings
from dual_image_clip.backbone import load_backbone
from dual_image_clip.distributed import EachImageOnce
from dual_image_clip.encoder import DualPathEncoder
from dual_image_clip.image_files import ImageFileGuard, evaluation_datasets, restore_bit_depth
from dual_image_clip.post_processing import LabelFreePostProcessor
from dual_image_clip.prompts import DEFAULT_CLASS_NAME, class_name_from_category, encode_ensemble, prompt_ensemble
from dual_image_clip.pseudo_anomaly import PseudoAnomalyGenerator
from dual_image_clip.references import ReferencePool, shuffle_samples
from dual_image_clip.scoring import ScoreWeights
from dual_image_clip.text_cache import cached_text_embeddings
from dual_image_clip.torch_model import DualImageCLIPModel, LookAhead

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

    Before an evaluation the images of a datamodule's test set are put into a random order, because anomalib sorts them
    by defect and partners are drawn from the same batch.

    On several devices (``strategy="ddp"``) every image is scored once, by one of the processes. An image's partners are
    among those of its own process, so scores depend a little on the number of devices. ``Engine.predict`` returns to
    each process the predictions of its own images.

    Args:
        class_name: What the images show, such as ``"metal nut"``. Without it, the category of the datamodule, else
            ``"object"``.
        backbone: An architecture known to open_clip, with a plain ViT image tower, or
            :data:`dual_image_clip.backbone.EMBEDDED`.
        pretrained: A tag of open_clip's for it, a local ``.safetensors`` or PyTorch checkpoint,
            :data:`dual_image_clip.backbone.EMBEDDED`, or ``None`` for random weights.
        num_references: Images that each image is compared with; 0 switches the comparison off (Fig. 5a).
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
            :class:`~dual_image_clip.post_processing.LabelFreePostProcessor`).
        seed: Seed of the pairing, the pseudo anomalies, the adapter's start and the order of evaluation.
        pre_processor: Pre-processor, or whether to use the default: short side to the backbone's image size.
        post_processor: Post-processor, or whether to use the default.
        evaluator: Evaluator, or whether to use the default: the paper's six metrics.
        visualizer: Visualizer, or whether to use anomalib's.

    Raises:
        ValueError: An argument is out of its range, the backbone or tag is unknown, or a checkpoint does not fit.
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
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        super().__init__(
            pre_processor=pre_processor, post_processor=post_processor, evaluator=evaluator, visualizer=visualizer
        )
        weights = ScoreWeights(lambda_1, lambda_2, lambda_3, lambda_4, lambda_5)
        _require_at_least(0, num_references=num_references, adaptation_steps=adaptation_steps, beta=beta)
        _require_at_least(0, **weights._asdict())
        _require_positive(learning_rate=learning_rate, temperature=temperature)
        _require_some_score(weights)
        _require_share(threshold=threshold)
        if class_name is not None:
            prompt_ensemble(class_name)

        self.class_name = self._chosen_class_name = class_name
        self.seed = seed
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
        )
        if pre_processor is True:
            self.pre_processor = _clip_pre_processor(
                min(self.backbone.image_size), self.backbone.image_mean, self.backbone.image_std
            )
        if post_processor is True:
            self.post_processor = LabelFreePostProcessor(weights.score_maximum, weights.map_maximum, threshold)

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

    def setup(self, stage: str) -> None:
        """Encodes the class name and puts the images to be evaluated into a random order.

        Args:
            stage: Not used.
        """
        del stage
        self._encode_class_name(self._find_class_name())
        datamodule = getattr(self.trainer, "datamodule", None)
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
        """Adds callbacks for distributed runs and for image files that need care, ahead of the pre-processor."""
        callbacks = super().configure_callbacks()
        return [
            EachImageOnce(),
            ImageFileGuard(self.model.encoder.patch_size),
            *(callbacks if isinstance(callbacks, Sequence) else [callbacks]),
        ]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the class name that was in use."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["dual_image_clip_class_name"] = self.class_name

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the class name that was in use."""
        super().on_load_checkpoint(checkpoint)
        self.class_name = checkpoint.get("dual_image_clip_class_name")

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """No special arguments."""
        return {}

    @property
    def learning_type(self) -> LearningType:
        """Zero-shot: nothing is learned before images are scored."""
        return LearningType.ZERO_SHOT

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
        self.model.reset()

    def _look_ahead(self, identities: Sequence[str], dataloader_idx: int) -> LookAhead:
        def further_images(count: int) -> Iterator[tuple[str, Tensor]]:
            datasets = evaluation_datasets(self.trainer)
            dataset = datasets[dataloader_idx] if dataloader_idx < len(datasets) else ()
            transform: Any = getattr(self.pre_processor, "transform", None)
            for item in _readable_items(dataset):
                if item.image_path in identities:
                    continue
                image: Any = item.image.unsqueeze(0).to(self.device)
                restore_bit_depth(ImageBatch(image=image, image_path=[item.image_path]))
                yield item.image_path, transform(image) if transform else image
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
