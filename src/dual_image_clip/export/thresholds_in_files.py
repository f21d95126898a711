"""The thresholds in an exported file, which can be changed without a new export."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dual_image_clip.export.decision import STAND_INS, Decision, Thresholds, thresholds_of
from dual_image_clip.prediction import OutputFolder
from dual_image_clip.threshold_file import ThresholdFileError, read_threshold_file

# Half the digits of a float16, in which OpenVINO may keep a constant.
_ABOUT = 1e-3
# anomalib's own word for it.
_TRUSTED = "TRUST_REMOTE_CODE"


def set_threshold(path: str | Path, threshold: float | str | Path, map_threshold: float | None = None) -> None:
    """Changes the thresholds of an exported file; its scores and maps stay the same, labels and masks follow.

    A torch file is unpickled, which runs code that is in it: as for anomalib's ``TorchInferencer``, the environment
    variable ``TRUST_REMOTE_CODE=1`` has to say that it is trusted.

    Args:
        path: The file: ``.onnx``, ``.pt``, or OpenVINO's ``.xml`` with its ``.bin`` beside it.
        threshold: Images with a score of the file above it are anomalous, in 0..1; or a file of thresholds that was
            calibrated against golden images alone, which has one for pixels, too.
        map_threshold: Pixels with a value of the anomaly map above it are anomalous, in 0..1; without it, those whose
            share of their image's score lies above ``threshold``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It was exported without thresholds, it is of another kind, a torch file that is not said to be
            trusted, or a threshold is outside 0..1.
        ThresholdFileError: The file of thresholds cannot be used.
        OutputError: It cannot be written.
    """
    path = Path(path)
    if path.suffix not in _WRITERS:
        msg = f"{path} is no exported file: .onnx, .xml or .pt is expected"
        raise ValueError(msg)
    if not path.exists():
        msg = f"there is no file {path}"
        raise FileNotFoundError(msg)
    if isinstance(threshold, str | Path):
        threshold, map_threshold = _calibrated(Path(threshold))
    thresholds = thresholds_of(threshold, map_threshold)
    # What belongs to the file goes first.
    names = [path.with_suffix(".bin").name, path.name] if path.suffix == ".xml" else [path.name]
    with OutputFolder(path.parent).replacing(names) as unfinished:
        _WRITERS[path.suffix](path, unfinished / path.name, thresholds)


def with_thresholds(decision: nn.Module | None, write: Callable[[], Path]) -> Path:
    """Has a graph written, with thresholds that are found again.

    Args:
        decision: A :class:`~dual_image_clip.export.decision.Decision`; there are no thresholds in anything else.
        write: Writes the file, ``.onnx`` or ``.xml``.

    Returns:
        The file.
    """
    # OpenVINO's export makes an ONNX file on its way, which keeps those that stand in.
    if not isinstance(decision, Decision) or decision.stands_in:
        return write()
    with decision.standing_in():
        path = write()
    _WRITERS[path.suffix](path, path, decision.thresholds)
    return path


def _calibrated(path: Path) -> tuple[float, float]:
    found = read_threshold_file(path)
    if found.settings["num_references"]:
        msg = (
            f"{path} was made with num_references={found.settings['num_references']}, but an exported file has golden "
            "images alone to compare with: calibrate with num_references=0"
        )
        raise ThresholdFileError(msg)
    return found.threshold, found.map_threshold


def _write_onnx(path: Path, target: Path, thresholds: Thresholds) -> None:
    import onnx

    # Weights beside the file stay where they are.
    model = onnx.load(path, load_external_data=False)
    constants = {each.name.rpartition(".")[2]: each for each in model.graph.initializer}
    for name, value in thresholds._asdict().items():
        if name not in constants:
            raise _has_none(path)
        old = constants[name].name
        constants[name].CopyFrom(onnx.numpy_helper.from_array(_array(value, ()), name))
        for node in model.graph.node:
            node.input[:] = [name if each == old else each for each in node.input]
    onnx.save(model, target)


def _write_openvino(path: Path, target: Path, thresholds: Thresholds) -> None:
    import openvino

    model = openvino.Core().read_model(path)
    found = {}
    for node in model.get_ops():
        if node.get_type_name() == "Greater" and (name := _threshold_at(node)) is not None:
            found[name] = node
    for name, value in thresholds._asdict().items():
        if name not in found:
            raise _has_none(path)
        old = found[name].input(1)
        constant = openvino.opset8.constant(_array(value, tuple(old.get_shape())))
        constant.set_friendly_name(name)
        old.replace_source_output(constant.output(0))
    weights = [path.with_suffix(".bin"), target.with_suffix(".bin")]
    # Written beside, because the weights are read from the old file meanwhile.
    beside = target.with_name(f"{target.stem}.new.xml")
    openvino.save_model(model, beside, compress_to_fp16=False)
    beside.with_suffix(".bin").replace(weights[1])
    beside.replace(target)


def _threshold_at(node: Any) -> str | None:
    """Name of the threshold that a comparison of OpenVINO's has, if it is one."""
    source = node.input(1).get_source_output().get_node()
    if source.get_type_name() == "Convert":
        source = source.input(0).get_source_output().get_node()
    if source.get_type_name() != "Constant" or source.data.size != 1:
        return None
    if source.get_friendly_name() in Thresholds._fields:
        return str(source.get_friendly_name())
    # Conversion takes names away.
    for name, value in STAND_INS._asdict().items():
        if abs(float(source.data.item()) - value) < _ABOUT:
            return name
    return None


def _write_torch(path: Path, target: Path, thresholds: Thresholds) -> None:
    if os.environ.get(_TRUSTED, "").lower() not in {"1", "true"}:
        msg = f"{path} is a pickle, which runs code that is in it when it is read: if you trust it, set {_TRUSTED}=1"
        raise ValueError(msg)
    content = torch.load(path, map_location="cpu", weights_only=False)
    decision = getattr(content.get("model") if isinstance(content, dict) else None, "post_processor", None)
    if not isinstance(decision, Decision):
        raise _has_none(path)
    decision.decide_by(thresholds)
    torch.save(content, target)


def _array(value: float, shape: tuple[int, ...]) -> Any:
    return torch.full(shape, value, dtype=torch.float32).numpy()


def _has_none(path: Path) -> ValueError:
    return ValueError(f"{path} has no thresholds that could be changed: export the model again")


_WRITERS: dict[str, Callable[[Path, Path, Thresholds], None]] = {
    ".onnx": _write_onnx,
    ".xml": _write_openvino,
    ".pt": _write_torch,
}
