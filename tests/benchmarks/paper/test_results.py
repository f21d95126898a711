import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.paper.results import METRICS, ResultsFile, ResultsMismatchError, Row

ROOT = Path(__file__).parents[3]
DESCRIPTION = "backbone: tiny\nimages: 20"
ROW = Row("MVTecAD", "metal_nut", "ours_plus(num_references=1)", 3, dict.fromkeys(METRICS, 0.5), 12.5)
FAILED = replace(ROW, metrics={}, error="RuntimeError: kein Speicher – „µ“\nat line 2\r\u2028")

# Once it is told to, appends argv[3] rows with seeds from argv[2] on; their reason fills some pages.
APPENDS = """
import sys
from pathlib import Path
from benchmarks.paper.results import ResultsFile, Row
path, first, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
results = ResultsFile(path, "a", "backbone: tiny\\nimages: 20")
print("ready", flush=True)
sys.stdin.readline()
for seed in range(first, first + count):
    results.append(Row("MVTecAD", "screw", "ours", seed, {}, 1.0, "x" * 20_000))
    print(seed, flush=True)
"""


def appending(path, first, count):
    command = [sys.executable, "-c", APPENDS, str(path), str(first), str(count)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def start(*processes):
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()


def open_results(path, fingerprint="a", description=DESCRIPTION):
    return ResultsFile(path, fingerprint, description)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs" / "results.jsonl"


@pytest.mark.parametrize("row", [ROW, FAILED, replace(ROW, metrics={"image_AUROC": 1 / 3})])
def test_a_row_comes_back_as_it_was_from_a_file_that_was_opened_again(path, row):
    open_results(path).append(row)
    assert open_results(path).rows() == [row]


rows_of_jobs = st.lists(
    st.builds(
        Row,
        dataset=st.sampled_from(["MVTecAD", "Visa"]),
        category=st.text(max_size=3),
        setting=st.sampled_from(["ours", "clip"]),
        seed=st.integers(0, 2),
        metrics=st.dictionaries(st.sampled_from(METRICS), st.floats(0, 1)),
        seconds=st.floats(0, 1e6),
        error=st.none() | st.text(),
    ),
    max_size=8,
)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=rows_of_jobs)
def test_the_last_row_of_each_job_counts(path, rows):
    path.unlink(missing_ok=True)
    results = open_results(path)
    for row in rows:
        results.append(row)
    expected = {}
    for row in rows:
        expected[row.dataset, row.category, row.setting, row.seed] = row
    assert results.rows() == list(expected.values())
    assert results.done() == {job for job, row in expected.items() if row.error is None}


def test_a_failed_job_is_not_done_until_it_succeeds(path):
    results = open_results(path)
    results.append(FAILED)
    assert results.done() == set()
    results.append(ROW)
    assert results.rows() == [ROW]
    assert results.done() == {("MVTecAD", "metal_nut", "ours_plus(num_references=1)", 3)}


def test_what_is_not_finite_is_refused_and_leaves_no_trace(path):
    results = open_results(path)
    with pytest.raises(ValueError, match="JSON compliant"):
        results.append(replace(ROW, metrics={"pixel_AUROC": float("nan")}))
    assert open_results(path).rows() == []


def test_no_cut_of_the_file_loses_more_than_the_row_it_cuts(path):
    results = open_results(path)
    for seed in range(3):
        results.append(replace(ROW, seed=seed))
    content = path.read_bytes()
    ends = [index + 1 for index, byte in enumerate(content) if byte == ord("\n")]
    for length in sorted({*range(0, len(content), 29), *ends[:-1], *(end - 1 for end in ends)}):
        path.write_bytes(content[:length])
        reopened = open_results(path)
        whole = max(0, sum(end <= length for end in ends) - 1)
        assert [row.seed for row in reopened.rows()] == list(range(whole))
        reopened.append(replace(ROW, seed=9))
        assert [row.seed for row in open_results(path).rows()] == [*range(whole), 9]
        assert all(json.loads(line) for line in path.read_text().splitlines())


@pytest.mark.parametrize("torn", [b'{"dataset": "MV', b"\0" * 40, b"\0" * 40 + b"\n", b'{"dataset": \n{"da\n'])
def test_a_torn_end_is_cut_off_on_opening(path, torn):
    open_results(path).append(ROW)
    sound = path.read_bytes()
    path.write_bytes(sound + torn)
    open_results(path)
    assert path.read_bytes() == sound


def test_a_line_torn_by_another_process_does_not_spoil_the_next_append(path):
    results = open_results(path)
    results.append(ROW)
    with path.open("ab") as file:
        file.write(b'{"dataset": "MV')
    assert results.rows() == [ROW]
    results.append(replace(ROW, seed=4))
    assert results.rows() == [ROW, replace(ROW, seed=4)]


@pytest.mark.parametrize("content", [b"", b"{", b'{"fingerprint": "old", "descr', b"\0" * 30], ids=repr)
def test_an_empty_file_or_a_torn_header_is_a_new_file(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    open_results(path).append(ROW)
    assert open_results(path).rows() == [ROW]


@pytest.mark.parametrize("content", [b"my notes", b"my notes\nof today\n", b"\n\n", b'{"dataset": "x"}\n'], ids=repr)
def test_a_file_of_somebody_else_is_refused_and_not_touched(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(ResultsMismatchError, match=r"results\.jsonl is not a results file"):
        open_results(path)
    assert path.read_bytes() == content


def test_another_benchmarks_file_is_refused_with_what_differs_and_what_to_do(path):
    open_results(path).append(ROW)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="another benchmark") as info:
        open_results(path, "b", "backbone: ViT-B-16-plus-240\nimages: 20")
    message = str(info.value)
    assert str(path) in message
    assert "- backbone: tiny" in message
    assert "+ backbone: ViT-B-16-plus-240" in message
    assert "images" not in message
    assert "output=" in message
    assert "delete" in message
    assert path.read_bytes() == before


def test_fingerprints_are_shown_where_descriptions_are_the_same(path):
    open_results(path)
    with pytest.raises(ResultsMismatchError, match=r"fingerprint: a\n.*fingerprint: b"):
        open_results(path, "b")


def test_a_spoilt_line_in_the_middle_is_named(path):
    open_results(path).append(ROW)
    content = path.read_text()
    path.write_text(content + '{"no": "row"}\n' + content.splitlines()[1] + "\n")
    with pytest.raises(ValueError, match=r"results\.jsonl, line 3, is not a row"):
        open_results(path).rows()


def test_a_deleted_file_is_not_made_anew_without_its_header(path):
    results = open_results(path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        results.append(ROW)


def test_every_row_is_one_write_and_on_the_disk_before_append_returns(path, monkeypatch):
    results = open_results(path)
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    results.append(ROW)
    assert synced == [path.stat().st_size]


def test_rows_survive_kill_9(path):
    chance = random.Random(0)  # noqa: S311
    first = 0
    for _ in range(5):
        with appending(path, first, 1_000_000) as process:
            start(process)
            time.sleep(chance.uniform(0, 0.1))
            process.send_signal(signal.SIGKILL)
            printed = [int(line) for line in process.stdout.read().split()]
        assert process.returncode == -signal.SIGKILL
        seeds = [row.seed for row in open_results(path).rows()]
        # The row that was written when the process died may or may not be there; every other one is.
        done = first + len(printed)
        assert seeds in (list(range(done)), list(range(done + 1)))
        first = len(seeds)
    assert first > 5
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_two_processes_may_append_at_once(path):
    with appending(path, 0, 150) as one, appending(path, 1000, 150) as other:
        start(one, other)
        one.communicate()
        other.communicate()
    assert (one.returncode, other.returncode) == (0, 0)
    seeds = [row.seed for row in open_results(path).rows()]
    assert sorted(seeds) == [*range(150), *range(1000, 1150)]
    assert seeds.index(1000) < seeds.index(149)
    assert seeds.index(0) < seeds.index(1149)
    assert len(path.read_text().splitlines()) == 301
