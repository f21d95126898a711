"""Computes a thing once, and knows what each thing took and what it was made from."""

import time
from collections.abc import Callable, Hashable, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


class Memo:
    """Keeps what has been computed, by key.

    Attributes:
        seconds: What each thing took, without what it was made from.
    """

    def __init__(self) -> None:
        self.seconds: dict[Hashable, float] = {}
        self._values: dict[Hashable, Any] = {}
        self._made_from: dict[Hashable, set[Hashable]] = {}
        self._open: list[Hashable] = []
        self._spent_inside = 0.0

    def __call__(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Gives the thing of a key, which is computed the first time.

        Args:
            key: Its name.
            compute: Makes it; may ask for others.

        Returns:
            The thing.
        """
        if self._open:
            self._made_from[self._open[-1]].add(key)
        if key not in self._values:
            self._values[key] = self._compute(key, compute)
        return self._values[key]

    def _compute(self, key: Hashable, compute: Callable[[], T]) -> T:
        self._made_from[key] = set()
        self._open.append(key)
        before, self._spent_inside = self._spent_inside, 0.0
        start = time.perf_counter()
        try:
            return compute()
        finally:
            spent = time.perf_counter() - start
            self.seconds[key] = spent - self._spent_inside
            self._spent_inside = before + spent
            self._open.pop()

    def seconds_alone(self, keys: Iterable[Hashable]) -> float:
        """What some things would take where nothing is there yet: they, and all that they are made from, once each."""
        needed, waiting = set(), list(keys)
        while waiting:
            each = waiting.pop()
            if each not in needed:
                needed.add(each)
                waiting += self._made_from[each]
        return sum(self.seconds[each] for each in needed)

    def forget(self, is_done_with: Callable[[Hashable], bool]) -> None:
        """Drops things that are not needed any more; what they took stays known.

        Args:
            is_done_with: Says so of a key.
        """
        for key in [key for key in self._values if is_done_with(key)]:
            del self._values[key]
