"""Which of several processes this one is, told without importing any heavy library."""

import os
from collections.abc import Mapping

_RANK_VARIABLES = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")


def is_first_process(environment: Mapping[str, str] = os.environ) -> bool:
    """True in a single process and in the first of several (torchrun, Lightning's own launcher, srun)."""
    return all(int(environment.get(name, "0")) == 0 for name in _RANK_VARIABLES)


def in_sweep() -> bool:
    """True in a sweep (``-m``), also in the process of a launcher that is about to run one of its jobs."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN
