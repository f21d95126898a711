from dataclasses import replace

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

from benchmarks.paper.report.curves import draw_curves
from benchmarks.paper.report.summary import summarise
from tests.benchmarks.paper.helpers import frame


@pytest.fixture
def drawn(monkeypatch):
    """Figures that were saved."""
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda figure, *args, **more: (figures.append(figure), save(figure, *args, **more))
    )
    return figures


def draw(study, rows, path, datasets=("MVTecAD", "Procedural")):
    draw_curves(study, [summarise(study, frame(rows), dataset) for dataset in datasets], path)
    return cv2.imread(str(path))


def test_a_row_of_panels_for_each_data_set_with_titles_and_units(curve, rows, tmp_path, drawn):
    picture = draw(curve, rows, tmp_path / "fig5a.png")
    assert picture.shape[0] > 800
    assert picture.shape[1] > 1000
    assert picture.std() > 10
    assert drawn[0].get_suptitle() == "Figure 5a"
    assert [axes.get_title() for axes in drawn[0].axes] == [
        f"{dataset}, {kind} metrics" for dataset in ("MVTecAD", "Procedural") for kind in ("pixel", "image")
    ]
    for axes in drawn[0].axes:
        assert axes.get_xlabel() == "reference images"
        assert "per cent" in axes.get_ylabel()
        assert [text.get_text() for text in axes.get_xticklabels()] == ["0", "1", "2"]


def test_points_bars_and_the_papers_dashed_line(curve, rows, tmp_path, drawn):
    draw(curve, rows, tmp_path / "fig5a.png", ["MVTecAD"])
    pixel, image = drawn[0].axes
    assert [text.get_text() for text in pixel.get_legend().get_texts()] == ["AUROC", "AUROC, paper", "F1Max", "AUPRO"]
    assert [text.get_text() for text in image.get_legend().get_texts()] == ["AUROC", "F1Max", "AUPR"]
    means = summarise(curve, frame(rows), "MVTecAD").means
    measured, published = pixel.containers[:2]
    line, _, (bars,) = measured.lines
    np.testing.assert_allclose(line.get_xydata(), [[float(x), means["mean"][x, "pixel_AUROC"]] for x in "012"])
    # The lone seed of the first point has no bar.
    assert len(bars.get_segments()[0]) == 0
    lowest, highest = bars.get_segments()[2][:, 1]
    assert highest - lowest == pytest.approx(2 * means.standard_deviation["2", "pixel_AUROC"])
    assert published.lines[0].get_xydata().tolist() == [[1, 50], [4, 60]]
    assert published.lines[0].get_linestyle() == "--"
    assert published.lines[0].get_color() == line.get_color()


def test_points_are_joined_in_the_order_of_their_numbers(curve, rows, tmp_path, drawn):
    zero, one, two = curve.rows.values()
    draw(replace(curve, rows={"10": two, "9": zero, "0.5": one}), rows, tmp_path / "fig5a.png", ["Procedural"])
    assert drawn[0].axes[0].containers[0].lines[0].get_xdata().tolist() == [0.5, 9, 10]


def test_a_study_of_one_kind_of_metric_has_one_panel(curve, rows, tmp_path, drawn):
    draw(replace(curve, metrics=["image_AUPR"]), rows, tmp_path / "fig5a.png", ["MVTecAD"])
    assert [axes.get_title() for axes in drawn[0].axes] == ["MVTecAD, image metrics"]


def test_a_data_set_without_masks_gets_an_empty_pixel_panel(curve, rows, tmp_path, drawn):
    rows = [replace(row, metrics={"image_AUROC": 0.5}) for row in rows]
    draw(curve, rows, tmp_path / "fig5a.png", ["Procedural"])
    assert [len(axes.containers) for axes in drawn[0].axes] == [0, 1]
