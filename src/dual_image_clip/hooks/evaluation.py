"""The data sets that a trainer is working on."""

import copy
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from anomalib.data import Folder, MVTecAD
from anomalib.data.utils import ValSplitMode
from lightning import Trainer
from torchvision.datasets.folder import IMG_EXTENSIONS

_MOST_NAMED = 5


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
    datasets = [loader.dataset for loader in loaders if hasattr(loader, "dataset")]
    # Those that are read here stand behind a data set of items or reasons.
    return [getattr(dataset, "original", dataset) for dataset in datasets]


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
                f"num_references={num_references}, but there are {len(dataset)} images: "
                f"set num_references to {len(dataset) - 1} or less"
            )
            raise ValueError(msg)


def do_without_validation(datamodule: Any) -> None:
    """Gives a datamodule that was told to have no validation images an empty set of them, which trainers pass over.

    Args:
        datamodule: Any; one of anomalib's with ``val_split_mode`` none is changed in place.
    """
    if getattr(datamodule, "val_split_mode", None) == ValSplitMode.NONE and not hasattr(datamodule, "val_data"):
        datamodule.val_data = copy.copy(datamodule.test_data)
        datamodule.val_data.samples = datamodule.test_data.samples[:0]


def require_masks(datamodule: Any) -> None:
    """Refuses defective images without a mask, and masks without an image.

    Args:
        datamodule: Any; of anomalib's, a ``Folder`` with masks and ``MVTecAD`` are looked at.

    Raises:
        ValueError: There are some.
    """
    faults = list(chain.from_iterable(_mask_faults(*each) for each in _images_and_masks(datamodule)))
    if faults:
        more = f" and {len(faults) - _MOST_NAMED} more" if len(faults) > _MOST_NAMED else ""
        msg = (
            f"{'; '.join(faults[:_MOST_NAMED])}{more}: each defective image needs one mask, the name of which holds "
            "that of the image"
        )
        raise ValueError(msg) from None


def _images_and_masks(datamodule: Any) -> Iterator[tuple[list[Path], list[Path]]]:
    if isinstance(datamodule, Folder) and datamodule.abnormal_dir and datamodule.mask_dir:
        folders = (datamodule.abnormal_dir, datamodule.mask_dir)
        images, masks = (_files(_resolved(each, datamodule.root), datamodule.extensions) for each in folders)
        yield images, masks
    elif isinstance(datamodule, MVTecAD):
        category = datamodule.root / datamodule.category
        for folder in sorted(category.glob("test/*")):
            if folder.name != "good":
                yield _files([folder]), _files([category / "ground_truth" / folder.name])


def _resolved(folders: Any, root: Any) -> list[Path]:
    return [Path(root or "", each) for each in ([folders] if isinstance(folders, str | Path) else folders)]


def _files(folders: Iterable[Path], extensions: tuple[str, ...] | None = None) -> list[Path]:
    found = chain.from_iterable(folder.rglob("*") for folder in folders)
    return sorted(path for path in found if path.suffix.lower() in (extensions or IMG_EXTENSIONS))


def _mask_faults(images: list[Path], masks: list[Path]) -> Iterator[str]:
    names = sorted({image.stem for image in images}, key=len, reverse=True)
    # Of image 1 and image 10, the mask 10_mask belongs to the latter.
    owners = {mask: next((name for name in names if name in mask.stem), None) for mask in masks}
    yield from (f"{image} has no mask" for image in images if image.stem not in owners.values())
    yield from (f"{mask} belongs to no image" for mask, owner in owners.items() if owner is None)
