"""``logging.jsonl``: one object a row, cut where a resumed run goes on."""

import json

import pytest
import torch

from qcvl.callbacks.jsonl_logger import JsonlLogger


@pytest.fixture
def logger(tmp_path):
    return JsonlLogger(str(tmp_path / "new/logging.jsonl"))


def rows(logger: JsonlLogger) -> list[dict]:
    return [json.loads(line) for line in logger.path.read_text().splitlines()]


def test_each_logged_step_is_one_json_object_with_plain_numbers(logger):
    logger.log_metrics({"train/loss": torch.tensor(1.5), "epoch": 0}, step=3)
    logger.log_metrics({"eval/loss": 2.0}, step=3)
    assert rows(logger) == [{"step": 3, "train/loss": 1.5, "epoch": 0.0}, {"step": 3, "eval/loss": 2.0}]


def test_hyperparameters_are_not_rows(logger):
    logger.log_hyperparams({"secret": 1})
    assert not logger.path.exists()


def test_a_second_logger_goes_on_in_the_same_file(logger):
    logger.log_metrics({"a": 1}, step=0)
    JsonlLogger(str(logger.path)).log_metrics({"a": 2}, step=1)
    assert [row["a"] for row in rows(logger)] == [1, 2]


@pytest.mark.parametrize(("step", "kept"), [(0, []), (2, [0, 1, 1]), (3, [0, 1, 1, 2]), (9, [0, 1, 1, 2])])
def test_rows_at_and_past_the_step_are_cut(logger, step, kept):
    for number in (0, 1, 1, 2):
        logger.log_metrics({"a": number}, step=number)
    logger.cut_from(step)
    assert [row["step"] for row in rows(logger)] == kept
    assert [path.name for path in logger.path.parent.iterdir()] == ["logging.jsonl"]


def test_a_row_that_a_kill_cut_short_is_dropped_and_one_without_a_step_is_kept(logger):
    logger.log_metrics({"note": 1})
    logger.log_metrics({"a": 1}, step=0)
    with logger.path.open("a") as file:
        file.write('{"step": 1, "a"')
    logger.cut_from(5)
    assert [row["step"] for row in rows(logger)] == [None, 0]
    logger.log_metrics({"a": 2}, step=1)
    assert len(rows(logger)) == 3


def test_a_row_that_is_missing_is_completed_and_one_that_is_there_is_not_repeated(logger):
    logger.complete({"train/loss": 1.0, "epoch": 0.0}, step=2)
    logger.complete({"train/loss": 1.0}, step=2)
    logger.complete({"train/loss": 1.0}, step=3)
    logger.log_metrics({"eval/loss": 1.0}, step=4)
    logger.complete({"train/loss": 2.0}, step=4)
    assert [(row["step"], row.get("train/loss")) for row in rows(logger)] == [(2, 1.0), (3, 1.0), (4, None), (4, 2.0)]


def test_there_may_be_nothing_to_cut(logger):
    logger.cut_from(3)
    assert not logger.path.exists()
