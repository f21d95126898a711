import shutil

import pytest
import yaml

from benchmarks.paper.plan import METHODS, Setting, as_number
from benchmarks.paper.plan_file import read_plan
from benchmarks.paper.results import METRICS
from dual_image_clip import BEST
from dual_image_clip.weights import EMBEDDED
from tests.benchmarks.paper.helpers import ROOT

CONFIGS = ROOT / "configs" / "benchmarks"
TABLE3 = CONFIGS / "table3.yaml"
STUDIES = (
    *("table1", "table2", "table3", "fig5a_references", "fig5b_reference_kind", "adaptation_steps"),
    *("supplement_table1", "supplement_table2"),
)
# As DualImageCLIP's docstring has them.
TEXT_ONLY = Setting("ours", num_references=0, adaptation_steps=0, lambda_1=0.0, lambda_2=1.0, lambda_4=0.0)
TEXT_ADAPTED = Setting("ours", num_references=0, lambda_1=0.0, lambda_4=0.0)
OURS, OURS_PLUS = Setting("ours", adaptation_steps=0, lambda_2=1.0), Setting("ours")


def read(name, *changes):
    return read_plan(CONFIGS / f"{name}.yaml", list(changes))


def rows(name):
    (study,) = read(name).studies.values()
    return study.rows


def published(name, label, metric, dataset="MVTecAD"):
    (study,) = read(name).studies.values()
    return as_number(study.published_figure(dataset, label, metric))


def test_there_is_a_file_for_every_study_and_no_other():
    others = {"references", "demo", "demo_table1", "all_categories_mvtec", "all_categories_visa"}
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == {*STUDIES, *others}


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_is_of_the_papers_backbone_data_and_six_seeds(name):
    plan = read(name)
    assert list(plan.studies) == [name]
    assert (plan.backbone, plan.pretrained) == ("ViT-B-16-plus-240", "laion400m_e32")
    assert plan.data.name == "MVTecAD"
    assert plan.data.categories is None
    assert plan.seeds == [0, 1, 2, 3, 4, 5]
    assert plan.output == f"results/benchmarks/{name}"
    assert f"configs/benchmarks/{name}.yaml" in (CONFIGS / f"{name}.yaml").read_text()
    (study,) = plan.studies.values()
    labels = {label for each in study.published.values() for label in each}
    assert labels <= {*study.rows} or name == "table2"


@pytest.mark.parametrize("name", [*STUDIES, "demo", "demo_table1"])
@pytest.mark.parametrize(
    ("data", "categories"), [("MVTecAD", "[screw]"), ("Visa", "null"), ("Folder", "null"), ("Procedural", "[gear,nut]")]
)
def test_every_file_takes_any_backbone_and_data(name, data, categories):
    changes = ["backbone=ViT-L-14", "pretrained=openai", f"data.name={data}", f"data.categories={categories}"]
    plan = read(name, *changes, "data.root=somewhere", "seeds=[4,2]")
    assert (plan.backbone, plan.pretrained, plan.seeds) == ("ViT-L-14", "openai", [4, 2])
    assert (plan.data.name, plan.data.root, plan.data.categories) == (data, "somewhere", yaml.safe_load(categories))


def test_table_1():
    assert rows("table1") == {
        "CLIP": Setting("clip"),
        "WinCLIP": Setting("winclip"),
        "AnoCLIP": Setting("anoclip", adaptation_steps=5),
        "MuSc-2": Setting("musc2"),
        "MuSc, all images": Setting("musc"),
        "Ours": OURS,
        "Ours+": OURS_PLUS,
        "Best": Setting("ours", **BEST),
    }
    assert {row.method for row in rows("table1").values()} == {*METHODS}
    assert read("table1").studies["table1"].metrics == [*METRICS]
    assert published("table1", "Ours+", "pixel_AUPRO") == 84.0
    assert published("table1", "Ours", "image_AUPR") == 96.6
    assert published("table1", "WinCLIP", "pixel_F1Max") == 31.7
    assert published("table1", "AnoCLIP", "pixel_AUROC", "Visa") == 91.4
    assert published("table1", "Ours+", "image_AUROC", "Visa") == 82.9


def test_table_2():
    assert rows("table2") == {
        "WinCLIP": Setting("winclip"),
        "AnoCLIP": Setting("anoclip", adaptation_steps=5),
        "MuSc, all images": Setting("musc"),
        "Ours": OURS_PLUS,
    }
    (study,) = read("table2").studies.values()
    assert len(study.quoted_labels("MVTecAD")) == 4
    assert published("table2", "Ours", "image_AUROC") == 93.2


def test_table_3():
    assert rows("table3") == {"base": TEXT_ONLY, "+ TTA": TEXT_ADAPTED, "+ pair": OURS, "both": OURS_PLUS}
    assert published("table3", "base", "pixel_AUROC") == 85.3
    assert published("table3", "+ TTA", "pixel_AUPRO") == 80.1


def test_figure_5a():
    assert rows("fig5a_references") == {
        "0": TEXT_ADAPTED,
        **{str(count): Setting("ours", num_references=count) for count in range(1, 8)},
    }
    assert read("fig5a_references").studies["fig5a_references"].layout == "curve"


def test_figure_5b():
    visual = {"adaptation_steps": 0, "lambda_2": 0.0, "lambda_3": 0.0, "lambda_5": 0.0}
    assert rows("fig5b_reference_kind") == {
        "visual, normal partner": Setting("ours", partners="normal", **visual),
        "visual, anomalous partner": Setting("ours", partners="anomalous", **visual),
        "joint, normal partner": Setting("ours", partners="normal"),
        "joint, any partner": OURS_PLUS,
        "joint, anomalous partner": Setting("ours", partners="anomalous"),
    }


def test_steps_of_the_adaptation():
    expected = {str(steps): Setting("ours", adaptation_steps=steps) for steps in range(1, 7)}
    assert rows("adaptation_steps") == expected
    assert read("adaptation_steps").studies["adaptation_steps"].layout == "curve"


def test_tables_of_the_supplement():
    maps = [(row.lambda_1, row.lambda_2) for row in rows("supplement_table1").values()]
    assert maps == [(1, 0.5), (1, 1), (1, 1.5), (2, 2)]
    scores = [(row.lambda_3, row.lambda_4, row.lambda_5) for row in rows("supplement_table2").values()]
    assert scores == [(1, 1, 1), (1, 1, 2), (1, 2, 1), (2, 1, 1)]
    for name in ("supplement_table1", "supplement_table2"):
        for label, row in rows(name).items():
            names = [("λ₁", row.lambda_1), ("λ₂", row.lambda_2), ("λ₃", row.lambda_3), ("λ₄", row.lambda_4)]
            assert all(f"{symbol} {value:g}" in label for symbol, value in names if symbol in label)
    assert published("supplement_table1", "λ₁ 1, λ₂ 0.5", "pixel_AUPRO") == 82.2
    assert published("supplement_table2", "λ₃ 1, λ₄ 2, λ₅ 1", "image_AUPR") == 94.8


def test_several_references_and_golden_ones_are_compared_on_equal_numbers():
    studies = read("references").studies
    assert {row.aggregation for row in studies["aggregation"].rows.values()} == {"minimum", "lowest_third", "median"}
    for study in studies.values():
        for label, row in study.rows.items():
            named = sum(int(word) for word in label.split() if word.isdigit())
            assert named == row.num_references + row.k_shot


def test_the_demo_has_every_study_and_needs_no_download():
    plan = read("demo")
    ours = read("references").studies
    assert list(plan.studies) == [*STUDIES, *ours]
    for name in STUDIES:
        assert plan.studies[name] == read(name).studies[name]
    for name, study in ours.items():
        assert plan.studies[name] == study
    assert (plan.backbone, plan.pretrained, plan.data.name) == (EMBEDDED, EMBEDDED, "Procedural")
    assert len(plan.data.categories) == 8
    # "Ours+" is in every study, and is run once.
    assert len(plan.settings) == 37
    assert sum(len(study.rows) for study in plan.studies.values()) == 53


def test_the_demos_table_1_is_that_of_the_demo():
    whole, part = read("demo"), read("demo_table1")
    assert list(part.studies) == ["table1"]
    assert part.studies["table1"] == whole.studies["table1"]
    assert (part.backbone, part.pretrained, part.data) == (whole.backbone, whole.pretrained, whole.data)


def test_a_change_of_the_command_line_wins():
    changes = ["data.arguments.num_test_normal=3", "examples=0", "studies.table3.rows.base.lambda_3=2", "gpus=0.5"]
    plan = read("demo", *changes)
    assert plan.data.arguments["num_test_normal"] == 3
    assert plan.data.arguments["num_test_anomalous"] == 16
    assert (plan.examples, plan.gpus) == (0, 0.5)
    assert plan.studies["table3"].rows["base"].lambda_3 == 2


def test_the_embedded_backbone_brings_its_own_weights():
    assert read("table3", f"backbone={EMBEDDED}").pretrained == EMBEDDED
    assert read("table3", f"backbone={EMBEDDED}", "pretrained=null").pretrained is None


def test_the_embedded_weights_are_not_taken_for_another_backbone():
    with pytest.raises(ValueError, match="backbone is 'ViT-L-14', but pretrained is 'dual-image-clip-demo'"):
        read("demo", "backbone=ViT-L-14")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("colour=red", "colour: Key 'colour' not in 'Plan'"),
        ("data.colour=red", "data.colour: Key 'colour' not in 'DataSettings'"),
        ("studies.table3.rows.base.lambda_6=1", "studies.table3.rows.base.lambda_6: Key 'lambda_6' not in 'Setting'"),
        ("cpus=many", "cpus: Value 'many'"),
        ("seeds=3", "seeds: "),
        ("seeds=[0.5]", r"seeds\[0\]: Value '0.5'"),
        ("data=MVTecAD", "DataSettings"),
        ("output=null", "output: "),
        ("studies.table3.rows.new.beta=1", "studies.table3.rows.new.method: .*missing"),
        ("studies.new.rows.a.method=clip", "studies.new.title: .*missing"),
        ("studies.table3.published=3", "studies.table3.published: "),
    ],
)
def test_a_wrong_key_or_type_is_named_with_its_file(change, message):
    with pytest.raises(ValueError, match=message) as error:
        read_plan(TABLE3, [change])
    assert str(TABLE3) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("change", ["seeds=[0", "include=[table1.yaml]"])
def test_a_wrong_change_is_named(change):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        read_plan(TABLE3, [change])
    assert str(error.value).startswith(f"{change}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file"),
        (b"studies: [1", "cannot be read as YAML"),
        (b"\xff\xfe\x00", "cannot be read as YAML"),
        (b"only text", "only text: Key 'only text' not in 'Plan'"),
        (b"3", "cannot be read as YAML"),
        (b"- a\n- b\n", "expected key: value, got ListConfig"),
        (b"", "number of studies is 0; expected 1 or more"),
        (b"include: missing.yaml", "expected a list"),
        (b"include: [missing.yaml]", r"missing\.yaml: there is no such file"),
        (b"include: [3]", "3: there is no such file"),
        (b"studies: {a: {title: A, rows: {x: {method: clip}, x: {method: musc}}}}", "duplicate key"),
    ],
)
def test_a_file_that_is_no_plan_is_named(content, message, tmp_path):
    path = tmp_path / "plan.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_plan(path, [])
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_included_files_lie_beside_the_one_that_includes_them(tmp_path):
    shutil.copy(TABLE3, tmp_path)
    (tmp_path / "mine.yaml").write_text("include: [table3.yaml]\nseeds: [9]\nstudies: {table3: {title: Mine}}\n")
    plan = read_plan(tmp_path / "mine.yaml", [])
    assert plan.studies["table3"].title == "Mine"
    assert list(plan.studies["table3"].rows) == ["base", "+ TTA", "+ pair", "both"]
    assert plan.seeds == [9]
