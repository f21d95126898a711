"""What images show, in words; imports nothing that takes time."""

import re

DEFAULT_CLASS_NAME = "object"

_COMPOUNDS = {"chewinggum": "chewing gum"}


def class_name_from_category(category: str | None) -> str:
    """Turns the category of a data set into words that CLIP has read.

    Args:
        category: Name such as ``metal_nut``, ``pcb1`` or ``chewinggum``.

    Returns:
        ``metal nut``, ``pcb``, ``chewing gum``; ``object`` where there is no word in it.

    Example:
        >>> class_name_from_category("pipe_fryum")
        'pipe fryum'
    """
    words = re.sub(r"[\W\d_]+", " ", category or "").strip().lower()
    return _COMPOUNDS.get(words, words) or DEFAULT_CLASS_NAME


def require_class_name(class_name: str, argument: str = "class_name") -> None:
    """Refuses a class name that says nothing.

    Args:
        class_name: What the images show.
        argument: What a user calls it.

    Raises:
        ValueError: There is no letter in it.
    """
    if not any(character.isalpha() for character in class_name):
        msg = f"{argument} {class_name!r} has no letters: say in words what the images show, such as 'metal nut'"
        raise ValueError(msg)
