"""How many optimizer steps a run takes, and the curriculum that follows them through workers and resumed runs."""

import json
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest

from qcvl.augment.schedule import Phase
from qcvl.data.course import Course
from qcvl.data.loader import TrainLoader
from tests.augment.ops import compose, op


def trainer(**changes):
    values = {"limit_train_batches": 1.0, "max_epochs": 3, "max_steps": -1}
    return SimpleNamespace(**values | changes)


@pytest.mark.parametrize(
    ("changes", "an_epoch", "steps"),
    [
        ({}, 4, 12),  # 7 batches, two a step: the last step of an epoch is short
        ({"max_steps": 10}, 4, 10),
        ({"max_steps": 100}, 4, 12),
        ({"max_epochs": -1, "max_steps": 10}, 4, 10),
        ({"max_epochs": -1}, 4, None),
        ({"max_epochs": None}, 4, None),
        ({"limit_train_batches": 4}, 2, 6),
        ({"limit_train_batches": 99}, 4, 12),
        ({"limit_train_batches": 0.5}, 2, 6),  # 3 of 7 batches
    ],
)
def test_a_course_counts_the_steps_that_the_trainers_limits_leave(changes, an_epoch, steps):
    course = Course.of(7, 2, trainer(**changes))
    assert (course.steps_per_epoch, course.steps) == (an_epoch, steps)


def test_a_step_never_spans_two_epochs():
    course = Course.of(7, 2, trainer())
    steps = [[course.step_of(epoch, batch, 2) for batch in range(7)] for epoch in range(2)]
    assert steps == [[0, 0, 1, 1, 2, 2, 3], [4, 4, 5, 5, 6, 6, 7]]


def test_the_trainer_takes_the_steps_that_the_course_says(make_datamodule, make_data, make_module, make_trainer):
    limits = {"max_epochs": 2, "accumulate_grad_batches": 2, "limit_train_batches": 5, "limit_val_batches": 0}
    one = make_trainer(**limits)
    one.fit(make_module(), make_datamodule(data=make_data(batch_size=3)))
    loader = one.train_dataloader
    assert isinstance(loader, TrainLoader) and loader.course == Course(3, 6)
    assert one.global_step == 6


@pytest.fixture
def ramped(make_datamodule, make_data):
    """``ramped(workers)``: two epochs of five steps in which every photo is turned, further from step to step."""

    def make(workers=0):
        rotate = op("rotate", max_rotation_degrees=0.0)
        phases = [Phase(start="0%", end="100%", ramps={"rotate.max_rotation_degrees": (0.0, 60.0)})]
        augment = compose(rotate=rotate, min_coverage=0.0, phases=phases)
        datamodule = make_datamodule(augment=augment, data=make_data(batch_size=4, sampling="dense"))
        loader = TrainLoader(
            datamodule.train_dataset(),
            batch_size=4,
            token_budget=None,
            keep_going=False,
            accumulate=1,
            rank=0,
            world_size=1,
            num_workers=workers,
        )
        loader.course = Course(steps_per_epoch=5, steps=10)
        return loader

    return make


def padding(batch):
    """Mean share of the photos that turning leaves grey: it grows with the angle."""
    return batch["telemetry"].get("moves/padding", 0) / len(batch["segments"])


def test_each_batch_gets_the_augmentation_of_its_own_step(ramped):
    loader = ramped()
    batches = [*loader, *loader]
    assert padding(batches[0]) == 0 and batches[0]["telemetry"]["rotate/applied"] == 4
    means = [np.mean([padding(batch) for batch in part]) for part in (batches[:3], batches[3:7], batches[7:])]
    assert means[0] < means[1] < means[2]
    for step in (0, 4, 9):  # by hand: the pipeline with the value of that step
        epoch, number = divmod(step, 5)
        keys = [placed.key for placed in loader._placed(epoch)[number]]
        plain = loader.dataset.augment.at(step, 10)
        assert plain.ops["rotate"].max_rotation_degrees == pytest.approx(6.0 * step)
        counts = batches[step]["image_grid_thw"].prod(1).tolist()
        for rows, key in zip(batches[step]["pixel_values"].split(counts), keys, strict=True):
            assert np.array_equal(rows, loader.dataset.at(step, 10)[key].patches)


def test_batches_of_a_token_budget_follow_the_course_too(make_datamodule, make_data):
    dataset = make_datamodule(data=make_data(sampling="dense")).train_dataset()
    longest = max(len(dataset[(0, index)].input_ids) for index in range(len(dataset)))
    values = {"batch_size": 1, "token_budget": 3 * longest, "keep_going": False, "accumulate": 2}
    loader = TrainLoader(dataset, **values, rank=0, world_size=1, num_workers=0)
    steps = [[placed.step for placed in batch] for epoch in range(3) for batch in loader._placed(epoch)]
    an_epoch = -(-len(loader) // 2)
    expected = [epoch * an_epoch + number // 2 for epoch in range(3) for number in range(len(loader))]
    assert [set(batch) for batch in steps] == [{step} for step in expected]
    assert max(map(len, steps)) > 1


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("handed", [2, 5])
def test_a_run_resumed_in_the_middle_of_a_ramp_sees_the_same_photos(ramped, workers, handed):
    whole = ramped()
    first, second = list(whole), list(whole)
    stopped = ramped(workers)
    list(islice(iter(stopped), handed))
    resumed = ramped(workers)
    resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
    rest = [*resumed, *resumed] if handed < 5 else list(resumed)
    expected = [*first, *second][handed:]
    assert len(rest) == len(expected)
    for found, wanted in zip(rest, expected, strict=True):
        assert np.array_equal(found["pixel_values"], wanted["pixel_values"])
        assert found["telemetry"] == wanted["telemetry"]
