import json

import pytest

from qcvl import config
from qcvl.checkpoints.folder import write_checkpoint
from qcvl.composition.argv import prepare_argv
from qcvl.composition.resume import fingerprint, quoted
from qcvl.errors import CheckpointError, ConfigError


def checkpoint(run_dir, step):
    return write_checkpoint(
        run_dir / "checkpoints" / f"step-{step}", lambda folder: (folder / "x").write_text(str(step))
    )


def start_run(run_dir, *overrides, steps=(1,)):
    """A run directory as an interrupted run leaves it: resolved settings and checkpoints, no final metrics."""
    run_dir.mkdir(parents=True)
    config.save_config(config.load("train", [*overrides, f"paths.output_dir={quoted(run_dir)}"]))
    for step in steps:
        checkpoint(run_dir, step)
    return run_dir


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "outputs" / "train" / "2024-05-01"


def resumed(*arguments):
    return prepare_argv(arguments, "train")


def test_auto_takes_the_newest_checkpoint_of_the_given_directory(outputs):
    run = start_run(outputs / "10-00-00", steps=(2, 10, 9))
    expected = [f"resume='{run}/checkpoints/step-10'", f"hydra.run.dir='{run}'"]
    assert resumed("resume=auto", f"hydra.run.dir={run}") == expected
    assert resumed(*expected) == expected


def test_auto_without_a_directory_takes_the_newest_unfinished_run_with_these_settings(outputs):
    start_run(outputs / "09-00-00")
    wanted = start_run(outputs / "10-00-00")
    start_run(outputs / "11-00-00", "tuner.rank=4")
    finished = start_run(outputs / "12-00-00")
    (finished / "metrics.json").write_text(json.dumps({"initial": {"a": 1}, "final": {"a": 2}}))
    assert resumed("resume=auto")[1] == f"hydra.run.dir='{wanted}'"
    (finished / "metrics.json").write_text(json.dumps({"initial": {"a": 1}, "final": {}}))
    assert resumed("resume=auto")[1] == f"hydra.run.dir='{finished}'"


def test_auto_skips_a_damaged_checkpoint_and_starts_fresh_where_nothing_is_left(outputs, capsys):
    run = start_run(outputs / "10-00-00", steps=(1, 2))
    (run / "checkpoints/step-2/x").write_text("damaged")
    assert resumed("resume=auto")[0] == f"resume='{run}/checkpoints/step-1'"
    (run / "checkpoints/step-1/x").unlink()
    assert resumed("resume=auto", "seed=0") == ["resume=auto", "seed=0"]
    assert "starting fresh" in capsys.readouterr().err


def test_auto_that_found_nothing_is_a_fresh_start_for_the_run_itself():
    settings = config.instantiate_settings(config.load("train", ["resume=auto"]))
    assert settings.resume is None


def test_a_run_that_stopped_before_its_first_checkpoint_starts_again_in_its_own_directory(command):
    here = command.workplace / "here"
    here.mkdir()
    (here / "logging.jsonl").write_text("")
    done = command("train", "hydra.run.dir=here", "resume=auto")
    assert done.returncode == 0 and "ran train" in done.stdout, done.stderr


@pytest.mark.parametrize("name", ["checkpoints/step-2", "checkpoints/last", ""])
def test_a_path_may_be_a_checkpoint_a_link_or_a_run_directory(outputs, name):
    run = start_run(outputs / "10-00-00", steps=(1, 2))
    (run / "checkpoints/last").symlink_to("step-2")
    assert resumed(f"resume={run / name}") == [f"resume='{run}/checkpoints/step-2'", f"hydra.run.dir='{run}'"]


def test_a_path_with_strange_characters_reaches_the_run_as_it_is(outputs):
    run = start_run(outputs / "a b,c=d'e")
    arguments = resumed(f"resume={run}")
    cfg = config.load("train", [arguments[0]])
    assert cfg.resume == f"{run}/checkpoints/step-1"


def test_a_resumed_run_that_differs_says_in_what(outputs, capsys):
    run = start_run(outputs / "10-00-00", "tuner.rank=4")
    resumed(f"resume={run}")
    assert "tuner.rank 4 -> 32" in capsys.readouterr().err
    resumed(f"resume={run}", "tuner.rank=4", "trainer.max_steps=7")
    assert capsys.readouterr().err == ""


def test_paths_that_cannot_be_resumed_say_why(outputs, tmp_path):
    run = start_run(outputs / "10-00-00", steps=())
    with pytest.raises(CheckpointError, match="not found; give a checkpoint folder"):
        resumed("resume=/nowhere")
    with pytest.raises(CheckpointError, match="is missing|missing|manifest"):
        resumed(f"resume={run}")
    (run / "checkpoints").mkdir(exist_ok=True)
    with pytest.raises(CheckpointError, match="has no complete checkpoint"):
        resumed(f"resume={run}")
    elsewhere = write_checkpoint(tmp_path / "step-3", lambda folder: (folder / "x").write_text(""))
    with pytest.raises(CheckpointError, match="stage.init_from="):
        resumed(f"resume={elsewhere}")
    checkpoint(run, 1)
    with pytest.raises(ConfigError, match="hydra.run.dir: .* is not the directory of the resumed run"):
        resumed(f"resume={run}", f"hydra.run.dir={tmp_path}/other")


@pytest.mark.parametrize(
    ("overrides", "same"),
    [
        ([], True),
        (["trainer.max_epochs=9", "trainer.devices=2", "data.num_workers=0", "logger=tensorboard"], True),
        (["paths.output_dir=/elsewhere"], True),
        (["seed=1"], False),
        (["stage=1"], False),
        (["trainer.precision=bf16-mixed"], False),
        (["augment.order=[hflip]"], False),
    ],
)
def test_the_fingerprint_holds_what_a_run_is_and_not_where_or_how_long_it_runs(overrides, same):
    from omegaconf import OmegaConf

    def of(*changes):
        return fingerprint(OmegaConf.to_container(config.load("train", list(changes)), resolve=True))

    assert (of(*overrides) == of()) is same
