"""Processes that something else started agree on one directory and one number, or are told how."""

import pytest
from omegaconf import OmegaConf

from qcvl.composition.nodes import run_disagreement, sweep_disagreement
from qcvl.composition.processes import started_from_outside

TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "RANK": "3"}
SRUN = {"SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_JOB_NAME": "train"}
BY_THE_CLOCK, CHOSEN = "out/${now:%Y-%m-%d}/${now:%H-%M-%S}", "out/slurm/17"
SLURM = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"


def config(directory=CHOSEN, devices=2, nodes=2, launcher=None):
    trainer = {"devices": devices, "num_nodes": nodes}
    return OmegaConf.create({"trainer": trainer, "hydra": {"run": {"dir": directory}, "launcher": launcher or {}}})


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        (TORCHRUN, ("torchrun", 4)),
        (SRUN, ("srun", 4)),
        ({"LOCAL_RANK": "0", "WORLD_SIZE": "2"}, ("a launcher", 2)),
        ({}, None),
        ({**TORCHRUN, "WORLD_SIZE": "1"}, None),
        ({**SRUN, "SLURM_NTASKS": "1"}, None),
        ({**SRUN, "SLURM_JOB_NAME": "interactive"}, None),
        ({"SLURM_NTASKS": "4"}, None),  # in a shell of an allocation, not in a task
    ],
)
def test_who_started_several_processes_is_told_by_the_environment(environment, found):
    assert started_from_outside(environment) == found


@pytest.mark.parametrize(
    ("environment", "who"),
    [(TORCHRUN, "torchrun started 4 processes"), (SRUN, "srun started 4 processes"), ({}, "the run is on 2 nodes")],
)
def test_a_directory_by_the_clock_is_refused_where_several_clocks_tell_it(environment, who):
    assert run_disagreement(config(BY_THE_CLOCK), environment).startswith(f"hydra.run.dir: {who}, and each would make")
    assert run_disagreement(config(CHOSEN), environment) is None


def test_one_process_and_those_that_lightning_starts_on_one_node_may_go_by_the_clock():
    assert run_disagreement(config(BY_THE_CLOCK, devices=2, nodes=1), {}) is None


@pytest.mark.parametrize(("devices", "refused"), [(2, False), (4, True), (1, True), ("auto", False), (-1, False)])
def test_as_many_processes_are_started_as_the_trainer_has_devices(devices, refused):
    problem = run_disagreement(config(devices=devices), SRUN)
    assert (problem is not None) == refused
    if refused:
        assert problem.startswith(f"trainer.devices, trainer.num_nodes: {devices} x 2, but srun started 4 processes")


def test_what_has_no_trainer_says_its_devices_by_itself():
    asked = OmegaConf.create({"devices": 1, "hydra": {"run": {"dir": CHOSEN}}})
    assert run_disagreement(asked, TORCHRUN).startswith("devices: 1 x 1, but torchrun started 4 processes")
    assert run_disagreement(OmegaConf.merge(asked, {"devices": 4}), TORCHRUN) is None


def test_several_processes_do_not_each_start_a_sweep():
    assert sweep_disagreement(config(), TORCHRUN).startswith("-m: torchrun started 4 processes, and each would start")
    assert sweep_disagreement(config(), {}) is None


def test_a_job_of_slurm_has_a_process_for_each_device():
    assert sweep_disagreement(config(launcher={"_target_": SLURM, "nodes": 2, "tasks_per_node": 2}), {}) is None
    assert sweep_disagreement(config(devices="auto", launcher={"_target_": SLURM}), {}) is None
    found = sweep_disagreement(config(launcher={"_target_": SLURM, "nodes": 1, "tasks_per_node": 1}), {})
    assert found == (
        "hydra.launcher: a job of 2 devices on 2 nodes takes a process for each device; add hydra.launcher.nodes=2 "
        "hydra.launcher.tasks_per_node=2"
    )


def test_the_command_refuses_before_it_writes_and_takes_a_directory_that_all_share(command):
    started = {
        "TORCHELASTIC_RUN_ID": "none",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "0",
        "RANK": "1",
        "LOCAL_WORLD_SIZE": "1",
    }
    done = command("train", "trainer.num_nodes=2", **started)
    assert done.returncode == 2 and done.stderr.startswith("error: hydra.run.dir: torchrun started 2 processes")
    assert list(command.workplace.iterdir()) == []
    done = command("train", "trainer.num_nodes=2", "hydra.run.dir=here", **started)
    assert done.returncode == 0 and "ran train" in done.stdout, done.stderr
    assert [path.name for path in (command.workplace / "here").iterdir()] == [".hydra"]  # the rest is the first's
