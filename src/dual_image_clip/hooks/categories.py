"""The categories of known data sets."""

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any


def require_known_category(datamodule: type, category: Any, root: Any) -> None:
    """Refuses a category that neither the data set has nor its folder, before somebody tries to download it.

    Args:
        datamodule: Class of the datamodule; any, those of anomalib's with a list of categories are looked at.
        category: What is asked for.
        root: Folder of the data set, or ``None``.

    Raises:
        ValueError: There is no such category, or several are asked for.
    """
    known = _known_categories(datamodule)
    if not known or category in known or (isinstance(category, str) and _has_folder(root, category)):
        return
    raise ValueError(category_fault(datamodule, category))


def category_fault(datamodule: type, category: Any) -> str:
    """What is wrong with a category that a data set does not have, and what there is.

    Args:
        datamodule: Class of the datamodule.
        category: What is asked for.

    Returns:
        One line.
    """
    known = _known_categories(datamodule)
    there_are = f"There are: {', '.join(known)}"
    text = str(category)
    if text.lower() == "all" or "," in text or text.startswith("["):
        return (
            f"category={text}: a run has one category of {datamodule.__name__}; `anomalib benchmark --config "
            f"{_config_of_all(datamodule)}` goes through several, and so does `python -m benchmarks.paper`, beside the "
            f"paper's figures, see docs/paper.md. {there_are}"
        )
    nearest = get_close_matches(text.lower(), known, 1)
    hint = f"; did you mean {nearest[0]}?" if nearest else "."
    return f"category={text} is none of {datamodule.__name__}, nor a folder of its root{hint} {there_are}"


def _config_of_all(datamodule: type) -> str:
    """A file of this project's that names all categories of a data set, or another to be changed."""
    is_visa = any(each.__name__ == "Visa" for each in datamodule.__mro__)
    return f"configs/benchmarks/all_categories_{'visa' if is_visa else 'mvtec'}.yaml"


def _known_categories(datamodule: type) -> Sequence[str]:
    """Those that anomalib lists beside the data set of a datamodule, or of one that it extends."""
    for each in datamodule.__mro__:
        dataset = sys.modules.get(each.__module__.replace("anomalib.data.datamodules.", "anomalib.data.datasets."))
        if categories := getattr(dataset, "CATEGORIES", None):
            return categories
    return ()


def _has_folder(root: Any, category: str) -> bool:
    # Of own images in the layout of a known data set; VisA's are one folder further down.
    return root is not None and any((each / category).is_dir() for each in (Path(root), *Path(root).glob("*")))
