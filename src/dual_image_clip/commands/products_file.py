"""The YAML file of ``--products``: what is different for each product."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from dual_image_clip.commands.errors import CommandError


def _one(of: str) -> Any:
    """A key that may be left out, and what is expected of it."""
    return field(default=None, metadata={"expected": of})


@dataclass
class _Said:
    """What may be said about a product; the names are those of the options that it stands for."""

    class_name: str | None = _one("words")
    golden: str | None = _one("a folder")
    regions: str | None = _one("a file or a folder")
    threshold: int | float | str | None = _one("a number from 0 to 1, or a file")
    num_references: int | None = _one("a whole number, 0 or more")


_EXPECTED = {each.name: each.metadata["expected"] for each in fields(_Said)}
_PATHS = "golden", "regions", "threshold"


def read_products_file(path: Path) -> dict[str, dict[str, Any]]:
    """Reads what is said about products.

    Args:
        path: YAML file, ``products: {FOLDER: {class_name: …, golden: …, …}}``; its paths are relative to it.

    Returns:
        Options that were named, by product. An empty value, ``golden: null``, means that there is none.

    Raises:
        CommandError: The file cannot be read, or something in it is not what it should be.
    """
    return {name: _options(path, name, said) for name, said in _products(path).items()}


def _products(path: Path) -> Mapping[str, Any]:
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        content: Any = OmegaConf.load(path)
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        msg = f"--products {path} cannot be read as YAML: {reason}"
        raise CommandError(msg) from error
    products = content.get("products") if isinstance(content, DictConfig) else None
    if not isinstance(products, DictConfig) or len(content) > 1:
        msg = f"--products {path}: expected one key, products, with a key below it for each folder of a product"
        raise CommandError(msg)
    for name in products:
        if not isinstance(name, str):
            msg = f"--products {path}: products: {name!r} is read as a {type(name).__name__}: put quotes around it"
            raise CommandError(msg)
    return products


def _options(path: Path, product: str, said: Any) -> dict[str, Any]:
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    place = f"--products {path}: {product}"
    if said is None:
        return {}
    if not isinstance(said, DictConfig):
        msg = f"{place} is {said!r}; expected keys such as class_name"
        raise CommandError(msg)
    for key in said:
        if key not in _EXPECTED:
            near = difflib.get_close_matches(str(key), _EXPECTED, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(_EXPECTED)}"
            msg = f"{place} has a key {key!r}; {hint}"
            raise CommandError(msg)
    try:
        merged: Any = OmegaConf.merge(OmegaConf.structured(_Said), said)
        values = {str(key): merged[key] for key in said}
        wrong = next((key for key, value in values.items() if not _is_in_range(key, value)), None)
    except OmegaConfBaseException as error:
        wrong = str(error.key)
    if wrong is not None:
        found = OmegaConf.to_container(said).get(wrong)  # type: ignore[union-attr]
        msg = f"{place}.{wrong} is {found!r}; expected {_EXPECTED[wrong]}"
        raise CommandError(msg)
    return {key: _below(path.parent, value) if key in _PATHS else value for key, value in values.items()}


def _below(folder: Path, value: Any) -> Any:
    """A path relative to a folder; numbers and nothing stay as they are."""
    return folder / value if isinstance(value, str) else value


def _is_in_range(key: str, value: Any) -> bool:
    if not isinstance(value, int | float):
        return True
    return 0 <= value <= 1 if key == "threshold" else value >= 0
