from dataclasses import replace

import pytest

from benchmarks.paper.report.study import as_number


@pytest.mark.parametrize(("value", "number"), [(92.8, 92.8), (93, 93.0), ("92.8 ± 0.2", 92.8), ("42.4±0.7", 42.4)])
def test_number_of_a_published_value(value, number):
    assert as_number(value) == number


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layout": "pie"}, "layout is 'pie', but must be one of table, curve"),
        ({"metrics": ("pixel_PRO",)}, "no such metric: pixel_PRO; there are pixel_AUROC"),
        ({"published": {"Visa": {"Ours": {"AUROC": 1.0}}}}, "no such metric: AUROC"),
        ({"published": {"Visa": {"Ours": {"pixel_AUROC": "n/a"}}}}, "'n/a' is not a number"),
        ({"order": (("CLIP", "WinCLIP"),)}, "order names what is not in rows: WinCLIP"),
        ({"layout": "curve"}, "'CLIP' is not a number"),
    ],
)
def test_mistakes_show_before_anything_is_run(study, change, message):
    with pytest.raises(ValueError, match=f"table1: {message}"):
        replace(study, **change)


def test_published_figures(study):
    assert study.published_value("MVTecAD", "Ours+", "pixel_AUROC") == 92.8
    assert study.published_value("MVTecAD", "Ours+", "image_AUROC") is None
    assert study.published_value("Visa", "Ours+", "pixel_AUROC") is None
    assert study.quoted_labels("MVTecAD") == ["MuSc"]
    assert study.quoted_labels("Visa") == []
