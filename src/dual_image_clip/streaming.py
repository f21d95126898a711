"""Images that come one at a time, as from a camera.

Example:
    >>> from dual_image_clip import DualImageCLIP
    >>> from dual_image_clip.streaming import StreamingDetector
    >>> detector = StreamingDetector(DualImageCLIP(class_name="metal nut"), references=8)  # doctest: +SKIP
    >>> result = detector("photo.png")  # doctest: +SKIP
    >>> result.score, result.label  # doctest: +SKIP
"""

from collections import deque
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image
from torch import Tensor

from dual_image_clip.golden_memory import GoldenMemory
from dual_image_clip.lightning_model import DualImageCLIP
from dual_image_clip.one_image import SCORING, OneScore, encode_one, own_post_processor, score_one
from dual_image_clip.photos import PhotoReader, image_to_tensor


class StreamingResult(OneScore):
    """What a detector says about an image: a :class:`~dual_image_clip.one_image.OneScore`.

    Its anomaly map has the size that the image had before any resizing, float32, ``(H, W)``, on the CPU.
    """


class StreamingDetector:
    """Scores images one at a time, each against the most recent ones before it and the model's golden images.

    The first image is scored by text alone, unless there are golden ones. Whether an image is anomalous is decided by
    the threshold that the model was given or that ground truth has set, or else by the robust z-score of
    :class:`~dual_image_clip.hooks.post_processing.LabelFreePostProcessor`, over the images that this detector has seen.

    An image that is called anomalous and is not can be accepted, which makes it one more golden image of the model.
    Thresholds that were calibrated with references hold from the image on that has as many before it.

    Memory is bounded: patch tokens of ``references`` images, golden images as
    :class:`~dual_image_clip.golden_memory.GoldenMemory` has them, and two numbers for each of the last 10,000 images.

    Several threads may call one detector. Reading an image, pre-processing and the tower's pass run side by side;
    comparing with the images before it, adaptation and the label are behind a lock, one image after the other. So the
    results are those of calls one by one, in the order in which the images get there. All detectors of a process share
    the lock.

    Args:
        model: What to score with; its adaptation, weights, aggregation and golden images hold. It must not be used
            otherwise at the same time. Its randomness starts anew.
        references: How many of the most recent images each image is compared with; ``num_references`` of the model is
            for evaluations.
        min_area: Pixels of an image that a defect must have at least.

    Raises:
        ValueError: The model has no class name, ``references`` is negative, or the model's thresholds were calibrated
            with another number of references.
        TypeError: The model has a post-processor of another kind.
        GoldenImageError: The model needs golden images, and has no folder to take them from.
    """

    def __init__(self, model: DualImageCLIP, references: int = 8, min_area: int = 0) -> None:
        if references < 0:
            msg = f"references must be at least 0, got {references}"
            raise ValueError(msg)
        model.limits.require_num_references(references)
        _require_class_name(model)
        self._model = model.eval()
        self._min_area = min_area
        self._post_processor = own_post_processor(model)
        self._recent: deque[Tensor] = deque(maxlen=references)
        self._golden = GoldenMemory(model)
        model.model.reset()

    def __call__(
        self, image: str | Path | np.ndarray | Image.Image | Tensor, name: str | None = None
    ) -> StreamingResult:
        """Scores an image and keeps it as a reference for those to come.

        Args:
            image: Path of an image file, array ``(H, W, 3)`` of uint8 in RGB order, PIL image of any mode, or floating
                point tensor ``(3, H, W)`` in 0..1.
            name: What its user calls an image that is no path, such as the file that it was read from.

        Returns:
            The result.

        Raises:
            UnusableImageError: The file cannot be decoded, or the image is smaller than a patch.
            GoldenImageError: The file is one of the folder that golden images are drawn from. One that was accepted may
                come again; it is compared with itself, too, and scores the lower.
            ValueError: The image has another shape or range.
            TypeError: It is nothing of the kind.
        """
        name = _name_of(image) or name
        if name is not None:
            self._model.golden.require_apart_from([name])
        pixels = as_pixels(image, self._model.reader)
        self._model.reader.require_shape((pixels.shape[-2], pixels.shape[-1]), name)
        encoded = encode_one(self._model, pixels, name)
        with SCORING:
            size = (pixels.shape[-2], pixels.shape[-1])
            found = score_one(self._model, self._post_processor, encoded, list(self._recent), size, self._min_area)
            self._recent.append(encoded.patches)
        return StreamingResult(*found)._replace(anomaly_map=_at_size(found.anomaly_map, pixels))

    def accept(self, image: str | Path | np.ndarray | Image.Image | Tensor, name: str | None = None) -> bool:
        """Says that an image is good: all that are scored from now on are compared with it, too.

        It needs not have been scored before; if it was, it may be among the most recent ones as well, which does no
        harm.

        Args:
            image: As for a call.
            name: As for a call; it is saved under it.

        Returns:
            Whether it is new; a golden image is not added again.

        Raises:
            UnusableImageError: As for a call; nothing was changed.
            ValueError: The image has another shape or range.
            TypeError: It is nothing of the kind.
        """
        return self._golden.accept(as_pixels(image, self._model.reader), _name_of(image) or name)

    def save_golden(self, folder: str | Path) -> list[Path]:
        """Writes the accepted images into a folder, to begin with another time as the model's ``few_shot_source``.

        Args:
            folder: The folder; see :meth:`~dual_image_clip.golden_memory.GoldenMemory.save`.

        Returns:
            PNG files.

        Raises:
            OutputError: A file of somebody else's is in the place of one, or one cannot be written; the others are.
        """
        return self._golden.save(folder)


def as_pixels(image: str | Path | np.ndarray | Image.Image | Tensor, reader: PhotoReader) -> Tensor:
    """Turns an image of any form into a tensor.

    Args:
        image: As :class:`StreamingDetector` takes it.
        reader: Reads files.

    Returns:
        Image ``(3, H, W)`` in 0..1.

    Raises:
        UnusableImageError: The file cannot be decoded, or the image is smaller than a patch.
        ValueError: An array or tensor has another shape, type or range.
        TypeError: It is nothing of the kind.
    """
    match image:
        case str() | Path():
            return reader.read(image)
        case Image.Image():
            return image_to_tensor(image, reader.value_range)
        case np.ndarray():
            return _array_as_pixels(image)
        case Tensor():
            return _require_pixels(image)
    msg = f"image must be a path, a NumPy array, a PIL image or a tensor, got {type(image).__name__}"
    raise TypeError(msg)


def _name_of(image: object) -> str | None:
    return str(image) if isinstance(image, str | Path) else None


def _array_as_pixels(image: np.ndarray) -> Tensor:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:  # noqa: PLR2004
        msg = f"an array must have shape (H, W, 3) and type uint8, got {image.shape} and {image.dtype}"
        raise ValueError(msg)
    # The copy spares torch arrays that are read-only or run backwards, such as BGR turned into RGB.
    return torch.from_numpy(np.array(image, order="C")).permute(2, 0, 1).float() / 255


def _require_pixels(image: Tensor) -> Tensor:
    if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():  # noqa: PLR2004
        msg = f"a tensor must have shape (3, H, W) and a floating point type, got {tuple(image.shape)}, {image.dtype}"
        raise ValueError(msg)
    # Written so that NaN is refused, too.
    if image.numel() and not (image.min() >= 0 and image.max() <= 1):
        msg = f"a tensor's values must lie in 0..1, got {image.min().item():g}..{image.max().item():g}"
        raise ValueError(msg)
    return image.float()


def _require_class_name(model: DualImageCLIP) -> None:
    """Encodes a class name that was given to the constructor only."""
    if model.class_name is None:
        msg = 'the model does not know what the images show: call model.set_class_name("metal nut") or the like first'
        raise ValueError(msg)
    if torch.isnan(model.model.text_embeddings).any():
        model.set_class_name(model.class_name)


def _at_size(anomaly_map: Tensor, pixels: Tensor) -> Tensor:
    """Brings a map ``(h, w)`` to the size of an image ``(3, H, W)``."""
    height, width = pixels.shape[-2:]
    resized = F.interpolate(anomaly_map[None, None], (height, width), mode="bilinear", align_corners=False)
    return resized[0, 0].cpu()
