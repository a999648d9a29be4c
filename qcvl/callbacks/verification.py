"""``experiment=verify_real``: does all of it work on these weights? One table of checks that passed or failed."""

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from rich.console import Console
from torch import nn

from qcvl.callbacks.environment import versions
from qcvl.callbacks.live import LiveBytes
from qcvl.checkpoints.reopen import reopen
from qcvl.checkpoints.snapshot import size_bytes
from qcvl.data.batch import collate
from qcvl.doctor.parity import (
    Example,
    check_labels,
    check_logits,
    check_pixels,
    check_tokens,
    examples_of,
    load_plain,
)
from qcvl.doctor.training import check_answers, check_memory, check_reload, check_speed
from qcvl.errors import ConfigError, QcvlError
from qcvl.inference.hf import HFPredictor
from qcvl.inference.predictor import Request
from qcvl.inference.settings import Generation
from qcvl.log import get_logger
from qcvl.models.folders import find_folder
from qcvl.models.memory import StepMemory, step_memory
from qcvl.models.settings import ModelSpec, at_path
from qcvl.models.spec import Processing
from qcvl.models.text import plain_ids
from qcvl.tuning.groups import is_added
from qcvl.tuning.quantization import weight_count
from qcvl.viz.verdicts import Verdict, verdict_markdown, verdict_table

log = get_logger(__name__)
RECORDS = 4
WATCHED = 2  # first steps, whose tensors are counted: the optimizer's state is there from the second one on
ROOM = 16  # tokens that an answer may be longer than the true one before it is broken off


class Verification(pl.Callback):
    """Check a model before, while and after it learns its first records by heart; ``finish`` says what passed.

    Args:
        folder: where ``verify.json`` and ``verify.md`` go.
        checkpoints: the run's checkpoints, of which ``last`` is merged and reloaded.
        generation: how answers are written; always greedily.
    """

    def __init__(self, *, folder: str, checkpoints: str, generation: Generation) -> None:
        self.folder, self.checkpoint = Path(folder), Path(checkpoints) / "last"
        self.generation = replace(generation, temperature=0.0)
        self.verdicts: list[Verdict] = []
        self.facts: dict[str, str] = {}
        self._examples: list[Example] = []
        self._estimate: StepMemory | None = None
        self._watch: LiveBytes | None = None
        self._watching: AbstractContextManager[Any] = nullcontext()
        self._device = torch.device("cpu")
        self._replies: list[str] = []
        self._losses: list[float] = []
        self._seconds: list[float] = []
        self._tokens: list[int] = []
        self._peak, self._started = 0, 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Compare logits, pixels, tokens and labels with those of transformers; foresee the memory of a step.

        Raises:
            ConfigError: for a model that is no checkpoint, or several devices.
        """
        spec, model, processing = pl_module.spec, pl_module.built, pl_module.processing
        if not isinstance(spec, ModelSpec):
            raise ConfigError("model: has no weights to verify; give those of a folder: model=qwen3_vl_2b model.path=")
        if trainer.world_size > 1:
            raise ConfigError(f"trainer.devices: {trainer.world_size} processes; weights are verified in one: set it 1")
        dataset = trainer.datamodule.train_dataset()  # type: ignore[attr-defined]
        examples = self._examples = examples_of(dataset, RECORDS)
        folder, self._device = find_folder(spec.path, weights=True), pl_module.device
        self.facts = _facts(spec, model, processing, self._device)
        self._judge("logits", lambda: check_logits(model, lambda: load_plain(spec), examples, processing))
        self._judge("pixels", lambda: check_pixels(folder, examples, processing))
        self._judge("tokens", lambda: check_tokens(folder, examples, processing))
        self._judge("labels", lambda: check_labels(examples, processing))
        groups, settings = trainer.optimizers[0].param_groups, pl_module.optimizer_settings
        state = sum(settings.state_bytes(group) * sum(p.numel() for p in group["params"]) for group in groups)
        half = trainer.precision.startswith(("bf16", "16")) or _dtype(model).itemsize == 2
        batch = collate([example.features for example in examples])
        self._estimate = step_memory(model, batch, state, half)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            self._watch = LiveBytes((*model.parameters(), *model.buffers()))

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Begin to time the step, or to count its tensors."""
        watched = self._watch is not None and len(self._losses) < WATCHED
        self._watching = self._watch if watched and self._watch is not None else nullcontext()
        self._watching.__enter__()
        self._started = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Note the step's loss, time, tokens and memory."""
        self._losses.append(float(outputs["loss"]))  # waits for the device
        seconds = time.perf_counter() - self._started
        self._watching.__exit__(None, None, None)
        if len(self._losses) > WATCHED:
            self._seconds.append(seconds)
            self._tokens.append(batch["input_ids"].numel())
        if self._watch is not None:
            self._peak = self._watch.peak
        elif self._device.type == "cuda":
            self._peak = torch.cuda.max_memory_allocated(self._device)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Ask about the records that were learned."""
        estimate, mfu = self._estimate, trainer.callback_metrics.get("perf/mfu")
        assert estimate is not None  # of on_train_start

        def learned() -> Verdict:
            with trainer.precision_plugin.val_step_context():
                self._replies = self._answers(pl_module.built, pl_module.processing)
            return check_answers(self._replies, self._examples, self._losses)

        self._judge("overfit", learned)
        self._judge("speed", lambda: check_speed(self._seconds, self._tokens, None if mfu is None else float(mfu)))
        self._judge("memory", lambda: check_memory(self._peak, estimate))

    def finish(self, pl_module: Any, console: Console) -> None:
        """Merge and reload the last checkpoint, print the table, write ``verify.json`` and ``verify.md``.

        Raises:
            QcvlError: naming the checks that failed.
        """
        self._judge("reload", lambda: self._reloaded(pl_module.spec))
        failed = [verdict.check for verdict in self.verdicts if not verdict.passed]
        content = {"passed": not failed, "facts": self.facts, "checks": [asdict(row) for row in self.verdicts]}
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(content, ensure_ascii=False, indent=1)
        (self.folder / "verify.json").write_text(text + "\n", encoding="utf-8")
        post = self.folder / "verify.md"
        post.write_text(verdict_markdown(self.verdicts, self.facts), encoding="utf-8")
        console.print(verdict_table(self.verdicts, self.facts))
        console.print(f"post       {post}", highlight=False, markup=False, soft_wrap=True)
        if failed:
            raise QcvlError(
                f"{len(failed)} of {len(self.verdicts)} checks failed ({', '.join(failed)}); the table says what to do "
                f"next, {post} holds it"
            )

    def _judge(self, check: str, run: Callable[[], Verdict]) -> None:
        """Add a check's verdict; one that cannot be made is a failed one."""
        try:
            verdict = run()
        except Exception as error:
            log.warning("the check of %s stopped", check, exc_info=error)
            advice = "the log has the whole error"
            if isinstance(error, torch.OutOfMemoryError):
                advice = "the device has no room for what is compared here; use trainer.accelerator=cpu"
            told = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            verdict = Verdict(check, False, told, "to be made at all", advice)
        self.verdicts.append(verdict)

    def _answers(self, model: nn.Module, processing: Processing) -> list[str]:
        """What a model says about the records, one text each."""
        requests = [
            Request(item.images, item.prompt, len(plain_ids(processing, item.answer)) + ROOM, item.task)
            for item in self._examples
        ]
        return [reply.text for reply in HFPredictor(model, processing, self.generation).answer(requests)]

    def _reloaded(self, spec: ModelSpec) -> Verdict:
        """Answers of the checkpoint, merged into its base, as plain transformers reads what was written."""
        with tempfile.TemporaryDirectory(dir=self.folder, prefix="merged-") as place:
            merged = reopen(self.checkpoint, spec, merged=True)
            size, free = size_bytes(merged.model.state_dict()), shutil.disk_usage(place).free
            if size > free:
                raise QcvlError(f"{size / 2**30:.1f} GiB to write, {free / 2**30:.1f} GiB are free at {self.folder}")
            merged.model.save_pretrained(place)
            merged.processing.save(place)
            written = at_path(spec, place)
            own = merged.processing
            processing = replace(written.load_processing(), min_pixels=own.min_pixels, max_pixels=own.max_pixels)
            del merged
            answers = self._answers(load_plain(written).to(self._device), processing)
        return check_reload(self._replies, answers, size)


def _facts(spec: ModelSpec, model: nn.Module, processing: Processing, device: torch.device) -> dict[str, str]:
    """What the table is about: model, number format, device and versions."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    packages = versions()
    told = ", ".join(f"{name} {packages[name]}" for name in ("torch", "transformers", "peft") if name in packages)
    count = sum(weight_count(weight) for name, weight in model.named_parameters() if not is_added(model, name))
    return {
        "model": f"{Path(spec.path).name} ({processing.family.model_type}, {count / 1e6:,.1f} M parameters)",
        "format": f"{str(_dtype(model)).removeprefix('torch.')}, attention {spec.attn}",
        "device": name,
        "versions": told,
    }


def _dtype(model: nn.Module) -> torch.dtype:
    """The number format of most of a model: that of its embeddings."""
    return model.get_input_embeddings().weight.dtype  # type: ignore[operator, union-attr]
