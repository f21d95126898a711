"""Makes the stock anomalib command line, ``get_model`` and the benchmark pipeline know this package.

anomalib has no plugin entry point, so a ``.pth`` file at the root of the wheel calls :func:`install` when an
interpreter starts. That only puts a finder on ``sys.meta_path``; the work is done when, and only when, anomalib itself
is imported.
"""

import sys

# Every interpreter runs this file, so it imports nothing that is not loaded anyway; not even typing.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType
    from typing import Any

_COMMAND = "anomalib.cli.cli"
# anomalib module -> names it gains -> where this package defines them
_EXTENSIONS = {
    "anomalib.models": {"DualImageCLIP": "dual_image_clip.lightning_model"},
    "anomalib.data": {"Procedural": "dual_image_clip.procedural"},
    _COMMAND: {},
}


class _ExtensionFinder:
    """Finds an anomalib module as usual, and has it extended right after it was executed."""

    def find_spec(self, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None) -> "Any":
        if name not in _EXTENSIONS:
            return None
        for finder in sys.meta_path:
            if finder is self:
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    _extend_after_execution(spec.loader)
                return spec
        return None


def _extend_after_execution(loader: "Any") -> None:
    execute = loader.exec_module

    def execute_and_extend(module: "ModuleType") -> None:
        execute(module)
        _extend(module)

    loader.exec_module = execute_and_extend


def _extend(module: "ModuleType") -> None:
    """Gives an anomalib module the names it does not have, without ever breaking its import."""
    if module.__name__ == "anomalib.data" and not hasattr(module, "MVTec"):
        setattr(module, "MVTec", _under_its_older_name(module))  # noqa: B010
    for name, home in _EXTENSIONS[module.__name__].items():
        if hasattr(module, name):
            continue
        if home in sys.modules:
            # Our module is being imported and has caused this import: its names are not there yet.
            _resolve_on_access(module)
            continue
        try:
            setattr(module, name, _load(home, name))
        except Exception as error:
            _tell_failure(name, error)
    if module.__name__ == _COMMAND:
        from functools import partial

        try:
            _load("dual_image_clip.hooks", "tell_mistakes_early")(module.AnomalibCLI)
            _load("dual_image_clip.hooks", "predict_whole_folders")(module.AnomalibCLI)
            setattr(module, "main", partial(_load("dual_image_clip.mistakes", "run"), module.main))  # noqa: B010
        except Exception as error:
            _tell_failure("its checks", error)


def _tell_failure(name: str, error: Exception) -> None:
    import logging

    logging.getLogger(__name__).warning("dual-image-clip could not add %s to anomalib: %s", name, error)


def _under_its_older_name(data: "ModuleType") -> type:
    """MVTec AD as it was called in anomalib 1.x, so that ``anomalib test --data MVTec`` still works."""
    documentation = "MVTec AD under its name of anomalib 1.x; arguments are those of ``MVTecAD``."
    return type("MVTec", (data.MVTecAD,), {"__module__": data.__name__, "__doc__": documentation})


def _resolve_on_access(module: "ModuleType") -> None:
    homes = _EXTENSIONS[module.__name__]

    def resolve(name: str) -> "Any":
        if name in homes:
            return _load(homes[name], name)
        msg = f"module {module.__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)

    setattr(module, "__getattr__", resolve)  # noqa: B010


def _load(module: str, name: str) -> "Any":
    from importlib import import_module

    return getattr(import_module(module), name)


def install() -> None:
    """Registers the finder; a second call, and a call after anomalib was imported, are safe."""
    if any(isinstance(finder, _ExtensionFinder) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, _ExtensionFinder())
    for name in _EXTENSIONS:
        if name in sys.modules:
            _extend(sys.modules[name])
