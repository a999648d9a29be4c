"""A process that gets no more memory ends with one error, and its last checkpoint is sound."""

import resource
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch

from qcvl.checkpoints.folder import newest_complete


class Limit(pl.Callback):
    """Makes the fourth step's batch four hundred times as long, for which the process may have 100 MB more."""

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == 3:
            along = {"segments": 0, "pixel_values": 0, "image_grid_thw": 0, "position_ids": 2}
            for name in ("input_ids", "labels", "label_kinds", "mm_token_type_ids", *along):
                batch[name] = torch.cat([batch[name]] * 400, along.get(name, 1))
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + 100_000_000
            resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


@pytest.mark.slow
def test_a_step_that_the_machine_has_no_memory_for_is_told_with_its_size(command, small_run, tmp_path):
    limit = ("+callbacks.limit._target_=tests.invariant.test_out_of_memory.Limit", "trusted_targets=[tests]")
    run = tmp_path / "run"
    error = command("train", *small_run, *limit, "data.val_generate=0", f"hydra.run.dir={run}").error()
    assert error.startswith("step 3 needs more memory than there is (") and "allocate memory" in error
    assert "the batch: 4 samples, " in error and "data.batch_size=2 with trainer.accumulate_grad_batches=2" in error
    assert newest_complete(run / "checkpoints") == run / "checkpoints/step-2"
    assert f"{run}/checkpoints/step-2 is untouched: go on with resume=auto hydra.run.dir={run}" in error
