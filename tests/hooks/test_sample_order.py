from pathlib import Path

import pandas as pd
import pytest
import torch
from anomalib.data import AnomalibDataset
from scipy.stats import binom

from dual_image_clip.hooks import shuffle_samples
from dual_image_clip.method import ReferencePool

DEFECTS, PER_DEFECT, BATCH = 8, 20, 32
CHANCE = (PER_DEFECT - 1) / (DEFECTS * PER_DEFECT - 1)


class SortedByDefect(AnomalibDataset):
    """Images as anomalib lists them, defect after defect."""

    def __init__(self, folder: Path, rows_reversed: bool = False) -> None:
        super().__init__()
        rows = []
        for defect in range(DEFECTS):
            for index in range(PER_DEFECT):
                image = folder / f"defect_{defect}" / f"{index:03}.png"
                image.parent.mkdir(exist_ok=True)
                image.touch()
                rows.append(
                    {
                        "image_path": str(image),
                        "split": "test",
                        "label": f"defect_{defect}",
                        "label_index": defect,
                        "mask_path": f"mask_{defect}_{index:03}.png",
                        "number": defect * PER_DEFECT + index,
                    }
                )
        samples = pd.DataFrame(rows[::-1] if rows_reversed else rows)
        samples.attrs["task"] = "segmentation"
        self.samples = samples


@pytest.fixture
def dataset(tmp_path: Path) -> SortedByDefect:
    return SortedByDefect(tmp_path)


def paths(dataset: AnomalibDataset) -> list[str]:
    return dataset.samples["image_path"].tolist()


def test_shuffle_puts_the_images_into_another_order(dataset):
    before = paths(dataset)
    shuffle_samples(dataset, seed=0)
    assert paths(dataset) != before
    assert sorted(paths(dataset)) == before


def test_shuffle_twice_is_shuffle_once(dataset):
    shuffle_samples(dataset, seed=0)
    once = dataset.samples.copy()
    shuffle_samples(dataset, seed=0)
    pd.testing.assert_frame_equal(dataset.samples, once)


def test_shuffle_depends_on_content_and_seed_only(dataset, tmp_path):
    shuffle_samples(dataset, seed=1)
    first = paths(dataset)
    shuffle_samples(dataset, seed=2)
    assert paths(dataset) != first
    torch.manual_seed(123)
    other = SortedByDefect(tmp_path, rows_reversed=True)
    # Even rows that somebody has put into an order of their own.
    other._samples = other.samples.iloc[::-1].reset_index(drop=True)
    shuffle_samples(other, seed=1)
    assert paths(other) == first


def test_shuffle_leaves_the_global_randomness_alone(dataset):
    state = torch.get_rng_state()
    shuffle_samples(dataset, seed=0)
    assert torch.equal(torch.get_rng_state(), state)


def test_shuffle_keeps_rows_columns_index_and_attributes(dataset):
    before = dataset.samples.copy()
    shuffle_samples(dataset, seed=0)
    after = dataset.samples
    assert after.attrs == {"task": "segmentation"}
    assert after.columns.tolist() == before.columns.tolist()
    assert after.dtypes.tolist() == before.dtypes.tolist()
    assert after.index.tolist() == list(range(len(before)))
    restored = after.sort_values("number", ignore_index=True)
    pd.testing.assert_frame_equal(restored, before)
    assert [dataset.samples.iloc[place].image_path for place in range(3)] == paths(dataset)[:3]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_shuffle_of_hardly_any_images(dataset, count):
    dataset.subsample(range(count), inplace=True)
    shuffle_samples(dataset, seed=0)
    assert len(set(paths(dataset))) == count


def partners_over_a_run(dataset: AnomalibDataset, seed: int) -> list[tuple[int, int]]:
    """Numbers of the images and of their references, over all batches as a loader without shuffling gives them."""
    numbers = dataset.samples["number"].tolist()
    pool = ReferencePool(1, seed)
    pairs = []
    for first in range(0, len(numbers), BATCH):
        batch = numbers[first : first + BATCH]
        tokens = torch.tensor(batch, dtype=torch.float).view(-1, 1, 1)
        (references,) = pool.select(tokens)
        pairs += zip(batch, references.flatten().int().tolist(), strict=True)
    return pairs


def same_defect(pairs: list[tuple[int, int]]) -> int:
    return sum(image // PER_DEFECT == other // PER_DEFECT for image, other in pairs)


def test_shuffled_images_meet_partners_from_the_whole_set(dataset):
    pairs = []
    for seed in range(10):
        shuffle_samples(dataset, seed)
        pairs += partners_over_a_run(dataset, seed)
    low, high = binom.interval(0.999, len(pairs), CHANCE)
    assert low <= same_defect(pairs) <= high
    # Two random places out of 0 … n-1 are (n+1)/3 apart on average; in a sorted batch, at most BATCH-1.
    distance = sum(abs(image - other) for image, other in pairs) / len(pairs)
    assert distance == pytest.approx((DEFECTS * PER_DEFECT + 1) / 3, rel=0.1)


def test_sorted_images_would_mostly_meet_their_own_defect(dataset):
    pairs = partners_over_a_run(dataset, seed=0)
    assert same_defect(pairs) / len(pairs) > 3 * CHANCE
