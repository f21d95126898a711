"""The order in which the images of an evaluation come."""

import torch
from anomalib.data import AnomalibDataset


def shuffle_samples(dataset: AnomalibDataset, seed: int) -> None:
    """Puts the images of a data set into a random order that depends on its content and the seed only.

    anomalib sorts test images by defect, so that neighbours in a batch would mostly share theirs.

    Args:
        dataset: Data set whose ``samples`` are put into another order, in place.
        seed: Seed of the order.
    """
    samples = dataset.samples
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed)).numpy()
    shuffled = samples.sort_values("image_path").iloc[order].set_axis(samples.index)
    # `dataset.samples = …` would sort again, so the table itself is filled anew.
    for column in samples.columns:
        samples[column] = shuffled[column]
