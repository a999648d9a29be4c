"""Distances of features by their definitions."""

import pytest
import torch

from qcvl.losses.features import feature_distance


@pytest.mark.parametrize("distance", ["mse", "cosine"])
def test_equal_features_have_no_distance(distance):
    features = torch.randn(5, 8)
    assert feature_distance(features, features, distance).item() == pytest.approx(0, abs=1e-6)


def test_the_squared_error_is_a_mean_over_elements():
    assert feature_distance(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.zeros(2, 2), "mse").item() == 5 / 4


def test_the_cosine_distance_is_that_of_directions_alone():
    student, teacher = torch.tensor([[3.0, 0.0], [0.0, 5.0]]), torch.tensor([[0.0, 1.0], [0.0, 2.0]])
    assert feature_distance(student, teacher, "cosine").item() == pytest.approx(0.5)  # a right angle, and none


@pytest.mark.parametrize("distance", ["mse", "cosine"])
def test_no_row_is_no_distance(distance):
    assert feature_distance(torch.zeros(0, 4), torch.zeros(0, 4), distance).item() == 0
