import doctest

import pytest

from dual_image_clip import class_names
from dual_image_clip.class_names import class_name_from_category, require_class_name


def test_examples_in_docstrings_run():
    result = doctest.testmod(class_names)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize(
    ("category", "class_name"),
    [
        ("metal_nut", "metal nut"),
        ("pcb1", "pcb"),
        ("pcb4", "pcb"),
        ("chewinggum", "chewing gum"),
        ("pipe_fryum", "pipe fryum"),
        ("macaroni2", "macaroni"),
        ("capsules", "capsules"),
        ("bottle", "bottle"),
        ("Solar-Cells.v2", "solar cells v"),
        ("brake disc", "brake disc"),
        ("001", "object"),
        ("_7_", "object"),
        ("", "object"),
        (None, "object"),
    ],
)
def test_class_names_of_categories(category, class_name):
    assert class_name_from_category(category) == class_name
    require_class_name(class_name)


@pytest.mark.parametrize("class_name", ["", "   ", "001", "_-_", "42 %"])
def test_what_says_nothing_is_refused_by_the_name_that_its_user_knows(class_name):
    with pytest.raises(ValueError, match=r"--class-name .* has no letters"):
        require_class_name(class_name, "--class-name")
