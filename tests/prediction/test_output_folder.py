"""Who may replace which file of a folder of results."""

import pytest

from dual_image_clip.prediction.output_folder import RECORD_NAME, ForeignFileError, claim_files


def test_files_of_earlier_runs_may_be_replaced_also_where_runs_differ(tmp_path):
    first, second = tmp_path / "a.png", tmp_path / "below" / "b.png"
    claim_files(tmp_path, [first])
    first.touch()
    claim_files(tmp_path, [second])
    second.parent.mkdir()
    second.touch()
    claim_files(tmp_path, [first, second])


@pytest.mark.parametrize("kind", ["file", "folder", "dangling link"])
def test_whatever_else_is_there_may_not(tmp_path, kind):
    taken = tmp_path / "a.png"
    {
        "file": taken.touch,
        "folder": taken.mkdir,
        "dangling link": lambda: taken.symlink_to(tmp_path / "nowhere"),
    }[kind]()
    with pytest.raises(ForeignFileError, match=r"a\.png is there already"):
        claim_files(tmp_path, [taken])


def test_a_refused_claim_notes_nothing(tmp_path):
    (tmp_path / "a.png").touch()
    for _ in range(2):
        with pytest.raises(ForeignFileError):
            claim_files(tmp_path, [tmp_path / "a.png", tmp_path / "b.png"])
    assert not (tmp_path / RECORD_NAME).exists()


def test_what_was_deleted_is_forgotten(tmp_path):
    claim_files(tmp_path, [tmp_path / "a.png"])
    claim_files(tmp_path, [tmp_path / "b.png"])
    (tmp_path / "a.png").write_text("somebody's own")
    with pytest.raises(ForeignFileError):
        claim_files(tmp_path, [tmp_path / "a.png"])


@pytest.mark.parametrize("content", ["", "[]", '{"files": "a.png"}', '{"files": [1]}', "\0"])
def test_a_damaged_record_gives_no_right_to_anything(tmp_path, content):
    (tmp_path / "a.png").touch()
    (tmp_path / RECORD_NAME).write_text(content)
    with pytest.raises(ForeignFileError):
        claim_files(tmp_path, [tmp_path / "a.png"])


def test_names_that_are_no_text(tmp_path):
    name = tmp_path / "caf\udce9.png"
    try:
        name.touch()
    except OSError:
        pytest.skip("the file system takes UTF-8 names only")
    name.unlink()
    claim_files(tmp_path, [name])
    name.touch()
    claim_files(tmp_path, [name])
