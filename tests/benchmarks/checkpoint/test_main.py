import json
import logging

import pytest

from benchmarks.checkpoint import __main__ as command
from benchmarks.checkpoint import sets, timing


@pytest.fixture(autouse=True)
def _logging_as_before():
    yield
    logging.disable(logging.NOTSET)


def start(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks.checkpoint", *arguments])
    command.main()


def test_command_prints_tables_and_writes_the_figures(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sets, "HELD_OUT_FAMILIES", ("gear", "screw"))
    monkeypatch.setattr(timing, "BATCH_SIZE", 1)
    output = tmp_path / "figures.json"
    start(
        monkeypatch,
        *("--sets", "held_out_families", "--seeds", "0", "1", "--count", "5", "--output", str(output)),
        *("--settings", "text", "visual, 8 references"),
    )
    figures = json.loads(output.read_text())["held_out_families"]
    printed = capsys.readouterr().out
    assert "held_out_families, 2 seeds" in printed
    assert printed.count("ms an image") == 2
    assert list(figures) == [
        *("text", "visual, 8 references"),
        *("untrained, text", "untrained, visual", "untrained, joint"),
        *("nearest neighbour of DCT patches", "darkness"),
    ]
    for row, areas in figures.items():
        assert len(areas) == 4
        assert f"│ {row} " in printed
        mean = sum(each["image"] for each in areas) / 4
        assert f"{mean:.3f} ± " in printed


def test_a_recipe_that_was_tried_is_measured_by_its_file(monkeypatch, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        start(monkeypatch, "--pretrained", str(tmp_path / "nowhere.safetensors"), "--sets", "validation")


def test_unknown_sets_are_refused(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        start(monkeypatch, "--sets", "everything")
    assert "everything" in capsys.readouterr().err
