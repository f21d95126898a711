import re

import pytest
import yaml
from anomalib.data import BTech, Folder, MVTec3D, MVTecAD, UCSDped, Visa

from dual_image_clip.hooks.categories import require_known_category
from tests.benchmarks.paper.helpers import ROOT
from tests.helpers import refusal


class Extended(MVTecAD):
    """Somebody's datamodule of an extended data set."""


@pytest.mark.parametrize(
    ("datamodule", "category"),
    [(MVTecAD, "bottle"), (Visa, "pcb1"), (BTech, "01"), (MVTec3D, "bagel"), (UCSDped, "UCSDped1"), (Extended, "tile")],
)
def test_categories_of_data_sets_are_known(datamodule, category):
    assert refusal(require_known_category, datamodule, category, None) is None


def test_a_data_set_without_a_list_has_any_category():
    assert refusal(require_known_category, Folder, "anything", None) is None


@pytest.mark.parametrize("datamodule", [MVTecAD, Extended])
@pytest.mark.parametrize(
    ("category", "nearest"), [("botle", "bottle"), ("Bottle", "bottle"), ("metal nut", "metal_nut")]
)
def test_a_misspelt_category_is_told_with_the_nearest(datamodule, category, nearest, tmp_path):
    expected = (
        rf"category={category} is none of {datamodule.__name__}.*did you mean {nearest}\? There are: bottle, cable"
    )
    with pytest.raises(ValueError, match=expected):
        require_known_category(datamodule, category, tmp_path)


def test_nothing_is_suggested_for_what_is_like_none():
    with pytest.raises(ValueError, match=r"category=giraffe .* of its root\. There are: candle, capsules"):
        require_known_category(Visa, "giraffe", None)


@pytest.mark.parametrize("category", ["all", "[bottle,cable]", "bottle,cable", ["bottle", "cable"]])
@pytest.mark.parametrize(("datamodule", "data"), [(MVTecAD, "mvtec"), (Visa, "visa")])
def test_several_categories_are_told_which_commands_take_them(datamodule, data, category):
    told = refusal(require_known_category, datamodule, category, None)
    assert f"one category of {datamodule.__name__}; `anomalib benchmark --config" in told
    (config,) = re.findall(r"configs/benchmarks/\w+\.yaml", told)
    categories = yaml.safe_load((ROOT / config).read_text())["benchmark"]["data"]["init_args"]["category"]["grid"]
    assert data in config
    assert "`python -m benchmarks.paper`" in told
    assert told.endswith(f"There are: {', '.join(categories)}")


@pytest.mark.parametrize("folder", ["widget", "visa_pytorch/widget"])
def test_own_images_in_the_layout_of_a_data_set_are_a_category(folder, tmp_path):
    assert "widget" in refusal(require_known_category, Visa, "widget", tmp_path)
    (tmp_path / folder).mkdir(parents=True)
    assert refusal(require_known_category, Visa, "widget", tmp_path) is None
