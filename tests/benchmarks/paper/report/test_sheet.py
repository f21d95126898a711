import doctest

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.paper.report import sheet
from benchmarks.paper.report.sheet import Example, choose_examples, draw_sheet

RANGES = {"A^V": (0.0, 0.4), "A^L": (0.0, 1.0), "final": (0.0, 1.0)}


def example(value=0.5, anomalous=True, shape=(60, 90), ranges=RANGES):
    mask = np.zeros(shape, bool)
    mask[20:40, 20:40] = anomalous
    image = np.full((*shape, 3), 128, np.uint8)
    maps = {name: np.full(shape, value * high) for name, (_, high) in ranges.items()}
    return Example("broken/001", image, mask, maps, ranges, 0.7, anomalous)


def draw(examples, path):
    draw_sheet(examples, path)
    return cv2.imread(str(path))


def test_example_in_docstring_runs():
    result = doctest.testmod(sheet)
    assert result.attempted > 0
    assert result.failed == 0


def test_a_sheet_has_a_line_for_each_example(tmp_path):
    one = draw([example()], tmp_path / "one.png")
    three = draw([example(), example(0.1), example(0.2, anomalous=False)], tmp_path / "three.png")
    assert one.shape[1] == three.shape[1] > 800
    assert three.shape[0] > one.shape[0] + 250
    assert three.std() > 10


def count(picture, colour, tolerance=40):
    return (np.abs(picture[..., ::-1].astype(int) - colour).max(axis=-1) < tolerance).sum()


def test_only_defects_are_outlined_in_green(tmp_path):
    green = (0, 255, 0)
    assert (
        count(draw([example(0.0)], tmp_path / "a.png"), green)
        > count(draw([example(0.0, anomalous=False)], tmp_path / "b.png"), green) + 100
    )


def overlay_colour(path, value, ranges):
    """Most frequent colour that is not grey, which is that of the overlays."""
    picture = draw([example(value, anomalous=False, ranges=ranges)], path).reshape(-1, 3)
    colourful = picture[np.ptp(picture.astype(int), axis=1) > 20]
    colours, counts = np.unique(colourful, axis=0, return_counts=True)
    return colours[counts.argmax()].tolist()


def test_colours_are_fixed_by_the_range_and_not_by_the_map(tmp_path):
    low, high = (overlay_colour(tmp_path / f"{value}.png", value, {"final": (0.0, 1.0)}) for value in (0.1, 0.9))
    assert low != high
    wider = overlay_colour(tmp_path / "wider.png", 0.9, {"final": (0.0, 9.0)})
    assert wider == high


def test_titles_scores_and_truth_are_written(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(sheet.Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    draw_sheet([example(), example(anomalous=False)], tmp_path / "sheet.png")
    (figure,) = figures
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["image", "mask", "$A^V$", "$A^L$", "final"]
    labels = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    assert labels == ["broken/001\nscore 0.700\nanomalous", "broken/001\nscore 0.700\nnormal"]
    bars = figure.axes[-len(RANGES) :]
    assert [axes.get_xlim() for axes in bars] == list(RANGES.values())


@pytest.mark.parametrize("shape", [(60, 90), (90, 60), (60, 60)])
def test_the_pictures_of_a_line_stand_side_by_side_and_are_as_large(tmp_path, monkeypatch, shape):
    figures = []
    save = sheet.Figure.savefig
    monkeypatch.setattr(
        sheet.Figure, "savefig", lambda figure, *args, **more: (figures.append(figure), save(figure, *args, **more))
    )
    draw_sheet([example(shape=shape), example(shape=shape)], tmp_path / "sheet.png")
    first = [axes.get_window_extent() for axes in figures[0].axes[:5]]
    for box in first:
        assert (box.y0, box.y1) == pytest.approx((first[0].y0, first[0].y1), abs=1)
        assert box.height / box.width == pytest.approx(shape[0] / shape[1], rel=0.02)
        # Two inches were meant to be given to each.
        assert box.width > 0.75 * sheet.CELL * figures[0].dpi


def test_examples_that_cannot_be_compared_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one example"):
        draw_sheet([], tmp_path / "sheet.png")
    with pytest.raises(ValueError, match="same maps and ranges"):
        draw_sheet([example(), example(ranges={**RANGES, "final": (0.0, 2.0)})], tmp_path / "sheet.png")
    with pytest.raises(ValueError, match="same maps and ranges"):
        draw_sheet([example()._replace(maps={})], tmp_path / "sheet.png")


def test_choice_by_hand():
    scores = np.array([0.9, 0.5, 0.1, 0.7, 0.2, 0.8, 0.3, 0.6])
    labels = np.array([True, True, True, True, False, False, False, False])
    assert choose_examples(scores, labels, 3) == ([0, 3, 4], [2, 1, 5])
    assert choose_examples(scores, labels, 1) == ([0], [2])
    assert choose_examples(scores, labels, 0) == ([], [])


def test_equal_scores_are_ranked_by_index():
    scores = np.arange(400) % 2 / 2
    labels = np.arange(400) >= 200
    assert choose_examples(scores, labels, 40) == (
        [*range(201, 241, 2), *range(0, 40, 2)],
        [*range(398, 358, -2), *range(199, 159, -2)],
    )


def test_a_lone_image_of_its_kind_is_a_success():
    assert choose_examples(np.array([0.1, 0.9]), np.array([True, False]), 4) == ([0, 1], [])
    assert choose_examples(np.array([]), np.array([], bool), 4) == ([], [])


@given(images=st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=20), wanted=st.integers(0, 8))
def test_chosen_images_are_the_extremes_of_their_kind(images, wanted):
    scores = np.array([score for score, _ in images], float)
    labels = np.array([label for _, label in images], bool)
    successes, failures = choose_examples(scores, labels, wanted)
    assert len(set(successes) | set(failures)) == len(successes) + len(failures)
    assert max(len(successes), len(failures)) <= wanted
    for kind, sign in ((True, 1), (False, -1)):
        good = [sign * scores[index] for index in successes if labels[index] == kind]
        bad = [sign * scores[index] for index in failures if labels[index] == kind]
        everything = np.sort(sign * scores[labels == kind])
        assert good == everything[::-1][: len(good)].tolist()
        assert bad == everything[: len(bad)].tolist()
