"""Find the largest ``data.token_budget`` that fits the device, by whole training steps that leave no trace."""

import gc
import json
import math
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor

from qcvl.callbacks.out_of_memory import is_out_of_memory
from qcvl.data.batch import collate, step_counts
from qcvl.data.dataset import SampleDataset
from qcvl.data.lengths import EpochLengths
from qcvl.data.packing import WIDTH, TokenBudget
from qcvl.errors import ConfigError, QcvlError
from qcvl.log import get_logger

log = get_logger(__name__)
CLOSE = 1 / 32  # budgets this near each other (by their share) are told apart no further


class BatchProbe(pl.Callback):
    """Before the first step, try budgets on the device; say the largest that fits and write it to ``path``.

    The run then goes on as configured, exactly as it would have without: weights, optimizer, random numbers and the
    loader's position are what they were. A later run takes the number: ``data.token_budget=…``.

    What is tried is the fullest batch of the first epoch at each budget, in forward, backward and optimizer step.
    """

    def __init__(self, *, path: str) -> None:
        self.path = Path(path)

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Probe.

        Raises:
            ConfigError: where there is no budget to start from, or not one GPU alone.
            QcvlError: where not even the longest sample by itself fits.
        """
        data = trainer.datamodule.data  # type: ignore[attr-defined]
        if problem := refusal(trainer, pl_module.device, data.token_budget):
            raise ConfigError(f"batch_probe: {problem}")
        dataset = trainer.datamodule.train_dataset()  # type: ignore[attr-defined]
        shadow, fullest, tried = Shadow(trainer, pl_module), Fullest(dataset), dict[int, bool]()

        def fits(budget: int) -> bool:
            places = fullest.batch(budget)
            tokens = int(fullest.lengths[places].sum())
            if tokens not in tried:
                tried[tokens] = shadow.fits(collate([dataset[(0, place)] for place in places]))
            return tried[tokens]

        least, most = int(fullest.longest[0]), fullest.whole
        with untouched_random(pl_module.device):
            found = largest(fits, data.token_budget, least, most)
        if found is None:
            raise QcvlError(
                f"batch_probe: a training step on a batch of {min(tried)} tokens, the longest samples one by one, does "
                "not fit the device; lower global_max_length, or use model.gradient_checkpointing=true or tuner=lora"
            )
        # Not the budget itself: another epoch may fill it better than the batches that were tried.
        self._tell(max(tokens for tokens, fitted in tried.items() if fitted), tried, data.token_budget)

    def _tell(self, found: int, tried: Mapping[int, bool], configured: int) -> None:
        sizes = [{"tokens": tokens, "fits": fitted} for tokens, fitted in sorted(tried.items())]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        row = {"token_budget": found, "configured": configured, "tried": sizes}
        self.path.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
        log.info("batch_probe: data.token_budget=%d fits; this run goes on with %d", found, configured)


def refusal(trainer: pl.Trainer, device: torch.device, token_budget: int | None) -> str | None:
    """What is missing for a probe, or None."""
    if token_budget is None:
        return "data.token_budget is null, and there is no budget to start from; give a first guess, for example 8192"
    if device.type != "cuda":
        return f"this run trains on {device.type}, whose memory has no limit to find; use trainer.accelerator=gpu"
    if not isinstance(trainer.strategy, SingleDeviceStrategy):
        return f"memory under {type(trainer.strategy).__name__} depends on all ranks; use strategy=single"
    return None


def largest(fits: Callable[[int], bool], start: int, least: int, most: int) -> int | None:
    """The largest budget within ``CLOSE`` that fits, between the longest sample and the whole epoch; None: none does.

    ``fits`` is true up to some budget and false above it.
    """
    low, high = least, most
    guess = min(max(start, least), most)
    while guess < high and fits(guess):
        low, guess = guess, min(2 * guess, high)
    if low == least and not fits(least):
        return None
    if guess == high and fits(high):
        return high
    high = guess
    while high - low > max(1, low * CLOSE):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


class Fullest:
    """The batch with the most tokens of the first epoch, by budget."""

    def __init__(self, dataset: SampleDataset) -> None:
        measured = EpochLengths(dataset)
        self.lengths, self.longest = measured.of(0), measured.longest()
        self.whole = math.ceil(self.longest.sum() * WIDTH) + len(self.longest)  # a plan rounds lengths up

    def batch(self, budget: int) -> list[int]:
        """The places in the epoch of its samples."""
        plan = TokenBudget(self.longest, budget, world_size=1)
        order = np.arange(len(self.lengths))
        batches = [batch for (batch,) in plan(self.lengths, order, np.random.default_rng(0))]
        return max(batches, key=lambda batch: int(self.lengths[batch].sum()))


class Shadow:
    """Training steps whose effects are taken back, on a module in training with one optimizer."""

    def __init__(self, trainer: pl.Trainer, module: Any) -> None:
        self.trainer, self.module = trainer, module
        (self.optimizer,) = trainer.optimizers

    def fits(self, batch: dict[str, Any]) -> bool:
        """Whether a whole step on a batch does without more memory than there is."""
        enough = True
        with self._restored():
            try:
                self._steps(batch)
            except RuntimeError as error:
                enough = not is_out_of_memory(error)
                if enough:
                    raise  # else the error is left here: its traceback holds on to what the step had made
        gc.collect()
        if self.module.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()  # perf/peak_memory_gib is the run's own
        return enough

    def _steps(self, batch: dict[str, Any]) -> None:
        """Two optimizer steps: the first makes the moments, which the second has beside its activations.

        With accumulation each is of two batches, so that there are gradients as well.
        """
        for _ in range(2):
            for _ in range(min(self.trainer.accumulate_grad_batches, 2)):
                self._backward(batch)
            self.optimizer.step()
            self.optimizer.zero_grad()

    def _backward(self, batch: dict[str, Any]) -> None:
        counts = step_counts([batch])
        batch = self.trainer.strategy.batch_to_device(batch)
        labels, cells = (counts[name].to(self.module.device).float() for name in ("step_labels", "step_cells"))
        with self.trainer.precision_plugin.train_step_context():
            loss = self.module.combine(self.module.losses(batch), labels, cells.clamp(min=1))
        loss.backward()

    @contextmanager
    def _restored(self) -> Iterator[None]:
        """Keep trained weights, buffers and optimizer state in the host's memory, and bring them back after a block."""
        state = self.optimizer.state
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        tensors = [*trained, *self.module.buffers()]
        kept = [tensor.detach().to("cpu", copy=True) for tensor in tensors]
        known = {parameter: {name: _to_host(value) for name, value in row.items()} for parameter, row in state.items()}
        places = {parameter: {name: _device(value) for name, value in row.items()} for parameter, row in state.items()}
        try:
            yield
        finally:
            for parameter in trained:
                parameter.grad = None
            with torch.no_grad():
                for tensor, value in zip(tensors, kept, strict=True):
                    tensor.copy_(value)
            state.clear()  # in place: an optimizer made of several shares it with them
            for parameter, row in known.items():
                state[parameter] = {
                    name: value if places[parameter][name] is None else value.to(places[parameter][name])
                    for name, value in row.items()
                }


def _to_host(value: Any) -> Any:
    return value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else value


def _device(value: Any) -> torch.device | None:
    return value.device if isinstance(value, Tensor) else None


@contextmanager
def untouched_random(device: torch.device) -> Iterator[None]:
    """Give every global random generator of the process and a device back the state it had."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
