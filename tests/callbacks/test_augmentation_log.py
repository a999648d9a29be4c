"""A real run's ``augment/*`` rows are the counts of exactly the samples it was trained on."""

import json

import pytest
from lightning.pytorch import Callback

from qcvl.augment.telemetry import added, rates
from qcvl.callbacks.augmentation import AugmentationLog
from tests.augment.ops import compose, op, plain_crop
from tests.callbacks.conftest import QUIET

pytestmark = QUIET
LIMIT, EPOCHS = 6, 3  # six samples, one a micro-batch, two micro-batches a step: three steps an epoch


@pytest.fixture
def augment():
    """Ops that are applied, skipped and refused, and a crop that drops objects."""
    crop = plain_crop(p=0.7, min_scale=0.4, max_scale=0.7, min_coverage=0.5, min_objects=0)
    rotate = op("rotate", p=0.5, max_rotation_degrees=20.0)
    return compose(hflip=op("hflip", p=0.5), crop=crop, rotate=rotate, bypass_prob=0.2)


@pytest.fixture
def train(start_run, augment):
    def run(name, **changes):
        values = {"limit": LIMIT, "batch_size": 1, "accumulate_grad_batches": 2, "max_epochs": EPOCHS}
        values |= {"augment": augment, "log_every_n_steps": 2, "callbacks": [AugmentationLog()]}
        return start_run(name, **values | changes)

    return run


def rows(folder):
    """The ``augment/*`` values of each logged step."""
    found = [json.loads(line) for line in (folder / "logging.jsonl").read_text().splitlines()]
    kept = [(row["step"], {key: row[key] for key in row if key.startswith("augment/")}) for row in found]
    return {step: row for step, row in kept if row}


def test_rows_hold_the_rates_of_the_samples_since_the_row_before(train, tmp_path):
    trainer = train("run")
    loader = trainer.train_dataloader
    keys = [placed.key for epoch in range(EPOCHS) for batch in loader._placed(epoch) for placed in batch]
    assert len(keys) == LIMIT * EPOCHS
    counts = [loader.dataset.sample(key)[0].telemetry for key in keys]
    found = rows(tmp_path / "run")
    assert sorted(found) == [1, 3, 5, 7]  # nine steps, a row every second
    for number, step in enumerate(sorted(found)):
        expected = rates(added(counts[4 * number : 4 * number + 4]))  # two steps of two samples
        assert found[step] == pytest.approx(expected, rel=1e-6) and expected
    seen = {key for row in found.values() for key in row}
    assert seen >= {"augment/hflip/applied", "augment/crop/coverage", "augment/bypass/applied", "augment/crop/padding"}
    assert seen >= {"augment/moves/padding", "augment/rotate/not_drawn", "augment/objects/dropped"}


class Killed(Exception):
    """Stands in for a signal that no handler sees."""


class Stop(Callback):
    """Ends the run as a kill would, before the micro-batch after ``step`` steps."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise Killed


def test_a_resumed_run_writes_the_rows_it_would_have_written(train, tmp_path):
    saving = {"every_n_train_steps": 1, "save_top_k": -1}
    train("straight", checkpoint=saving)
    with pytest.raises(Killed):
        train("halves", checkpoint=saving, callbacks=[AugmentationLog(), Stop(5)])
    train("halves", checkpoint=saving, resume=tmp_path / "halves/checkpoints/step-5")
    assert rows(tmp_path / "halves") == rows(tmp_path / "straight")


def test_a_run_without_augmentation_logs_nothing_of_it(train, tmp_path):
    train("plain", augment=None, max_epochs=1)
    assert rows(tmp_path / "plain") == {}
