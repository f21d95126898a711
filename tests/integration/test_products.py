"""``predict`` on several products: each as by itself, all in one list and one report."""

import functools
import json
import os
import signal
from pathlib import Path

import pytest

from dual_image_clip import cli
from dual_image_clip.prediction.sketch import make_sketch
from dual_image_clip.threshold_file import Calibration
from dual_image_clip.weights import EMBEDDED, backbone
from tests.drawn_data import draw_plate, save
from tests.helpers import tiny_model
from tests.integration.commands import rows_of

QUICK = ["--backbone", EMBEDDED, "--adaptation-steps", "0", "--image-size", "80"]
PRODUCTS = ("cable", "metal_nut", "pcb1")


@pytest.fixture
def products(workspace):
    """Three products whose photos have the same names."""
    for number, product in enumerate(PRODUCTS):
        for index in range(4):
            defect = "spot" if index == number else None
            photo = draw_plate(100 * number + index, (80, 80), defect)[0]
            # The second product is seen from the side.
            save(photo.transpose(1, 0, 2) if number == 1 else photo, workspace / "photos" / product / f"{index}.png")
    return workspace / "photos"


def predict(*more: str, output: str = "out", photos: str = "photos") -> int:
    return cli.main(["predict", photos, *QUICK, "--output", output, *more])


def scores(workspace, output: str = "out") -> dict[str, tuple[str, str]]:
    return {row["path"]: (row["score"], row["label"]) for row in rows_of(workspace / output / "predictions.csv")}


def test_each_product_is_scored_as_by_itself_with_weights_loaded_once(products, workspace, monkeypatch, capsys, caplog):
    loads = []
    create = backbone._create
    monkeypatch.setattr(backbone, "_create", lambda *arguments: loads.append(arguments) or create(*arguments))
    save(draw_plate(1)[0], products / "loose.png")
    (products / "empty").mkdir()
    # What an earlier run on all photos has drawn is replaced.
    assert predict("--class-name", "thing") == 0
    loads.clear()
    assert predict("--class-from-folder", "--threshold", "0.4") == 0
    assert len(loads) == 1
    told = capsys.readouterr()

    found = scores(workspace)
    alone = {}
    for product, name in zip(PRODUCTS, ("cable", "metal nut", "pcb"), strict=True):
        own = f"photos/{product}"
        assert predict("--class-name", name, "--threshold", "0.4", output=f"alone/{product}", photos=own) == 0
        alone |= scores(workspace, f"alone/{product}")
    assert found == alone
    assert len(found) == 12
    drawn = {path.relative_to(workspace / "out").as_posix() for path in (workspace / "out").glob("images/*/*.png")}
    assert drawn == {row["heatmap"] for row in rows_of(workspace / "out" / "predictions.csv")}
    assert drawn == {f"images/{product}/{index}.png" for product in PRODUCTS for index in range(4)}

    page = (workspace / "out" / "report.html").read_text(encoding="utf-8")
    for name, reason in (("loose.png", "lies beside the folders of products"), ("empty", "is a folder without photos")):
        assert reason in page.split(f"<td>{name}</td>")[1].split("</tr>")[0]
        assert f"photos/{name}: {reason}" in caplog.text
    assert "3 products, 12 images" in told.out
    assert [f"{product}: 4 images" in told.out for product in PRODUCTS] == [True] * 3
    assert "metal_nut (2 of 3)" in told.err


def test_a_file_says_what_differs_and_what_is_wrong_with_one_product_costs_no_other(products, workspace, capsys):
    for product in ("cable", "metal_nut"):
        for index in range(2):
            save(draw_plate(900 + index, (80, 80))[0], workspace / "good" / product / f"g{index}.png")
    (workspace / "said").mkdir()
    (workspace / "said" / "products.yaml").write_text(
        "products: {cable: {class_name: copper wire, threshold: 0.01, num_references: 0}, metal_nuts: }"
    )
    arguments = ["--products", "said/products.yaml", "--golden", "good", "--threshold", "0.99"]
    assert predict(*arguments) == cli.FAILED
    told = capsys.readouterr()
    assert "said/products.yaml names metal_nuts" in told.err
    assert "did you mean metal_nut?" in told.err
    # Before anything is loaded
    line = "pcb1 could not be scored: --golden: there is no folder or file good/pcb1"
    assert told.err.index(line) < told.err.index("Predicting")
    assert "pcb1: failed: --golden" in told.out
    rows = rows_of(workspace / "out" / "predictions.csv")
    limits = {(row["path"].split("/")[1], row["threshold"], row["num_references"], row["label"]) for row in rows}
    assert limits == {("cable", "0.010000", "2", "anomalous"), ("metal_nut", "0.990000", "3", "normal")}
    page = (workspace / "out" / "report.html").read_text(encoding="utf-8")
    assert "copper wire" in page
    assert "could not be scored: --golden" in page


def test_a_product_that_fails_halfway_costs_nothing_else(products, workspace, monkeypatch, capsys):
    monkeypatch.setattr("dual_image_clip.prediction.collecting.make_sketch", at_photo(6, run_out_of_memory))
    assert predict("--class-from-folder") == cli.FAILED
    told = capsys.readouterr()
    assert "metal_nut: failed: RuntimeError: out of memory" in told.out
    assert "3 of 13 files were not looked at" in told.out
    assert "pcb1 (3 of 3)" in told.err
    found = [path.split("/")[1] for path in scores(workspace)]
    assert [found.count(product) for product in PRODUCTS] == [4, 1, 4]


def test_ctrl_c_keeps_what_is_done(products, workspace, monkeypatch, capsys):
    monkeypatch.setattr("dual_image_clip.prediction.collecting.make_sketch", at_photo(7, press_ctrl_c))
    assert predict("--class-from-folder") == cli.INTERRUPTED
    told = capsys.readouterr()
    assert "of 12 files were not looked at" in told.out
    found = [path.split("/")[1] for path in scores(workspace)]
    assert found.count("cable") == 4
    assert 1 <= found.count("metal_nut") < 4
    assert "pcb1" not in found
    page = (workspace / "out" / "report.html").read_text(encoding="utf-8")
    assert "The run ended early" in page
    # The folder is free again; programs are given everything as one object.
    monkeypatch.undo()
    monkeypatch.chdir(workspace)
    assert predict("--class-from-folder", "--json") == 0
    told = capsys.readouterr()
    given = json.loads(told.out)
    assert {each["name"]: (f"{each['score']:.6f}", each["label"] or "undecided") for each in given["images"]} == scores(
        workspace
    )
    assert [each["product"] for each in given["images"]] == [product for product in PRODUCTS for _ in range(4)]
    assert (given["failures"], given["left_out"]) == ({}, 0)
    assert all(Path(path).is_file() for path in given["files"].values())
    assert told.err.splitlines()[-1].startswith("Results: out/report.html")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "what do the photos show? Say it with --class-name"),
        (["--class-name", "nut", "--class-from-folder"], "--class-name is for photos of one product"),
        (["--class-from-folder", "--golden", "nowhere"], "--golden: there is no folder nowhere, with a subfolder"),
        (["--products", "nowhere.yaml"], "nowhere.yaml cannot be read"),
        (["--class-from-folder", "--num-references", "-1"], "num_references must be at least 0, got -1"),
        (["--class-from-folder", "--regions", "nowhere.png"], "nowhere.png"),
        (["--class-from-folder", "--threshold", "2"], "threshold"),
        (["--class-from-folder", "--output", "photos/out"], "lies inside photos"),
    ],
    ids=["nothing", "both", "golden", "no-file", "references", "regions", "threshold", "output"],
)
def test_mistakes_are_told_before_weights_are_loaded(arguments, said, products, monkeypatch, capsys):
    monkeypatch.setattr(backbone, "_create", None)
    assert cli.main(["predict", "photos", *arguments]) == cli.WRONG_ARGUMENTS
    told = capsys.readouterr().err
    assert said in told.splitlines()[-1]
    assert told.count("dual-image-clip: error") == 1


def test_thresholds_of_another_product_are_told_before_weights_are_loaded(products, workspace, monkeypatch, capsys):
    settings = tiny_model(class_name="cable").score_settings
    Calibration(0.3, 0.5, 0.01, 120, 120, 0.2, (), settings).save(workspace / "cable.json")
    said = "{cable: {threshold: nowhere.json}, metal_nut: {threshold: cable.json}, pcb1: {golden: none}}"
    (workspace / "products.yaml").write_text(f"products: {said}")
    monkeypatch.setattr(backbone, "_create", None)
    assert predict("--products", "products.yaml") == cli.WRONG_ARGUMENTS
    told = capsys.readouterr().err
    assert "cable: threshold file nowhere.json cannot be read" in told
    assert "metal_nut: cable.json was made with class_name='cable', and here it is 'metal nut'" in told
    assert "pcb1: --golden: there is no folder or file none" in told


def test_where_no_photo_can_be_read_the_report_says_why(workspace, capsys):
    for product in PRODUCTS[:2]:
        (workspace / "photos" / product).mkdir(parents=True)
        (workspace / "photos" / product / "0.png").write_text("not an image")
    assert predict("--class-from-folder") == cli.FAILED
    assert "error: none of its photos could be read" in capsys.readouterr().err
    assert "cable/0.png" in (workspace / "out" / "report.html").read_text(encoding="utf-8")


def test_a_folder_must_say_what_is_in_it(products, workspace, capsys):
    (products / "cable").rename(products / "0042")
    assert predict("--class-from-folder") == cli.WRONG_ARGUMENTS
    told = capsys.readouterr().err
    assert "photos/0042 has no letters in its name" in told
    assert "products: {'0042': {class_name: metal nut}}" in told
    assert predict("--class-from-folder", photos="photos/0042") == cli.WRONG_ARGUMENTS
    assert "no subfolder of photos/0042 has photos" in capsys.readouterr().err


def at_photo(number: int, act):
    """Sketches, and acts before a photo is done."""
    seen = []

    @functools.wraps(make_sketch)
    def sketch(*arguments):
        seen.append(arguments)
        if len(seen) == number:
            act()
        return make_sketch(*arguments)

    return sketch


def run_out_of_memory():
    msg = "out of memory"
    raise RuntimeError(msg)


def press_ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)
