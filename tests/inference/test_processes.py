"""Evaluation dealt over two processes is the evaluation of one, however uneven the shares."""

import multiprocessing
import pickle
from pathlib import Path

import pytest
import torch.distributed as dist

from qcvl.inference.evaluator import Result, evaluate, read_predictions, score, write_predictions
from qcvl.inference.sharding import gather_objects, shard
from qcvl.schema.answer import DEFAULT_FORMAT


def in_two_processes(work, folder: Path) -> list:
    """What ``work()`` gives in each of two processes that talk over gloo."""
    context = multiprocessing.get_context("fork")  # what is imported and built here is there as well
    processes = [context.Process(target=_run, args=(work, rank, folder)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in (0, 1)]


def _run(work, rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps(work()))
    dist.barrier()
    dist.destroy_process_group()


def test_items_are_dealt_in_turn_and_gathered_in_order(tmp_path):
    def work():
        return [(shard(items), gather_objects(shard(items))) for items in (range(5), range(1), range(0))]

    first, second = in_two_processes(work, tmp_path)
    assert [mine for mine, _ in first] == [[0, 2, 4], [0], []]
    assert [mine for mine, _ in second] == [[1, 3], [], []]
    assert [every for _, every in first] == [every for _, every in second] == [[0, 1, 2, 3, 4], [0], []]


def test_one_process_deals_and_gathers_everything():
    assert shard([1, 2, 3]) == gather_objects([1, 2, 3]) == [1, 2, 3]


@pytest.mark.parametrize("limit", [7, 1])
def test_two_processes_with_uneven_shares_score_as_one_and_as_their_files(
    make_predictor, make_datamodule, make_data, tmp_path, limit
):
    datamodule = make_datamodule(data=make_data(sampling="dense"))
    predictor = make_predictor(batch_size=2)

    def work() -> Result:
        return evaluate(predictor, datamodule, limit)["val"]

    single = work()
    assert len(single.predictions) == limit
    for result in in_two_processes(work, tmp_path):
        assert result.metrics == single.metrics
        assert result.predictions == single.predictions
    for rank in (0, 1):
        write_predictions(tmp_path / f"{rank}.jsonl", single.predictions[rank::2])
    offline = [item for rank in (1, 0) for item in read_predictions(tmp_path / f"{rank}.jsonl", DEFAULT_FORMAT)]
    assert score({"val": datamodule.sources("val")[0].records}, offline) == single.metrics
