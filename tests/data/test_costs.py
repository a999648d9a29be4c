"""What a sample costs: the count of operations of a published model."""

import numpy as np
import pytest

from qcvl.data.costs import CAUSAL_PAIR, FRAME_PAIR, PATCH, text_cost, visual_cost
from qcvl.models.flops import step_flops
from tests.models.test_published_sizes import empty


def test_rates_are_the_operations_of_qwen3_vl_4b_over_those_of_a_text_token():
    rates = step_flops(empty("qwen3_vl_4b")).rates  # of all towers trained
    patch = rates["patch"] + rates["cell"] / 4 + 3 * 2 * 16 * 16 * rates["patch_value"]
    assert pytest.approx(patch / rates["token"], rel=0.01) == PATCH
    assert pytest.approx(rates["causal_pair"] / rates["token"], rel=0.01) == CAUSAL_PAIR
    assert pytest.approx(rates["frame_pair"] / rates["token"], rel=0.01) == FRAME_PAIR


def test_costs_by_hand():
    assert text_cost(np.array([0, 1000])).tolist() == [0, 1000 + CAUSAL_PAIR * 1000 * 1000 / 2]
    grids = np.array([[1, 4, 6], [3, 2, 2]])
    assert visual_cost(grids) == pytest.approx(PATCH * (24 + 12) + FRAME_PAIR * (24 * 24 + 3 * 4 * 4))
    assert visual_cost(np.zeros((0, 3), dtype=np.int64)) == 0
