"""The paper's metrics over images of any sizes, each left out where it is not defined."""

import logging
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from anomalib import metrics as stock
from anomalib.data.errors import MisMatchError
from anomalib.metrics import AnomalibMetric, Evaluator
from anomalib.utils.cv import connected_components_cpu
from lightning import LightningModule, Trainer
from torch import Tensor, distributed
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from dual_image_clip.hooks.evaluation import require_masks

logger = logging.getLogger(__name__)

_IMAGE = ("pred_score", "gt_label")
_PIXEL = ("anomaly_map", "gt_mask")


def compared(batch: Any, fields: Sequence[str]) -> Any:
    """What a metric compares, its maps at the size of their masks.

    Args:
        batch: Batch with, as far as there are any, scores, truth and, as ``inspected``, pixels that were inspected.
        fields: Their names: of anomaly maps ``(B, h, w)`` and masks ``(B, H, W)``, or of scores and labels ``(B,)``.

    Returns:
        Something with these two, of one shape; maps of another size are resized bilinearly. Truth that was not
        inspected is 0, and ``inspected`` says which is, of the same shape, or is ``None``.
    """
    scores, truth = (getattr(batch, field, None) for field in fields)
    inspected = getattr(batch, "inspected", None) if tuple(fields) == _PIXEL else None
    if scores is not None and truth is not None:
        size = truth.shape[-2:]
        if scores.shape != truth.shape:
            scores = F.interpolate(scores[:, None], size, mode="bilinear")[:, 0]
        if inspected is not None:
            inspected = F.interpolate(inspected[:, None].float(), size, mode="nearest-exact")[:, 0].bool()
            truth = truth.where(inspected, torch.zeros_like(truth))
    return SimpleNamespace(**dict(zip(fields, (scores, truth), strict=True)), inspected=inspected)


def pixels_inside(values: Tensor, inspected: Tensor | None) -> Tensor:
    """Values of one batch in a row, ``(N,)``, without those that were not inspected."""
    return values.flatten() if inspected is None else values[inspected]


class _Comparison(Metric):
    """Compares scores with the truth, of images of whatever sizes, where they were inspected.

    There is no value without good and without defective ones: AUROC and AUPRO are not defined then, nor are F1 and
    precision without defective ones; without good ones these two are 1 for any scores and measure nothing.

    Attributes:
        missing: What there was none of when the value was last computed: ``"good"``, ``"defective"``, or neither.
    """

    fields: Sequence[str]
    num_good: Tensor
    num_defective: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("num_good", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("num_defective", torch.tensor(0), dist_reduce_fx="sum")
        self.missing: str | None = None

    def update(self, batch: Any) -> None:
        """Takes in the scores of a batch, where it has the truth as well."""
        found = compared(batch, self.fields)
        scores, truth = (getattr(found, field) for field in self.fields)
        if scores is not None and truth is not None:
            kept = [pixels_inside(each, found.inspected) for each in self.kept(scores, truth)]
            self.num_good = self.num_good + (kept[1] == 0).sum()
            self.num_defective = self.num_defective + (kept[1] != 0).sum()
            found = SimpleNamespace(**dict(zip(self.fields, kept, strict=True)))
        super().update(found)  # type: ignore[safe-super]

    def kept(self, scores: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        """What is kept of scores and truth, of their shape."""
        return scores, truth

    def compute(self) -> Tensor | None:
        """The value in 0..1, or ``None`` where it is not defined."""
        self.missing = "defective" if not self.num_defective else "good" if not self.num_good else None
        return None if self.missing else super().compute()  # type: ignore[safe-super]

    def reset(self) -> None:
        """Forgets everything."""
        super().reset()
        # anomalib's F1Max resets what it is made of, and not itself.
        Metric.reset(self)


class AUROC(_Comparison, stock.AUROC):  # type: ignore[misc]
    """Area under the receiver operating characteristic."""


class F1Max(_Comparison, stock.F1Max):  # type: ignore[misc]
    """The largest F1 score that a threshold gives."""


class AUPR(_Comparison, stock.AUPR):  # type: ignore[misc]
    """Area under the precision-recall curve."""


class AUPRO(_Comparison, stock.AUPRO):  # type: ignore[misc]
    """Area under the per-region overlap up to a false positive rate of 0.3.

    The regions of a mask are found when it comes in, so that masks need not be stacked.
    """

    num_regions: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("num_regions", torch.tensor(0), dist_reduce_fx="sum")

    def kept(self, scores: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        """Scores, and regions: 0 outside, and for each region of all images and processes a number of its own."""
        # anomalib takes the smallest value of a mask for its background: with a border, every mask has one.
        bordered = F.pad(truth.float(), (1, 1, 1, 1)).unsqueeze(1)
        regions = connected_components_cpu(bordered)[:, 0, 1:-1, 1:-1]
        rank, world_size = _place_among_processes()
        numbers = (self.num_regions.int() + regions - 1) * world_size + rank + 1
        self.num_regions = self.num_regions + regions.max()
        return scores, torch.where(regions > 0, numbers, 0)

    def perform_cca(self) -> Tensor:
        """The regions, ``(N,)``; they have been found already."""
        return dim_zero_cat(self.target)


def _place_among_processes() -> tuple[int, int]:
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def paper_metrics() -> list[AnomalibMetric]:
    """The paper's six metrics (section 4.1), each where there are labels or masks for it and it is defined.

    They are exact, which takes memory: between them, the three of pixels keep 13 bytes of every pixel until the end of
    a run and need 80 at the peak of computing. That is 6 and 38 GiB for 2,000 images of 512×512 (extrapolated from 150)
    and a fifth of it at the default of 240×240.
    """
    return [
        *(metric(fields=_IMAGE, prefix="image_", strict=False) for metric in (AUROC, F1Max, AUPR)),
        *(metric(fields=_PIXEL, prefix="pixel_", strict=False) for metric in (AUROC, F1Max, AUPRO)),
    ]


class PaperEvaluator(Evaluator):
    """Measures validations and tests with the paper's six metrics, and says which of them are not defined.

    Scores of a validation are measured as the model gives them, those of a test as the post-processor has scaled them.
    """

    def __init__(self) -> None:
        super().__init__(val_metrics=paper_metrics(), test_metrics=paper_metrics())
        for metric in self.val_metrics:
            if isinstance(metric, AUPRO):
                # Checkpoints hold no value that is the same everywhere, so earlier ones can be loaded.
                metric.register_buffer("fpr_limit", torch.as_tensor(metric.fpr_limit), persistent=False)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Computes and logs the metrics of a validation."""
        super().on_validation_epoch_end(trainer, pl_module)
        # The silent validation that anomalib puts before a test would say what the test says.
        if trainer.validate_loop.verbose:
            _say_what_is_not_defined(trainer, self.val_metrics)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Computes and logs the metrics of a test."""
        super().on_test_epoch_end(trainer, pl_module)
        _say_what_is_not_defined(trainer, self.test_metrics)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Replaces what is raised where masks are missing by an error that names the images.

        Args:
            trainer: The trainer, whose datamodule is searched.
            pl_module: Not used.
            exception: What ended the run.

        Raises:
            ValueError: A defective image has no mask, or a mask no image.
        """
        del pl_module
        if isinstance(exception, ValueError | MisMatchError):
            require_masks(getattr(trainer, "datamodule", None))


def _say_what_is_not_defined(trainer: Trainer, metrics: Iterable[Any]) -> None:
    for metric in metrics:
        # All processes must take part in computing.
        if metric.update_called and metric.compute() is None and trainer.is_global_zero:
            kind = "images" if metric.fields == _IMAGE else "pixels"
            logger.warning("%s is not defined: no %s %s", metric.name, metric.missing, kind)
