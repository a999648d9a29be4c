"""The devices of evaluate and infer: a process for each, which answers about its share of the photos."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from qcvl.errors import ConfigError

if TYPE_CHECKING:
    import torch


def start_processes(devices: int) -> "torch.device":
    """Start this command once more for every further device, in processes that then meet; returns this one's device.

    Devices are the GPUs where there are any (``CUDA_VISIBLE_DEVICES`` chooses, and hides them), else the CPU's. The
    processes may have been started by torchrun already. They talk by gloo: only answers travel, and where one process
    ends with an error the others find its connection closed in place of waiting for it.

    Raises:
        ConfigError: for more GPUs than there are.
    """
    import torch

    accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    if devices == 1:
        return torch.device(accelerator)
    from lightning.fabric import Fabric
    from lightning.fabric.strategies import DDPStrategy

    strategy = DDPStrategy(process_group_backend="gloo")
    with refusals("devices"):
        fabric = Fabric(accelerator=accelerator, devices=devices, strategy=strategy)
    fabric.launch()
    return fabric.device


@contextmanager
def refusals(setting: str) -> Iterator[None]:
    """Within the block what Lightning refuses is a ConfigError that names the setting."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    try:
        yield
    except MisconfigurationException as error:
        raise ConfigError(f"{setting}: {' '.join(str(error).split())}") from error
