"""Several nodes, or several processes that something else started, agree on one run.

By torchrun, on each node (NODE is 0 on the first):
    torchrun --nnodes 2 --nproc-per-node 8 --node-rank NODE --master-addr FIRST_NODE --master-port 29500 \
        -m qcvl.train strategy=ddp trainer.num_nodes=2 trainer.devices=8 hydra.run.dir=/shared/runs/my_run
By SLURM, in a batch script with --nodes=2 --ntasks-per-node=8 --gpus-per-node=8:
    srun python -m qcvl.train strategy=ddp trainer.num_nodes=2 trainer.devices=8 \
        resume=auto hydra.run.dir=/shared/runs/$SLURM_JOB_ID
By SLURM, submitted by Hydra (see conf/hydra/launcher/slurm.yaml): each job has a directory of its sweep.
"""

import os
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from qcvl.composition.processes import started_from_outside

_ONCE = "start it once, by itself: hydra/launcher=slurm starts as many processes of each job as it takes"


def run_disagreement(config: DictConfig, environment: Mapping[str, str] = os.environ) -> str | None:
    """What keeps the processes of a run apart, or None: a directory by each one's own clock, or another number of them.

    Args:
        config: the run's settings, Hydra's among them, not resolved.
        environment: tells who started the process.
    """
    outside, (devices, nodes) = started_from_outside(environment), _asked_for(config)
    if outside is None and nodes == 1:
        return None
    who = f"{outside[0]} started {outside[1]} processes" if outside else f"the run is on {nodes} nodes"
    if "${now:" in OmegaConf.to_yaml(config.hydra.run):
        return (
            f"hydra.run.dir: {who}, and each would make its own directory by its own clock; give all the same one, on "
            "a disk that all nodes see, for instance hydra.run.dir=outputs/train/my_run (under SLURM "
            "hydra.run.dir=outputs/train/slurm/$SLURM_JOB_ID)"
        )
    if outside is None or devices is None or devices * nodes == outside[1]:
        return None
    settings = "trainer.devices, trainer.num_nodes" if "trainer" in config else "devices"
    return (
        f"{settings}: {devices} x {nodes}, but {who}; devices are those of one node, and times the nodes they are as "
        "many as there are processes"
    )


def sweep_disagreement(config: DictConfig, environment: Mapping[str, str] = os.environ) -> str | None:
    """What keeps a sweep from being one, or None: several processes of it, or jobs of other numbers of processes."""
    if outside := started_from_outside(environment):
        return f"-m: {outside[0]} started {outside[1]} processes, and each would start the whole sweep; {_ONCE}"
    launcher, (devices, nodes) = config.hydra.launcher, _asked_for(config)
    if devices is None or not str(launcher.get("_target_")).endswith(".SlurmLauncher"):
        return None
    tasks = {"nodes": nodes, "tasks_per_node": devices}
    wrong = [f"hydra.launcher.{name}={number}" for name, number in tasks.items() if launcher.get(name) != number]
    if not wrong:
        return None
    return (
        f"hydra.launcher: a job of {devices} devices on {nodes} nodes takes a process for each device; "
        f"add {' '.join(wrong)}"
    )


def asked_devices(config: DictConfig) -> tuple[str, Any]:
    """The setting that says how many devices a command takes, and what it says; None for a command without any."""
    for name in ("trainer.devices", "devices"):
        if (devices := OmegaConf.select(config, name)) is not None:
            return name, devices
    return "devices", None


def _asked_for(config: DictConfig) -> tuple[int | None, int]:
    """Devices of a node, None where the number is not in the configuration, and nodes."""
    devices = asked_devices(config)[1]
    number = int(devices) if str(devices).isdigit() else None
    return number, OmegaConf.select(config, "trainer.num_nodes") or 1
