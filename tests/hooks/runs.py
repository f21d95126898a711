"""What a trainer looks like to a callback."""

from pathlib import Path
from types import SimpleNamespace


class Listed:
    """A data set as far as its paths are concerned."""

    def __init__(self, paths: list[Path], attribute: str) -> None:
        setattr(self, attribute, paths if attribute == "image_filenames" else {"image_path": paths})


def trainer_with(stage: str, *datasets, as_list: bool = True) -> SimpleNamespace:
    loaders = [SimpleNamespace(dataset=dataset) for dataset in datasets]
    trainer = SimpleNamespace(
        val_dataloaders=[],
        test_dataloaders=[],
        predict_dataloaders=[],
        state=SimpleNamespace(fn=SimpleNamespace(value=stage)),
    )
    name = {"validate": "val", "test": "test", "predict": "predict"}[stage]
    setattr(trainer, f"{name}_dataloaders", loaders if as_list else loaders[0])
    return trainer
