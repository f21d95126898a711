"""What a benchmark run is to do: studies, settings, data and seeds, read from YAML and the command line."""

import hashlib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from benchmarks.report.study import Study
from benchmarks.results import METRICS

OURS = "ours"
METHODS = ("clip", "winclip", "anoclip", "musc2", "musc", OURS)
PARTNERS = ("any", "normal", "anomalous")
ENGINES = ("local", "ray")


@dataclass
class Setting:
    """One way to score images: a row of a table, a point of a curve.

    Attributes:
        method: One of :data:`METHODS`.
        num_references: Partners of each image; for ``ours``.
        partners: Which images may be partners: ``any``, or by their label ``normal`` or ``anomalous`` (Fig. 5b).
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
    published: dict[str, Any] = field(default_factory=dict)
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
        class_name: What the images show; without one, the category.
        texture_dir: Folder of textures for the pseudo anomalies; without one, they are made from the image itself.
        batch_size: Images in a tower pass.
        examples: Images of each category on the sheet of heatmaps, half of them successes; 0 for none.
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
        changed = OmegaConf.from_dotlist(changes)
        own = _load(path)
        included = [_load(path.parent / name) for name in own.get("include", [])]
        # Included files give their studies; all else is this file's.
        studies = OmegaConf.merge(*(OmegaConf.create({"studies": each.get("studies", {})}) for each in included), {})
        defaults = {"output": f"results/benchmarks/{path.stem}"}
        merged = OmegaConf.merge(OmegaConf.structured(Plan), studies, defaults, own, changed)
        plan: Any = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        msg = f"{path}: {str(error).splitlines()[0]}"
        raise ValueError(msg) from None
    _check(plan, path)
    return plan


def _load(path: Path) -> DictConfig:
    if not path.is_file():
        msg = f"{path}: there is no such file"
        raise ValueError(msg)
    content = OmegaConf.load(path)
    if not isinstance(content, DictConfig):
        msg = f"{path}: expected key: value, got {type(content).__name__}"
        raise ValueError(msg)
    return content


def _check(plan: Plan, path: Path) -> None:
    for what, value, choices in (
        ("engine", plan.engine, ENGINES),
        *((f"studies.{name}.layout", study.layout, ("table", "curve")) for name, study in plan.studies.items()),
        *((f"{setting.key}.method", setting.method, METHODS) for setting in plan.settings.values()),
        *((f"{setting.key}.partners", setting.partners, PARTNERS) for setting in plan.settings.values()),
        *((f"studies.{name}.metrics", each, METRICS) for name, study in plan.studies.items() for each in study.metrics),
    ):
        if value not in choices:
            msg = f"{path}: {what} is {value!r}; expected one of {', '.join(choices)}"
            raise ValueError(msg)
    for what, number, least in (
        ("cpus", plan.cpus, 1),
        ("batch_size", plan.batch_size, 1),
        ("gpus", plan.gpus, 0),
        ("examples", plan.examples, 0),
        ("number of seeds", len(plan.seeds), 1),
        ("number of studies", len(plan.studies), 1),
        *((f"{setting.key}.num_references", setting.num_references, 0) for setting in plan.settings.values()),
        *((f"{setting.key}.adaptation_steps", setting.adaptation_steps, 0) for setting in plan.settings.values()),
    ):
        if number < least:
            msg = f"{path}: {what} is {number}; expected {least} or more"
            raise ValueError(msg)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
