"""Outputs of the detector on images drawn from a seed, by the name of the case.

``python -m tests.regression.outputs`` stores them anew, which is only right where outputs are meant to change.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from anomalib.engine import Engine
from safetensors.torch import save_file
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from dual_image_clip import DualImageCLIP
from dual_image_clip.streaming import StreamingDetector

STORED = Path(__file__).with_name("stored_outputs.safetensors")
SIZES = {"square": (240, 240), "oblong": (240, 352), "three to one": (240, 720)}
STRIDE = 16


def draw_images(count: int, size: tuple[int, int], seed: int) -> Tensor:
    """Cloudy images in 0..1 with a dark block in each, ``(count, 3, H, W)``; equal on every processor to 1/255."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    coarse = torch.rand(count, 3, height // 24, width // 24, generator=generator)
    images = F.interpolate(coarse, size, mode="bilinear", align_corners=False)
    images[:, :, height // 3 : height // 3 + 30, width // 2 : width // 2 + 20] *= 0.2
    return (images * 255).round() / 255


def make_model(**arguments: object) -> DualImageCLIP:
    model = DualImageCLIP(class_name="metal nut", backbone="dual-image-clip-demo", **arguments)  # type: ignore[arg-type]
    model.set_class_name("metal nut")
    return model.eval()


def all_outputs() -> dict[str, Tensor]:
    """Every case, computed now."""
    outputs: dict[str, Tensor] = {}
    with tempfile.TemporaryDirectory() as folder:
        for case in (_batches, _golden, _stream, _torch_export, _folder):
            for name, score, anomaly_map in case(Path(folder)):
                outputs[f"{name}: score"] = score.detach().float().cpu().clone()
                outputs[f"{name}: map"] = anomaly_map.detach().float().cpu()[..., ::STRIDE, ::STRIDE].clone()
    return outputs


Case = Iterator[tuple[str, Tensor, Tensor]]


def _batches(folder: Path) -> Case:
    """Several steps of a run, so that memory of recent images and the course of randomness count."""
    del folder
    for name, size in SIZES.items():
        for steps in (0, 2):
            for references, batch_size, aggregation in ((1, 1, "minimum"), (1, 4, "minimum"), (3, 4, "median")):
                model = make_model(num_references=references, adaptation_steps=steps, aggregation=aggregation)
                parts = [
                    model.model(model.pre_process(images), [f"{seed}.{index}" for index in range(batch_size)])
                    for seed, images in ((seed, draw_images(batch_size, size, seed)) for seed in range(2))
                ]
                label = f"{name}, {references} references, {batch_size} at once, {steps} steps"
                yield (
                    label,
                    *(torch.cat([getattr(part, key) for part in parts]) for key in ("pred_score", "anomaly_map")),
                )


def _golden(folder: Path) -> Case:
    good = _save(draw_images(3, SIZES["square"], 50), folder / "good")
    for references in (0, 1):
        model = make_model(num_references=references, k_shot=2, few_shot_source=good)
        model.load_golden_images()
        scored = model.model(model.pre_process(draw_images(4, SIZES["oblong"], 0)))
        yield f"k_shot=2, {references} references", scored.pred_score, scored.anomaly_map


def _stream(folder: Path) -> Case:
    del folder
    detector = StreamingDetector(make_model(), references=2)
    for index, size in enumerate([*SIZES.values(), SIZES["square"]]):
        result = detector(draw_images(1, size, index)[0])
        yield f"stream, image {index}", torch.tensor(result.score), result.anomaly_map


def _torch_export(folder: Path) -> Case:
    good = _save(draw_images(2, SIZES["square"], 60), folder / "good for export")
    model = make_model(num_references=0, k_shot=2, few_shot_source=good, threshold=0.3)
    path = model.to_torch(folder)
    # What anomalib's TorchInferencer does; the file is this test's own.
    exported = torch.load(path, weights_only=False)["model"]
    for name, size in SIZES.items():
        found = exported(draw_images(1, size, 3))
        yield f"torch export, {name}", found.pred_score, found.anomaly_map


def _folder(folder: Path) -> Case:
    """Files through the engine: reading, order, look-ahead, post-processing."""
    photos = folder / "photos"
    for number, size in enumerate(SIZES.values()):
        _save(draw_images(2, size, 70 + number), photos / str(number))
    engine = Engine(default_root_dir=folder, logger=False, enable_progress_bar=False)
    for batch in engine.predict(make_model(visualizer=False), data_path=photos) or []:
        path: Any = batch.image_path
        yield f"folder, {Path(path[0]).relative_to(photos)}", batch.pred_score, batch.anomaly_map


def _save(images: Tensor, folder: Path) -> Path:
    folder.mkdir(parents=True)
    for index, image in enumerate(images):
        to_pil_image(image).save(folder / f"{index}.png")
    return folder


if __name__ == "__main__":
    save_file(all_outputs(), STORED)
    sys.stdout.write(f"stored in {STORED}\n")
