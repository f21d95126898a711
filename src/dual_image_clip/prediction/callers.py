"""Who has started a run, where a trainer does not tell."""

from traceback import walk_stack


def called_from(module: str, function: str) -> bool:
    """Whether a function is under way.

    Args:
        module: Name of its module.
        function: Its name.
    """
    return any(
        frame.f_globals.get("__name__") == module and frame.f_code.co_name == function for frame, _ in walk_stack(None)
    )
