"""What a benchmark run is to do: studies, settings, data and seeds, read from YAML and the command line."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from benchmarks.paper.report.study import Study
from benchmarks.paper.results import METRICS
from dual_image_clip.weights import EMBEDDED, EMBEDDED_WEIGHTS

OURS = "ours"
METHODS = ("clip", "winclip", "anoclip", "musc2", "musc", OURS)
PARTNERS = ("any", "normal", "anomalous")
AGGREGATIONS = ("minimum", "lowest_third", "median")
ENGINES = ("local", "ray")


@dataclass
class Setting:
    """One way to score images: a row of a table, a point of a curve.

    Attributes:
        method: One of :data:`METHODS`.
        num_references: Partners of each image; for ``ours``.
        partners: Which images may be partners: ``any``, or by their label ``normal`` or ``anomalous`` (Fig. 5b).
        k_shot: Good training images that are references of every image, beside its partners; for ``ours``.
        aggregation: How several references are taken together, as in the model.
        lambda_1: λ₁ of Eq. 12.
        lambda_2: λ₂ of Eq. 12.
        lambda_3: λ₃ of Eq. 13.
        lambda_4: λ₄ of Eq. 13.
        lambda_5: λ₅ of Eq. 13.
        adaptation_steps: Steps of the test-time adaptation; for ``ours`` and ``anoclip``.
        learning_rate: AdamW's learning rate; for ``ours``.
        beta: β of the adaptation's loss; for ``ours``.
    """

    method: str = MISSING
    num_references: int = 1
    partners: str = "any"
    k_shot: int = 0
    aggregation: str = "minimum"
    lambda_1: float = 1.0
    lambda_2: float = 1.5
    lambda_3: float = 1.0
    lambda_4: float = 1.0
    lambda_5: float = 1.0
    adaptation_steps: int = 2
    learning_rate: float = 0.001
    beta: float = 0.5

    @property
    def key(self) -> str:
        """Names the setting by all that changes its scores; equal settings of two studies are run once."""
        relevant = _RELEVANT.get(self.method, ())
        return f"{self.method}({', '.join(f'{name}={getattr(self, name)}' for name in relevant)})"


_RELEVANT = {
    OURS: tuple(each.name for each in fields(Setting) if each.name != "method"),
    "anoclip": ("adaptation_steps",),
}
_NUMBERS = tuple(each.name for each in fields(Setting) if each.type in {int, float, "int", "float"})


@dataclass
class StudySettings:
    """A table or a figure of the paper.

    Attributes:
        title: Its heading.
        layout: ``table`` or ``curve``.
        metrics: Which metrics it shows.
        rows: Settings by the label that is shown.
        order: Labels from worst to best, as in the paper, to be checked.
        published: The paper's figures in per cent: data set, label, metric.
        x_label: Of a curve.
    """

    title: str = MISSING
    layout: str = "table"
    metrics: list[str] = field(default_factory=lambda: list(METRICS))
    rows: dict[str, Setting] = field(default_factory=dict)
    order: list[list[str]] = field(default_factory=list)
    published: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    x_label: str = ""


@dataclass
class DataSettings:
    """The images.

    Attributes:
        name: A datamodule of anomalib's or of this package: ``MVTecAD``, ``Visa``, ``Folder``, ``Procedural``, ….
        root: Its folder; without one, the datamodule's own default.
        categories: Categories; all that there are without any.
        arguments: Further arguments of the datamodule.
    """

    name: str = "MVTecAD"
    root: str | None = None
    categories: list[str] | None = None
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass
class Plan:
    """A benchmark run.

    Attributes:
        include: Other YAML files whose studies are run, too; relative to this one.
        studies: Studies by name.
        data: The images.
        seeds: Seeds of pairing, pseudo anomalies and adapters.
        backbone: An architecture of open_clip, or the embedded checkpoint.
        pretrained: Its weights: tag, file, or the embedded checkpoint.
        class_name: What the images show; without one, the category, or "object" where the datamodule has none.
        texture_dir: Folder of textures for the pseudo anomalies; without one, they are made from the image itself.
        batch_size: Images in a tower pass.
        examples: Images of each category on the sheet of heatmaps, half of them successes; 0 for none, else 2 or more.
        engine: ``local`` or ``ray``.
        ray_address: Address of a Ray cluster, ``auto`` for the one that this machine belongs to; without one, Ray is
            started on this machine.
        cpus: CPUs that a job on Ray asks for; a job is a category.
        gpus: GPUs that a job asks for; 0 stays on the CPU.
        output: Folder of results and report.
    """

    include: list[str] = field(default_factory=list)
    studies: dict[str, StudySettings] = field(default_factory=dict)
    data: DataSettings = field(default_factory=DataSettings)
    seeds: list[int] = field(default_factory=lambda: list(range(6)))
    backbone: str = "ViT-B-16-plus-240"
    pretrained: str | None = "laion400m_e32"
    class_name: str | None = None
    texture_dir: str | None = None
    batch_size: int = 32
    examples: int = 8
    engine: str = "local"
    ray_address: str | None = None
    cpus: int = 1
    gpus: float = 0
    output: str = MISSING

    @property
    def settings(self) -> dict[str, Setting]:
        """All settings of all studies, each once, by key."""
        return {row.key: row for study in self.studies.values() for row in study.rows.values()}

    def studies_to_report(self) -> list[Study]:
        """The studies as the report wants them."""
        return [
            Study(
                name=name,
                title=study.title,
                layout=study.layout,
                metrics=tuple(study.metrics),
                rows={label: setting.key for label, setting in study.rows.items()},
                published=study.published,
                x_label=study.x_label,
                order=tuple(tuple(labels) for labels in study.order),
            )
            for name, study in self.studies.items()
        ]

    def description(self) -> str:
        """All that decides what a figure means; rows of other descriptions must not be mixed with this one's.

        Categories, seeds and settings are named in each row, so a run may be extended by more of them.
        """
        data = {"name": self.data.name, "root": self.data.root, "arguments": self.data.arguments}
        weights = Path(self.pretrained) if self.pretrained else None
        if self.pretrained == EMBEDDED:
            weights = EMBEDDED_WEIGHTS
        return OmegaConf.to_yaml(
            {
                "data": data,
                "backbone": self.backbone,
                "pretrained": self.pretrained,
                "weights": _digest(weights) if weights and weights.is_file() else None,
                "class_name": self.class_name,
                "texture_dir": self.texture_dir,
            }
        )


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
    names_a_file = plan.pretrained and (Path(plan.pretrained).suffix or Path(plan.pretrained).is_file())
    if plan.backbone == EMBEDDED and plan.pretrained and not names_a_file:
        # As load_backbone has it: a tag is ignored, for the embedded weights are the only ones there are.
        plan.pretrained = EMBEDDED
    _check(plan, path)
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


def _check(plan: Plan, path: Path) -> None:
    try:
        _check_choices(plan)
        _check_numbers(plan)
        _check_the_rest(plan)
        plan.studies_to_report()
    except ValueError as error:
        msg = f"{path}: {error}"
        raise ValueError(msg) from None


def _check_choices(plan: Plan) -> None:
    for what, value, choices in (
        ("engine", plan.engine, ENGINES),
        *((f"studies.{name}.layout", study.layout, ("table", "curve")) for name, study in plan.studies.items()),
        *((f"studies.{name}.metrics", each, METRICS) for name, study in plan.studies.items() for each in study.metrics),
        *((f"{name}.method", row.method, METHODS) for name, row in _rows(plan)),
        *((f"{name}.partners", row.partners, PARTNERS) for name, row in _rows(plan)),
        *((f"{name}.aggregation", row.aggregation, AGGREGATIONS) for name, row in _rows(plan)),
    ):
        if value not in choices:
            msg = f"{what} is {value!r}; expected one of {', '.join(choices)}"
            raise ValueError(msg)


def _check_numbers(plan: Plan) -> None:
    for what, number, least in (
        ("cpus", plan.cpus, 1),
        ("batch_size", plan.batch_size, 1),
        ("gpus", plan.gpus, 0),
        ("examples", plan.examples, 0),
        ("number of seeds", len(plan.seeds), 1),
        *(("seeds", seed, 0) for seed in plan.seeds),
        ("number of studies", len(plan.studies), 1),
        *((f"number of studies.{name}.rows", len(study.rows), 1) for name, study in plan.studies.items()),
        *((f"{name}.{each}", getattr(row, each), 0) for name, row in _rows(plan) for each in _NUMBERS),
    ):
        # So that NaN is refused, too.
        if not number >= least:
            msg = f"{what} is {number}; expected {least} or more"
            raise ValueError(msg)


def _check_the_rest(plan: Plan) -> None:
    for what, values in (("seeds", plan.seeds), ("data.categories", plan.data.categories or [])):
        if len(set(values)) < len(values):
            msg = f"{what} names something twice: {', '.join(map(str, values))}"
            raise ValueError(msg)
    if plan.examples == 1:
        msg = "examples is 1; expected 0, or 2 and more, of which half are successes"
        raise ValueError(msg)
    if plan.texture_dir is not None and not Path(plan.texture_dir).is_dir():
        msg = f"texture_dir is {plan.texture_dir!r}; there is no such folder"
        raise ValueError(msg)
    if plan.pretrained == EMBEDDED and plan.backbone != EMBEDDED:
        # load_backbone would take the embedded checkpoint, and the report would name the other.
        msg = f"backbone is {plan.backbone!r}, but pretrained is {EMBEDDED!r}; give pretrained a tag, a file or null"
        raise ValueError(msg)


def _rows(plan: Plan) -> Iterator[tuple[str, Setting]]:
    for name, study in plan.studies.items():
        for label, row in study.rows.items():
            yield f"studies.{name}.rows.{label}", row


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
