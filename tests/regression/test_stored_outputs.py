"""Outputs are those of the revision that stored them: a change of structure changes no result."""

from functools import cache

import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

from tests.regression.outputs import STORED, all_outputs

pytestmark = pytest.mark.open_clip

EXPECTED = load_file(STORED)
# Float32 sums in another order, as without AVX or on one thread, change them by 2e-4 at most.
TOLERANCE = 1e-3

computed = cache(all_outputs)


def test_no_case_is_missing_or_new():
    assert computed().keys() == EXPECTED.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_output_is_as_stored(name: str):
    assert_close(computed()[name], EXPECTED[name], atol=TOLERANCE, rtol=0)
