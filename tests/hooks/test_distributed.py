from types import SimpleNamespace

import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.metrics import F1AdaptiveThreshold
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, SequentialSampler

from dual_image_clip.hooks import distributed, post_processing
from dual_image_clip.hooks.distributed import EachImageOnce, drop_repeats, gather
from dual_image_clip.hooks.post_processing import AdaptiveThreshold, LabelFreePostProcessor
from tests.helpers import refusal, seeded

SIZES = [(7, 2), (2, 2), (3, 2), (8, 3), (5, 4), (1, 1)]


@pytest.mark.parametrize(("count", "processes"), SIZES)
def test_images_are_shared_like_lightning_does_for_predictions(count, processes):
    for rank in range(processes):
        sampler = DistributedSampler(range(count), processes, rank, shuffle=False)
        drop_repeats(sampler)
        expected = UnrepeatedDistributedSampler(range(count), processes, rank, shuffle=False)
        assert list(sampler) == list(expected)
        assert len(sampler) == len(expected)


@pytest.mark.parametrize(("count", "processes"), SIZES)
def test_a_wrapped_sampler_gives_each_image_once(count, processes):
    given = []
    for rank in range(processes):
        sampler = DistributedSamplerWrapper(SequentialSampler(range(count)), num_replicas=processes, rank=rank)
        drop_repeats(sampler)
        given += list(sampler)
    assert sorted(given) == list(range(count))


def test_a_sampler_that_drops_images_stays_as_it_is():
    sampler = DistributedSampler(range(7), 2, 0, shuffle=False, drop_last=True)
    drop_repeats(sampler)
    assert list(sampler) == [0, 2, 4]


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_images_than_processes_are_refused(count):
    with pytest.raises(ValueError, match=rf"3 processes .* {count} image\(s\): set devices to {count}"):
        drop_repeats(DistributedSampler(range(count), 3, 0))
    trainer = predicting(DataLoader(range(count)), processes=3)
    with pytest.raises(ValueError, match=rf"3 processes .* {count} image\(s\): set devices to {count}"):
        EachImageOnce().setup(trainer, None, "predict")


@pytest.mark.parametrize("data", [[DataLoader(range(3)), DataLoader(range(4))], DataLoader([]), [1, 2]])
def test_enough_images_and_none_and_what_is_not_known_are_predicted(data):
    assert refusal(EachImageOnce().setup, predicting(data, processes=3), None, "predict") is None


def test_no_images_at_all_are_shared_as_nothing():
    sampler = DistributedSampler([], 3, 0, shuffle=False)
    drop_repeats(sampler)
    assert list(sampler) == []


def predicting(data, processes: int) -> SimpleNamespace:
    """A trainer that is about to predict."""
    loop = SimpleNamespace(_data_source=SimpleNamespace(dataloader=lambda: data))
    return SimpleNamespace(strategy=DDPStrategy(), world_size=processes, predict_loop=loop)


def loader(count: int = 7, processes: int = 2, rank: int = 1) -> DataLoader:
    return DataLoader(
        range(count), batch_size=2, sampler=DistributedSampler(range(count), processes, rank, shuffle=False)
    )


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_data_loaders_are_corrected_until_the_end_of_the_run(stage):
    callback, trainer = EachImageOnce(), SimpleNamespace(strategy=DDPStrategy())
    callback.setup(trainer, None, stage)
    assert len(loader()) == 2
    assert [batch.tolist() for batch in trainer.strategy.process_dataloader(loader())] == [[1, 3], [5]]
    assert trainer.strategy.process_dataloader([1, 2]) == [1, 2]
    callback.teardown(trainer, None, stage)
    assert [batch.tolist() for batch in trainer.strategy.process_dataloader(loader())] == [[1, 3], [5, 0]]
    # A second end, after an error, does no harm.
    callback.teardown(trainer, None, stage)


def test_the_strategy_s_own_processing_still_happens():
    class Wrapping(DDPStrategy):
        def process_dataloader(self, dataloader):
            return BatchSampler(dataloader.sampler, 2, drop_last=False)

    trainer = SimpleNamespace(strategy=Wrapping())
    EachImageOnce().setup(trainer, None, "test")
    assert list(trainer.strategy.process_dataloader(loader())) == [[1, 3], [5]]


@pytest.mark.parametrize(
    ("strategy", "stage"), [(DDPStrategy, "fit"), (DDPStrategy, "predict"), (FSDPStrategy, "test")]
)
def test_training_and_sharded_models_keep_their_samplers(strategy, stage):
    trainer = predicting([], processes=2)
    trainer.strategy = strategy()
    EachImageOnce().setup(trainer, None, stage)
    assert len(list(trainer.strategy.process_dataloader(loader()).sampler)) == 4


def test_values_of_a_single_process_stay():
    assert gather([1.0, 2.0]) == [1.0, 2.0]


def test_values_of_all_processes_come_together(monkeypatch):
    def all_gather_object(parts, own):
        parts[:] = [[1.0], own, []]

    monkeypatch.setattr(distributed.torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed.torch.distributed, "get_world_size", lambda: 3)
    monkeypatch.setattr(distributed.torch.distributed, "all_gather_object", all_gather_object)
    assert gather([2.0, 3.0]) == [1.0, 2.0, 3.0]


def test_validation_lets_a_process_know_the_images_of_the_others(monkeypatch):
    monkeypatch.setattr(post_processing, "gather", lambda values: [*values, *torch.linspace(1, 1.1, 8).tolist()])
    processor, trainer = LabelFreePostProcessor(4.0, 4.0), SimpleNamespace()
    processor.on_validation_epoch_start(trainer, None)
    processor.on_validation_epoch_end(trainer, None)
    batch = ImageBatch(
        image=torch.zeros(2, 3, 4, 4), pred_score=torch.tensor([1.0, 3.0]), anomaly_map=torch.ones(2, 4, 4)
    )
    batch.anomaly_map[1, 0, 0] = 3.0
    processor.on_test_batch_end(trainer, None, batch, None, 0)
    assert batch.pred_label.tolist() == [False, True]
    assert batch.pred_mask.nonzero().tolist() == [[1, 0, 0]]


def twice(values: torch.Tensor, group: object) -> list[torch.Tensor]:
    """Stands in for a second process that has seen the same."""
    del group
    return [values, values]


def test_threshold_of_gathered_pixels_is_anomalib_s(monkeypatch):
    generator = seeded(0)
    masks = torch.rand(3, 40, 40, generator=generator) < 0.1
    maps = masks + torch.rand(3, 40, 40, generator=generator) * 2
    batch = ImageBatch(image=torch.zeros(3, 3, 40, 40), anomaly_map=maps, gt_mask=masks)
    alone = F1AdaptiveThreshold(fields=["anomaly_map", "gt_mask"])
    alone.update(batch)
    expected = alone.compute()
    shared = AdaptiveThreshold(
        fields=["anomaly_map", "gt_mask"], distributed_available_fn=lambda: True, dist_sync_fn=twice
    )
    shared.update(batch)
    # Going through the pixels one by one takes gigabytes where there are as many as in a real data set.
    monkeypatch.setattr(torch.Tensor, "__iter__", lambda _: pytest.fail("went through a tensor"))
    assert shared.compute() == expected
