"""How DeepSpeed deals a model over devices, as settings. Torch-free."""

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt

from qcvl.schema.settings import settings

Numbers = Annotated[int, Field(ge=0)]


@settings
class Zero:
    """ZeRO over whole weights: each device holds a share of the moments (stage 1), and of the gradients (stage 2).

    Buckets are counted in numbers. ``offload_optimizer`` keeps moments and float32 weights in the host's memory and
    takes the steps there.
    """

    stage: Literal[1, 2]
    offload_optimizer: bool
    reduce_bucket_size: PositiveInt
    allgather_bucket_size: PositiveInt

    def section(self) -> dict[str, Any]:
        """DeepSpeed's ``zero_optimization``."""
        return {
            "stage": self.stage,
            "reduce_bucket_size": self.reduce_bucket_size,
            "allgather_bucket_size": self.allgather_bucket_size,
            **_always(),
            **_on_host("offload_optimizer", self.offload_optimizer),
        }


@settings
class Zero3:
    """ZeRO over everything: each device holds a share of weights, gradients and moments, and gathers layer by layer.

    Sizes are counted in numbers: ``prefetch_bucket_size`` are gathered ahead of their use, weights below
    ``persistence_threshold`` stay whole, and at most ``max_live_parameters`` are whole at once. ``offload_parameters``
    keeps the shares of weights in the host's memory, ``offload_optimizer`` moments and float32 weights.
    """

    offload_optimizer: bool
    offload_parameters: bool
    reduce_bucket_size: PositiveInt
    prefetch_bucket_size: Numbers
    persistence_threshold: Numbers
    max_live_parameters: Numbers

    @property
    def stage(self) -> int:
        """ZeRO's number for it."""
        return 3

    def section(self) -> dict[str, Any]:
        """DeepSpeed's ``zero_optimization``."""
        return {
            "stage": self.stage,
            "reduce_bucket_size": self.reduce_bucket_size,
            "stage3_prefetch_bucket_size": self.prefetch_bucket_size,
            "stage3_param_persistence_threshold": self.persistence_threshold,
            "stage3_max_live_parameters": self.max_live_parameters,
            "stage3_max_reuse_distance": self.max_live_parameters,
            "stage3_gather_16bit_weights_on_model_save": True,
            **_always(),
            **_on_host("offload_optimizer", self.offload_optimizer),
            **_on_host("offload_param", self.offload_parameters),
        }


def _always() -> dict[str, Any]:
    return {"overlap_comm": True, "contiguous_gradients": True}


def _on_host(part: str, offload: bool) -> dict[str, Any]:
    return {part: {"device": "cpu", "pin_memory": True}} if offload else {}
