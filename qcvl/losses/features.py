"""How far a student's features are from a teacher's."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

Distance = Literal["mse", "cosine"]


def feature_distance(student: Tensor, teacher: Tensor, distance: Distance) -> Tensor:
    """The mean distance of rows ``[N, D]``, a float32 scalar: squared error an element, or 1 - cosine a row.

    Without a row it is 0.

    Example:
        >>> feature_distance(torch.tensor([[3.0, 0.0]]), torch.tensor([[1.0, 0.0]]), "mse")
        tensor(2.)
    """
    student, teacher = student.float(), teacher.float()
    if not len(student):
        return student.sum()
    if distance == "mse":
        return F.mse_loss(student, teacher)
    return (1 - F.cosine_similarity(student, teacher, dim=-1)).mean()
