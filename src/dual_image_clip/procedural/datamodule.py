"""An anomalib datamodule that draws its own data set, once, and keeps it on disk in MVTec AD's layout."""

import hashlib
import json
import logging
import os
import tempfile
from pathlib import Path

import cv2
import numpy as np
import platformdirs
from anomalib.data.datamodules.base.image import AnomalibDataModule
from anomalib.data.datasets.image.mvtecad import MVTecADDataset
from anomalib.data.utils import Split, TestSplitMode, ValSplitMode
from numpy.typing import NDArray
from torchvision.transforms.v2 import Transform

from dual_image_clip.procedural.render import RENDERER_VERSION, Category

logger = logging.getLogger(__name__)


class Procedural(AnomalibDataModule):
    """Procedural images of one product, good and defective, with pixel masks.

    The images are drawn when they are first needed, which takes some seconds, and are the same on every machine for
    the same settings. Nothing is downloaded.

    Args:
        root: Folder that holds the drawn data sets. Defaults to the user's cache folder.
        category: What is drawn; see ``dual_image_clip.procedural.FAMILIES``.
        image_size: Height and width of the images in pixels.
        num_train: Number of good images for training.
        num_test_normal: Number of good images for testing.
        num_test_anomalous: Number of defective images for testing, shared among the category's defects.
        seed: Seed of the product, of its images and of anomalib's splits.
        train_batch_size: Training batch size.
        eval_batch_size: Validation and test batch size.
        num_workers: Number of workers of the dataloaders.
        train_augmentations: Augmentations of the training images.
        val_augmentations: Augmentations of the validation images.
        test_augmentations: Augmentations of the test images.
        augmentations: Augmentations where none are given for a stage.
        test_split_mode: How the test set is made.
        test_split_ratio: Fraction of the data to use for testing.
        val_split_mode: How the validation set is made.
        val_split_ratio: Fraction of the data to use for validation.

    Raises:
        ValueError: There is no such category, or a number is too small.

    Example:
        >>> datamodule = Procedural(category="gear")
        >>> datamodule.prepare_data()
        >>> datamodule.setup()
        >>> batch = next(iter(datamodule.test_dataloader()))
        >>> batch.image.shape
        torch.Size([32, 3, 240, 240])
    """

    def __init__(
        self,
        root: Path | str | None = None,
        category: str = "gear",
        image_size: int = 240,
        num_train: int = 64,
        num_test_normal: int = 64,
        num_test_anomalous: int = 64,
        seed: int = 0,
        train_batch_size: int = 32,
        eval_batch_size: int = 32,
        num_workers: int = 8,
        train_augmentations: Transform | None = None,
        val_augmentations: Transform | None = None,
        test_augmentations: Transform | None = None,
        augmentations: Transform | None = None,
        test_split_mode: TestSplitMode | str = TestSplitMode.FROM_DIR,
        test_split_ratio: float = 0.2,
        val_split_mode: ValSplitMode | str = ValSplitMode.SAME_AS_TEST,
        val_split_ratio: float = 0.5,
    ) -> None:
        counts = {
            "num_train": num_train,
            "num_test_normal": num_test_normal,
            "num_test_anomalous": num_test_anomalous,
        }
        for name, count in counts.items():
            if count < 1:
                msg = f"{name} must be at least 1, got {count}"
                raise ValueError(msg)
        super().__init__(
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            train_augmentations=train_augmentations,
            val_augmentations=val_augmentations,
            test_augmentations=test_augmentations,
            augmentations=augmentations,
            test_split_mode=test_split_mode,
            test_split_ratio=test_split_ratio,
            val_split_mode=val_split_mode,
            val_split_ratio=val_split_ratio,
            seed=seed,
        )
        self._product = Category(category, seed, image_size)
        self.root = Path(root) if root is not None else platformdirs.user_cache_path("dual-image-clip") / "procedural"
        self.category = category
        self._counts = counts

    @property
    def folder(self) -> Path:
        """Where this data set is, or will be: its settings and the renderer's version give the name."""
        settings = {
            "category": self._product.name,
            "image_size": self._product.image_size,
            "seed": self._product.seed,
            "renderer": RENDERER_VERSION,
            **self._counts,
        }
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        return self.root / f"{self._product.name}-{digest[:16]}"

    def prepare_data(self) -> None:
        """Draws the data set, unless it is there already.

        It appears under its name only when it is complete, so neither an interruption nor another process that draws
        the same can leave a part of it.
        """
        folder = self.folder
        if folder.is_dir():
            return
        logger.info("Drawing the procedural data set %s", folder)
        self.root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=self.root) as workshop:
            unfinished = Path(workshop) / folder.name
            write_dataset(self._product, unfinished / self._product.name, **self._counts)
            try:
                unfinished.rename(folder)
            except OSError:
                # Another process was faster; its images are the same.
                if not folder.is_dir():
                    raise

    def _setup(self, _stage: str | None = None) -> None:
        self.prepare_data()
        self.train_data = MVTecADDataset(split=Split.TRAIN, root=self.folder, category=self._product.name)
        self.test_data = MVTecADDataset(split=Split.TEST, root=self.folder, category=self._product.name)


def write_dataset(
    product: Category, folder: Path, num_train: int, num_test_normal: int, num_test_anomalous: int
) -> None:
    """Draws a data set in MVTec AD's layout.

    Args:
        product: What is drawn.
        folder: Where ``train``, ``test`` and ``ground_truth`` are made.
        num_train: Number of good images for training.
        num_test_normal: Number of good images for testing.
        num_test_anomalous: Number of defective images; image i has the category's defect i modulo their number.
    """
    for role, count in (("train", num_train), ("test", num_test_normal)):
        for index in range(count):
            _write_image(folder / role / "good" / f"{_number(index, count)}.png", product.normal(role, index))
    for index in range(num_test_anomalous):
        defect = product.defects[index % len(product.defects)]
        image, mask = product.anomalous("anomalous", index, defect)
        number = _number(index, num_test_anomalous)
        _write_image(folder / "test" / defect / f"{number}.png", image)
        _write(folder / "ground_truth" / defect / f"{number}_mask.png", mask.astype(np.uint8) * 255)


def _number(index: int, count: int) -> str:
    """The image's number in the file name; all are equally long, so that images and masks sort alike."""
    return str(index).zfill(max(3, len(str(count - 1))))


def _write_image(path: Path, image: NDArray[np.uint8]) -> None:
    _write(path, np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), np.uint8))


def _write(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(os.fspath(path), pixels):
        msg = f"cannot write {path}"
        raise OSError(msg)
