"""Thresholds that were calibrated on known-good photos, as a file, with the settings that they hold for."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

FORMAT = 1
"""Number of the layout of a file of thresholds."""

_SETTINGS = (
    *("backbone", "pretrained", "image_size", "num_references", "aggregation", "k_shot"),
    *("lambda_1", "lambda_2", "lambda_3", "lambda_4", "lambda_5", "peak_share", "smooth"),
    *("adaptation_steps", "learning_rate", "beta", "temperature", "texture_dir", "value_range", "seed", "class_name"),
)
_DIGESTS = {"golden": "other golden images", "regions": "other regions"}


class ThresholdFileError(ValueError):
    """A file of thresholds cannot be used, told in one line that names it."""


@dataclass(frozen=True)
class Calibration:
    """Thresholds for a rate of false alarms, and what they were taken from.

    Attributes:
        threshold: Image score above which a photo is anomalous, in 0..1.
        map_threshold: Value of an anomaly map above which a pixel is anomalous, in 0..1.
        false_alarm_rate: Share of good photos that are expected above the threshold at most; and share of those that
            are expected to have any anomalous pixel.
        photos: Number of good photos that were scored.
        counted: Number of scores, independent of each other, that the thresholds were taken from.
        median: Median of the scores of all.
        suspicious: Photos, with their scores, that look defective among the others.
        settings: What scores depend on, see :func:`score_settings`.
    """

    threshold: float
    map_threshold: float
    false_alarm_rate: float
    photos: int
    counted: int
    median: float
    suspicious: tuple[tuple[str, float], ...]
    settings: Mapping[str, Any]

    def save(self, path: Path) -> None:
        """Writes the file, as a whole or not at all.

        Args:
            path: Where to.

        Raises:
            OSError: It cannot be written.
        """
        content = {"format": FORMAT, **asdict(self), "package_version": version("dual-image-clip")}
        unfinished = path.with_name(f"{path.name}.part")
        unfinished.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        unfinished.replace(path)


class Limits(NamedTuple):
    """The thresholds of a model.

    Attributes:
        image: Image score above which an image is anomalous, in 0..1; ``None`` where a rule decides.
        pixels: Value of an anomaly map above which a pixel is anomalous, in 0..1; ``None`` where ``image`` serves.
        source: File that they were read from, if any.
        settings: Settings that they hold for.
    """

    image: float | None = None
    pixels: float | None = None
    source: Path | None = None
    settings: Mapping[str, Any] = {}

    def require_class_name(self, class_name: str) -> None:
        """Refuses to judge other products.

        Args:
            class_name: What images show.

        Raises:
            ThresholdFileError: The thresholds were made for something else.
        """
        if self.source is not None and class_name != self.settings["class_name"]:
            raise _differs(self.source, "class_name", self.settings["class_name"], class_name)

    def require_num_references(self, count: int) -> None:
        """Refuses to judge images that are compared with another number of references.

        Args:
            count: Number of references besides golden images.

        Raises:
            ThresholdFileError: The thresholds were made with another number.
        """
        if self.source is not None and count != self.settings["num_references"]:
            raise _differs(self.source, "num_references", self.settings["num_references"], count)


def limits_from(threshold: float | str | Path | None, settings: Callable[[], Mapping[str, Any]]) -> Limits:
    """The thresholds that a model is given.

    Args:
        threshold: A number, a file of thresholds, or nothing.
        settings: Gives the model's own settings, see :func:`score_settings`.

    Returns:
        The thresholds.

    Raises:
        ThresholdFileError: The file cannot be read, or was made with other settings.
    """
    if not isinstance(threshold, str | Path):
        return Limits(threshold)
    path = Path(threshold)
    found = read_threshold_file(path)
    _require_same(path, found.settings, settings())
    return Limits(found.threshold, found.map_threshold, path, found.settings)


def score_settings(arguments: Mapping[str, Any], golden: Any, regions: Any) -> dict[str, Any]:
    """What the scores of a model depend on, as a file can hold it.

    Args:
        arguments: Arguments of :class:`~dual_image_clip.DualImageCLIP`.
        golden: Its golden images, of which the digest counts.
        regions: Its regions of inspection, of which the digest counts, unless there is one for each photo; or ``None``.

    Returns:
        Settings by name, of JSON's types.
    """
    # Has torch imported, which a command does without until its arguments are right.
    from dual_image_clip.regions import MaskFolder

    settings = {name: arguments[name] for name in _SETTINGS}
    settings["pretrained"] = _weights(settings["pretrained"])
    where = "one for each photo" if isinstance(regions, MaskFolder) else getattr(regions, "digest", None)
    digests = {"golden": golden.digest, "regions": where}
    plain: dict[str, Any] = json.loads(json.dumps({**settings, **digests}, default=str))
    return plain


def read_threshold_file(path: Path) -> Calibration:
    """Reads a file of thresholds.

    Args:
        path: The file.

    Returns:
        What it says.

    Raises:
        ThresholdFileError: There is none, it is nothing of the kind, or a value is missing or out of its range.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        msg = f"threshold file {path} cannot be read: {error.strerror or error}"
        raise ThresholdFileError(msg) from error
    except ValueError as error:
        raise _no_threshold_file(path, "it is not JSON") from error
    if not isinstance(content, dict) or "format" not in content:
        raise _no_threshold_file(path, "it has no 'format'")
    if content.pop("format") != FORMAT:
        msg = f"threshold file {path} was written by another version of dual-image-clip: calibrate again"
        raise ThresholdFileError(msg)
    content.pop("package_version", None)
    missing = sorted({*Calibration.__dataclass_fields__} - {*content})
    settings = content.get("settings")
    if not missing and isinstance(settings, dict):
        missing = [name for name in (*_SETTINGS, *_DIGESTS) if name not in settings]
    if missing or not isinstance(settings, dict):
        raise _no_threshold_file(path, f"it has no {', '.join(map(repr, missing)) or 'settings'}")
    for name in ("threshold", "map_threshold", "false_alarm_rate"):
        # JSON's truth values are no numbers, and NaN lies nowhere.
        if type(content[name]) not in {int, float} or not 0 <= content[name] <= 1:
            raise _no_threshold_file(path, f"its {name} is {content[name]!r}, which is no number in 0..1")
    return Calibration(**{name: content[name] for name in Calibration.__dataclass_fields__})


def _require_same(path: Path, made_with: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    for name in _SETTINGS:
        # A class name that comes later is looked at then.
        if made_with[name] != own[name] and not (name == "class_name" and own[name] is None):
            raise _differs(path, name, made_with[name], own[name])
    for name, what in _DIGESTS.items():
        if made_with[name] != own[name]:
            msg = f"{path} was made with {what} than there are here: use the same, or calibrate again"
            raise ThresholdFileError(msg)


def _differs(path: Path, name: str, made_with: Any, own: Any) -> ThresholdFileError:
    return ThresholdFileError(
        f"{path} was made with {name}={made_with!r}, and here it is {own!r}: use the same setting, or calibrate again"
    )


def _no_threshold_file(path: Path, reason: str) -> ThresholdFileError:
    return ThresholdFileError(
        f"{path} is no file of thresholds as dual-image-clip calibrate writes them: {reason}; calibrate again"
    )


def _weights(pretrained: Any) -> Any:
    """A tag, or what tells a file of weights from others, wherever it lies."""
    if pretrained is not None and (path := Path(pretrained)).is_file():
        return f"{path.name} of {path.stat().st_size} bytes"
    return pretrained
