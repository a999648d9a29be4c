"""Token accuracy: how many label tokens the model guesses right when it is given the true ones before them."""

from typing import TYPE_CHECKING

from qcvl.metrics.counts import Rate

if TYPE_CHECKING:
    import numpy as np
    import torch

IGNORE_INDEX = -100  # a label that is not trained on (torch's cross-entropy convention)


def token_counts(guesses: "np.ndarray | torch.Tensor", labels: "np.ndarray | torch.Tensor") -> Rate:
    """Right guesses of all label tokens; ``guesses[i]`` is the guess for ``labels[i]``, so both are already shifted.

    Args:
        guesses: token ids ``[...]``, the argmax of the logits one position before each label.
        labels: token ids ``[...]``, -100 where there is no label.
    """
    if guesses.shape != labels.shape:
        raise ValueError(f"guesses {tuple(guesses.shape)} and labels {tuple(labels.shape)} must have one shape")
    counted = labels != IGNORE_INDEX
    return Rate(int(((guesses == labels) & counted).sum()), int(counted.sum()))
