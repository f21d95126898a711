"""Scores sets of images, one set after the other, with one model."""

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import torch
from anomalib.data import ImageBatch
from torch import Tensor
from torchvision.transforms.v2.functional import resize, to_pil_image

from dual_image_clip.lightning_model import DualImageCLIP
from dual_image_clip.method import random_partners
from dual_image_clip.prediction.predictions import Outcome, Prediction, UnusableFile, decide, rank
from dual_image_clip.prediction.sketch import Sketch, make_sketch
from dual_image_clip.torch_model import EncodedImages
from dual_image_clip.ui.uploads import UnusableUploadError, display_names, read_upload

_PHOTO_SIDE = 640

Progress = Callable[[float, str], object]
"""Told the share that is done, and what is being done."""


class _Encoded(NamedTuple):
    name: str
    photo: Tensor
    encoded: EncodedImages


class Scorer:
    """Scores a set of images as each other's references; of several callers, one after the other has its turn.

    Every set is scored as if it were the first: the model's randomness and its memory start anew.

    Args:
        model: What to score with. It must not be used otherwise.
    """

    def __init__(self, model: DualImageCLIP) -> None:
        self._model = model.eval()
        self._lock = Lock()

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
        with self._lock:
            progress(0, "Reading the class name")
            self._model.set_class_name(class_name)
            self._model.model.reset()
            self._post_processor.forget()
            images = list(self._encode(paths, unusable, progress))
            predictions = list(self._score(images, progress))
            threshold = float(self._post_processor.current_threshold()) if self._post_processor.can_label() else None
        labelled = [each._replace(label=decide(each.score, threshold)) for each in predictions]
        return Outcome(rank(labelled), threshold, unusable, len(paths))

    @property
    def _post_processor(self) -> Any:
        return self._model.post_processor

    def _encode(
        self, paths: Sequence[str | Path], unusable: list[UnusableFile], progress: Progress
    ) -> Iterator[_Encoded]:
        model = self._model.model
        for index, (path, name) in enumerate(zip(paths, display_names(paths), strict=True)):
            progress(0.5 * index / len(paths), f"Reading {name}")
            try:
                pixels = read_upload(Path(path), model.encoder.patch_size)
            except UnusableUploadError as error:
                unusable.append(UnusableFile(name, str(error)))
                continue
            encoded = model.encode(self._model.pre_process(pixels.unsqueeze(0)))
            yield _Encoded(name, _shrink(pixels), encoded)

    def _score(self, images: Sequence[_Encoded], progress: Progress) -> Iterator[Prediction]:
        model = self._model.model
        num_partners = max(0, min(model.references.num_references, len(images) - 1))
        generator = torch.Generator().manual_seed(self._model.seed)
        # Images of different sizes make no common batch, but serve each other as references all the same.
        for index, partners in enumerate(random_partners(len(images), num_partners, generator).tolist()):
            name, photo, encoded = images[index]
            progress(0.5 + 0.5 * index / len(images), f"Scoring {name}")
            scored = model.score(encoded, [images[partner].encoded.patches for partner in partners])
            batch: Any = ImageBatch(image=encoded.images, **scored._asdict())
            self._post_processor.post_process_batch(batch)
            yield Prediction(
                path=name,
                score=float(batch.pred_score),
                label="undecided",
                num_references=num_partners + model.num_golden,
                sketch=_sketch(photo, batch.anomaly_map.squeeze()),
            )


def _shrink(pixels: Tensor) -> Tensor:
    height, width = pixels.shape[-2:]
    shrink = min(1.0, _PHOTO_SIDE / max(height, width))
    return resize(pixels, [max(1, round(height * shrink)), max(1, round(width * shrink))], antialias=True)


def _sketch(photo: Tensor, anomaly_map: Tensor) -> Sketch:
    """A sketch with a larger photo than a report's, because the page can enlarge it."""
    file = io.BytesIO()
    to_pil_image(photo.clamp(0, 1)).save(file, "JPEG", quality=90)
    return make_sketch(photo, anomaly_map)._replace(photo=file.getvalue())
