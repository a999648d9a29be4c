"""``strategy=fsdp``: each rank holds a part of every weight, gradient and moment, by FSDP2."""

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import ModelParallelStrategy, ParallelStrategy
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    register_fsdp_forward_method,
)
from torch.optim import Optimizer

from qcvl.modules.sharded import gather_weights, gathered, load_whole, placed, release_weights, shard

COMPUTE_DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class FSDP(ModelParallelStrategy):
    """Blocks of both towers gather their weights when they run; a step is that of one process.

    What is saved is whole, the same files as of one process, so that a run goes on over another number of ranks, or
    without FSDP. In validations, and while the model draws answers to be distilled on, all weights are gathered, since
    ranks answer different numbers of photos in different numbers of tokens, and gathering once costs less than for each
    token: a rank's memory must hold the whole model, in half precision where ``trainer.precision`` is ``bf16-mixed``.

    Args:
        reshard_after_forward: free a block's weights between forward and backward: less memory, one more gathering.
        cpu_offload: parts, gradients and moments lie in host memory, where the optimizer runs.
        process_group_backend: None: nccl on GPUs, gloo on a CPU, and both with ``cpu_offload`` on GPUs.
    """

    def __init__(
        self,
        *,
        reshard_after_forward: bool,
        cpu_offload: bool,
        process_group_backend: str | None,
    ) -> None:
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            process_group_backend=process_group_backend,
        )
        self.reshard_after_forward, self.cpu_offload = reshard_after_forward, cpu_offload

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """A checkpoint's weights, which are whole, are read before they are sharded."""
        return False

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Moments are in the trainer's state, as without FSDP."""
        return True

    def setup_environment(self) -> None:
        """Shard over all ranks of all nodes."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def _get_process_group_backend(self) -> str:
        """Gradients in host memory have their norm reduced there."""
        if self._process_group_backend is None and self.cpu_offload and self.root_device.type == "cuda":
            return "cpu:gloo,cuda:nccl"
        return super()._get_process_group_backend()

    def setup(self, trainer: pl.Trainer) -> None:
        """Shard the module, once, and let ``losses`` gather as a forward does; the optimizer then gets the parts."""
        module: Any = self.lightning_module
        if not isinstance(module, FSDPModule):
            shard(
                module,
                module.built,
                self.device_mesh["data_parallel"],
                reshard_after_forward=self.reshard_after_forward,
                precision=precision_policy(self.precision_plugin.precision),
                offload=self._offload_policy(),
            )
            register_fsdp_forward_method(module, "losses")
        super().setup(trainer)

    def _offload_policy(self) -> OffloadPolicy:
        on_gpu = self.root_device.type == "cuda"
        return CPUOffloadPolicy(pin_memory=on_gpu) if self.cpu_offload else OffloadPolicy()

    def model_to_device(self) -> None:
        """Sharding has moved parts and buffers to where they belong, which may be host memory."""

    def on_validation_start(self) -> None:
        """Gather all weights."""
        gather_weights(self.lightning_module)

    def on_validation_end(self) -> None:
        """Go back to parts."""
        release_weights(self.lightning_module, self.reshard_after_forward)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The trained weights, whole, on the first rank."""
        assert self.lightning_module is not None
        return gathered(self.lightning_module.state_dict())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimizer's state with whole moments on the first rank, as one process would have it."""
        return gathered(super(ModelParallelStrategy, self).optimizer_state(optimizer))

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Take whole trained weights."""
        assert self.lightning_module is not None
        load_whole(self.lightning_module, checkpoint["state_dict"])

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take this rank's parts of whole moments."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict(in_parts(optimizer, state))

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Write one file on the first rank; no rank waits for it."""
        ParallelStrategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read one file on every rank."""
        return ParallelStrategy.load_checkpoint(self, checkpoint_path, weights_only)


def precision_policy(precision: str) -> MixedPrecisionPolicy:
    """What a block is gathered in, for a value of ``trainer.precision``; gradients are reduced in float32.

    Mixed precision gathers half the bytes; the parts that the optimizer moves stay float32.
    """
    dtype = COMPUTE_DTYPES.get(precision)
    # Autocast casts what enters a matrix product; all else (angles of positions) stays as exact as it is.
    return MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)


def in_parts(optimizer: Optimizer, state: Mapping[str, Any]) -> dict[str, Any]:
    """An optimizer's whole state with each tensor of its parameter's shape in parts as the parameter is."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    by_number = dict(zip(numbers, parameters, strict=True))

    def part(number: int, value: Any) -> Any:
        like = by_number[number]
        return placed(value, like) if isinstance(value, torch.Tensor) and value.shape == like.shape else value

    moments = {n: {key: part(n, value) for key, value in row.items()} for n, row in state["state"].items()}
    return {**state, "state": moments}
