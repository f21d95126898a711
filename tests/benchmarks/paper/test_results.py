import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.paper.results import COLUMNS, METRICS, ResultsFile, ResultsMismatchError, Row, Spent
from tests.benchmarks.paper.helpers import ROOT, frame

DESCRIPTION = "backbone: tiny\nimages: 20"
ROW = Row("MVTecAD", "metal_nut", "ours_plus(num_references=1)", 3, dict.fromkeys(METRICS, 0.5), 12.5)
FAILED = replace(ROW, metrics={}, error="RuntimeError: kein Speicher – „µ“\nat line 2\r\u2028")

# Once it is told to, adds argv[3] rows with seeds from argv[2] on; their reason fills some pages.
ADDS = """
import resource
import signal
import sys
import time
from pathlib import Path
from benchmarks.paper.results import ResultsFile, Row
path, first, count, largest = Path(sys.argv[1]), *map(int, sys.argv[2:])
results = ResultsFile(path, "backbone: tiny\\nimages: 20")
print("ready", flush=True)
sys.stdin.readline()
if largest:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
for seed in range(first, first + count):
    results.add(Row("MVTecAD", "screw", "ours", seed, {}, 1.0, "x" * 20_000))
    print(seed, flush=True)
    # So that another process has its turn.
    time.sleep(0.001)
"""


def adding(path, first, count, largest=0):
    """A process that adds rows to a file, which may not grow beyond some bytes."""
    command = [sys.executable, "-c", ADDS, *map(str, (path, first, count, largest))]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def start(*processes):
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()


def open_results(path, description=DESCRIPTION):
    return ResultsFile(path, description)


def assert_holds(results, rows):
    """Whether a file has these rows in this order."""
    assert results.rows().to_csv() == frame(rows).to_csv()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs" / "results.sqlite"


@pytest.mark.parametrize("row", [ROW, FAILED, replace(ROW, metrics={"image_AUROC": 1 / 3})])
def test_a_row_comes_back_as_it_was_from_a_file_that_was_opened_again(path, row):
    open_results(path).add(row)
    (line,) = open_results(path).rows().to_dict("records")
    assert list(line) == list(COLUMNS)
    assert tuple(line[name] for name in COLUMNS[:4]) == row.key
    assert {name: line[name] for name in METRICS if line[name] == line[name]} == row.metrics
    assert line["seconds"] == row.seconds
    assert line["error"] == row.error or row.error is None
    assert open_results(path).rows().error.isna().tolist() == [row.error is None]


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
def test_the_last_row_of_each_key_counts(path, rows):
    path.unlink(missing_ok=True)
    results = open_results(path)
    expected = {}
    for row in rows:
        results.add(row)
        expected.pop(row.key, None)
        expected[row.key] = row
    assert_holds(results, expected.values())
    assert results.done() == {key for key, row in expected.items() if row.error is None}


def test_a_failed_row_is_not_done_until_it_succeeds(path):
    results = open_results(path)
    results.add(FAILED)
    assert results.done() == set()
    results.add(ROW)
    assert_holds(results, [ROW])
    assert results.done() == {("MVTecAD", "metal_nut", "ours_plus(num_references=1)", 3)}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused_and_leaves_no_trace(value, path):
    results = open_results(path)
    with pytest.raises(ValueError, match=r"pixel_AUROC.* is not finite"):
        results.add(replace(ROW, metrics={"pixel_AUROC": value}))
    assert open_results(path).rows().empty


def test_several_may_make_the_file_at_once(path):
    together = threading.Barrier(8)

    def add(seed):
        together.wait()
        open_results(path).add(replace(ROW, seed=seed))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(8)))
    assert sorted(open_results(path).rows().seed) == [*range(8)]


def test_times_of_jobs_are_those_of_all_calls(path):
    open_results(path).add_spent(Spent(1.0, 2.0))
    open_results(path).add_spent(Spent(4.0, 5.5))
    assert open_results(path).spent().to_dict("list") == {"seconds": [1.0, 4.0], "seconds_alone": [2.0, 5.5]}


def test_an_empty_file_is_a_new_file(path):
    path.parent.mkdir()
    path.touch()
    open_results(path).add(ROW)
    assert_holds(open_results(path), [ROW])


def database_of_somebody_else(path):
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE rows (dataset)")
    database.close()
    return path.read_bytes()


def half_a_results_file(path):
    open_results(path).add(ROW)
    return path.read_bytes()[: path.stat().st_size // 2]


@pytest.mark.parametrize(
    "content",
    [b"my notes", b"\n\n", b'{"fingerprint": "a"}\n' * 99, database_of_somebody_else, half_a_results_file],
    ids=["text", "blank lines", "lines of JSON", "another database", "half a file"],
)
def test_what_is_no_results_file_is_refused_and_not_touched(path, content):
    path.parent.mkdir()
    path.write_bytes(content(path) if callable(content) else content)
    before = path.read_bytes()
    with pytest.raises(ResultsMismatchError, match=r"results\.sqlite is not a results file.*output="):
        open_results(path).rows()
    assert path.read_bytes() == before


def test_another_benchmarks_file_is_refused_with_what_differs_and_what_to_do(path):
    open_results(path).add(ROW)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="another benchmark") as info:
        open_results(path, "backbone: ViT-B-16-plus-240\nimages: 20")
    message = str(info.value)
    assert str(path) in message
    assert "- backbone: tiny" in message
    assert "+ backbone: ViT-B-16-plus-240" in message
    assert "images" not in message
    assert "output=" in message
    assert "delete" in message
    assert path.read_bytes() == before


def test_a_deleted_file_is_not_made_anew_without_its_description(path):
    results = open_results(path)
    path.unlink()
    with pytest.raises(OSError, match=r"results\.sqlite"):
        results.add(ROW)
    assert not path.exists()


def test_a_folder_that_cannot_be_written_is_named():
    with pytest.raises(OSError, match="/proc/nowhere"):
        open_results(Path("/proc/nowhere/results.sqlite"))


def test_a_full_disk_is_an_error_that_names_the_file_and_keeps_what_is_there(path):
    with adding(path, 0, 100, largest=200_000) as process:
        start(process)
        printed, message = process.communicate()
    assert process.returncode == 1
    assert f"OSError: {path}: " in message.splitlines()[-1]
    seeds = open_results(path).rows().seed.tolist()
    assert seeds == [int(line) for line in printed.split()]
    assert 0 < len(seeds) < 100


def test_rows_survive_kill_9(path):
    chance = random.Random(0)  # noqa: S311
    first = 0
    for _ in range(5):
        with adding(path, first, 1_000_000) as process:
            start(process)
            time.sleep(chance.uniform(0.05, 0.2))
            process.send_signal(signal.SIGKILL)
            printed = [int(line) for line in process.stdout.read().split()]
        assert process.returncode == -signal.SIGKILL
        seeds = open_results(path).rows().seed.tolist()
        # The row that was written when the process died may or may not be there; every other one is.
        done = first + len(printed)
        assert seeds in (list(range(done)), list(range(done + 1)))
        first = len(seeds)
    assert first > 5


def test_two_processes_may_add_at_once(path):
    with adding(path, 0, 150) as one, adding(path, 1000, 150) as other:
        start(one, other)
        one.communicate()
        other.communicate()
    assert (one.returncode, other.returncode) == (0, 0)
    seeds = open_results(path).rows().seed.tolist()
    assert sorted(seeds) == [*range(150), *range(1000, 1150)]
    assert seeds.index(1000) < seeds.index(149)
    assert seeds.index(0) < seeds.index(1149)
