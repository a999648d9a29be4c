"""A step that needs more memory than there is ends the run with what it was made of and what to change."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from qcvl.checkpoints.folder import steps_in
from qcvl.errors import QcvlError

GIB = 1 << 30
# What torch's allocators say in a plain RuntimeError: on a CPU of Linux, on others, and where a CUDA library asks.
_SAID = (
    "can't allocate memory",
    "not enough memory",
    "CUDA out of memory",
    "CUDA error: out of memory",
    "STATUS_ALLOC_FAILED",
)


@contextmanager
def telling_what_to_change(trainer: pl.Trainer, module: Any) -> Iterator[None]:
    """Run a block of training; where memory runs out, say what for, and how to need less.

    Raises:
        QcvlError: in place of the allocator's own error.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not is_out_of_memory(error):
            raise
        raise QcvlError(_told(trainer, module, error)) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, in torch on any device or in Python."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(said in str(error) for said in _SAID)


def peak_bytes(device: torch.device) -> int:
    """The most memory there ever was in use: of a GPU by this process's tensors, else of the process as a whole."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB


def _told(trainer: pl.Trainer, module: Any, error: BaseException) -> str:
    said = (str(error) or type(error).__name__).splitlines()[0]
    where = "validation" if module.handed_to == "validate" else f"step {trainer.global_step}"
    return "\n".join(
        [
            f"{where} needs more memory than there is ({said})",
            f"the batch: {_size(module.handed)}; peak memory so far {peak_bytes(module.device) / GIB:.2f} GiB",
            f"need less: {'; '.join(_remedies(trainer, module))}",
            _checkpoint(trainer),
        ]
    )


def _size(batch: dict[str, Any]) -> str:
    if not batch:
        return "none yet"
    samples = len(batch["segments"])
    tokens, patches = batch["input_ids"].numel(), len(batch["pixel_values"])
    return f"{samples} sample{'' if samples == 1 else 's'}, {tokens:,} tokens, {patches:,} patches"


def _remedies(trainer: pl.Trainer, module: Any) -> list[str]:
    """The settings that need less memory than this run's, the cheapest first."""
    data = trainer.datamodule.data  # type: ignore[attr-defined]
    if module.handed_to == "validate":
        return [f"data.val_batch_size below {data.val_batch_size}", "a smaller generation.batch_size"]
    found = []
    if data.token_budget is not None:
        found.append(f"data.token_budget below {data.token_budget}")
    elif data.batch_size > 1:
        half, twice = data.batch_size // 2, trainer.accumulate_grad_batches * 2
        found.append(f"data.batch_size={half} with trainer.accumulate_grad_batches={twice} (the same step)")
    if module.device.type == "cuda" and data.token_budget is not None:
        found.append("batch_probe=true finds the largest budget that fits")
    if not module.spec.gradient_checkpointing:
        found.append("model.gradient_checkpointing=true")
    if module.tuner.kind == "full":
        found.append("tuner=lora")
    if len(module.handed.get("segments", ())) == 1:
        found.append("a lower model.max_cells or global_max_length, for the batch is one sample")
    return [*found, "strategy=fsdp over several GPUs"]


def _checkpoint(trainer: pl.Trainer) -> str:
    """What is left of the run, and how to go on from there."""
    folder = getattr(trainer.checkpoint_callback, "dirpath", None)
    steps = steps_in(Path(folder)) if folder else {}
    if not steps:
        return "no checkpoint was written yet: start the run again"
    last = steps[max(steps)]
    return (
        f"{last} is untouched: go on with resume=auto hydra.run.dir={last.parent.parent}; with another "
        f"data.token_budget the batches are others, so start a new run from its weights with stage.init_from={last}"
    )
