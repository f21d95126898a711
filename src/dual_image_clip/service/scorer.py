"""Scores the images of one request, with nothing of the requests before it but the golden samples."""

import base64
import io
from collections.abc import Sequence
from typing import Any, BinaryIO, NamedTuple

import torch

from dual_image_clip.golden_memory import GoldenMemory
from dual_image_clip.lightning_model import DualImageCLIP
from dual_image_clip.method import random_partners
from dual_image_clip.one_image import SCORING, encode_one, own_post_processor, score_one
from dual_image_clip.photos import TooManyPixelsError, UnusableImageError, nowhere, read_bytes
from dual_image_clip.prediction import sixteen_bits
from dual_image_clip.records import score_record
from dual_image_clip.threshold_file import ThresholdFileError
from dual_image_clip.torch_model import EncodedImages

_DIGITS = 6


class Upload(NamedTuple):
    """An image that was sent.

    Attributes:
        name: What its sender calls it; never a path.
        file: Its content.
    """

    name: str
    file: BinaryIO


class RefusedError(ValueError):
    """A request cannot be answered, told in one line that names the image it is for.

    Args:
        message: What is wrong.
        too_large: Whether an image is too large, rather than unreadable.
    """

    def __init__(self, message: str, too_large: bool = False) -> None:
        super().__init__(message)
        self.too_large = too_large


class ServiceScorer:
    """Scores requests, one after the other.

    The images of a request are each other's references, as many as the model takes, beside the golden samples. The
    model's randomness starts anew with each request. So the answer follows from the request and the golden samples.

    Args:
        model: What to score with, with a class name. It must not be used otherwise.
        most_pixels: Pixels that an image may have.
        min_area: Pixels of an image that a defect must have at least.

    Raises:
        ValueError: The model has no class name.
        GoldenImageError: It needs golden images, and has no folder to take them from.
    """

    def __init__(self, model: DualImageCLIP, most_pixels: int, min_area: int = 0) -> None:
        if model.class_name is None:
            msg = "the model does not know what the images show: give it a class name"
            raise ValueError(msg)
        self._model = model.eval()
        model.set_class_name(model.class_name)
        self._golden = GoldenMemory(model)
        self._post_processor = own_post_processor(model)
        self._most_pixels, self._min_area = most_pixels, min_area

    def predict(self, uploads: Sequence[Upload], with_maps: bool = False) -> list[dict[str, Any]]:
        """Scores the images of a request.

        Args:
            uploads: The images, at least one.
            with_maps: Whether to add anomaly maps.

        Returns:
            What :func:`~dual_image_clip.records.score_record` says of each, in the same order, and ``map``: a PNG of
            the image's size in base64, grey, of 16 bits, or ``None``. Without a threshold there are no labels.

        Raises:
            RefusedError: One of them cannot be taken, or there are too few for the thresholds that were calibrated.
        """
        partners = self._partners(len(uploads))
        with SCORING:
            self._model.model.reset()
            images = [self._encoded(index, uploads) for index in range(len(uploads))]
            return [self._record(index, uploads, images, partners[index], with_maps) for index in range(len(images))]

    def accept(self, uploads: Sequence[Upload]) -> list[bool]:
        """Makes images golden samples, all of them or none.

        Args:
            uploads: The images, known to be good.

        Returns:
            Whether each is new.

        Raises:
            RefusedError: One of them cannot be taken.
        """
        # All are looked at before the first is taken, and not kept: together they may not fit into memory.
        for index in range(len(uploads)):
            self._pixels(index, uploads)
        return [
            self._golden.accept(self._pixels(index, uploads), nowhere(upload.name))
            for index, upload in enumerate(uploads)
        ]

    def describe(self) -> dict[str, Any]:
        """Says what it scores with: ``class_name``, ``backbone``, ``threshold`` and number of ``golden`` samples."""
        known = self._post_processor.can_label()
        limit = round(float(self._post_processor.current_threshold()), _DIGITS) if known else None
        return {
            "class_name": self._model.class_name,
            "backbone": str(self._model.hparams["backbone"]),
            "threshold": limit,
            "golden": len(self._golden),
        }

    def _partners(self, count: int) -> list[list[int]]:
        wanted = self._model.model.references.num_references
        num_partners = min(wanted, count - 1)
        try:
            self._model.limits.require_num_references(num_partners)
        except ThresholdFileError as error:
            msg = f"the thresholds hold for images that are compared with {wanted} others: send at least {wanted + 1}"
            raise RefusedError(msg) from error
        generator = torch.Generator().manual_seed(self._model.seed)
        return random_partners(count, num_partners, generator).tolist()

    def _encoded(self, index: int, uploads: Sequence[Upload]) -> tuple[EncodedImages, tuple[int, int]]:
        pixels = self._pixels(index, uploads)
        encoded = encode_one(self._model, pixels, nowhere(uploads[index].name))
        return encoded, (pixels.shape[-2], pixels.shape[-1])

    def _pixels(self, index: int, uploads: Sequence[Upload]) -> torch.Tensor:
        upload = uploads[index]
        upload.file.seek(0)
        try:
            return read_bytes(upload.file.read(), upload.name, self._model.reader, self._most_pixels)
        except UnusableImageError as error:
            which = f"{upload.name} (image {index + 1} of {len(uploads)})"
            raise RefusedError(f"{which} {error.reason}", isinstance(error, TooManyPixelsError)) from error

    def _record(
        self,
        index: int,
        uploads: Sequence[Upload],
        images: Sequence[tuple[EncodedImages, tuple[int, int]]],
        partners: Sequence[int],
        with_maps: bool,
    ) -> dict[str, Any]:
        encoded, size = images[index]
        references = [images[partner][0].patches for partner in partners]
        # The rule for labels without a threshold would need images of other requests.
        self._post_processor.forget()
        found = score_one(self._model, self._post_processor, encoded, references, size, self._min_area)
        anomaly_map = None
        if with_maps:
            file = io.BytesIO()
            sixteen_bits(found.anomaly_map.float().cpu(), size).save(file, "PNG", compress_level=1)
            anomaly_map = base64.b64encode(file.getvalue()).decode()
        return {**score_record(uploads[index].name, found, size), "map": anomaly_map}
