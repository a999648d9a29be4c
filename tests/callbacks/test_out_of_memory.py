"""A step that does not fit the memory ends the run with its size, what to change, and the checkpoint to go on from."""

import re

import lightning.pytorch as pl
import pytest
import torch

from qcvl.callbacks.out_of_memory import is_out_of_memory, telling_what_to_change
from qcvl.checkpoints.folder import verify
from qcvl.errors import QcvlError
from qcvl.tuning.settings import FullTuner
from tests.callbacks.conftest import QUIET

pytestmark = QUIET
ON_A_GPU = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB\nof which"
ON_A_CPU = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"
OF_CUDA = "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call"
ERRORS = [torch.OutOfMemoryError(ON_A_GPU), RuntimeError(ON_A_CPU), RuntimeError(OF_CUDA), MemoryError()]


class Full(pl.Callback):
    """Raises ``error`` at a hook once ``step`` optimizer steps are done, and keeps the module."""

    def __init__(self, error: Exception, hook: str = "on_after_backward", step: int = 1) -> None:
        self.error, self.step, self.batch = error, step, {}
        setattr(self, hook, self.fail)

    def fail(self, trainer, module, *rest) -> None:
        if trainer.global_step == self.step:
            self.module, self.trainer, self.batch = module, trainer, module.handed
            raise self.error


@pytest.fixture
def failed(start_run):
    """``failed(error, …)``: what a run says whose second step raises ``error``, and the callback that raised it."""

    def run(full: Full, **changes) -> str:
        class Told(pl.Callback):
            def setup(self, trainer, module, stage):
                full.module, full.trainer = module, trainer

        with pytest.raises(QcvlError) as caught:
            try:
                start_run(limit=5, callbacks=[Told(), full], **changes)
            except Exception as error:
                with telling_what_to_change(full.trainer, full.module):
                    raise error
        return str(caught.value)

    return run


@pytest.mark.parametrize("error", ERRORS)
def test_the_batch_the_remedies_and_the_checkpoint_are_named(failed, error, tmp_path):
    full = Full(error)
    lines = failed(full, checkpoint={"every_n_train_steps": 1}).splitlines()
    assert lines[0].startswith("step 1 needs more memory than there is (")
    tokens, patches = full.batch["input_ids"].shape[1], int(full.batch["image_grid_thw"].prod(1).sum())
    assert lines[1].startswith(f"the batch: 2 samples, {tokens:,} tokens, {patches:,} patches; peak memory so far ")
    assert float(re.search(r"([\d.]+) GiB", lines[1])[1]) > 0.1  # a process with torch in it
    for remedy in ("data.batch_size=1 with trainer.accumulate_grad_batches=2", "gradient_checkpointing=true", "fsdp"):
        assert remedy in lines[2]
    checkpoint = tmp_path / "run/checkpoints/step-1"
    verify(checkpoint)
    assert lines[3].startswith(f"{checkpoint} is untouched: go on with resume=auto hydra.run.dir={tmp_path}/run;")
    assert len(lines) == 4 and "tuner=lora" not in lines[2]


def test_the_remedies_follow_the_settings(failed, make_module, small_model):
    module = make_module(tuner=FullTuner(), model=small_model(gradient_checkpointing=True))
    told = failed(Full(torch.OutOfMemoryError(ON_A_GPU), step=0), data={"token_budget": 600}, module=module)
    assert "data.token_budget below 600" in told and "tuner=lora" in told and "batch_size" not in told
    assert "gradient_checkpointing" not in told and "no checkpoint was written yet" in told
    told = failed(Full(torch.OutOfMemoryError(ON_A_GPU), "on_validation_batch_end", step=3), name="validation")
    assert told.startswith("validation needs more memory") and "data.val_batch_size below" in told


def test_other_errors_are_left_alone():
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes"), telling_what_to_change(None, None):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
