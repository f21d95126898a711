"""What may be said about products in YAML, and how mistakes in it are told."""

from pathlib import Path

import pytest

from dual_image_clip.commands.errors import CommandError
from dual_image_clip.commands.products_file import read_products_file


@pytest.fixture
def file(tmp_path):
    return tmp_path / "deeper" / "products.yaml"


def read(file: Path, text: str) -> dict:
    file.parent.mkdir(exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return read_products_file(file)


def test_only_what_is_said_is_read_and_paths_are_relative_to_the_file(file, tmp_path):
    text = f"""
    products:
      bottle: {{class_name: glass bottle, golden: good, regions: {tmp_path}/mask.png, threshold: 1, num_references: 3}}
      Schraube-ß: {{threshold: limits/threshold.json}}
      cable: {{golden: null}}
      plain:
    """
    assert read(file, text) == {
        "bottle": {
            "class_name": "glass bottle",
            "golden": file.parent / "good",
            "regions": tmp_path / "mask.png",
            "threshold": 1,
            "num_references": 3,
        },
        "Schraube-ß": {"threshold": file.parent / "limits" / "threshold.json"},
        "cable": {"golden": None},
        "plain": {},
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("products: {nut: {golde: good}}", "nut has a key 'golde'; did you mean golden?"),
        ("products: {nut: {colour: red}}", "nut has a key 'colour'; there are: class_name, golden, regions, threshold"),
        ("products: {nut: {golden: [good]}}", "nut.golden is ['good']; expected a folder"),
        ("products: {nut: {class_name: {a: b}}}", "nut.class_name is {'a': 'b'}; expected words"),
        ("products: {nut: {num_references: two}}", "nut.num_references is 'two'; expected a whole number, 0 or more"),
        ("products: {nut: {num_references: -1}}", "nut.num_references is -1; expected a whole number, 0 or more"),
        ("products: {nut: {threshold: 2}}", "nut.threshold is 2; expected a number from 0 to 1, or a file"),
        ("products: {nut: {threshold: true}}", "nut.threshold is True; expected a number from 0 to 1, or a file"),
        ("products: {nut: {class_name: '${other}'}}", "nut.class_name is '${other}'; expected words"),
        ("products: {nut: metal nut}", "nut is 'metal nut'; expected keys such as class_name"),
        ("products: {001: {class_name: nut}}", "products: 1 is no text to YAML: put quotes around it"),
        ("product: {nut: }", "expected one key, products"),
        ("products: [nut]", "expected one key, products"),
        ("", "expected one key, products"),
        ("products: {nut: {}, nut: {}}", "cannot be read as YAML: while constructing a mapping"),
        ("a: b: c", "cannot be read as YAML: mapping values are not allowed"),
    ],
)
def test_a_mistake_is_one_line_with_file_product_and_key(text, said, file):
    with pytest.raises(CommandError) as caught:
        read(file, text)
    assert str(caught.value).startswith(f"--products {file}")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(CommandError, match=r"nowhere\.yaml cannot be read as YAML: No such file or directory"):
        read_products_file(tmp_path / "nowhere.yaml")
