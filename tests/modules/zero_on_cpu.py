"""Two processes over gloo that train through ZeroStrategy without GPUs."""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable

import torch
from lightning.pytorch.plugins.environments import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy

from qcvl.modules.zero.settings import Zero, Zero3
from qcvl.modules.zero.strategy import ZeroStrategy
from tests.conftest import choice


class ZeroOnCpu(ZeroStrategy):
    """The strategy without its refusal of CPUs."""

    @property
    def root_device(self) -> torch.device:
        """DeepSpeed asks for a device with a number."""
        return torch.device("cpu", 0)

    def _configure_launcher(self) -> None:
        self._process_group_backend = "gloo"
        DDPStrategy._configure_launcher(self)

    def setup_environment(self) -> None:
        DDPStrategy.setup_environment(self)

    def setup_distributed(self) -> None:
        self.set_world_ranks()
        self._init_deepspeed_distributed()


def zero(name: str, **changes) -> Zero | Zero3:
    """The settings of ``conf/strategy/<name>.yaml``."""
    values = choice(f"strategy/{name}.yaml")["strategy"]["zero"]
    kind = {"Zero": Zero, "Zero3": Zero3}[values.pop("_target_").rsplit(".", 1)[1]]
    return kind(**values | changes)


def in_processes(count: int, work: Callable[[dict], None]) -> None:
    """Run ``work(trainer_arguments)`` in so many processes that are the ranks of one run; raises where one failed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    errors = context.SimpleQueue()
    processes = [context.Process(target=_rank, args=(rank, count, port, work, errors)) for rank in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if not errors.empty():
        raise AssertionError(errors.get())
    assert [process.exitcode for process in processes] == [0] * count


def _rank(rank: int, count: int, port: int, work: Callable[[dict], None], errors) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "TORCHELASTIC_RUN_ID": "test"}
    try:
        work({"devices": count, "plugins": [TorchElasticEnvironment()]})
    except BaseException:
        errors.put(traceback.format_exc())
        os._exit(1)  # the other rank may wait in a collective: gloo tells it
    os._exit(0)
