"""Photos as data sets, read the same way wherever they come from."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from anomalib.data import AnomalibDataset, ImageBatch, ImageItem, PredictDataset
from torch.utils.data import Dataset
from torchvision.tv_tensors import Mask

from dual_image_clip.photos import (
    PhotoReader,
    UnusableFile,
    UnusableImageError,
    decoding,
    find_photos,
    open_photo,
    read_mask,
    require_photos,
)


class PhotoFolder(Dataset):
    """The photos of a folder and its subfolders, every page of a file one.

    Args:
        source: Folder, or a single file.

    Attributes:
        image_filenames: Photos in the order of their names.
        unusable: Files that are photos, but of no use.
        results: Folders of results of earlier runs, which were not searched.

    Raises:
        FileNotFoundError: There is no such folder or file.
        ValueError: There are no photos.
    """

    def __init__(self, source: str | Path) -> None:
        listing = find_photos(source)
        self.image_filenames: list[str] = require_photos(listing, source)
        self.unusable: list[UnusableFile] = listing.unusable
        self.results: list[str] = listing.results
        self.collate_fn = ImageBatch.collate

    def __len__(self) -> int:
        """Number of photos."""
        return len(self.image_filenames)

    def __getitem__(self, index: int) -> ImageItem:
        """Reads a photo.

        Raises:
            UnusableImageError: It cannot be used.
        """
        return read_item(self, index, PhotoReader())


def read_item(dataset: Any, index: int, reader: PhotoReader) -> Any:
    """Reads an item of a data set.

    Args:
        dataset: A data set of images, anomalib's or another that gives items with an ``image``.
        index: Place of the item.
        reader: Reads its image.

    Returns:
        The item.

    Raises:
        UnusableImageError: The photo cannot be used.
    """
    if isinstance(dataset, PhotoFolder | PredictDataset):
        name = str(dataset.image_filenames[index])
        image = reader.read(name)
        transform = getattr(dataset, "transform", None)
        return ImageItem(image=transform(image) if transform else image, image_path=name)
    if isinstance(dataset, AnomalibDataset):
        return _read_labelled(dataset, index, reader)
    with decoding(f"image {index}"):
        return dataset[index]


def _read_labelled(dataset: AnomalibDataset, index: int, reader: PhotoReader) -> Any:
    name = str(dataset.samples.iloc[index].image_path)
    own = reader.read(name) if reader.differs_from_stock(name) else None
    try:
        item: Any = dataset[index]
    except Exception:
        # Photo or mask: whichever of the two cannot be decoded is named.
        for file in filter(None, (name, dataset.samples.iloc[index].mask_path)):
            with open_photo(file) as image:
                image.load()
        raise
    if own is not None:
        # That of a good image is made in the size that the stock reader has found.
        mask = torch.zeros(own.shape[-2:], dtype=torch.uint8)
        if item.gt_mask is not None and item.gt_label:
            mask = read_mask(dataset.samples.iloc[index].mask_path, name)
        both: Any = (own, Mask(mask))
        item.image, mask = dataset.augmentations(*both) if dataset.augmentations else both
        item.gt_mask = None if item.gt_mask is None else mask
    return item


def name_of(dataset: Any, index: int) -> str:
    """What a user calls an item of a data set.

    Args:
        dataset: As in :func:`read_item`.
        index: Place of the item.
    """
    if isinstance(dataset, PhotoFolder | PredictDataset):
        return str(dataset.image_filenames[index])
    if isinstance(dataset, AnomalibDataset):
        return str(dataset.samples.iloc[index].image_path)
    return f"image {index}"


def unusable_items(dataset: Any, reader: PhotoReader) -> list[UnusableFile]:
    """Reads all items of a data set and tells which cannot be used.

    Args:
        dataset: As in :func:`read_item`.
        reader: Reads their images.
    """
    found = []
    for index in range(len(dataset)):
        try:
            read_item(dataset, index, reader)
        except UnusableImageError as error:
            found.append(UnusableFile(name_of(dataset, index), error.reason))
    return found


def unusable_photos(names: Iterable[str], reader: PhotoReader) -> list[UnusableFile]:
    """Reads photos and tells which cannot be used.

    Args:
        names: Image files.
        reader: Reads them.
    """
    found = []
    for name in names:
        try:
            reader.read(name)
        except UnusableImageError as error:
            found.append(UnusableFile(error.name, error.reason))
    return found
