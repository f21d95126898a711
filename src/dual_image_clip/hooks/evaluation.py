"""The data sets that a trainer is working on, and what is measured on them."""

from typing import Any

from anomalib.metrics import AUPR, AUPRO, AUROC, AnomalibMetric, F1Max
from lightning import Trainer

_IMAGE = ("pred_score", "gt_label")
_PIXEL = ("anomaly_map", "gt_mask")


def paper_metrics() -> list[AnomalibMetric]:
    """The paper's six metrics (section 4.1), each where there are labels or masks for it."""
    return [
        *(metric(fields=_IMAGE, prefix="image_", strict=False) for metric in (AUROC, F1Max, AUPR)),
        *(metric(fields=_PIXEL, prefix="pixel_", strict=False) for metric in (AUROC, F1Max, AUPRO)),
    ]


def evaluation_datasets(trainer: Trainer) -> list[Any]:
    """The data sets that a trainer is validating, testing or predicting with.

    Args:
        trainer: A trainer with a run under way.

    Returns:
        Data sets, possibly none.
    """
    loaders = {
        "validate": trainer.val_dataloaders,
        "test": trainer.test_dataloaders,
        "predict": trainer.predict_dataloaders,
    }.get(str(trainer.state.fn.value) if trainer.state.fn else "", [])
    loaders = loaders if isinstance(loaders, list | tuple) else [loaders]
    return [loader.dataset for loader in loaders if hasattr(loader, "dataset")]


def evaluated_image_paths(trainer: Trainer) -> list[str]:
    """Image files of the data sets that a trainer is working on.

    Args:
        trainer: A trainer with a run under way.

    Returns:
        Paths, in the order of the data sets.
    """
    paths: list[str] = []
    for dataset in evaluation_datasets(trainer):
        if hasattr(dataset, "image_filenames"):
            paths += [str(path) for path in dataset.image_filenames]
        elif hasattr(dataset, "samples"):
            paths += [str(path) for path in dataset.samples["image_path"]]
    return paths


def require_enough_images(trainer: Trainer, num_references: int) -> None:
    """Refuses to compare images with more others than there are.

    Args:
        trainer: A trainer with a run under way.
        num_references: Unlabelled images that each is compared with.

    Raises:
        ValueError: A data set has not so many; a single image is scored without reference.
    """
    for dataset in evaluation_datasets(trainer):
        if hasattr(dataset, "__len__") and num_references > max(1, len(dataset) - 1):
            msg = (
                f"num_references={num_references}, but {type(dataset).__name__} has {len(dataset)} images: "
                f"set num_references to {len(dataset) - 1} or less"
            )
            raise ValueError(msg)
