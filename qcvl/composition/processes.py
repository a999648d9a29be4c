"""Which of several processes this one is, read from the environment before any library is imported."""

import os
from collections.abc import Mapping

_RANK_VARIABLES = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")


def is_first_process(environment: Mapping[str, str] = os.environ) -> bool:
    """True in a single process and in the first of several (torchrun, Lightning's own launcher, srun)."""
    return all(int(environment.get(name, "0")) == 0 for name in _RANK_VARIABLES)
