"""Who may replace which file of a folder of results."""

from pathlib import Path

import pytest

from dual_image_clip.photos import RECORD_NAME
from dual_image_clip.prediction.output_folder import OutputError, OutputFolder


def write(folder: Path, *names: str) -> OutputFolder:
    """A run that writes files of its own."""
    output = OutputFolder(folder)
    output.claim(names)
    for name in names:
        output.write(name, Path.touch)
    return output


def test_files_of_earlier_runs_may_be_replaced_also_where_runs_differ(tmp_path):
    write(tmp_path, "a.png")
    write(tmp_path, "below/b.png")
    output = OutputFolder(tmp_path)
    output.claim(["a.png", "below/b.png"])
    for name in ("a.png", "below/b.png"):
        assert output.write(name, lambda path: path.write_text("new"))
        assert (tmp_path / name).read_text() == "new"


@pytest.mark.parametrize("kind", ["file", "folder", "dangling link"])
def test_whatever_else_is_there_may_not(tmp_path, kind):
    taken = tmp_path / "a.png"
    {
        "file": taken.touch,
        "folder": taken.mkdir,
        "dangling link": lambda: taken.symlink_to(tmp_path / "nowhere"),
    }[kind]()
    with pytest.raises(OutputError, match=r"a\.png is there already .*move it away, or choose another folder$"):
        OutputFolder(tmp_path).claim(["a.png"])


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "below").touch()
    with pytest.raises(OutputError, match=r"^cannot write to .*below: File exists$"):
        OutputFolder(tmp_path).claim(["below/a.png"])


def test_a_refused_claim_notes_nothing(tmp_path):
    (tmp_path / "a.png").touch()
    for _ in range(2):
        with pytest.raises(OutputError):
            OutputFolder(tmp_path).claim(["a.png", "b.png"])
    assert not (tmp_path / RECORD_NAME).exists()


def test_what_a_killed_run_has_written_is_its_own(tmp_path):
    OutputFolder(tmp_path).claim(["a.png"])
    (tmp_path / "a.png").touch()
    OutputFolder(tmp_path).claim(["a.png"])


def test_what_was_deleted_is_forgotten(tmp_path):
    write(tmp_path, "a.png")
    (tmp_path / "a.png").unlink()
    write(tmp_path, "b.png")
    (tmp_path / "a.png").write_text("somebody's own")
    with pytest.raises(OutputError):
        OutputFolder(tmp_path).claim(["a.png"])


def test_what_was_never_written_is_forgotten(tmp_path):
    output = write(tmp_path, "a.png")
    output.claim(["b.png"])
    output.forget_unwritten()
    OutputFolder(tmp_path).claim(["a.png"])
    (tmp_path / "b.png").write_text("somebody's own")
    with pytest.raises(OutputError, match=r"b\.png"):
        OutputFolder(tmp_path).claim(["a.png", "b.png"])


def test_a_run_that_has_written_nothing_leaves_no_record(tmp_path):
    output = OutputFolder(tmp_path)
    output.claim(["a.png"])
    output.forget_unwritten()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("claimed", [True, False])
def test_a_file_that_comes_during_the_run_is_not_replaced(tmp_path, claimed):
    output = OutputFolder(tmp_path)
    output.claim(["a.png"] * claimed)
    (tmp_path / "a.png").write_text("somebody's own")
    assert not output.write("a.png", Path.touch)
    assert "a.png is there already" in output.failures[0].replace(": ", " ")
    assert (tmp_path / "a.png").read_text() == "somebody's own"


def test_what_a_link_points_to_is_not_written_into(tmp_path):
    own = tmp_path / "own.txt"
    own.write_text("somebody's own")
    write(tmp_path / "out", "a.txt")
    (tmp_path / "out" / "a.txt").unlink()
    (tmp_path / "out" / "a.txt").symlink_to(own)
    write(tmp_path / "out", "a.txt")
    assert own.read_text() == "somebody's own"


def test_a_file_is_written_as_a_whole_or_stays_as_it_was(tmp_path):
    write(tmp_path, "a.csv").write("a.csv", lambda path: path.write_text("earlier"))
    output = OutputFolder(tmp_path)
    output.claim(["a.csv"])

    def fill_the_disk(path: Path) -> None:
        path.write_text("half a")
        raise OSError(28, "No space left on device")

    assert not output.write("a.csv", fill_the_disk)
    assert output.failures == [f"{tmp_path / 'a.csv'}: No space left on device"]
    assert (tmp_path / "a.csv").read_text() == "earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == [RECORD_NAME, "a.csv"]


@pytest.mark.parametrize("content", ["", "[]", '{"files": "a.png"}', '{"files": [1]}', "\0"])
def test_a_damaged_record_gives_no_right_to_anything(tmp_path, content):
    (tmp_path / "a.png").touch()
    (tmp_path / RECORD_NAME).write_text(content)
    with pytest.raises(OutputError):
        OutputFolder(tmp_path).claim(["a.png"])


def test_names_that_are_no_text(tmp_path):
    name = "caf\udce9.png"
    try:
        (tmp_path / name).touch()
    except OSError:
        pytest.skip("the file system takes UTF-8 names only")
    (tmp_path / name).unlink()
    for _ in range(2):
        write(tmp_path, name)
    assert (tmp_path / name).exists()
