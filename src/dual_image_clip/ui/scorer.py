"""Scores sets of images, one set after the other, with one model."""

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import resize, to_pil_image

from dual_image_clip.golden_memory import GoldenMemory
from dual_image_clip.hooks import LabelFreePostProcessor
from dual_image_clip.lightning_model import DualImageCLIP
from dual_image_clip.method import random_partners
from dual_image_clip.one_image import SCORING, encode_one, own_post_processor, score_one
from dual_image_clip.photos import UnusableFile, UnusableImageError, file_of, find_photos
from dual_image_clip.prediction import Outcome, Prediction, Sketch, decide, decide_all, make_sketch, rank
from dual_image_clip.torch_model import EncodedImages
from dual_image_clip.ui.uploads import display_names, find_upload, read_upload

_PHOTO_SIDE = 640
_GONE = "is no longer there: add it again"

Progress = Callable[[float, str], object]
"""Told the share that is done, and what is being done."""


class _Encoded(NamedTuple):
    name: str
    photo: Tensor
    size: tuple[int, int]
    encoded: EncodedImages


class Scorer:
    """Scores a set of images as each other's references; of several callers, one after the other has its turn.

    Every set is scored as if it were the first: the model's randomness and its memory start anew, and its golden
    samples are those that it was given, or those of the caller.

    Args:
        model: What to score with. It must not be used otherwise.
    """

    def __init__(self, model: DualImageCLIP) -> None:
        self._model = model.eval()
        self._golden = GoldenMemory(model)

    @property
    def num_golden(self) -> int:
        """Golden samples that every caller begins with."""
        return len(self._golden)

    @property
    def threshold(self) -> float | None:
        """Score above which images are anomalous, where that was decided before any was seen."""
        post_processor = own_post_processor(self._model)
        return float(post_processor.current_threshold()) if post_processor.can_label() else None

    @property
    def has_pixel_threshold(self) -> bool:
        """Whether pixels have a threshold of their own, such as a calibrated one."""
        return own_post_processor(self._model).has_pixel_threshold

    def own_golden(self) -> GoldenMemory:
        """The golden samples that every caller begins with, for a caller to add to."""
        with SCORING:
            self._golden.use()
            return GoldenMemory(self._model)

    def accept(self, golden: GoldenMemory, paths: Sequence[str | Path], name: str) -> bool:
        """Makes an image of a set a golden sample.

        Args:
            golden: The golden samples of a caller.
            paths: Image files of the set.
            name: The image, as the outcome has it.

        Returns:
            Whether it is new; a golden sample is not added again.

        Raises:
            UnusableImageError: It is no longer there, or cannot be used.
        """
        photo = find_upload(paths, name)
        if photo is None or not file_of(photo)[0].exists():
            raise UnusableImageError(name, _GONE)
        return golden.accept(read_upload(photo, self._model.reader), photo, name)

    def __call__(
        self,
        paths: Sequence[str | Path],
        class_name: str,
        progress: Progress,
        golden: GoldenMemory | None = None,
    ) -> Outcome:
        """Scores a set of images.

        Args:
            paths: Image files of any sizes; those that cannot be used are passed over.
            class_name: What they show.
            progress: Is told how far it is.
            golden: Golden samples of the caller; ``None`` for those that every caller begins with.

        Returns:
            What was found, with file names for paths.

        Raises:
            ValueError: The class name has no letters.
            ThresholdFileError: The model's thresholds were calibrated for another class name, or with more references
                than there are images.
        """
        unusable: list[UnusableFile] = []
        # The model belongs to one set until the last of its images.
        with SCORING:
            progress(0, "Reading the class name")
            self._model.set_class_name(class_name)
            self._model.model.reset()
            (self._golden if golden is None else golden).use()
            post_processor = own_post_processor(self._model)
            images = list(self._encode(paths, unusable, progress))
            predictions = list(self._score(images, post_processor, progress))
        decided, threshold = decide_all(predictions, post_processor)
        return Outcome(rank(decided), {"": threshold}, unusable, len(paths))

    def _encode(
        self, paths: Sequence[str | Path], unusable: list[UnusableFile], progress: Progress
    ) -> Iterator[_Encoded]:
        for index, (path, shown) in enumerate(zip(paths, display_names(paths), strict=True)):
            progress(0.5 * index / len(paths), f"Reading {shown}")
            try:
                listing = find_photos(path)
            except FileNotFoundError:
                unusable.append(UnusableFile(shown, _GONE))
                continue
            unusable.extend(each._replace(path=shown) for each in listing.unusable)
            if not listing.photos and not listing.unusable:
                unusable.append(UnusableFile(shown, "is of no format that is read, such as PNG, JPEG or TIFF"))
            for photo in listing.photos:
                name = shown + photo.removeprefix(str(path))
                try:
                    pixels = read_upload(photo, self._model.reader)
                except UnusableImageError as error:
                    unusable.append(UnusableFile(name, error.reason))
                    continue
                size = (pixels.shape[-2], pixels.shape[-1])
                # A mask may lie as the sensor does, which the file tells.
                yield _Encoded(name, _shrink(pixels), size, encode_one(self._model, pixels, photo))

    def _score(
        self, images: Sequence[_Encoded], post_processor: LabelFreePostProcessor, progress: Progress
    ) -> Iterator[Prediction]:
        num_partners = max(0, min(self._model.model.references.num_references, len(images) - 1))
        self._model.limits.require_num_references(num_partners)
        generator = torch.Generator().manual_seed(self._model.seed)
        # Images of different sizes make no common batch, but serve each other as references all the same.
        for index, partners in enumerate(random_partners(len(images), num_partners, generator).tolist()):
            name, photo, size, encoded = images[index]
            progress(0.5 + 0.5 * index / len(images), f"Scoring {name}")
            references = [images[partner].encoded.patches for partner in partners]
            found = score_one(self._model, post_processor, encoded, references, size)
            sketch = _sketch(photo, found.anomaly_map)
            label = decide(found.score, None)
            yield Prediction(name, found.score, label, found.num_references, sketch, size=size)


def _shrink(pixels: Tensor) -> Tensor:
    height, width = pixels.shape[-2:]
    shrink = min(1.0, _PHOTO_SIDE / max(height, width))
    return resize(pixels, [max(1, round(height * shrink)), max(1, round(width * shrink))], antialias=True)


def _sketch(photo: Tensor, anomaly_map: Tensor) -> Sketch:
    """A sketch with a larger photo than a report's, because the page can enlarge it."""
    file = io.BytesIO()
    to_pil_image(photo.clamp(0, 1)).save(file, "JPEG", quality=90)
    return make_sketch(photo, anomaly_map)._replace(photo=file.getvalue())
