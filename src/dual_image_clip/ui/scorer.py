"""Scores sets of images, one set after the other, with one model."""

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import resize, to_pil_image

from dual_image_clip.hooks import LabelFreePostProcessor
from dual_image_clip.lightning_model import DualImageCLIP
from dual_image_clip.method import random_partners
from dual_image_clip.one_image import SCORING, encode_one, own_post_processor, score_one
from dual_image_clip.photos import UnusableFile, UnusableImageError, find_photos
from dual_image_clip.prediction import Outcome, Prediction, Sketch, decide, make_sketch, rank
from dual_image_clip.torch_model import EncodedImages
from dual_image_clip.ui.uploads import display_names, read_upload

_PHOTO_SIDE = 640

Progress = Callable[[float, str], object]
"""Told the share that is done, and what is being done."""


class _Encoded(NamedTuple):
    name: str
    photo: Tensor
    size: tuple[int, int]
    encoded: EncodedImages


class Scorer:
    """Scores a set of images as each other's references; of several callers, one after the other has its turn.

    Every set is scored as if it were the first: the model's randomness and its memory start anew.

    Args:
        model: What to score with. It must not be used otherwise.
    """

    def __init__(self, model: DualImageCLIP) -> None:
        self._model = model.eval()

    def __call__(self, paths: Sequence[str | Path], class_name: str, progress: Progress) -> Outcome:
        """Scores a set of images.

        Args:
            paths: Image files of any sizes; those that cannot be used are passed over.
            class_name: What they show.
            progress: Is told how far it is.

        Returns:
            What was found, with file names for paths.

        Raises:
            ValueError: The class name has no letters.
        """
        unusable: list[UnusableFile] = []
        # The model belongs to one set until the last of its images.
        with SCORING:
            progress(0, "Reading the class name")
            self._model.set_class_name(class_name)
            self._model.model.reset()
            post_processor = own_post_processor(self._model)
            images = list(self._encode(paths, unusable, progress))
            predictions = list(self._score(images, post_processor, progress))
        threshold = float(post_processor.current_threshold()) if post_processor.can_label() else None
        labelled = [each._replace(label=decide(each.score, threshold)) for each in predictions]
        return Outcome(rank(labelled), {"": threshold}, unusable, len(paths))

    def _encode(
        self, paths: Sequence[str | Path], unusable: list[UnusableFile], progress: Progress
    ) -> Iterator[_Encoded]:
        for index, (path, shown) in enumerate(zip(paths, display_names(paths), strict=True)):
            progress(0.5 * index / len(paths), f"Reading {shown}")
            try:
                listing = find_photos(path)
            except FileNotFoundError:
                unusable.append(UnusableFile(shown, "is no longer there: add it again"))
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
                yield _Encoded(name, _shrink(pixels), size, encode_one(self._model, pixels, name))

    def _score(
        self, images: Sequence[_Encoded], post_processor: LabelFreePostProcessor, progress: Progress
    ) -> Iterator[Prediction]:
        num_partners = max(0, min(self._model.model.references.num_references, len(images) - 1))
        generator = torch.Generator().manual_seed(self._model.seed)
        # Images of different sizes make no common batch, but serve each other as references all the same.
        for index, partners in enumerate(random_partners(len(images), num_partners, generator).tolist()):
            name, photo, size, encoded = images[index]
            progress(0.5 + 0.5 * index / len(images), f"Scoring {name}")
            references = [images[partner].encoded.patches for partner in partners]
            found = score_one(self._model, post_processor, encoded, references, size)
            sketch = _sketch(photo, found.anomaly_map)
            yield Prediction(name, found.score, decide(found.score, None), found.num_references, sketch)


def _shrink(pixels: Tensor) -> Tensor:
    height, width = pixels.shape[-2:]
    shrink = min(1.0, _PHOTO_SIDE / max(height, width))
    return resize(pixels, [max(1, round(height * shrink)), max(1, round(width * shrink))], antialias=True)


def _sketch(photo: Tensor, anomaly_map: Tensor) -> Sketch:
    """A sketch with a larger photo than a report's, because the page can enlarge it."""
    file = io.BytesIO()
    to_pil_image(photo.clamp(0, 1)).save(file, "JPEG", quality=90)
    return make_sketch(photo, anomaly_map)._replace(photo=file.getvalue())
