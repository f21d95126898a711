"""Golden samples that are accepted while images are scored: this one is good."""

import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import resize, to_pil_image

from dual_image_clip.lightning_model import DualImageCLIP
from dual_image_clip.one_image import SCORING, encode_one
from dual_image_clip.photos import file_of
from dual_image_clip.prediction import OutputError, OutputFolder

MOST_GOLDEN_PIXELS = 4_000_000
"""Pixels of an accepted photo as it is kept and saved, several times what the model sees of it; larger ones shrink."""

# Of unit vectors; the same photo has the same tokens up to rounding.
_SAME_TOKENS = 1e-4


class _Sample(NamedTuple):
    """A golden sample: its patch tokens ``(N, D)``; if it was accepted here, its PNG file's name and content."""

    tokens: Tensor
    file: str | None = None
    picture: bytes = b""


class GoldenMemory:
    """The golden samples of a model, to which photos are added that somebody accepts as good.

    It begins with the golden samples that the model has, and changes those of the model: what is accepted counts from
    the next image on, in checkpoints and in exported files. Memory is bounded: when there are more samples than
    ``most``, the one leaves whose patches the others cover best, see :func:`most_redundant`; the newest always stays.

    Several threads may use one memory.

    Args:
        model: The model. Its own golden images are loaded first.
        most: Golden samples at the same time; as many as the model begins with, where those are more.

    Raises:
        ValueError: ``most`` is below 1.
        GoldenImageError: The model needs golden images, and has no folder to take them from.
    """

    def __init__(self, model: DualImageCLIP, most: int = 16) -> None:
        if most < 1:
            msg = f"most must be at least 1, got {most}"
            raise ValueError(msg)
        self._model = model
        with SCORING:
            model.load_golden_images()
            self._samples = [_Sample(tokens) for tokens in model.model.golden_tokens]
        self._most = max(most, len(self._samples))
        self._count = 0
        # Besides `SCORING`, so that nobody's score waits until it is found which sample leaves.
        self._changing = Lock()

    def __len__(self) -> int:
        """Number of golden samples, the model's own included."""
        return len(self._samples)

    @property
    def accepted(self) -> dict[str, bytes]:
        """PNG files of the photos that were accepted and are still golden samples, by their relative names."""
        return {each.file: each.picture for each in self._samples if each.file is not None}

    def accept(self, pixels: Tensor, name: str | None = None, shown: str | None = None) -> bool:
        """Makes a photo a golden sample at once.

        Args:
            pixels: Image ``(3, H, W)`` in 0..1.
            name: Its file, by which a folder of masks may have its region.
            shown: What its user calls it, under which it is saved; else the file.

        Returns:
            Whether it is new; a photo that is a golden sample already is not added again.

        Raises:
            UnusableImageError: The image is smaller than a patch, or there is no region of inspection for it. Nothing
                was changed.
        """
        self._model.reader.require_shape((pixels.shape[-2], pixels.shape[-1]), name)
        tokens = encode_one(self._model, pixels, name).patches[0]
        picture = _as_png(pixels)
        with self._changing:
            if any(_are_same(tokens, each.tokens) for each in self._samples):
                return False
            self._count += 1
            file = _file_name(shown or name or f"accepted_{self._count:04}", set(self.accepted))
            samples = [*self._samples, _Sample(tokens, file, picture)]
            if len(samples) > self._most:
                del samples[most_redundant([each.tokens for each in samples])]
            self._samples = samples
            self.use()
        return True

    def use(self) -> None:
        """Gives the samples to the model, for a model that serves several memories in turn."""
        with SCORING:
            self._model.model.set_golden_tokens([each.tokens for each in self._samples])

    def save(self, folder: str | Path) -> list[Path]:
        """Writes the accepted photos into a folder, from which ``few_shot_source`` or ``--golden`` takes them again.

        The folder may be the one that golden images come from, but none within it, which would not be searched. Photos
        that were saved there before and have left the memory since stay.

        Args:
            folder: The folder, which need not exist.

        Returns:
            Files, all of them PNG with 8 bits and at most :data:`MOST_GOLDEN_PIXELS`.

        Raises:
            OutputError: A file of somebody else's is in the place of one, or one cannot be written; the others are.
        """
        accepted = self.accepted
        output = OutputFolder(Path(folder))
        output.claim(accepted)
        try:
            for name, picture in accepted.items():
                output.write(name, partial(Path.write_bytes, data=picture))
        finally:
            output.release()
        if output.failures:
            raise OutputError(output.failures[0])
        return [output.folder / name for name in accepted]


def most_redundant(samples: Sequence[Tensor]) -> int:
    """Finds the golden sample that is missed least: whose patches have their like in the others.

    Args:
        samples: Patch tokens of length one of each sample, ``(N, D)``; N may differ. The last one, the newest, stays.

    Returns:
        Index of the one whose most special patch is least special: the one with the smallest largest cosine distance of
        a patch to the nearest patch of any other; of several, the first.

    Raises:
        ValueError: There are fewer than two samples.

    Example:
        >>> east, north = torch.eye(2).split(1)
        >>> most_redundant([north, east, east])
        1
    """
    if len(samples) < 2:  # noqa: PLR2004
        msg = f"there must be at least two samples, got {len(samples)}"
        raise ValueError(msg)
    nearest = [torch.full((len(each),), -1.0, device=each.device) for each in samples]
    for second, theirs in enumerate(samples):
        for first, ours in enumerate(samples[:second]):
            similarity = ours.float() @ theirs.float().T
            nearest[first] = nearest[first].maximum(similarity.amax(dim=1))
            nearest[second] = nearest[second].maximum(similarity.amax(dim=0))
    return int(torch.stack([each.amin() for each in nearest[:-1]]).argmax())


def _are_same(tokens: Tensor, others: Tensor) -> bool:
    return tokens.shape == others.shape and bool((tokens - others.to(tokens)).abs().max() < _SAME_TOKENS)


def _as_png(pixels: Tensor) -> bytes:
    """A photo ``(3, H, W)`` as a file of 8 bits, which no range of values applies to when it is read again."""
    height, width = pixels.shape[-2:]
    shrink = (MOST_GOLDEN_PIXELS / (height * width)) ** 0.5
    if shrink < 1:
        pixels = resize(pixels, [max(1, int(height * shrink)), max(1, int(width * shrink))], antialias=True)
    file = io.BytesIO()
    to_pil_image((pixels.clamp(0, 1) * 255).round().byte().cpu()).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _file_name(name: str, taken: set[str]) -> str:
    """A PNG's relative name, with the stem and the folder of a photo's by which its mask is found."""
    path = file_of(name)[0]
    folder = path.parent.name
    file = wanted = Path("" if folder == ".." else folder, f"{path.stem}.png").as_posix()
    number = 1
    while file.casefold() in map(str.casefold, taken):
        number += 1
        file = f"{number}/{wanted}"
    return file
