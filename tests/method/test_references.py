import re
from collections import Counter
from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from torch import Tensor

from dual_image_clip.method import ReferencePool, random_partners
from tests.helpers import seeded

patient = settings(deadline=None)
seeds = st.integers(0, 2**31)
PATCHES, DIM = 3, 2


@st.composite
def counts(draw: st.DrawFn) -> tuple[int, int]:
    count = draw(st.integers(1, 24))
    return count, draw(st.integers(0, count - 1))


# random_partners


@patient
@given(counts(), seeds)
def test_partners_are_other_images_that_differ_and_serve_equally_often(sizes, seed):
    count, num_partners = sizes
    partners = random_partners(count, num_partners, seeded(seed))
    assert partners.shape == (count, num_partners)
    assert partners.dtype == torch.long
    for image, others in enumerate(partners.tolist()):
        assert image not in others
        assert len(set(others)) == num_partners
    uses = Counter(partners.flatten().tolist())
    assert uses == Counter({image: num_partners for image in range(count) if num_partners})


@patient
@given(counts(), seeds)
def test_partners_repeat_with_the_seed(sizes, seed):
    assert torch.equal(random_partners(*sizes, seeded(seed)), random_partners(*sizes, seeded(seed)))


def test_partners_change_with_the_seed_and_from_call_to_call():
    generator = seeded(0)
    drawn = [random_partners(16, 1, generator) for _ in range(3)] + [random_partners(16, 1, seeded(1))]
    assert len({tuple(each.flatten().tolist()) for each in drawn}) == 4


@pytest.mark.parametrize("num_partners", [1, 2])
def test_every_other_image_is_an_equally_likely_partner(num_partners):
    count, rounds = 5, 4000
    generator = seeded(0)
    hits = torch.zeros(count, count)
    for _ in range(rounds):
        hits.scatter_add_(1, random_partners(count, num_partners, generator), torch.ones(count, num_partners))
    chance = num_partners / (count - 1)
    low, high = binom.interval(0.9999, rounds, chance)
    others = hits[~torch.eye(count, dtype=torch.bool)]
    assert ((others >= low) & (others <= high)).all()


def test_images_are_paired_in_every_order():
    generator = seeded(0)
    drawn = {tuple(random_partners(5, 1, generator).flatten().tolist()) for _ in range(500)}
    # Five images stand on a circle in 4! ways.
    assert len(drawn) == 24


@pytest.mark.parametrize(("count", "num_partners", "most"), [(4, 4, 3), (4, 9, 3), (1, 1, 0), (0, 1, 0)])
def test_too_many_partners_are_refused(count, num_partners, most):
    message = f"{count} images have at most {most} partners each, not {num_partners}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        random_partners(count, num_partners, seeded(0))


# ReferencePool


def named(*names: str) -> dict:
    """Tokens that tell which image they belong to, and the names."""
    return {"patch_tokens": tokens_of(*names), "identities": list(names)}


def tokens_of(*names: str, patches: int = PATCHES) -> Tensor:
    numbers = torch.tensor([float(name) for name in names])
    place = torch.arange(patches) / 100
    return (numbers[:, None] + place)[..., None].expand(-1, -1, DIM).clone()


def images_in(references: list[Tensor], patches: int = PATCHES) -> list[list[str]]:
    """Which images the references of each image of a batch are, in order, after checking that they are complete."""
    if not references:
        return []
    images = torch.stack(references, dim=1)
    numbers = images[:, :, 0, 0].round().int().tolist()
    for row, of_row in zip(images, numbers, strict=True):
        assert torch.equal(row, tokens_of(*map(str, of_row), patches=patches))
    return [[str(number) for number in row] for row in numbers]


def test_batch_mates_are_references():
    pool = ReferencePool(num_references=2, seed=0)
    names = ["10", "11", "12", "13", "14"]
    chosen = images_in(pool.select(**named(*names)))
    assert len(chosen) == 5
    for name, references in zip(names, chosen, strict=True):
        assert len(set(references)) == 2
        assert set(references) <= set(names) - {name}
    assert Counter(chain.from_iterable(chosen)) == dict.fromkeys(names, 2)


def test_batch_mates_are_those_that_random_partners_draws():
    names = [str(number) for number in range(6)]
    chosen = images_in(ReferencePool(3, seed=5).select(tokens_of(*names)))
    expected = random_partners(6, 3, seeded(5)).tolist()
    assert chosen == [[names[partner] for partner in row] for row in expected]


@pytest.mark.parametrize("identities", [True, False], ids=["named", "unnamed"])
def test_lone_image_is_compared_with_the_most_recent_ones(identities):
    pool = ReferencePool(num_references=2, seed=0)
    expected = {"1": [], "2": ["1"], "3": ["2", "1"], "4": ["3", "2"], "5": ["4", "3"]}
    for name, references in expected.items():
        batch = named(name) if identities else {"patch_tokens": tokens_of(name)}
        assert images_in(pool.select(**batch)) == ([references] if references else [])
        pool.remember(**batch)


def test_memory_fills_up_what_a_batch_lacks():
    pool = ReferencePool(num_references=4, seed=0)
    pool.remember(**named("1", "2", "3", "4", "5"))
    chosen = images_in(pool.select(**named("6", "7", "8")))
    for name, references in zip(["6", "7", "8"], chosen, strict=True):
        assert set(references[:2]) == {"6", "7", "8"} - {name}
        assert references[2:] == ["5", "4"]


def test_fewer_references_than_asked_for_are_better_than_none():
    pool = ReferencePool(num_references=5, seed=0)
    pool.remember(**named("1"))
    assert images_in(pool.select(**named("2"))) == [["1"]]
    assert [set(references) for references in images_in(pool.select(**named("2", "3")))] == [{"1", "3"}, {"1", "2"}]


@pytest.mark.parametrize("batch", [["1"], ["3"], ["3", "1"], ["9", "3"], ["1", "2", "3"]], ids=str)
def test_no_image_is_its_own_reference_though_it_was_remembered(batch):
    pool = ReferencePool(num_references=3, seed=0)
    pool.remember(**named("1", "2", "3"))
    chosen = images_in(pool.select(**named(*batch)))
    for name, references in zip(batch, chosen, strict=True):
        assert name not in references
        assert len(set(references)) == len(references)


def test_image_seen_again_counts_once_and_as_recent():
    pool = ReferencePool(num_references=3, seed=0)
    for name in ["1", "2", "3", "1"]:
        pool.remember(**named(name))
    assert images_in(pool.select(**named("9"))) == [["1", "3", "2"]]


@pytest.mark.parametrize("num_references", [1, 3])
@pytest.mark.parametrize("identities", [True, False], ids=["named", "unnamed"])
def test_memory_is_bounded_and_keeps_the_latest(num_references, identities):
    def kept(count: int) -> list[str]:
        pool = ReferencePool(num_references, seed=0)
        for first in range(0, count, 4):
            batch = named(*(str(first + index) for index in range(4)))
            pool.remember(batch["patch_tokens"], batch["identities"] if identities else None)
        # Shows all that is in the memory, also what nobody asks for.
        pool.num_references = 10_000
        return images_in(pool.select(**named("900")))[0]

    assert len(kept(400)) == len(kept(40))
    assert kept(400)[:num_references] == [str(399 - index) for index in range(num_references)]


def test_memory_is_a_copy():
    pool = ReferencePool(num_references=1, seed=0)
    batch = named("1")
    pool.remember(**batch)
    batch["patch_tokens"].zero_()
    assert images_in(pool.select(**named("2"))) == [["1"]]


def test_remembered_image_may_have_another_size():
    pool = ReferencePool(num_references=2, seed=0)
    pool.remember(tokens_of("1", patches=5), ["1"])
    other, remembered = pool.select(**named("2", "3"))
    assert torch.equal(other, tokens_of("3", "2"))
    assert torch.equal(remembered, tokens_of("1", "1", patches=5))


@pytest.mark.parametrize(
    ("num_references", "remembered", "batch", "shortage"),
    [
        (0, [], ["1"], 0),
        (1, [], ["1"], 1),
        (1, [], ["1", "2"], 0),
        (3, [], ["1", "2"], 2),
        (3, ["8"], ["1", "2"], 1),
        (3, ["8", "9"], ["1", "2"], 0),
        (3, ["1", "9"], ["1", "2"], 1),
        (1, ["1"], ["1"], 1),
        (2, ["7", "8", "9"], ["1"], 0),
    ],
)
def test_shortage(num_references, remembered, batch, shortage):
    pool = ReferencePool(num_references, seed=0)
    if remembered:
        pool.remember(**named(*remembered))
    assert pool.shortage(len(batch), batch) == shortage
    expected = num_references - shortage
    assert [len(row) for row in images_in(pool.select(**named(*batch)))] == (
        [expected] * len(batch) if expected else []
    )


def test_shortage_is_over_once_so_many_images_were_remembered():
    pool = ReferencePool(num_references=2, seed=0)
    pool.remember(**named("1"))
    pool.remember(**named("2"))
    missing = pool.shortage(1, ["2"])
    assert missing == 1
    for name in ["3", "4"][:missing]:
        pool.remember(**named(name))
    assert pool.shortage(1, ["2"]) == 0
    assert [len(row) for row in images_in(pool.select(**named("2")))] == [2]


def test_without_names_everything_remembered_is_another_image():
    pool = ReferencePool(num_references=1, seed=0)
    pool.remember(tokens_of("1"))
    assert pool.shortage(1, None) == 0


def test_reset_repeats_a_run_bit_for_bit():
    pool = ReferencePool(num_references=2, seed=3)

    def run() -> list[list[list[str]]]:
        chosen = []
        for first in range(0, 40, 8):
            batch = named(*(str(first + index) for index in range(8)))
            chosen.append(images_in(pool.select(**batch)))
            pool.remember(**batch)
        return chosen

    first = run()
    assert run() != first
    pool.reset()
    assert pool.select(**named("1")) == []
    pool.reset()
    assert run() == first


@pytest.mark.parametrize("batch", [["1"], ["1", "2", "3"]], ids=str)
def test_no_references_wanted(batch):
    pool = ReferencePool(num_references=0, seed=0)
    pool.remember(**named("8", "9"))
    assert pool.select(**named(*batch)) == []
    assert pool.shortage(len(batch), batch) == 0
    # Nothing was kept for nothing.
    pool.num_references = 1
    assert pool.select(**named("7")) == []
