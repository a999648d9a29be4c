"""Which of several processes this one is and who started them, told without importing any heavy library."""

import os
from collections.abc import Mapping

_RANK_VARIABLES = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
_INTERACTIVE = ("bash", "interactive")  # names of SLURM jobs in which a person starts single processes


def is_first_process(environment: Mapping[str, str] = os.environ) -> bool:
    """True in a single process and in the first of several (torchrun, Lightning's own launcher, srun)."""
    return all(int(environment.get(name, "0")) == 0 for name in _RANK_VARIABLES)


def started_from_outside(environment: Mapping[str, str] = os.environ) -> tuple[str, int] | None:
    """Who started this process among several, and how many: ``("torchrun", 16)``, ``("srun", 16)``; None: nobody."""
    if "LOCAL_RANK" in environment and int(environment.get("WORLD_SIZE", "1")) > 1:
        who = "torchrun" if "TORCHELASTIC_RUN_ID" in environment else "a launcher"
        return who, int(environment["WORLD_SIZE"])
    by_srun = "SLURM_PROCID" in environment and environment.get("SLURM_JOB_NAME") not in _INTERACTIVE
    tasks = int(environment.get("SLURM_NTASKS", "1")) if by_srun else 1
    return ("srun", tasks) if tasks > 1 else None


def in_sweep() -> bool:
    """True in a sweep (``-m``), also in the process of a launcher that is about to run one of its jobs."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN
