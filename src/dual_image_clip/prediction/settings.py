"""Settings and versions that a run was made with, for its report."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from dual_image_clip.weights import EMBEDDED

_DEFAULT_TAG = "laion400m_e32"
_PACKAGES = ("dual-image-clip", "anomalib", "lightning", "open_clip_torch", "torch", "torchvision")


def settings_of(model: Any) -> dict[str, str]:
    """The arguments of a model, and the class name that was in use.

    Args:
        model: A :class:`~dual_image_clip.lightning_model.DualImageCLIP`.

    Returns:
        Values by name.
    """
    arguments = {**model.hparams, "class_name": model.class_name}
    if arguments["backbone"] == EMBEDDED and arguments["pretrained"] == _DEFAULT_TAG:
        # Who names only the embedded backbone has its weights.
        arguments["pretrained"] = EMBEDDED
    return {name: str(value) for name, value in arguments.items()}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a score depends on.

    Returns:
        Versions by name.
    """
    found = {"Python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
