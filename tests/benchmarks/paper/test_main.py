import pytest

from tests.benchmarks.paper.helpers import start


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["engine=spark"], "tiny.yaml: engine is 'spark'; expected one of local, ray"),
        (["data.name=Nothing"], "data.name='Nothing' is no anomalib datamodule"),
        (["data.name=Folder"], "data.categories: Folder has none"),
        (["backbone=ViT-X", "pretrained=null"], "backbone='ViT-X' is not an open_clip model"),
        (["backbone=RN50", "pretrained=null"], "backbone='RN50': "),
        (["pretrained=missing.pt"], "missing.pt"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_and_leaves_no_results_file(changes, message, study_file, tmp_path, capsys):
    assert start(study_file, f"output={tmp_path / 'output'}", *changes) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("python -m benchmarks.paper: ")
    assert message in line
    assert not (tmp_path / "output" / "results.sqlite").exists()
