"""A batch in portions: the same result, what is tried, and what is said."""

import logging
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from dual_image_clip.method import NotEnoughMemoryError, Portions, blamed_on_batch_size

SHORTAGES = {
    "CUDA": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of …"),
    "CUDA's driver": RuntimeError("CUDA error: out of memory"),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "MPS": RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)"),
    "CPU": RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: …"),
    "CPU, Windows": RuntimeError("[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: …"),
    "oneDNN": RuntimeError("could not create a primitive"),
    "Python": MemoryError(),
}


class Squares(NamedTuple):
    values: Tensor
    rows: Tensor
    nothing: None = None


class Limited:
    """Squares numbers, so many at a time at most."""

    def __init__(self, numbers: Tensor, most: int, error: Exception = SHORTAGES["CPU"]) -> None:
        self.numbers = numbers
        self.most = most
        self.error = error
        self.tried: list[int] = []

    def __call__(self, rows: slice) -> Squares:
        numbers = self.numbers[rows]
        self.tried.append(len(numbers))
        if len(numbers) > self.most:
            raise self.error
        return Squares(numbers.square(), torch.arange(len(self.numbers))[rows])


@pytest.mark.parametrize("error", SHORTAGES.values(), ids=SHORTAGES)
def test_batch_that_does_not_fit_is_computed_in_smaller_portions(error):
    compute = Limited(torch.arange(9.0), most=3, error=error)
    found = Portions()(9, compute)
    assert torch.equal(found.values, torch.arange(9.0).square())
    assert torch.equal(found.rows, torch.arange(9))
    assert found.nothing is None
    assert compute.tried == [9, 4, 2, 2, 2, 2, 1]


def test_tensors_are_joined_too():
    numbers = Limited(torch.arange(5.0), most=2)
    assert torch.equal(Portions()(5, lambda rows: numbers(rows).values), torch.arange(5.0).square())


def test_what_fits_is_computed_at_once_and_nothing_said(caplog):
    compute = Limited(torch.arange(9.0), most=9)
    with caplog.at_level(logging.WARNING):
        found = Portions()(9, compute)
    assert compute.tried == [9]
    assert torch.equal(found.values, torch.arange(9.0).square())
    assert not caplog.text


def test_an_empty_batch_is_computed():
    assert len(Portions()(0, Limited(torch.empty(0), most=9)).values) == 0


def test_later_batches_start_with_what_has_fitted_and_it_is_said_once(caplog):
    portions = Portions()
    with caplog.at_level(logging.WARNING):
        for tried in ([8, 4, 2, 2, 2, 2], [2, 2, 2, 2]):
            compute = Limited(torch.arange(8.0), most=2)
            portions(8, compute)
            assert compute.tried == tried
        portions(8, Limited(torch.arange(8.0), most=1))
    (record,) = caplog.records
    assert "eval_batch_size=2" in record.getMessage()


def test_finished_portions_are_not_computed_again():
    compute = Limited(torch.arange(8.0), most=4)
    portions = Portions()
    portions(8, compute)
    compute.tried.clear()

    def shorter_from_now_on(rows: slice) -> Squares:
        found = compute(rows)
        compute.most = 2
        return found

    assert torch.equal(portions(8, shorter_from_now_on).values, torch.arange(8.0).square())
    assert compute.tried == [4, 4, 2, 2]


def test_one_image_that_does_not_fit_is_an_error_that_names_what_to_lower():
    compute = Limited(torch.arange(4.0), most=0)
    with pytest.raises(NotEnoughMemoryError, match=r"single image.*adaptation_steps.*num_references") as caught:
        Portions()(4, compute)
    assert compute.tried == [4, 2, 1]
    assert caught.value.__cause__ is compute.error


def test_other_errors_are_no_reason_to_try_again(caplog):
    compute = Limited(torch.arange(4.0), most=0, error=RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        Portions()(4, compute)
    assert compute.tried == [4]
    with pytest.raises(RuntimeError, match="mat1"), blamed_on_batch_size(4):
        raise compute.error


@pytest.mark.parametrize("error", SHORTAGES.values(), ids=SHORTAGES)
def test_what_images_share_is_blamed_on_their_number(error):
    with pytest.raises(NotEnoughMemoryError, match=r"12 images.*eval_batch_size"), blamed_on_batch_size(12):
        raise error
