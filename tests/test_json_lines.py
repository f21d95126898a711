"""The file of results, to which lines are only added."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dual_image_clip.json_lines import JsonLines
from tests.integration.commands import files_of_at_most

RECORDS = [{"name": f"/photos/{name}.png", "time": "2026-11-29T07:25:43+00:00", "score": 0.5} for name in "abc"]
KEYS = [(record["name"], record["time"]) for record in RECORDS]


def records_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_are_added_and_known_after_a_restart(tmp_path):
    path = tmp_path / "new" / "results.jsonl"
    results = JsonLines(path, pytest.fail)
    assert results.known == set()
    for record in (*RECORDS[:2], {"name": "x.png", "error": "is broken"}, {"name": "0", "score": 0.1}):
        results.append(record)
    del results
    again = JsonLines(path, pytest.fail)
    # What could not be read may be readable by now.
    assert again.known == set(KEYS[:2])
    again.append(RECORDS[2])
    assert [record["name"] for record in records_of(path)] == [
        *("/photos/a.png", "/photos/b.png", "x.png", "0", "/photos/c.png")
    ]


@pytest.mark.parametrize("content", ['{"price": 1}\n', "name,score\n", "\n", "just text", "[1]\n", '{"name": "a"}\n'])
def test_somebody_elses_file_is_refused_and_left(tmp_path, content):
    path = tmp_path / "results.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"results\.jsonl is there already and holds no results: move it away"):
        JsonLines(path, pytest.fail)
    assert path.read_text() == content


@pytest.mark.parametrize("missing", range(0, 180, 9))
def test_a_line_that_was_cut_off_is_written_anew_and_costs_no_other(tmp_path, missing):
    path = tmp_path / "results.jsonl"
    results = JsonLines(path, pytest.fail)
    for record in RECORDS[:2]:
        results.append(record)
    path.write_bytes(path.read_bytes()[: -missing or None])
    del results
    results = JsonLines(path, pytest.fail)
    for record, key in zip(RECORDS, KEYS, strict=True):
        if key not in results.known:
            results.append(record)
    assert {record["name"] for record in records_of(path)} == {record["name"] for record in RECORDS}


def test_results_of_a_full_disk_are_kept_and_written_later(tmp_path):
    path, told = tmp_path / "results.jsonl", []
    results = JsonLines(path, told.append)
    results.append(RECORDS[0])
    before = path.read_bytes()
    with files_of_at_most(len(before) + 9):
        results.append(RECORDS[1])
    assert path.read_bytes() == before
    assert told == [f"{path}: File too large; 1 result(s) wait"]
    results.append(RECORDS[2])
    assert records_of(path) == RECORDS
    assert results.waiting == []


def test_a_file_that_was_moved_away_is_begun_anew(tmp_path):
    path = tmp_path / "results.jsonl"
    results = JsonLines(path, pytest.fail)
    results.append(RECORDS[0])
    path.rename(tmp_path / "results.1")
    results.append(RECORDS[1])
    assert records_of(path) == [RECORDS[1]]


def test_two_programs_do_not_share_a_file(tmp_path):
    first = JsonLines(tmp_path / "results.jsonl", pytest.fail)
    script = "import sys; from dual_image_clip.json_lines import JsonLines, Path; JsonLines(Path(sys.argv[1]), print)"
    command = [sys.executable, "-c", script, tmp_path / "results.jsonl"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "another program is writing to" in result.stderr
    first.append(RECORDS[0])
    assert records_of(tmp_path / "results.jsonl") == RECORDS[:1]
