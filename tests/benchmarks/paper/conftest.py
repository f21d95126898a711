"""Small data sets on disk, small studies and small backbones for the tests of the benchmark's runner."""

import pytest
import torch

from benchmarks.paper.images import CategoryImages
from benchmarks.paper.plan import DataSettings
from dual_image_clip.weights import EMBEDDED, Backbone, load_backbone
from tests.drawn_data import draw_plate, make_category

STUDIES = """
studies:
  tiny:
    title: A tiny table
    metrics: [pixel_AUROC, image_AUROC]
    rows:
      CLIP: {method: clip}
      Ours: {method: ours, adaptation_steps: 0, lambda_2: 1.0}
      Ours+: {method: ours}
    order: [[CLIP, Ours, Ours+]]
    published:
      Procedural:
        Ours: {pixel_AUROC: "92.6 ± 0.2"}
  steps:
    title: A tiny curve
    layout: curve
    x_label: steps
    metrics: [pixel_AUROC]
    rows:
      "1": {method: ours, adaptation_steps: 1}
      "2": {method: ours}
backbone: dual-image-clip-demo
pretrained: dual-image-clip-demo
seeds: [0, 1]
examples: 2
data:
  name: Procedural
  categories: [gear, zipper]
  arguments: {num_train: 1, num_test_normal: 4, num_test_anomalous: 4, image_size: 120}
"""


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """Folder that procedural data sets are drawn into, once."""
    return tmp_path_factory.mktemp("procedural")


@pytest.fixture(scope="session")
def study_file(tmp_path_factory, drawn):
    """YAML of a run over two drawn categories: two studies, four different settings, two seeds."""
    path = tmp_path_factory.mktemp("studies") / "tiny.yaml"
    path.write_text(STUDIES + f"  root: {drawn}\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def embedded() -> Backbone:
    return load_backbone(EMBEDDED, EMBEDDED)


@pytest.fixture
def tiny() -> Backbone:
    """A few thousand random weights."""
    torch.manual_seed(0)
    return load_backbone("tiny-vit", None)


@pytest.fixture
def mvtec(tmp_path):
    """Two categories in the layout of MVTec AD: four sound plates and four spoilt ones each."""
    root = tmp_path / "mvtec"
    for category in ("bottle", "cable"):
        make_category(root / category, normal=4, defective=2)
    return DataSettings(name="MVTecAD", root=str(root), categories=["bottle", "cable"])


def make_plates(count: int, height: int, width: int) -> CategoryImages:
    """A category of plates in memory: sound ones, and as many spoilt ones."""
    defects = [None] * (count // 2) + ["spot"] * (count - count // 2)
    drawn = [draw_plate(seed, (height, width), defect) for seed, defect in enumerate(defects)]
    images = torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image, _ in drawn]) / 255
    masks = torch.stack([torch.from_numpy(mask) for _, mask in drawn]) > 0
    return CategoryImages(images, masks.flatten(1).any(dim=1), masks, [f"{i}.png" for i in range(count)], "plate")


@pytest.fixture(scope="session")
def plates():
    return make_plates
