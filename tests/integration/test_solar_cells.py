"""The example that lays out photographs of solar cells for the demo."""

from pathlib import Path

import pytest
import yaml

from examples import solar_cells

CONFIG = Path(solar_cells.__file__).parents[1] / "configs" / "solar_cells.yaml"


@pytest.fixture
def cells(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "datasets" / "solar_cells"
    monkeypatch.setattr("sys.argv", ["solar_cells.py", str(folder), "--count", "12"])
    solar_cells.main()
    return folder, capsys.readouterr().out


def test_known_good_cells_are_none_of_those_that_are_tested(cells):
    folder, said = cells
    files = {name: {path.name for path in (folder / name).iterdir()} for name in ("normal", "defective", "known_good")}
    assert [len(files[name]) for name in ("normal", "defective", "known_good")] == [12, 12, 8]
    assert not files["known_good"] & (files["normal"] | files["defective"])
    assert "8 known good solar cells in" in said


def test_darkness_is_that_of_the_tested_cells_alone(cells):
    folder, said = cells
    for path in (folder / "known_good").iterdir():
        path.unlink()
    assert f"darkness alone: {solar_cells.darkness_auroc(folder):.3f}" in said


def test_config_takes_the_known_good_cells_as_the_only_references(cells):
    folder, _ = cells
    model = yaml.safe_load(CONFIG.read_text())["model"]["init_args"]
    assert (folder.parents[1] / model["few_shot_source"]).is_dir()
    assert (model["k_shot"], model["num_references"]) == (8, 0)
