"""Mistakes in the stock ``anomalib`` command, told before weights are loaded."""

import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from dual_image_clip.hooks.before_run import require_lasting_processes
from dual_image_clip.hooks.categories import category_fault, require_known_category
from dual_image_clip.hooks.distributed import require_image_for_each
from dual_image_clip.hooks.photo_data import PhotoFolder
from dual_image_clip.photos import find_photos

_MODEL = "DualImageCLIP"
_SEVERAL_CATEGORIES = re.compile(
    r"""class_path '(?P<datamodule>[^']+)':\s+Parser key "category":\s+Expected .*Got value: (?P<category>\[.*\])"""
)


def tell_mistakes_early(command: Any) -> None:
    """Has anomalib's command refuse at once what a run with this model would refuse later.

    Args:
        command: The class ``AnomalibCLI``, changed in place.
    """
    begin, instantiate = command.__init__, command.before_instantiate_classes

    def begin_with_explanations(self: Any, args: Sequence[str] | None = None, run: bool = True) -> None:
        self.init_parser = partial(_explaining_parser, command.init_parser, sys.argv[1:] if args is None else args)
        begin(self, args, run)

    def check_and_instantiate(self: Any) -> None:
        settings = self.config[self.subcommand]
        if _class_name(settings.get("model")) == _MODEL:
            _check(settings)
        instantiate(self)

    command.__init__, command.before_instantiate_classes = begin_with_explanations, check_and_instantiate


def predict_whole_folders(command: Any) -> None:
    """Has anomalib's command list a folder for this model as this package does; its own list ends at a link to nothing.

    Args:
        command: The class ``AnomalibCLI``, changed in place.
    """
    prepare = command._prepare_subcommand_kwargs

    def prepare_with_photos(self: Any, subcommand: str) -> dict[str, Any]:
        arguments: dict[str, Any] = prepare(self, subcommand)
        if subcommand == "predict" and type(arguments["model"]).__name__ == _MODEL and "data_path" in arguments:
            arguments["dataset"] = PhotoFolder(Path(arguments.pop("data_path")).resolve())
        return arguments

    command._prepare_subcommand_kwargs = prepare_with_photos


def _check(settings: Any) -> None:
    """Checks what can be told from the arguments of a command.

    Raises:
        ValueError: A run could only fail.
        FileNotFoundError: There are no such photos.
    """
    data, trainer = settings.get("data"), settings.get("trainer") or {}
    require_lasting_processes(trainer.get("strategy"))
    if _class_name(data):
        arguments = data.get("init_args") or {}
        require_known_category(resolve_name(data.class_path), arguments.get("category"), arguments.get("root"))
    elif isinstance(data, str | Path) and (devices := str(trainer.get("devices"))).isdigit():
        require_image_for_each(int(devices), len(find_photos(data).photos))


def _class_name(settings: Any) -> str:
    return str(getattr(settings, "class_path", "")).rpartition(".")[-1]


def _explaining_parser(make: Any, arguments: Sequence[str], **options: Any) -> Any:
    """A parser of the command in whose message a list of categories is explained."""
    parser = make(**options)
    parser.error = partial(_explain, parser.error, arguments)
    return parser


def _explain(error: Any, arguments: Sequence[str], message: str, cause: Exception | None = None) -> None:
    found = _SEVERAL_CATEGORIES.search(message)
    if found and any(_MODEL in argument or _MODEL in _text_of(argument) for argument in arguments):
        message = category_fault(resolve_name(found["datamodule"]), found["category"])
    error(message, cause)


def _text_of(argument: Any) -> str:
    """What a file of settings says, if an argument names one."""
    path = Path(str(argument).rpartition("=")[-1])
    return path.read_text(encoding="utf-8") if path.suffix in {".yaml", ".yml", ".json"} and path.is_file() else ""
