"""DeepSpeed's JSON of a run, from the run's own settings. Torch-free."""

from typing import Any

from qcvl.modules.zero.settings import Zero, Zero3


def deepspeed_config(
    zero: Zero | Zero3, *, precision: str, accumulate: int, gradient_clip: float | None, micro_batch: int
) -> dict[str, Any]:
    """What ``deepspeed.initialize(config=…)`` takes; the optimizer is handed over beside it.

    In half precision all weights of the model are rounded; the trained ones keep a float32 original, which is what
    the optimizer moves and checkpoints hold.

    Args:
        zero: what is dealt over the devices.
        precision: Lightning's name, such as ``bf16-mixed``.
        accumulate: micro-batches an optimizer step.
        gradient_clip: the largest norm of a step's gradient; None or 0: it is not clipped.
        micro_batch: samples a batch; DeepSpeed counts throughput with it and nothing else.
    """
    half = precision.split("-")[0]
    return {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulate,
        "gradient_clipping": gradient_clip or 0.0,
        "bf16": {"enabled": half == "bf16", "check_grad_overflow": True},  # a step that is not finite moves nothing
        "fp16": {"enabled": half == "16", "loss_scale": 0, "initial_scale_power": 16},  # loss_scale 0: it adapts
        "zero_allow_untested_optimizer": False,
        "zero_force_ds_cpu_optimizer": False,  # torch's fused AdamW needs no compiler where the run starts
        "zero_optimization": zero.section(),
    }
