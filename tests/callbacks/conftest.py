"""Short runs with checkpoints: one optimizer step an epoch unless said otherwise."""

from pathlib import Path

import lightning.pytorch as pl
import pytest

from qcvl.callbacks.checkpoint import TRAINER_STATE, HFCheckpoint

# Lightning remarks on short runs in a test's folder, which nobody can act on.
QUIET = pytest.mark.filterwarnings(
    "ignore:The '.*_dataloader' does not have many workers", "ignore:Checkpoint directory"
)


class Scripted(pl.Callback):
    """Logs ``eval/score`` from a list, one value a validation."""

    def __init__(self, *values: float) -> None:
        self.values = list(values)

    def on_validation_epoch_end(self, trainer, pl_module):
        pl_module.log("eval/score", self.values.pop(0), batch_size=1)


@pytest.fixture
def start_run(make_module, make_datamodule, make_data, make_trainer, lora, tmp_path):
    """``start_run(name, limit=…, checkpoint={…}, …)``: a trainer after ``fit`` in ``tmp_path/name``.

    Trains on the first ``limit`` records of en, in one batch unless ``batch_size`` is given, and validates on two.
    """

    def run(
        name="run",
        *,
        limit=2,
        batch_size=2,
        checkpoint=None,
        callbacks=(),
        resume=None,
        module=None,
        augment=None,
        **changes,
    ):
        folder: Path = tmp_path / name
        data = {"train": {"en": make_data.source("en.jsonl")}, "val": {"val": make_data.source("en.jsonl")}}
        data |= changes.pop("data", {})
        sizes = {"sample_limit": limit, "batch_size": batch_size, "num_workers": changes.pop("num_workers", 0)}
        monitor = {"monitor": "eval/loss", "mode": "min", "save_last": True, "save_top_k": 1, "every_n_epochs": 1}
        monitor["save_async"] = False  # so that a test sees a folder as soon as it is due
        saving = HFCheckpoint(dirpath=str(folder / "checkpoints"), **monitor | (checkpoint or {}))
        values = {"enable_checkpointing": True, "limit_val_batches": 1, "callbacks": [*callbacks, saving]}
        trainer = make_trainer(folder, **values | changes)
        module = module or make_module(tuner=lora(), rate=1e-2)
        trainer.fit(
            module,
            make_datamodule(data=make_data(**data, **sizes), augment=augment),
            ckpt_path=str(resume / TRAINER_STATE) if resume else None,
            weights_only=True if resume else None,
        )
        return trainer

    return run


@pytest.fixture
def step_folders():
    """``step_folders(folder)``: the numbers of its step folders, and where ``last`` and ``best`` point."""

    def read(folder: Path) -> tuple[set[int], str | None, str | None]:
        steps = {int(path.name.removeprefix("step-")) for path in folder.glob("step-*")}
        links = [(folder / name).readlink() if (folder / name).is_symlink() else None for name in ("last", "best")]
        assert all((folder / link).is_dir() for link in links if link)
        return steps, *(str(link) if link else None for link in links)

    return read
