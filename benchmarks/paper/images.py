"""The test images of one category, read through an anomalib datamodule and brought to one size."""

import importlib
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import anomalib.data
import torch
from anomalib.data import AnomalibDataModule
from anomalib.data.utils import ValSplitMode
from torch import Tensor
from torchvision.transforms.v2.functional import InterpolationMode, resize

from benchmarks.paper.plan import DataSettings
from dual_image_clip.class_names import DEFAULT_CLASS_NAME, class_name_from_category
from dual_image_clip.hooks import read_item
from dual_image_clip.photos import PhotoReader

_CATEGORIES = {
    "MVTecAD": "anomalib.data.datasets.image.mvtecad:CATEGORIES",
    "Visa": "anomalib.data.datasets.image.visa:CATEGORIES",
    "Procedural": "dual_image_clip.procedural:FAMILIES",
}


class CategoryImages(NamedTuple):
    """Test images of a category.

    Attributes:
        images: RGB in 0..1, ``(N, 3, H, W)``; the short side is the tower's.
        labels: Whether each is anomalous, boolean, ``(N,)``.
        masks: Where the defects are, boolean ``(N, H, W)``; ``None`` where the data set has no masks.
        paths: Files of the images.
        class_name: What they show, in words.
        known_good: Good images that are not among them, like ``images``; ``None`` where they are read when needed.
    """

    images: Tensor
    labels: Tensor
    masks: Tensor | None
    paths: list[str]
    class_name: str
    known_good: Tensor | None = None


def all_categories(data: DataSettings) -> list[str]:
    """The categories that are to be measured.

    Args:
        data: The images' settings.

    Returns:
        Their names; for a datamodule without categories, such as ``Folder``, its own name.

    Raises:
        ValueError: The datamodule is unknown, or it has categories that only its user knows, or none although some
            are named.
    """
    datamodule = find_datamodule(data.name)
    if data.categories:
        if not _has_categories(datamodule):
            msg = f"data.categories: {data.name} has none, so they would all be the same images"
            raise ValueError(msg)
        return list(data.categories)
    if data.name in _CATEGORIES:
        module, name = _CATEGORIES[data.name].split(":")
        return list(getattr(importlib.import_module(module), name))
    if _has_categories(datamodule):
        msg = f"data.categories: name the categories of {data.name} that are to be measured"
        raise ValueError(msg)
    return [str(data.arguments.get("name", data.name))]


def find_datamodule(name: str) -> type[AnomalibDataModule]:
    """Finds a datamodule of anomalib's or of this package, or by its dotted path.

    Args:
        name: Such as ``MVTecAD`` or ``my.package.MyData``.

    Returns:
        Its class.

    Raises:
        ValueError: There is none.
    """
    module, _, short = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module) if module else anomalib.data, short)
    except (ImportError, AttributeError, TypeError, ValueError):
        found = None
    if not (isinstance(found, type) and issubclass(found, AnomalibDataModule)):
        msg = f"data.name={name!r} is no anomalib datamodule; try MVTecAD, Visa, Folder or Procedural"
        raise ValueError(msg)
    return found


def load_images(data: DataSettings, category: str, size: int) -> CategoryImages:
    """Reads the test images of a category; a data set that is not there is downloaded or drawn by its datamodule.

    Args:
        data: The images' settings.
        category: The category.
        size: Length of the short side. Images of other aspect ratios are stretched to the largest, as anomalib does.

    Returns:
        The images.

    Raises:
        ValueError: There are no images, or not of both kinds.
        UnusableImageError: A file cannot be read.
    """
    datamodule = _make_datamodule(data, category)
    datamodule.prepare_data()
    datamodule.setup("test")
    dataset: Any = datamodule.test_data
    items = [_read(dataset, index, size) for index in range(len(dataset))]
    labels = torch.tensor([bool(item.gt_label) for item in items])
    if not labels.any() or labels.all():
        msg = f"{data.name} {category}: {len(labels)} test images, {int(labels.sum())} anomalous; both kinds are needed"
        raise ValueError(msg)
    height, width = (max(item.image.shape[axis] for item in items) for axis in (-2, -1))
    images = torch.stack([resize(item.image, [height, width], antialias=True) for item in items])
    masks = None
    if any(item.gt_mask is not None for item in items):
        masks = torch.stack([_mask(item.gt_mask, height, width) for item in items])
    class_name = class_name_from_category(category) if _has_categories(type(datamodule)) else DEFAULT_CLASS_NAME
    return CategoryImages(images, labels, masks, [item.image_path for item in items], class_name)


def load_golden_images(data: DataSettings, category: str, count: int, seed: int, image_size: tuple[int, int]) -> Tensor:
    """Reads some good images of the training set.

    Args:
        data: The images' settings.
        category: The category.
        count: Number of images.
        seed: Seed of the choice.
        image_size: Height and width of the test images.

    Returns:
        RGB in 0..1, ``(count, 3, H, W)``.

    Raises:
        ValueError: There are not so many.
        UnusableImageError: A file cannot be read.
    """
    datamodule = _make_datamodule(data, category)
    datamodule.prepare_data()
    datamodule.setup("fit")
    dataset: Any = datamodule.train_data
    if len(dataset) < count:
        msg = f"k_shot={count}, but {data.name} {category} has {len(dataset)} training images"
        raise ValueError(msg)
    chosen = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[:count].tolist()
    items = [_read(dataset, index, min(image_size)) for index in chosen]
    return torch.stack([resize(item.image, list(image_size), antialias=True) for item in items])


def _has_categories(datamodule: type[AnomalibDataModule]) -> bool:
    return "category" in inspect.signature(datamodule).parameters


def _make_datamodule(data: DataSettings, category: str) -> AnomalibDataModule:
    datamodule: Callable[..., AnomalibDataModule] = find_datamodule(data.name)
    arguments = dict(data.arguments)
    if data.root is not None:
        arguments["root"] = data.root
    parameters = inspect.signature(datamodule).parameters
    if "category" in parameters:
        arguments["category"] = category
    # Folder would keep one half of the test images, another in every process, for validation.
    for name, value in (("val_split_mode", ValSplitMode.NONE), ("seed", 0)):
        if name in parameters:
            arguments.setdefault(name, value)
    try:
        return datamodule(**arguments)
    except TypeError as error:
        msg = f"data.arguments: {data.name} does not take them ({error})"
        raise ValueError(msg) from None


def _read(dataset: Any, index: int, size: int) -> Any:
    item = read_item(dataset, index, PhotoReader())
    item.image = resize(item.image, [size], antialias=True)
    return item


def _mask(mask: Tensor | None, height: int, width: int) -> Tensor:
    if mask is None:
        return torch.zeros(height, width, dtype=torch.bool)
    nearest = InterpolationMode.NEAREST
    return resize(mask[None].to(torch.uint8), [height, width], interpolation=nearest)[0].bool()
