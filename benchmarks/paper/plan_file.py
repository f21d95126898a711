"""Reads what a benchmark run is to do from YAML and the command line."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from benchmarks.paper.plan import Plan, check_plan
from dual_image_clip.weights import EMBEDDED


def read_plan(path: Path, changes: list[str]) -> Plan:
    """Reads a run from YAML.

    Args:
        path: The file.
        changes: ``key=value`` of the command line, such as ``data.root=…`` or ``seeds=[0,1]``.

    Returns:
        The run.

    Raises:
        ValueError: A file is missing or no YAML, or a key or value is not what it should be.
    """
    try:
        changed = _parse_changes(changes)
        own = _load(path)
        included = [_load(path.parent / str(name)) for name in _included(own, path)]
        # Included files give their studies; all else is this file's.
        studies = OmegaConf.merge(*(OmegaConf.create({"studies": each.get("studies", {})}) for each in included), {})
        defaults = {"output": f"results/benchmarks/{path.stem}"}
        merged = OmegaConf.merge(OmegaConf.structured(Plan), studies, defaults, own, changed)
        plan: Any = OmegaConf.to_object(merged)
    except (OmegaConfBaseException, YAMLError) as error:
        key = getattr(error, "full_key", None)
        msg = f"{path}: {f'{key}: ' if key else ''}{' '.join(str(error).partition('full_key:')[0].split())}"
        raise ValueError(msg) from None
    if plan.backbone == EMBEDDED and plan.pretrained == Plan.pretrained:
        # As load_backbone has it: who names only the backbone has the default beside it.
        plan.pretrained = EMBEDDED
    try:
        check_plan(plan)
    except ValueError as error:
        msg = f"{path}: {error}"
        raise ValueError(msg) from None
    return plan


def _parse_changes(changes: list[str]) -> DictConfig:
    for change in changes:
        try:
            if "include" in OmegaConf.from_dotlist([change]):
                msg = f"{change}: include belongs into the file"
                raise ValueError(msg)
        except YAMLError as error:
            msg = f"{change}: {' '.join(str(error).split())}"
            raise ValueError(msg) from None
    return OmegaConf.from_dotlist(changes)


def _load(path: Path) -> DictConfig:
    if not path.is_file():
        msg = f"{path}: there is no such file"
        raise ValueError(msg)
    try:
        content = OmegaConf.load(path)
    except (YAMLError, OSError, UnicodeDecodeError) as error:
        msg = f"{path} cannot be read as YAML: {' '.join(str(error).split())}"
        raise ValueError(msg) from None
    if not isinstance(content, DictConfig):
        msg = f"{path}: expected key: value, got {type(content).__name__}"
        raise ValueError(msg)
    return content


def _included(own: DictConfig, path: Path) -> ListConfig:
    names = own.get("include") or ListConfig([])
    if not isinstance(names, ListConfig):
        msg = f"{path}: include is {names!r}; expected a list of YAML files"
        raise ValueError(msg)
    return names
