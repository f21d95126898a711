"""A folder in, an answer out: both commands, in processes of their own, as an inspection engineer types them."""

import base64
import html
import io
import re
import signal
import subprocess
import sys
import time
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from dual_image_clip.cli import main
from dual_image_clip.weights import EMBEDDED
from tests.drawn_data import draw_plate, make_photos, save
from tests.integration.commands import hear_ctrl_c, rows_of

BIN = Path(sys.executable).parent
OWN = [BIN / "dual-image-clip", "predict"]
NAME = ["--class-name", "metal plate"]
QUICK = ["--backbone", EMBEDDED, "--adaptation-steps", "0"]
ANOMALIB = [BIN / "anomalib", "predict", "--model", "DualImageCLIP", "--model.class_name", "metal plate"]
QUICK_ANOMALIB = ["--model.backbone", EMBEDDED, "--model.adaptation_steps", "0"]
SCRIPT = "<script>alert(1)<script>.png"

run = partial(subprocess.run, capture_output=True, text=True, check=False, timeout=120)


def predict(photos: Path, output: str, *more: str) -> int:
    return main(["predict", str(photos), *NAME, *QUICK, "--output", output, *more])


def names(path: Path) -> list[str]:
    return [Path(row["path"]).name for row in rows_of(path)]


def heatmaps(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder / "images").as_posix() for path in folder.rglob("images/**/[!.]*.png"))


class Pictures(HTMLParser):
    """Everything that a page points to, and what stands for it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def named(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def spoiled_photos(workspace):
    """Sixteen photos, one of them spoilt, in two folders, beside three files that are of no use."""
    folder = make_photos(workspace / "photos", normal=14, defective=1)
    (folder / "deeper").mkdir()
    (folder / "plate_003.png").rename(folder / "deeper" / "plate_003.png")
    save(draw_plate(88)[0], folder / SCRIPT)
    (folder / "broken.png").write_text("not an image")
    truncated = save(draw_plate(77)[0], folder / "truncated.jpg")
    truncated.write_bytes(truncated.read_bytes()[:1500])
    save(np.zeros((8, 40, 3), dtype=np.uint8), folder / "speck.png")
    return folder


def test_both_commands_give_the_same_answer(spoiled_photos, workspace):
    own = run([*OWN, spoiled_photos, *NAME, *QUICK, "--output", "own"])
    stock = run([*ANOMALIB, *QUICK_ANOMALIB, "--data", spoiled_photos])
    assert (own.returncode, stock.returncode) == (0, 0), own.stderr + stock.stderr
    theirs = workspace / "results" / "DualImageCLIP" / "latest"
    text = (workspace / "own" / "predictions.csv").read_text(encoding="utf-8")
    assert text == (theirs / "predictions.csv").read_text(encoding="utf-8")
    pages = [(folder / "report.html").read_text(encoding="utf-8") for folder in (workspace / "own", theirs)]
    assert re.findall(r'src="[^"]*"', pages[0]) == re.findall(r'src="[^"]*"', pages[1])
    drawn = [heatmaps(folder) for folder in (workspace / "own", theirs)]
    assert drawn[0] == drawn[1]
    assert sorted(Path(name).name for name in drawn[0]) == sorted(names(workspace / "own" / "predictions.csv"))
    for command in (own, stock):
        said = command.stdout + command.stderr
        assert "3 file(s) could not be used" in said
        assert all(name in said.replace("\n", "") for name in ("broken.png", "truncated.jpg", "speck.png"))

    # The list
    found = rows_of(workspace / "own" / "predictions.csv")
    assert text.splitlines()[0] == "path,score,label,threshold,num_references,heatmap,defects,largest_defect"
    assert {row["heatmap"] for row in found} == {f"images/{name}" for name in drawn[0]}
    assert len(found) == 16
    assert Path(found[0]["path"]).name == "spoilt_000.png"
    scores = [float(row["score"]) for row in found]
    assert scores == sorted(scores, reverse=True)
    assert len({row["threshold"] for row in found}) == 1
    assert all(
        row["label"] == ("anomalous" if score > float(row["threshold"]) else "normal")
        for row, score in zip(found, scores, strict=True)
    )
    assert [row["label"] for row in found].count("anomalous") >= 1
    assert {row["num_references"] for row in found} == {"1"}

    # The last lines
    assert all(f"{score:.3f}" in own.stdout for score in scores[:3])
    assert [name in own.stdout for name in names(workspace / "own" / "predictions.csv")[:4]] == [True] * 3 + [False]
    assert own.stdout.index("own/report.html") > own.stdout.index("spoilt_000.png")
    assert re.search(r"Predicting .* 19/19 \d:\d\d:\d\d • \d:\d\d:\d\d", own.stderr)
    assert "Traceback" not in own.stderr

    # The report
    page, pictures = pages[0], Pictures(pages[0])
    assert pictures.named("html")[0]["lang"] == "en"
    images = pictures.named("img")
    assert len(images) == 2 * 16
    assert all(image["alt"] for image in images)
    assert images[0]["alt"] == "spoilt_000.png"
    assert "deeper/plate_003.png" in [image["alt"] for image in images]
    links = [tag.get(key, "") for _, tag in pictures.tags for key in ("src", "href") if tag.get(key)]
    large = {f"{folder}/{quote(name)}" for folder in ("images", "../photos") for name in drawn[0]}
    assert large <= set(links)
    assert all(link in large or link.startswith(("data:image/jpeg;base64,", "#")) for link in links)
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//|@import|url\(", page)
    assert html.escape(SCRIPT) in page
    assert "alert(1)<script>" not in page
    assert len(pictures.named("script")) == 1
    assert f"threshold {float(found[0]['threshold']):.3f}" in page
    assert sum(int(count) for count in re.findall(r"<title>(\d+) from", page)) == 16
    for fact in ("metal plate", EMBEDDED, "adaptation_steps", "open_clip_torch"):
        assert fact in page
    for name in ("broken.png", "truncated.jpg", "speck.png"):
        assert f"<td>{name}</td>" in page
        assert f'alt="{name}"' not in page


def interrupt_after(count: int, command: list, folder: Path) -> subprocess.CompletedProcess:
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_ctrl_c,  # noqa: PLW1509
    )
    deadline = time.monotonic() + 100
    while len(list(folder.rglob("images/**/[!.]*.png"))) < count and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=100)
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


@pytest.mark.parametrize("command", ["own", "anomalib"])
def test_ctrl_c_keeps_what_is_done(command, workspace):
    photos = make_photos(workspace / "photos", normal=60, defective=0)
    # First in the order of files, so that it is among those that are done.
    save(draw_plate(1, defect="spot")[0], photos / "a.png")
    if command == "own":
        arguments, expected = [*OWN, photos, *NAME, "--backbone", EMBEDDED], 130
    else:
        arguments, expected = [*ANOMALIB, "--model.backbone", EMBEDDED, "--data", photos], 1
    result = interrupt_after(12, arguments, workspace / "results")
    assert result.returncode == expected, result.stderr
    assert "Traceback" not in result.stderr
    folder = workspace / "results" / "DualImageCLIP" / "latest"
    done = rows_of(folder / "predictions.csv")
    assert 11 <= len(done) < 61
    assert Path(done[0]["path"]).name == "a.png"
    assert done[0]["label"] == "anomalous"
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert f"{61 - len(done)} of 61 files were not looked at" in page
    assert len(Pictures(page).named("img")) == 2 * len(done)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere", *NAME], 2, "there is no folder nowhere"),
        (["empty", *NAME], 2, "no photos in empty"),
        (["photos", "--class-name", ""], 2, "--class-name '' has no letters"),
        (["photos", "--class-name", "12"], 2, "--class-name '12' has no letters"),
        (["photos", *NAME, "--output", "file.txt"], 2, "cannot write to --output file.txt"),
        (["photos", *NAME, "--output", "file.txt/below"], 2, "cannot write to --output file.txt/below"),
        (["photos", *NAME, "--output", "photos/below"], 2, "--output photos/below lies inside photos"),
        (
            ["shoot/images", *NAME, "--output", "shoot"],
            2,
            "shoot/images and shoot/images, where pictures are written, lie inside each other",
        ),
        (["shoot/images/part", *NAME, "--output", "shoot"], 2, "shoot/images/part and shoot/images, where pictures"),
        (["shoot/maps", *NAME, "--output", "shoot", "--save-maps"], 2, "shoot/maps and shoot/maps, where pictures"),
        (["photos", *NAME, "--output", "drawn"], 2, "drawn/images/plate_000.png is there already"),
        (["photos", *NAME, "--output", "mapped", "--save-maps"], 2, "mapped/maps/plate_000.png is there already"),
        (["photos", *NAME, "--output", "taken"], 2, "taken/predictions.csv is there already"),
        (["photos", *NAME, *QUICK, "--num-references", "50"], 1, "num_references=50"),
        (["photos", *NAME, "--backbone", "ViT-9"], 2, "backbone='ViT-9' is not an open_clip model"),
        (["broken", *NAME, *QUICK], 1, "no image in broken could be scored"),
    ],
)
def test_mistakes_take_one_line(arguments, code, message, workspace, photos, monkeypatch, capfd):
    (workspace / "empty").mkdir()
    (workspace / "broken").mkdir()
    (workspace / "broken" / "a.png").write_text("not an image")
    (workspace / "file.txt").touch()
    save(draw_plate(1)[0], workspace / "shoot" / "images" / "part" / "a.png")
    for place in ("shoot/maps/a.png", "drawn/images/plate_000.png", "mapped/maps/plate_000.png"):
        save(draw_plate(1)[0], workspace / place)
    (workspace / "taken").mkdir()
    (workspace / "taken" / "predictions.csv").write_text("somebody's own")
    before = {path: path.read_bytes() for path in workspace.rglob("*") if path.is_file()}
    if code == 2 and "ViT-9" not in arguments:
        # Whatever is wrong is told before a model is loaded.
        monkeypatch.setitem(sys.modules, "dual_image_clip.lightning_model", None)
    assert main(["predict", *arguments]) == code
    said = capfd.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("dual-image-clip: error: ")
    assert message in said
    assert {path: path.read_bytes() for path in before} == before


def test_results_are_replaced_and_no_other_file_is(workspace, photos, capfd):
    images = workspace / "out" / "images"
    assert predict(photos, "out") == predict(photos, "out") == 0
    written = len(heatmaps(workspace / "out"))
    # A photo that comes in the meantime, and a picture of somebody's own where its heatmap would go.
    save(draw_plate(99)[0], photos / "new.png")
    own = save(draw_plate(7)[0], images / "new.png")
    before = own.read_bytes()
    assert predict(photos, "out") == 2
    assert "out/images/new.png is there already" in capfd.readouterr().err
    assert own.read_bytes() == before
    own.unlink()
    assert predict(photos, "out") == 0
    assert len(heatmaps(workspace / "out")) == written + 1


def test_a_mistake_leaves_no_traceback_in_a_process_of_its_own(workspace):
    result = run([*OWN, "nowhere", *NAME])
    assert (result.returncode, result.stderr) == (2, "dual-image-clip: error: there is no folder nowhere\n")


def test_debug_shows_where_a_mistake_was_found(workspace, capfd):
    assert main(["predict", "nowhere", *NAME, "--debug"]) == 2
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert any("in run" in line for line in lines)
    assert lines[-1] == "dual-image-clip: error: there is no folder nowhere"


def test_the_help_says_what_comes_out():
    result = run([*OWN, "--help"])
    assert result.returncode == 0
    for fact in (
        "report.html",
        "predictions.csv",
        "subfolders",
        "130",
        "--class-name",
        "--threshold",
        "maps",
        "16-bit",
    ):
        assert fact in result.stdout


def test_a_handful_of_photos_is_ranked_but_not_labelled(workspace, capfd):
    photos = make_photos(workspace / "photos", normal=3, defective=1)
    assert predict(photos, "few", "--num-references", "2") == 0
    found = rows_of(workspace / "few" / "predictions.csv")
    assert [(row["label"], row["threshold"]) for row in found] == [("undecided", "")] * 4
    assert {row["num_references"] for row in found} == {"2"}
    assert Path(found[0]["path"]).name == "spoilt_000.png"
    assert "at least eight images" in (workspace / "few" / "report.html").read_text(encoding="utf-8")
    threshold = float(found[0]["score"]) - 1e-4
    assert predict(photos, "set", "--num-references", "2", "--threshold", str(threshold)) == 0
    assert [row["label"] for row in rows_of(workspace / "set" / "predictions.csv")] == ["anomalous", *["normal"] * 3]


def test_one_photo_has_no_reference(workspace):
    photo = next(make_photos(workspace / "photos", normal=0).glob("*.png"))
    assert predict(photo, "one") == 0
    assert [row["num_references"] for row in rows_of(workspace / "one" / "predictions.csv")] == ["0"]


def test_names_that_are_no_text_do_not_stop_the_list(workspace, capfd):
    photos = make_photos(workspace / "photos", normal=2, defective=0)
    save(draw_plate(5, defect="spot")[0], photos / "a.png")
    try:
        (photos / "a.png").rename(photos / 'caf\udce9, "x".png')
    except OSError:
        pytest.skip("the file system takes UTF-8 names only")
    assert predict(photos, "out") == 0
    assert 'caf\\udce9, "x".png' in names(workspace / "out" / "predictions.csv")


def test_grey_sixteen_bit_photos_are_shown_as_they_are_scored(workspace):
    photos = make_photos(workspace / "photos", normal=2, defective=0)
    Image.fromarray(np.full((64, 64), 32768, dtype=np.uint16)).save(photos / "half.png")
    assert predict(photos, "out") == 0
    page = Pictures((workspace / "out" / "report.html").read_text(encoding="utf-8"))
    (shown,) = [image["src"] for image in page.named("img") if image["alt"] == "half.png"]
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown.split(",")[1]))))
    assert abs(float(picture.mean()) - 128) < 3


def test_a_line_break_in_a_name_is_none_in_what_is_said(workspace, capsys, caplog):
    folder = workspace / "photos"
    save(draw_plate(1)[0], folder / "good\nname.png")
    (folder / "broken\nname.png").write_text("not an image")
    assert predict(folder, "out") == 0
    said = [*capsys.readouterr().out.splitlines(), *caplog.text.splitlines()]
    for name in (r"good\nname.png", r"broken\nname.png"):
        assert sum(name in line for line in said) == 1
