"""anomalib validates before it tests; images that are the same both times are scored once, and all stays as it was."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.data import ImageBatch, ImageItem
from lightning.pytorch import Callback
from torch.utils.data import DataLoader

from dual_image_clip import DualImageCLIP
from tests.drawn_data import draw_plate, save
from tests.helpers import make_data, make_engine, tiny_model

IMAGES = 12
# The last batch of five has two images, one partner too few; that of one is alone.
SIZES = (5, 1)


class Run(Callback):
    """What a test says of each image, and how many images were scored for it.

    Args:
        between: Done between validation and test.
        after_first: Done after the first batch of the test.
    """

    def __init__(self, between: Callable[..., Any] | None, after_first: Callable[..., Any] | None) -> None:
        self.scored = 0
        self.kept = 0
        self.batches: list[ImageBatch] = []
        self.metrics: dict[str, float] = {}
        self._between, self._after_first = between, after_first

    @property
    def items(self) -> dict[str, ImageItem]:
        return {item.image_path: item for batch in self.batches for item in batch}

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self.kept = pl_module._one_evaluation.num_bytes
        if self._between:
            self._between(pl_module)

    def on_test_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *others: Any) -> None:
        if not self.batches and self._after_first:
            self._after_first()
        self.batches.append(outputs)


def run(
    folder: Path,
    *,
    again: bool = False,
    call: str = "test",
    between: Any = None,
    after_first: Any = None,
    **arguments: Any,
) -> Run:
    """A test of a detector; with ``again``, of one that scores every image each time it meets it."""
    settings = {name: arguments.pop(name) for name in ("limit_val_batches",) if name in arguments}
    model = arguments.pop("model")
    noted = Run(between, after_first)
    compare = model.model.compare

    def counted(images: torch.Tensor, *others: Any) -> Any:
        noted.scored += len(images)
        return compare(images, *others)

    model.model.compare = counted
    if again:
        model.compare_once = counted
    engine = make_engine(folder, callbacks=[noted], **settings)
    noted.metrics = getattr(engine, call)(model=model, **({"verbose": False} if call == "test" else {}), **arguments)[0]
    assert model._one_evaluation.num_bytes == 0
    return noted


def model_of(**arguments: Any) -> DualImageCLIP:
    return tiny_model(**{"class_name": "plate", "visualizer": False, "num_references": 2, **arguments})


def both(
    tmp_path: Path, data: Any, model: Callable[..., DualImageCLIP] = model_of, **arguments: Any
) -> tuple[Run, Run]:
    """A run, and one that scores twice."""
    return tuple(
        run(tmp_path / str(again), again=again, model=model(), datamodule=data(), **arguments)
        for again in (False, True)
    )


def assert_alike(once: Run, twice: Run) -> None:
    assert once.metrics == twice.metrics
    assert list(once.items) == list(twice.items)
    for path, item in once.items.items():
        other = twice.items[path]
        for name in ("pred_score", "pred_label", "anomaly_map", "pred_mask"):
            assert torch.equal(getattr(item, name), getattr(other, name)), f"{name} of {path}"
    assert [each.num_references for each in once.batches] == [each.num_references for each in twice.batches]


@pytest.mark.parametrize("size", SIZES)
def test_each_image_is_scored_once_and_nothing_else_changes(size, mvtec, tmp_path):
    once, twice = both(tmp_path, partial(make_data, mvtec, eval_batch_size=size), partial(model_of, visualizer=True))
    assert (once.scored, twice.scored) == (IMAGES, 2 * IMAGES)
    assert_alike(once, twice)
    pictures = [
        {path.name: path.read_bytes() for path in (tmp_path / each).rglob("*.png")} for each in ("False", "True")
    ]
    assert len(pictures[0]) > 0
    assert pictures[0] == pictures[1]


def test_a_few_bytes_of_each_image_are_kept(mvtec, tmp_path):
    found = run(tmp_path, model=model_of(), datamodule=make_data(mvtec))
    # Four a score and four a patch; the pixels of a map take 64 × 64 × 4.
    assert found.kept == IMAGES * (4 + 4 * 4 * 4)


def test_training_which_is_but_validation_and_test_scores_once(mvtec, tmp_path):
    once, twice = both(tmp_path, partial(make_data, mvtec), call="train")
    assert (once.scored, twice.scored) == (IMAGES, 2 * IMAGES)
    assert_alike(once, twice)


def test_a_loader_of_ones_own_may_serve_both(mvtec, tmp_path):
    def loader(shuffle: bool) -> DataLoader:
        data = make_data(mvtec)
        data.setup()
        torch.manual_seed(3)
        return DataLoader(data.test_data, batch_size=5, shuffle=shuffle, collate_fn=data.test_data.collate_fn)

    for shuffle, scored in ((False, IMAGES), (True, 2 * IMAGES)):
        once, twice = (
            run(tmp_path, again=again, model=model_of(), dataloaders=loader(shuffle)) for again in (False, True)
        )
        assert (once.scored, twice.scored) == (scored, 2 * IMAGES)
        assert_alike(once, twice)


def test_other_images_are_scored_for_themselves(mvtec, tmp_path):
    data = partial(make_data, mvtec, val_split_mode="from_test", val_split_ratio=0.5)
    once, twice = both(tmp_path, data)
    assert once.scored == twice.scored == IMAGES
    assert_alike(once, twice)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("limit", [1, 7])
def test_a_test_of_more_images_goes_on_as_if_nothing_had_been_kept(limit, size, mvtec, tmp_path):
    once, twice = both(tmp_path, partial(make_data, mvtec, eval_batch_size=size), limit_val_batches=limit)
    assert_alike(once, twice)
    if size == 1 and limit == 7:
        # Seven of the validation; of the test the other five, and four more with which these are compared.
        assert once.scored == 7 + 5 + 4


def rewrite(path: Path) -> None:
    """Another photo in the place of one, of the same date."""
    before = path.stat()
    save(draw_plate(77)[0], path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("size", SIZES)
def test_a_photo_that_changes_during_the_test_is_scored_anew(size, mvtec, tmp_path):
    data = partial(make_data, mvtec, eval_batch_size=size)
    changed = Path(list(run(tmp_path / "order", model=model_of(), datamodule=data()).items)[-2])
    original = changed.read_bytes()
    found = []
    for again in (False, True):
        changed.write_bytes(original)
        change = partial(rewrite, changed)
        found.append(run(tmp_path / str(again), again=again, model=model_of(), datamodule=data(), after_first=change))
    assert_alike(*found)
    assert found[0].scored < found[1].scored


def _set(path: str, value: Any) -> Callable[..., Any]:
    """Sets an attribute of a module."""
    *owners, name = path.split(".")

    def change(module: Any) -> None:
        for each in owners:
            module = getattr(module, each)
        setattr(module, name, value)

    return change


def _spoil_weights(module: Any) -> None:
    with torch.no_grad():
        module.model.encoder.visual.proj.data.mul_(-1)


def _take_smaller_batches(module: Any) -> None:
    module.trainer.datamodule.eval_batch_size = 4


def _touch_a_photo(module: Any) -> None:
    os.utime(module.trainer.datamodule.test_data.samples.image_path.iloc[-1])


@pytest.mark.parametrize(
    "between",
    [
        _spoil_weights,
        _take_smaller_batches,
        _touch_a_photo,
        lambda module: module.set_class_name("carpet"),
        lambda module: module.model.set_golden_images([torch.ones(1, 3, 64, 64)]),
        _set("seed", 5),
        _set("model.references.seed", 5),
        _set("model.references.num_references", 1),
    ],
    ids=["weights", "batches", "photo", "class name", "golden image", "order", "seed", "references"],
)
def test_all_is_scored_again_after_a_change(between, mvtec, tmp_path):
    once, twice = both(tmp_path, partial(make_data, mvtec), between=between)
    assert once.scored == twice.scored == 2 * IMAGES
    assert_alike(once, twice)


def test_nothing_is_kept_of_a_validation_or_of_a_run_that_failed(mvtec, tmp_path):
    def stop() -> None:
        msg = "no more"
        raise RuntimeError(msg)

    model = model_of()
    make_engine(tmp_path).validate(model=model, datamodule=make_data(mvtec), verbose=False)
    assert model._one_evaluation.num_bytes == 0
    with pytest.raises(RuntimeError, match="no more"):
        run(tmp_path, model=model, datamodule=make_data(mvtec), after_first=stop)
    assert model._one_evaluation.num_bytes == 0


def test_a_validation_before_changes_no_test(mvtec, tmp_path):
    model = model_of()
    engine, data = make_engine(tmp_path), partial(make_data, mvtec)
    engine.validate(model=model, datamodule=data(), verbose=False)
    assert engine.test(model=model, datamodule=data(), verbose=False) == [
        run(tmp_path / "plain", again=True, model=model_of(), datamodule=data()).metrics
    ]
