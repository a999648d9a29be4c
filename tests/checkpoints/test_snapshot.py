"""A snapshot keeps the values of its moment."""

from collections import OrderedDict

import torch

from qcvl.checkpoints.snapshot import host_copy, size_bytes, with_own_containers


def test_a_copy_keeps_its_values_and_what_was_one_tensor_while_the_original_moves_on():
    weight = torch.arange(6.0).reshape(2, 3)
    state = {"a": weight, "tied": weight.view(2, 3), "half": weight[1], "turned": weight.T, "rest": [(1, "x"), None]}
    copy = host_copy(OrderedDict(state))
    weight.add_(1)
    assert isinstance(copy, OrderedDict) and copy["rest"] == [(1, "x"), None]
    assert copy["a"].tolist() == [[0, 1, 2], [3, 4, 5]] and copy["half"].tolist() == [3, 4, 5]
    assert copy["turned"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert copy["a"].data_ptr() == copy["tied"].data_ptr() and copy["a"] is copy["tied"]


def test_own_containers_do_not_follow_the_original_and_share_its_tensors():
    state = {"loops": {"done": 1}, "scores": [1.0], "weight": torch.zeros(2)}
    copy = with_own_containers(state)
    state["loops"]["done"] = 2
    state["scores"].append(2.0)
    assert copy["loops"] == {"done": 1} and copy["scores"] == [1.0] and copy["weight"] is state["weight"]


def test_the_size_is_that_of_all_tensors_as_they_are_written():
    weight = torch.zeros(3, 5)
    assert size_bytes({"a": weight, "b": [weight, (torch.zeros(2, dtype=torch.int8), 7)]}) == 60 + 60 + 2
