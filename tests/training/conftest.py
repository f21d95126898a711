"""The small recipe as a fixture."""

from pathlib import Path

import pytest

from tests.training.small import small_recipe
from training.recipe import Recipe


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """A small recipe that a test may change."""
    return small_recipe(tmp_path)
