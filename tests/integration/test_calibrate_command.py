"""From good photos to a threshold, and from the threshold to labels, as a user types it."""

import json
from pathlib import Path

import pytest

from dual_image_clip.cli import main
from dual_image_clip.weights import EMBEDDED
from tests.drawn_data import draw_plate, make_photos, save
from tests.integration.commands import rows_of

SETTINGS = ["--class-name", "metal plate", "--backbone", EMBEDDED, "--adaptation-steps", "0", "--num-references", "0"]


@pytest.fixture
def good(workspace) -> Path:
    """Thirty photos of which sixteen become golden, one that is not good, and one that is none."""
    folder = make_photos(Path("good"), normal=30, defective=0)
    (folder / "broken.png").write_text("no image")
    return folder


def calibrate(*more: str) -> int:
    return main(["calibrate", "good", *SETTINGS, "--golden", "good", *more])


def predict(*more: str, golden: str = "good") -> int:
    return main(["predict", "later", *SETTINGS, "--golden", golden, "--output", "out", *more])


def test_good_photos_give_a_threshold_that_a_prediction_takes(good, capfd):
    for seed in range(5):
        save(draw_plate(5000 + seed, defect="spot")[0], good / f"odd_{seed}.png")
    assert calibrate("--false-alarm-rate", "0.1") == 0
    said = capfd.readouterr()
    assert "Passed over: good/broken.png cannot be read" in said.err
    content = json.loads(Path("threshold.json").read_text())
    # Which of the defective ones are drawn as golden is chance.
    named = [path for path, _ in content["suspicious"]]
    assert named
    assert all(Path(path).name.startswith("odd_") for path in named)
    for path, score in content["suspicious"]:
        assert f"Looks defective: {score:.3f} (median {content['median']:.3f}) {path}" in said.out
    assert said.out.splitlines()[-1] == "Thresholds: threshold.json"
    assert "against 16 golden photo(s)" in said.out

    make_photos(Path("later"), normal=0, defective=2)
    save(draw_plate(77)[0], Path("later/fine.png"))
    assert predict("--threshold", "threshold.json") == 0
    rows = rows_of(Path("out/predictions.csv"))
    assert len(rows) == 3
    for row in rows:
        assert float(row["threshold"]) == pytest.approx(content["threshold"], abs=1e-5)
        assert row["label"] == ("anomalous" if float(row["score"]) > content["threshold"] else "normal")

    # With other settings it is refused.
    capfd.readouterr()
    assert predict("--threshold", "threshold.json", "--num-references", "1") == 2
    assert "num_references=0, and here it is 1" in capfd.readouterr().err
    make_photos(Path("other"), normal=20, defective=0, size=(130, 130))
    assert predict("--threshold", "threshold.json", golden="other") == 2
    assert "other golden images" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--false-alarm-rate", "0.01"],
            "good: too few good photos for a false-alarm rate of 0.01: 31, and",
        ),
        (["--false-alarm-rate", "0.05"], "good without golden and unusable photos: too few"),
        (["--false-alarm-rate", "0.1", "--num-references", "9"], "because each is compared with 9 other"),
        (["--false-alarm-rate", "1.5"], "--false-alarm-rate 1.5 must lie above 0 and below 1"),
        (["--false-alarm-rate", "0.2", "--output", "good/plate_000.png"], "is no file of thresholds: move it away"),
        (["--false-alarm-rate", "0.2", "--class-name", "7"], "has no letters"),
    ],
)
def test_mistake_is_one_line_and_writes_nothing(arguments, said, good, capfd):
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*")}
    assert calibrate(*arguments) == 2
    (line,) = [each for each in capfd.readouterr().err.splitlines() if "error" in each]
    assert said in line
    assert {path: path.stat().st_mtime_ns for path in Path().rglob("*")} == before


def test_programs_are_given_the_thresholds_as_json(workspace, capfd):
    make_photos(Path("few"), normal=4, defective=0)
    assert main(["calibrate", "few", *SETTINGS, "--false-alarm-rate", "0.2", "--json"]) == 0
    said = capfd.readouterr()
    found, written = json.loads(said.out), json.loads(Path("threshold.json").read_text())
    assert found.pop("file") == "threshold.json"
    assert found == {name: written[name] for name in found}
    assert {"threshold", "map_threshold", "false_alarm_rate", "suspicious", "settings"} <= found.keys()
    assert said.err.splitlines()[-1] == "Thresholds: threshold.json"


def test_missing_folder_is_named(workspace, capfd):
    assert calibrate() == 2
    assert "there is no folder good" in capfd.readouterr().err


@pytest.mark.parametrize("command", [["predict", "good", "--class-name", "plate"], ["ui"]], ids=["predict", "ui"])
def test_threshold_that_is_neither_number_nor_file_is_told_before_weights_are_loaded(command, good, capfd, monkeypatch):
    monkeypatch.setattr(
        "dual_image_clip.lightning_model.load_backbone", lambda *_: pytest.fail("the weights were loaded")
    )
    with pytest.raises(SystemExit) as ended:
        main([*command, "--threshold", "high"])
    assert ended.value.code == 2
    assert "high is neither a number nor a file" in capfd.readouterr().err
    assert main([*command, "--threshold", "good/plate_000.png"]) == 2
    said = capfd.readouterr().err
    assert "good/plate_000.png is no file of thresholds" in said
    assert said.count("\n") == 1
