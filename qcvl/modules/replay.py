"""Make a kept step again (see ``kept_step``), and name the first part of the model whose values were not finite."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as pl
import torch
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text
from torch import Tensor

from qcvl.modules.base import VLModule
from qcvl.modules.kept_step import KeptStep, MicroBatch, load_trained, read_ranks
from qcvl.modules.watch import Reading, Watch
from qcvl.tuning.adapters import base_name

STEEPEST = 5  # parts shown where only the norm of all gradients together is not finite


@dataclass(frozen=True)
class Replayed:
    """A kept step made again.

    Attributes:
        step: its number.
        rank: the rank whose micro-batches made it, or the last one tried.
        losses: of each micro-batch that was made again, the loss then and now.
        samples: where the samples of the last of them stand.
        first: the first reading that is not finite; None where all are.
        table: readings to show: up to ``first``, or the steepest gradients.
    """

    step: int
    rank: int
    losses: tuple[tuple[float, float], ...]
    samples: tuple[str, ...]
    first: Reading | None
    table: tuple[Reading, ...]

    @property
    def same(self) -> bool:
        """Whether all losses are those of the run, bit for bit; NaN is NaN."""
        return all(then == now or (then != then and now != now) for then, now in self.losses)

    def told(self) -> str:
        """What was found, in a sentence."""
        if self.first is None:
            return (
                "every value is finite. Either the norm of all gradients overflows (the steepest are below), or what "
                "was not finite came from no weight or sample: from a callback, or from the machine"
            )
        return f"first not finite: the {self.first.kind} of {self.first.path}"


def replay(module: VLModule, trainer: pl.Trainer, folder: Path) -> Replayed:
    """Build the module as its run did, give it the weights of the kept step in ``folder``, and make the step again.

    One process does so for every rank, in turn; of several, the first that is not finite is told.

    Args:
        module: not built yet.
        trainer: not used yet; its device and precision are the run's.
        folder: ``<run>/nonfinite/step-N``.

    Raises:
        CheckpointError: for a folder that is no kept step, or one of another model, stage or tuner.
    """
    ranks = read_ranks(folder)
    module.configure_model()
    load_trained(module, folder)
    trainer.precision_plugin.convert_module(module)
    module.to(trainer.strategy.root_device).train()
    for kept in ranks:
        module.zero_grad()
        found = _replay_rank(module, trainer, kept)
        if found.first is not None:
            break
    return found


def report(found: Replayed) -> Group:
    """The finding for a terminal."""
    losses = ", ".join(f"{now!r} (run: {then!r})" for then, now in found.losses)
    lines = [
        f"step {found.step}, rank {found.rank}: loss {losses}{'' if found.same else '; NOT the same'}",
        f"samples {', '.join(found.samples)}",
        found.told(),
    ]
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("module", overflow="fold")
    table.add_column("kind")
    for name in ("min", "max", "nan", "inf"):
        table.add_column(name, justify="right")
    for row in found.table:
        numbers = (f"{row.least:.4g}", f"{row.most:.4g}", f"{row.nans:,}", f"{row.infs:,}")
        table.add_row(Text(row.path), row.kind, *numbers, style=None if row.finite else "bold red")
    return Group(*map(Text, lines), table)


def _replay_rank(module: VLModule, trainer: pl.Trainer, kept: KeptStep) -> Replayed:
    losses: list[tuple[float, float]] = []
    module.replayed = kept.step
    with Watch(module) as watch:
        for one in kept.micro_batches:
            loss = _forward(module, trainer, one)
            losses.append((float(one.loss), float(loss)))
            watch.look("loss", "output", loss)
            if watch.first is None:
                (loss * kept.factor).backward()
            if watch.first is not None:
                break
    table = watch.table if watch.first is not None else _steepest(module)
    samples = kept.samples[len(losses) - 1]
    first = None if watch.first is None else _named([watch.first])[0]
    return Replayed(kept.step, kept.rank, tuple(losses), tuple(samples), first, tuple(_named(table)))


def _forward(module: VLModule, trainer: pl.Trainer, one: MicroBatch) -> Tensor:
    device = module.device
    batch = {name: value.to(device) for name, value in one.batch.items()}
    module.draw_seed = one.seed
    torch.manual_seed(one.seed)
    with trainer.precision_plugin.train_step_context():
        return module.combine(module.losses(batch), one.labels.to(device), one.cells.to(device))


def _steepest(module: VLModule) -> list[Reading]:
    """The weights with the largest gradients."""
    gradients = [(name, value.grad) for name, value in module.named_parameters() if value.grad is not None]
    largest = sorted(gradients, key=lambda row: float(row[1].abs().max()), reverse=True)[:STEEPEST]
    return [Reading.of(name, "gradient of weight", gradient) for name, gradient in largest]


def _named(readings: Iterable[Reading]) -> Sequence[Reading]:
    """The readings by the names that the parts have in the model itself, without what Lightning and peft put around."""
    return [
        Reading(base_name(row.path.removeprefix("model.")), row.kind, row.least, row.most, row.nans, row.infs)
        for row in readings
    ]
