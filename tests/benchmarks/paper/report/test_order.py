import pytest

from benchmarks.paper.report.order import check_order
from benchmarks.paper.report.study import Study
from benchmarks.paper.results import Row

STUDY = Study("t", "T", "table", ("image_AUROC",), {"CLIP": "c", "AnoCLIP": "a", "Ours": "o"})


def rows_with(**values):
    return [Row("Visa", "pcb1", setting, 0, {"image_AUROC": value}, 1.0) for setting, value in values.items()]


def check(rows, order=("CLIP", "AnoCLIP", "Ours")):
    return check_order(STUDY, rows, "Visa", "image_AUROC", order)


def test_neighbours_are_compared_in_the_order_that_is_asked_for():
    first, second = check(rows_with(c=0.5, a=0.8, o=0.75))
    assert first == ("CLIP", "AnoCLIP", pytest.approx(30))
    assert second == ("AnoCLIP", "Ours", pytest.approx(-5))
    assert check(rows_with(c=0.5, a=0.8, o=0.75), ("Ours", "CLIP")) == [("Ours", "CLIP", pytest.approx(-25))]


def test_a_method_that_was_not_measured_is_stepped_over():
    assert check(rows_with(c=0.5, o=0.75)) == [("CLIP", "Ours", pytest.approx(25))]
    assert check(rows_with(c=0.5)) == []
