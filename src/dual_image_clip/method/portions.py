"""A batch of images, computed in portions where memory is short."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

# Of allocators of all devices, of CUDA's libraries and of oneDNN; not all of them raise errors of their own.
_SHORTAGES = (
    "out of memory",
    "not enough memory",
    "allocate memory",
    "ALLOC_FAILED",
    "could not create a primitive",
    "could not create a memory",
)


class NotEnoughMemoryError(MemoryError):
    """A batch cannot be scored in the memory that there is, told in one line that names what to lower."""


class Portions:
    """Computes something for every image of a batch: at once, or where memory is short in portions, down to one image.

    Portions that were computed stay. Later batches start with the size that has fitted. The first time, a warning tells
    what to set.
    """

    def __init__(self) -> None:
        self._most: int | None = None
        self._has_warned = False

    def __call__(self, count: int, compute: Callable[[slice], Result]) -> Result:
        """Computes a batch.

        Args:
            count: Number of images.
            compute: Gives the result for some rows of the batch, a tensor or a named tuple of tensors with as many
                rows; it must not depend on which others are computed with them.

        Returns:
            The result for all rows.

        Raises:
            NotEnoughMemoryError: Memory does not suffice for one image.
        """
        most = min(count, self._most or count)
        results: list[Result] = []
        start = 0
        while start < count or not results:
            stop = min(start + most, count)
            try:
                results.append(compute(slice(start, stop)))
                start = stop
            # What the error holds on to is free again when this clause is left.
            except (MemoryError, RuntimeError) as error:
                if not is_shortage(error):
                    raise
                if stop - start <= 1:
                    msg = (
                        "memory does not suffice for a single image: set adaptation_steps=0, lower image_size, "
                        "num_references and k_shot, cut long images into parts, or take a smaller backbone"
                    )
                    raise NotEnoughMemoryError(msg) from error
                most = self._most = (stop - start) // 2
        if most < count and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "Memory does not suffice for %d images at once: they are scored in portions of %d, with the same "
                "results. To save the failed attempts, set eval_batch_size=%d of the datamodule.",
                count,
                most,
                most,
            )
        return _joined(results)


def all_at_once(count: int, compute: Callable[[slice], Result]) -> Result:
    """Computes a batch as a whole, in place of :class:`Portions`."""
    del count
    return compute(slice(None))


@contextmanager
def blamed_on_batch_size(count: int) -> Iterator[None]:
    """Says what to lower where memory does not suffice for what the images of a batch have in common.

    Args:
        count: Number of images.

    Raises:
        NotEnoughMemoryError: Memory was short.
    """
    try:
        yield
    except NotEnoughMemoryError:
        raise
    except (MemoryError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        msg = f"memory does not suffice for a batch of {count} images: lower eval_batch_size of the datamodule"
        raise NotEnoughMemoryError(msg) from error


def is_shortage(error: BaseException) -> bool:
    """Whether an error says that memory, of whatever device, was short."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(each in str(error) for each in _SHORTAGES)


def _joined(results: list[Any]) -> Any:
    first = results[0]
    if len(results) == 1:
        return first
    if isinstance(first, Tensor):
        return torch.cat(results)
    columns = zip(*results, strict=True)
    return first._make(None if each[0] is None else torch.cat(each) for each in columns)
