"""qcvl as a contender: ``config.load``, ``config.build`` and Lightning's fit, in a variant if asked."""

from collections.abc import Callable, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from trainers.turns import Turns
from trainers.workload import STEP_SAMPLES, Workload

from qcvl import config
from qcvl.data.label_kinds import LABEL_KINDS


class TakesTurns(pl.Callback):
    """A turn is an optimizer step."""

    def __init__(self, turns: Turns) -> None:
        self.turns, self.begun = turns, False

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Wait at the first micro-batch of a step, and count each."""
        if not self.begun:
            self.turns.wait(pl_module)
            self.begun = True
        labels = batch["label_kinds"].count_nonzero()
        tokens = batch["input_ids"].numel()
        self.turns.count(len(batch["segments"]), tokens, int(labels), places=tokens)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """End the turn with the step."""
        last = batch_idx + 1 == trainer.num_training_batches
        if last or (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.turns.done()
            self.begun = False


def train(turns: Turns, workload: Workload, variant: str, also: Sequence[str] = ()) -> None:
    """Train a workload as one of ``VARIANTS``, with further overrides."""
    overrides, undo = VARIANTS[variant]
    undo()
    run = config.build(config.load("train", [*workload.overrides(), *overrides, *also]))
    run.trainer.callbacks.append(TakesTurns(turns))
    run.trainer.fit(run.module, run.datamodule)


def full_head() -> None:
    """Logits of all positions, as the stock model makes them."""
    from qcvl.models.forward import unwrap
    from qcvl.modules import sft

    def answer_loss(
        model: Any, states: torch.Tensor, labels: torch.Tensor, label_kinds: torch.Tensor
    ) -> dict[str, Any]:
        logits = unwrap(model).get_output_embeddings()(states)[0].float()
        targets = F.pad(labels[0, 1:], (0, 1), value=-100)
        losses = F.cross_entropy(logits, targets, ignore_index=-100, reduction="none")
        kinds = F.pad(label_kinds[0, 1:], (0, 1)).long()
        sums = losses @ F.one_hot(kinds, len(LABEL_KINDS) + 1)[:, 1:].to(losses.dtype)
        return {"sft_sum": sums, "correct": ((logits.argmax(-1) == targets) & (kinds > 0)).sum()}

    sft.answer_loss = answer_loss


def looped_vision() -> None:
    """Vision attention image by image, as the stock model does it."""
    from qcvl.models import speed

    give = speed.give_forward
    speed.give_forward = lambda module, mixin: None if mixin is speed.BatchedImages else give(module, mixin)
    speed_up = speed.speed_up

    def with_loop(model: Any, attn: str) -> Any:
        speed_up(model, attn)
        model.set_attn_implementation({"vision_config": "sdpa"})
        return model

    from qcvl.models import build

    build.speed_up = with_loop


def convolved_patches() -> None:
    """Patches repeated along time and embedded by Conv3d, as in the stock model."""
    from qcvl.models.speed import LinearPatches

    def forward(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
        channels, time, side = self.in_channels, self.temporal_patch_size, self.patch_size
        if hidden_states.shape[-1] == channels * side**2:
            hidden_states = hidden_states.view(-1, channels, 1, side**2).expand(-1, -1, time, -1).flatten(1)
        return super(LinearPatches, self).forward(hidden_states)

    LinearPatches.forward = forward  # type: ignore[method-assign]


def nothing() -> None:
    """Undo no code: the overrides do it."""


ONE_BY_ONE = [
    "data.packing=null",
    "data.packing_length=null",
    "data.batch_size=1",
    f"trainer.accumulate_grad_batches={STEP_SAMPLES}",
]
VARIANTS: dict[str, tuple[list[str], Callable[[], None]]] = {
    "": ([], nothing),
    "without packing": (ONE_BY_ONE, nothing),
    "without label-only head": ([], full_head),
    "without attention per sample": (["model.attn=sdpa"], nothing),
    "without batched vision": ([], looped_vision),
    "without linear patches": ([], convolved_patches),
    "without fused AdamW": (["optimizer.fused=false"], nothing),
    "with torch.compile": (["model.compile=true"], nothing),
}
