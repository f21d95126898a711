import pytest

from benchmarks.paper.plan import Setting, Study, as_number
from benchmarks.paper.plan_file import read_plan
from dual_image_clip import DualImageCLIP
from tests.benchmarks.paper.helpers import ROOT

TABLE3 = ROOT / "configs" / "benchmarks" / "table3.yaml"


def read(*changes):
    return read_plan(TABLE3, list(changes))


def test_keys_name_all_that_changes_scores_and_nothing_else():
    assert Setting("clip", lambda_1=3.0).key == Setting("clip").key
    assert Setting("anoclip", adaptation_steps=1).key != Setting("anoclip").key
    assert Setting("anoclip", num_references=3).key == Setting("anoclip").key
    other = {"num_references": 2, "partners": "normal", "adaptation_steps": 1, "learning_rate": 0.1, "beta": 0.1}
    other |= {f"lambda_{index}": 0.123 for index in range(1, 6)}
    keys = {Setting("ours").key, *(Setting("ours", **{name: value}).key for name, value in other.items())}
    assert len(keys) == 1 + len(other)
    assert Setting("ours", lambda_1=1).key != Setting("ours", lambda_1=2).key


def test_a_setting_is_what_the_model_is_without_arguments():
    model = DualImageCLIP(backbone="tiny-vit", pretrained=None).model
    setting = Setting("ours")
    assert setting.weights == model.weights
    assert setting.adaptation == model.adaptation
    assert (setting.num_references, setting.aggregation) == (model.references.num_references, model.aggregation)


@pytest.mark.parametrize(("figure", "number"), [(92.8, 92.8), (93, 93.0), ("92.8 ± 0.2", 92.8), ("42.4±0.7", 42.4)])
def test_number_of_a_published_figure(figure, number):
    assert as_number(figure) == number


def test_published_figures():
    figures = {"Ours+": {"pixel_AUROC": "92.8 ± 0.2"}, "MuSc": {"image_AUROC": 97.8}}
    study = Study("Table 1", rows={"Ours+": Setting("ours")}, published={"MVTecAD": figures})
    assert study.published_figure("MVTecAD", "Ours+", "pixel_AUROC") == "92.8 ± 0.2"
    assert study.published_figure("MVTecAD", "Ours+", "image_AUROC") is None
    assert study.published_figure("Visa", "Ours+", "pixel_AUROC") is None
    assert study.quoted_labels("MVTecAD") == ["MuSc"]
    assert study.quoted_labels("Visa") == []


@pytest.mark.parametrize(
    "change",
    ["backbone=a", "pretrained=a", "data.name=Visa", "data.root=a", "data.arguments.a=1", "class_name=a"],
)
def test_the_description_tells_runs_apart(change):
    assert read(change).description() != read().description()


@pytest.mark.parametrize(
    "change",
    ["seeds=[7]", "data.categories=[screw]", "engine=ray", "cpus=2", "batch_size=1", "examples=0", "output=a"],
)
def test_the_description_is_the_same_where_figures_mean_the_same(change):
    assert read(change).description() == read().description()


def test_the_description_knows_the_weights_themselves(tmp_path):
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"some")
    before = read(f"pretrained={weights}").description()
    weights.write_bytes(b"others")
    assert read(f"pretrained={weights}").description() != before
    assert "weights: null" not in read_plan(TABLE3.with_stem("demo"), []).description()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("studies.new.title=A", "number of studies.new.rows is 0; expected 1 or more"),
        ("studies.table3.published.MVTecAD.base.pixel_AUROC=high", "'high' is not a number"),
        ("studies.table3.published.MVTecAD.base.area=3", "published is 'area'; expected one of pixel_AUROC"),
        ("studies.table3.order=[[base,top]]", "order names what is not in rows: top"),
        ("studies.table3.metrics=[area]", "studies.table3.metrics is 'area'; expected one of pixel_AUROC"),
        ("studies.table3.layout=pie", "studies.table3.layout is 'pie'; expected one of table, curve"),
        ("studies.table3.layout=curve", "'base' is not a number"),
        ("engine=spark", "engine is 'spark'; expected one of local, ray"),
        ("studies.table3.rows.base.method=sam", "studies.table3.rows.base.method is 'sam'; expected one of clip"),
        ("studies.table3.rows.both.partners=odd", "studies.table3.rows.both.partners is 'odd'; expected one of any"),
        ("studies.table3.rows.both.num_references=-1", "rows.both: num_references must be at least 0, got -1"),
        ("studies.table3.rows.both.k_shot=-1", "rows.both: k_shot must be at least 0, got -1"),
        ("studies.table3.rows.both.aggregation=mode", "rows.both: aggregation='mode' is unknown"),
        ("studies.table3.rows.both.adaptation_steps=-2", "rows.both: adaptation_steps must be at least 0, got -2"),
        ("studies.table3.rows.both.lambda_4=-0.5", r"rows.both: lambda_4 must be at least 0, got -0\.5"),
        ("studies.table3.rows.both.beta=.nan", "rows.both: beta must be at least 0, got nan"),
        ("cpus=0", "cpus is 0; expected 1 or more"),
        ("gpus=-1", "gpus is -1.0; expected 0 or more"),
        ("batch_size=0", "batch_size is 0; expected 1 or more"),
        ("examples=-2", "examples is -2; expected 0 or more"),
        ("examples=1", "examples is 1; expected 0, or 2 and more"),
        ("seeds=[]", "number of seeds is 0; expected 1 or more"),
        ("seeds=[0,-1]", "seeds is -1; expected 0 or more"),
        ("seeds=[1,1]", "seeds names something twice"),
        ("data.categories=[a,a]", "data.categories names something twice"),
        ("texture_dir=no/such/folder", "texture_dir is 'no/such/folder'; there is no such folder"),
    ],
)
def test_a_wrong_value_is_named_with_its_file(change, message):
    with pytest.raises(ValueError, match=message) as error:
        read_plan(TABLE3, [change])
    assert str(TABLE3) in str(error.value)
    assert "\n" not in str(error.value)
