"""Models of one process that share the weights of their backbone."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")

# What was loaded so far, by its arguments; None where nothing is shared.
_loaded: ContextVar[dict[object, object] | None] = ContextVar("loaded", default=None)


@contextmanager
def sharing_weights() -> Iterator[None]:
    """Has models with the same backbone, weights and image size share them, as long as it lasts.

    They are moved between devices together, so one of them is to be used at a time.
    """
    token = _loaded.set({})
    try:
        yield
    finally:
        _loaded.reset(token)


def shareable(load: Callable[_P, _T]) -> Callable[_P, _T]:
    """Has a function that loads something do so once for each choice of arguments while weights are shared.

    Args:
        load: The function; its arguments can be hashed.
    """

    @wraps(load)
    def load_once(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        loaded = _loaded.get()
        if loaded is None:
            return load(*args, **kwargs)
        arguments = args, *sorted(kwargs.items())
        if arguments not in loaded:
            loaded[arguments] = load(*args, **kwargs)
        return loaded[arguments]  # type: ignore[return-value]

    return load_once
