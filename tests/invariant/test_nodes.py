"""Two nodes make one run: each is started by itself, as torchrun and srun do it, and both meet in one directory."""

import socket

import pytest

from tests.invariant.conftest import PATIENCE_SECONDS, assert_same_run

NODES = ("strategy=ddp", "trainer.num_nodes=2", "trainer.devices=1", "data.batch_size=2")


def free_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


def by_torchrun(node: int, port: str) -> dict:
    """How ``torchrun`` is typed on a node, where it finds the first one."""
    options = {"--nnodes": "2", "--nproc-per-node": "1", "--node-rank": str(node), "--master-port": port}
    typed = [word for option in ({**options, "--master-addr": "127.0.0.1"}).items() for word in option]
    return {"by": ("-m", "torch.distributed.run", *typed)}


def by_srun(node: int, port: str) -> dict:
    """What SLURM tells each task of ``srun --nodes=2 --ntasks-per-node=1``."""
    job = {"SLURM_JOB_ID": "4217", "SLURM_JOB_NAME": "train", "SLURM_NODELIST": "localhost", "MASTER_PORT": port}
    sizes = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "2"}
    return {**job, **sizes, "SLURM_PROCID": str(node), "SLURM_NODEID": str(node), "SLURM_LOCALID": "0"}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("started", [by_torchrun, by_srun])
def test_two_nodes_end_in_one_directory_with_the_losses_and_metrics_of_one_process(
    command, small_run, finished_run, tmp_path, started
):
    port, settings = free_port(), (*small_run, *NODES, f"hydra.run.dir={tmp_path}/run")
    nodes = [command.start("train", *settings, **started(node, port)) for node in (1, 0)]
    for node in nodes:
        assert node.wait(PATIENCE_SECONDS) == 0, "\n".join(map(command.output, nodes))
    assert_same_run(tmp_path / "run", finished_run)


@pytest.mark.slow
def test_a_directory_of_another_run_ends_both_nodes(command, small_run, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/metrics.json").write_text("{}")
    port, settings = free_port(), (*small_run, *NODES, f"hydra.run.dir={tmp_path}/run")
    nodes = [command.start("train", *settings, **by_torchrun(node, port)) for node in (0, 1)]
    assert [node.wait(PATIENCE_SECONDS) != 0 for node in nodes] == [True, True]
    assert f"error: hydra.run.dir: {tmp_path}/run is not empty" in command.output(nodes[0])
