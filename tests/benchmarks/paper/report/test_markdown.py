from dataclasses import replace

import pytest

from benchmarks.paper.plan import Setting, Study
from benchmarks.paper.report import markdown
from benchmarks.paper.report.summary import summarise
from benchmarks.paper.results import Row
from tests.benchmarks.paper.helpers import frame

METRIC = "image_AUROC"


def made(published=None, order=(), **values):
    """A study with a row of each label, and rows with a value for each seed."""
    settings = {label: Setting("ours", beta=index) for index, label in enumerate(values)}
    study = Study("T", metrics=[METRIC], rows=settings, order=order, published=published or {})
    rows = [
        Row("Visa", "pcb1", settings[label].key, seed, {METRIC: value}, 1.0)
        for label, of_seeds in values.items()
        for seed, value in enumerate(of_seeds)
    ]
    return study, rows


def cells(table):
    """Cells of a table's lines by their first cell."""
    lines = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.splitlines()[2:]]
    return {line[0]: line[1:] for line in lines}


def summary_of(study, rows, dataset="Visa"):
    return summarise(study, frame(rows), dataset)


def overall(study, rows):
    return {label: line[0] for label, line in cells(markdown.overall_table(study, summary_of(study, rows))).items()}


def order_of(study, rows):
    return {pair: line[0] for pair, line in cells(markdown.order_table(study, summary_of(study, rows))).items()}


def test_mean_and_spread_with_one_decimal():
    # Per cent 92, 93 and 95: mean 93.33, standard deviation 1.53.
    study, rows = made(Ours=(0.92, 0.93, 0.95))
    assert overall(study, rows) == {"Ours": "93.3 ± 1.5"}


def test_one_seed_has_no_spread_and_equal_seeds_have_none_to_speak_of():
    study, rows = made(CLIP=(0.5,), Ours=(0.25, 0.25))
    assert overall(study, rows) == {"CLIP": "**50.0**", "Ours": "<u>25.0 ± 0.0</u>"}


def test_best_and_second_are_marked_and_equal_figures_alike():
    study, rows = made(a=(0.5,), b=(0.9001,), c=(0.9004,), d=(0.7,), e=(0.7,))
    assert overall(study, rows) == {
        "a": "50.0",
        "b": "**90.0**",
        "c": "**90.0**",
        "d": "<u>70.0</u>",
        "e": "<u>70.0</u>",
    }


def test_a_single_method_is_not_called_the_best():
    study, rows = made(Ours=(0.5,))
    assert overall(study, rows) == {"Ours": "50.0"}


def test_published_figures_stand_beside_the_measured_ones_of_their_data_set():
    published = {"Visa": {"a": {METRIC: 59.3}, "b": {METRIC: "82.6 ± 0.4"}, "MuSc": {METRIC: 99.0}, "x|y": {}}}
    study, rows = made(published, a=(0.6,), b=(0.8,), c=(0.7,), d=())
    assert overall(study, rows) == {
        "a": "60.0<br>paper 59.3 (+0.7)",
        "b": "**80.0**<br>paper 82.6 ± 0.4 (−2.6)",
        "c": "<u>70.0</u>",
        "d": "–",
        "MuSc (paper)": "99.0",
        r"x\|y (paper)": "–",
    }
    elsewhere = summary_of(study, [replace(row, dataset="Folder") for row in rows], "Folder")
    assert "paper" not in markdown.overall_table(study, elsewhere)


def test_a_figure_that_was_not_measured_still_shows_the_papers():
    study, rows = made({"Visa": {"a": {METRIC: 59.3}}}, a=(), b=(0.5,))
    assert overall(study, rows)["a"] == "–<br>paper 59.3"


@pytest.mark.parametrize(
    ("difference", "text"), [(1.26, "+1.3"), (-1.26, "−1.3"), (0.04, "0.0"), (-0.04, "0.0"), (0.0, "0.0")]
)
def test_differences_have_a_sign(difference, text):
    assert markdown.signed(difference) == text


def test_nothing_is_said_where_nothing_is_missing():
    study, rows = made(a=(0.5, 0.6), b=(0.7,))
    assert markdown.gaps(summary_of(study, rows)) == ""


def test_all_that_is_missing_is_named(study, rows):
    clip, ours, ours_plus = (setting.key for setting in study.rows.values())
    absent = {("screw", ours_plus, 1), ("metal_nut", ours, 0), ("metal_nut", ours, 2)}
    rows = [row for row in rows if (row.category, row.setting, row.seed) not in absent and row.setting != clip]
    rows.append(replace(rows[0], setting=ours_plus, seed=7, metrics={}, error="broken"))
    rows = [replace(row, metrics={METRIC: 0.5}) if row.category == "bottle" and not row.error else row for row in rows]
    text = markdown.gaps(summary_of(study, rows, "MVTecAD"))
    assert text == (
        "The means are over the 1 of 3 categories that every row has with all its seeds. "
        "Missing: Ours: metal_nut (seeds 0, 2); Ours+: screw (seed 1). "
        "Ours+ has no result of seed 7 on any category. "
        "Categories without a value are left out, too (pixel AUROC: bottle; pixel F1Max: bottle; pixel AUPRO: bottle; "
        "image F1Max: bottle; image AUPR: bottle). "
        "No result yet: CLIP."
    )


def test_categories_are_folded_and_show_the_headline_metrics(study, rows):
    text = markdown.category_tables(study, summary_of(study, rows, "MVTecAD"))
    assert text.startswith("<details><summary>")
    assert text.endswith("</details>")
    pixel, image = (part for part in text.split("\n\n") if part.startswith("|"))
    assert pixel.startswith("| pixel AUROC | CLIP | Ours | Ours+ |")
    assert image.startswith("| image AUROC |")
    assert list(cells(pixel)) == ["bottle", "metal_nut", "screw"]
    row = next(row for row in rows if row.key == ("MVTecAD", "screw", "clip()", 0))
    assert cells(image)["screw"][0] == f"{100 * row.metrics[METRIC]:.1f}"


def test_without_an_auroc_the_first_metric_is_the_headline(study, rows):
    study = replace(study, metrics=["pixel_AUPRO", "image_AUPR"], published={})
    text = markdown.category_tables(study, summary_of(study, rows, "MVTecAD"))
    assert "| pixel AUPRO |" in text
    assert "image" not in text


def test_order_of_methods_in_words_beside_the_papers():
    published = {"Visa": {"a": {METRIC: 59.3}, "b": {METRIC: 78.1}}}
    study, rows = made(published, [["a", "b", "c"], ["a", "c"]], a=(0.5,), b=(0.613,), c=(0.6,))
    assert order_of(study, rows) == {
        r"a \< b": "holds: +11.3 (paper +18.8)",
        r"b \< c": "does not hold: −1.3",
        r"a \< c": "holds: +10.0",
    }


def test_the_order_is_that_which_is_asked_for():
    study, rows = made(order=[["c", "a"]], a=(0.5,), b=(0.8,), c=(0.75,))
    assert order_of(study, rows) == {r"c \< a": "does not hold: −25.0"}


def test_a_method_that_was_not_measured_is_stepped_over():
    study, rows = made(order=[["a", "b", "c"]], a=(0.5,), b=(), c=(0.75,))
    assert order_of(study, rows) == {r"a \< c": "holds: +25.0"}
    assert order_of(study, rows[:1]) == {}


def test_equal_means_are_not_in_order():
    study, rows = made(order=[["a", "b"]], a=(0.5,), b=(0.5,))
    assert order_of(study, rows) == {r"a \< b": "does not hold: 0.0"}


def test_failed_rows_are_listed_with_reasons_that_do_not_break_the_table(rows):
    assert markdown.failed_rows(frame(rows)) == "No job failed."
    rows[3] = replace(rows[3], metrics={}, error="ValueError: a | b\n  in <module> of __init__.py")
    lines = markdown.failed_rows(frame(rows)).splitlines()
    assert len(lines) == 3
    assert lines[2].endswith(r"| ValueError: a \| b in \<module\> of \_\_init\_\_.py |")


def test_names_stay_readable():
    assert markdown.escape("metal_nut ours_plus(λ=1.5, beta=0.5)") == "metal_nut ours_plus(λ=1.5, beta=0.5)"
