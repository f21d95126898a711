"""What a benchmark run is to do: studies, settings, data and seeds."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field, fields
from itertools import chain
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf

from benchmarks.paper.results import METRICS
from dual_image_clip.method import AdaptationSettings, ReferenceSettings, ScoreWeights
from dual_image_clip.weights import EMBEDDED, EMBEDDED_WEIGHTS

OURS = "ours"
METHODS = ("clip", "winclip", "anoclip", "musc2", "musc", OURS)
PARTNERS = ("any", "normal", "anomalous")
LAYOUTS = ("table", "curve")
ENGINES = ("local", "ray")


@dataclass
class Setting:
    """One way to score images: a row of a table, a point of a curve.

    Attributes:
        method: One of :data:`METHODS`.
        num_references: Partners of each image; for ``ours``, as all that follows where nothing else is said.
        partners: Which images may be partners: ``any``, or by their label ``normal`` or ``anomalous`` (Fig. 5b).
        k_shot: Good training images that are references of every image, beside its partners.
        aggregation: How several references are taken together, as in the model.
        lambda_1: λ₁ of Eq. 12.
        lambda_2: λ₂ of Eq. 12.
        lambda_3: λ₃ of Eq. 13.
        lambda_4: λ₄ of Eq. 13.
        lambda_5: λ₅ of Eq. 13.
        peak_share: What the maxima of Eq. 13 are, as in the model.
        adaptation_steps: Steps of the test-time adaptation; for ``ours`` and ``anoclip``.
        learning_rate: AdamW's learning rate.
        beta: β of the adaptation's loss.
    """

    method: str = MISSING
    num_references: int = ReferenceSettings.num_references
    partners: str = "any"
    k_shot: int = ReferenceSettings.k_shot
    aggregation: str = ReferenceSettings.aggregation
    lambda_1: float = ScoreWeights.lambda_1
    lambda_2: float = ScoreWeights.lambda_2
    lambda_3: float = ScoreWeights.lambda_3
    lambda_4: float = ScoreWeights.lambda_4
    lambda_5: float = ScoreWeights.lambda_5
    peak_share: float = ScoreWeights.peak_share
    adaptation_steps: int = AdaptationSettings.steps
    learning_rate: float = AdaptationSettings.learning_rate
    beta: float = AdaptationSettings.beta

    @property
    def key(self) -> str:
        """Names the setting by all that changes its scores; equal settings of two studies are run once."""
        relevant = _RELEVANT.get(self.method, ())
        return f"{self.method}({', '.join(f'{name}={getattr(self, name)}' for name in relevant)})"

    @property
    def references(self) -> ReferenceSettings:
        """Number and aggregation of the references, as the model has them."""
        return ReferenceSettings(self.num_references, self.aggregation, self.k_shot)

    @property
    def weights(self) -> ScoreWeights:
        """λ₁ … λ₅ and the share of the peak as the model has them."""
        return ScoreWeights(self.lambda_1, self.lambda_2, self.lambda_3, self.lambda_4, self.lambda_5, self.peak_share)

    @property
    def adaptation(self) -> AdaptationSettings:
        """The adaptation as the model has it."""
        return AdaptationSettings(self.adaptation_steps, self.learning_rate, self.beta)


_RELEVANT = {
    OURS: tuple(each.name for each in fields(Setting) if each.name != "method"),
    "anoclip": ("adaptation_steps",),
}


@dataclass
class Study:
    """A table or a figure of the paper.

    Attributes:
        title: Its heading.
        layout: ``table``, or ``curve`` for a table with a figure.
        metrics: Which of :data:`~benchmarks.paper.results.METRICS` it shows, in the order of the columns.
        rows: Settings by the label that is shown, in order; a curve's labels are its x values.
        order: Chains of labels from worse to better, as in the paper, which the report checks.
        published: The paper's figures by data set, label and metric: per cent, or text such as "92.8 ± 0.2". Labels
            that are not in ``rows`` are quoted without a measurement.
        x_label: Name of a curve's x axis.
    """

    title: str = MISSING
    layout: str = "table"
    metrics: list[str] = field(default_factory=lambda: list(METRICS))
    rows: dict[str, Setting] = field(default_factory=dict)
    order: list[list[str]] = field(default_factory=list)
    published: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    x_label: str = ""

    def published_figure(self, dataset: str, label: str, metric: str) -> float | str | None:
        """The paper's figure as it is printed, or ``None`` where it has none."""
        return self.published.get(dataset, {}).get(label, {}).get(metric)

    def quoted_labels(self, dataset: str) -> list[str]:
        """Labels that only the paper has figures for on a data set."""
        return [label for label in self.published.get(dataset, {}) if label not in self.rows]


def as_number(value: float | str) -> float:
    """The number of a published value: of "92.8 ± 0.2", 92.8.

    Args:
        value: A number, or text that begins with one.

    Returns:
        The number.

    Raises:
        ValueError: The text does not begin with a number.
    """
    return float(value.partition("±")[0]) if isinstance(value, str) else float(value)


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
        batch_size: Tiles in a tower pass; an image of the tower's shape is one.
        examples: Images of each category on the sheet of heatmaps, half of them successes; 0 for none, else 2 or more.
        engine: ``local`` or ``ray``.
        ray_address: Address of a Ray cluster, ``auto`` for the one that this machine belongs to; without one, Ray is
            started on this machine.
        cpus: CPUs that a job on Ray asks for; a job is a category.
        gpus: GPUs that a job asks for; 0 stays on the CPU.
        output: Folder of results and report.
    """

    include: list[str] = field(default_factory=list)
    studies: dict[str, Study] = field(default_factory=dict)
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


def check_plan(plan: Plan) -> None:
    """Finds mistakes that would otherwise show hours later.

    Args:
        plan: The run.

    Raises:
        ValueError: A value is not what it should be; the message names it.
    """
    _check_choices(plan)
    _check_numbers(plan)
    _check_the_rest(plan)
    for name, study in plan.studies.items():
        for label, row in study.rows.items():
            _check_row(f"studies.{name}.rows.{label}", row)
        _check_labels_and_figures(name, study)


def _check_choices(plan: Plan) -> None:
    _require_choice("engine", plan.engine, ENGINES)
    for name, study in plan.studies.items():
        _require_choice(f"studies.{name}.layout", study.layout, LAYOUTS)
        for metric in study.metrics:
            _require_choice(f"studies.{name}.metrics", metric, METRICS)


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


def _check_row(name: str, row: Setting) -> None:
    _require_choice(f"{name}.method", row.method, METHODS)
    _require_choice(f"{name}.partners", row.partners, PARTNERS)
    try:
        _ = row.references, row.weights, row.adaptation
    except ValueError as error:
        msg = f"{name}: {error}"
        raise ValueError(msg) from None


def _check_labels_and_figures(name: str, study: Study) -> None:
    if unknown := set(chain(*study.order)) - set(study.rows):
        msg = f"studies.{name}.order names what is not in rows: {', '.join(sorted(unknown))}"
        raise ValueError(msg)
    quoted = [(label, figures) for labels in study.published.values() for label, figures in labels.items()]
    for _, figures in quoted:
        for metric, figure in figures.items():
            _require_choice(f"studies.{name}.published", metric, METRICS)
            _require_number(f"studies.{name}.published", figure)
    if study.layout == "curve":
        for label in (*study.rows, *(label for label, _ in quoted)):
            _require_number(f"a label of studies.{name}", label)


def _require_choice(what: str, value: str, choices: Collection[str]) -> None:
    if value not in choices:
        msg = f"{what} is {value!r}; expected one of {', '.join(choices)}"
        raise ValueError(msg)


def _require_number(what: str, value: Any) -> None:
    try:
        as_number(value)
    except (TypeError, ValueError):
        msg = f"{what}: {value!r} is not a number"
        raise ValueError(msg) from None


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
