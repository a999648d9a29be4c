"""Lightning's state of a run at one moment: what ``trainer/state.ckpt`` holds."""

from typing import Any

import lightning.pytorch as pl

from qcvl.checkpoints.snapshot import with_own_containers
from qcvl.data.loader import batches_done

ROW = "qcvl_row"  # what the state's step logged
VALIDATION = "epoch_loop.val_loop.batch_progress"  # in the fit loop's part


def capture(trainer: pl.Trainer) -> dict[str, Any]:
    """The state of this moment; its tensors are those that training goes on with."""
    state = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
    # Loggers get the step's row after the step's checkpoint; a kill between the two shall not lose it.
    row = {name: float(value) for name, value in trainer.callback_metrics.items() if not name.startswith("eval/")}
    state[ROW] = row | {"epoch": float(trainer.current_epoch)}
    return with_own_containers(state)


def capture_before_validation(trainer: pl.Trainer) -> dict[str, Any]:
    """The same, called when a validation starts, marked as Lightning marks one that is to be done on resuming."""
    state = capture(trainer)
    total = state["loops"]["fit_loop"][VALIDATION]["total"]
    total["ready"], total["started"] = total["ready"] + 1, total["started"] + 1
    return state


def awaits_validation(state: dict[str, Any]) -> bool:
    """Whether the state is one of ``capture_before_validation``."""
    total = state["loops"]["fit_loop"][VALIDATION]["total"]
    return total["started"] > total["completed"]


def recount(state: dict[str, Any], accumulate: int, batches: int) -> None:
    """Count the micro-batches of a resumed state anew, for a run in which ``accumulate`` of them make a step.

    Args:
        state: a state that was saved at the end of a step.
        accumulate: micro-batches of an optimizer step now.
        batches: micro-batches of an epoch now.
    """
    fit = state["loops"]["fit_loop"]
    for loader in fit["state_dict"].get("combined_loader", []):
        before = loader.get("accumulate", accumulate)
        if before == accumulate:
            continue
        count = fit["epoch_loop.batch_progress"]["current"]
        done = batches_done(count["ready"], loader["length"], before, batches, accumulate)
        if done is not None:  # else the loader refuses the state
            count.update({name: done - (count["ready"] - value) for name, value in count.items()})


def unmark(trainer: pl.Trainer) -> None:
    """Take the mark off when the validation starts: later states shall not carry it."""
    total = trainer.fit_loop.epoch_loop.val_loop.batch_progress.total
    total.ready = total.started = total.completed
