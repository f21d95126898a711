"""One evaluation in place of two, where anomalib validates on the very images that it then tests."""

from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from hashlib import sha256
from itertools import chain
from os import urandom
from pathlib import Path
from typing import Any, NamedTuple

import torch
from anomalib.data import InferenceBatch
from lightning import LightningModule, Trainer
from lightning.pytorch import Callback
from torch import Tensor

from dual_image_clip.callers import called_from
from dual_image_clip.hooks.evaluation import evaluated_image_paths, evaluation_datasets
from dual_image_clip.photos import file_of

# Those of anomalib's that validate and then test.
_ENGINE, _CALLS = "anomalib.engine.engine", ("test", "train")


class ScoresOnce:
    """Scores images that are validated and then tested once; to be mixed into a Lightning module."""

    @cached_property
    def _one_evaluation(self) -> "OneEvaluation":
        return OneEvaluation()

    def configure_callbacks(self) -> Sequence[Callback]:
        """Adds one that forgets what was kept when a run is over.

        Returns:
            This one, and those of the module.
        """
        components: Any = super().configure_callbacks()  # type: ignore[misc]
        return [self._one_evaluation, *components]

    def compare_once(self, images: Tensor, names: Sequence[str] | None, look_ahead: Any) -> Any:
        """Compares the images of a step as the model does, or says what it has said of them in the validation.

        Args:
            images: Images as the model takes them, ``(B, 3, H, W)``.
            names: Their names.
            look_ahead: Gives further images of the data set.

        Returns:
            The model's comparison.
        """
        return self._one_evaluation.compare(self, images, names, look_ahead)


class _Found(NamedTuple):
    """What a validation says of a batch.

    Attributes:
        key: Digest of all that it depends on.
        comparison: The model's, on the CPU and without anomaly maps.
    """

    key: bytes
    comparison: Any

    @property
    def num_images(self) -> int:
        """Number of images."""
        return len(self.comparison.patch_maps)


class OneEvaluation(Callback):
    """Keeps what the validation of a run says of its images, and says it again in the test that follows.

    anomalib validates a model that is not trained before it tests it, by default on the same images. What the scores of
    a batch depend on is its images, as the model gets them, all batches before it, the files of the data set, which the
    first batch looks ahead into, and the model with its settings. Where a digest of all these is the same, the scores
    are; from the first batch on whose digest is another one, everything is computed, as if nothing had been kept.

    The memory is 4 bytes an image and 4 bytes a patch: with the default backbone, 0.9 kB for each tile of an image; and
    during a test, its last images, two for each reference and at most a batch more. It is free again when the test ends
    or a run fails. Apart from ``Engine.test`` and ``Engine.train``, nothing is kept.
    """

    def __init__(self) -> None:
        self._found: list[_Found] = []
        self._keeps = False
        self._place = 0
        self._key = b""
        self._passed: deque[tuple[Any, ...]] = deque()

    @property
    def num_bytes(self) -> int:
        """Bytes of the scores and maps that are kept at this moment."""
        kept = ((each.comparison.predictions.pred_score, each.comparison.patch_maps) for each in self._found)
        return sum(tensor.untyped_storage().nbytes() for tensor in chain.from_iterable(kept))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Starts a run: a validation forgets what was kept, a test may use it."""
        del trainer, pl_module
        if stage != "test":
            self.forget()
        self._keeps = stage == "validate" and any(called_from(_ENGINE, each) for each in _CALLS)
        self._place, self._key = 0, b""

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Ends a run; only a validation leaves something for the test that follows."""
        del trainer, pl_module
        if stage != "validate":
            self.forget()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Ends a run that fails."""
        del trainer, pl_module, exception
        self.forget()

    def forget(self) -> None:
        """Frees what was kept."""
        self._found = []
        self._keeps = False
        self._passed.clear()

    def compare(self, module: Any, images: Tensor, names: Sequence[str] | None, look_ahead: Any) -> Any:
        """Compares the images of a step; see :meth:`ScoresOnce.compare_once`.

        Args:
            module: The Lightning module.
            images: Images as the model takes them, ``(B, 3, H, W)``.
            names: Their names.
            look_ahead: Gives further images of the data set.

        Returns:
            The model's comparison.
        """
        if not self._keeps and not self._found:
            return module.model.compare(images, names, look_ahead)
        self._key = digest_of_batch(self._key or digest_of_run(module), images, names)
        if self._keeps:
            compared = module.model.compare(images, names, look_ahead)
            self._found.append(_Found(self._key, _without_pixels(compared)))
            return compared
        if self._place < len(self._found) and self._found[self._place].key == self._key:
            return self._again(module.model, images, names, look_ahead)
        self._catch_up(module.model)
        return module.model.compare(images, names, look_ahead)

    def _again(self, model: Any, images: Tensor, names: Sequence[str] | None, look_ahead: Any) -> Any:
        kept = self._found[self._place].comparison
        self._place += 1
        self._passed.append((images, names, look_ahead))
        # Later batches, should they have to be computed, may be compared with the images of these.
        held = sum(len(each[0]) for each in self._passed)
        while self._passed and held - len(self._passed[0][0]) >= model.references.room:
            held -= len(self._passed.popleft()[0])
        patch_maps = kept.patch_maps.to(images.device)
        inspected = model.inspect(images, names)
        predictions = InferenceBatch(
            pred_score=kept.predictions.pred_score.to(images.device),
            anomaly_map=model.at_pixels(patch_maps, (images.shape[-2], images.shape[-1]), inspected),
        )
        pixels = inspected and inspected.pixels
        return kept._replace(predictions=predictions, patch_maps=patch_maps, inspected=pixels)

    def _catch_up(self, model: Any) -> None:
        """Brings a model into the state in which it would be, had it compared all batches so far."""
        model.reset()
        for each in self._found[: self._place - len(self._passed)]:
            model.pass_over(each.num_images)
        for batch in self._passed:
            model.compare(*batch)
        self.forget()


def digest_of_run(module: Any) -> bytes:
    """What the scores of a run depend on beside the pixels of its images.

    Args:
        module: A :class:`~dual_image_clip.DualImageCLIP` with a run under way.

    Returns:
        A digest of the model's weights, texts, golden images and settings, of the files of the run as their dates and
        sizes tell, and of the precision; where a data set does not list its files, one that never comes again.
    """
    model, trainer = module.model, module.trainer
    digest = sha256()
    for tensor in chain(model.parameters(), model.buffers()):
        digest.update(_bytes_of(tensor))
    settings = [_settings_of(each) for each in (*model.modules(), model.references, model.pseudo_anomalies)]
    listed = evaluated_image_paths(trainer)
    known = len(listed) == sum(len(each) for each in evaluation_datasets(trainer) if hasattr(each, "__len__"))
    files = [_state_of(each) for each in (*listed, *getattr(model.pseudo_anomalies, "textures", ()))]
    reading = module.reader, module.pre_processor
    arithmetic = trainer.precision, torch.get_float32_matmul_precision()
    everything = settings, model.get_extra_state().tolist(), reading, arithmetic, files if known else urandom(32)
    digest.update(repr(everything).encode())
    return digest.digest()


def digest_of_batch(before: bytes, images: Tensor, names: Sequence[str] | None) -> bytes:
    """What the scores of a batch depend on.

    Args:
        before: Digest of the batch before it, or for the first one of the run.
        images: Images as the model takes them, ``(B, 3, H, W)``.
        names: Their names.

    Returns:
        A digest of these, of their device and of autocasting.
    """
    kind = images.device.type
    arithmetic = images.device, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    digest = sha256(before)
    digest.update(repr((images.shape, images.dtype, arithmetic, names)).encode())
    digest.update(_bytes_of(images))
    return digest.digest()


def _without_pixels(compared: Any) -> Any:
    scores: Tensor = compared.predictions.pred_score
    # Copies, so that nothing larger is held, and nobody changes them.
    predictions = InferenceBatch(pred_score=scores.clone().cpu())
    return compared._replace(predictions=predictions, patch_maps=compared.patch_maps.clone().cpu(), inspected=None)


def _bytes_of(tensor: Tensor) -> Any:
    # NumPy does not know every type.
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()


def _settings_of(thing: Any) -> dict[str, Any]:
    # Settings are public; what is private changes in a run, as generators and notes of warnings do.
    return {name: value for name, value in vars(thing).items() if not name.startswith("_")}


def _state_of(photo: str | Path) -> tuple[str, int, int]:
    """Name, date and size of a photo's file; one that is not there is told when its turn comes."""
    with suppress(OSError):
        found = file_of(photo)[0].stat()
        return str(photo), found.st_mtime_ns, found.st_size
    return str(photo), 0, 0
