import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcvl.composition.argv import prepare_argv
from qcvl.config import quote_stage
from qcvl.errors import ConfigError


@pytest.mark.parametrize(
    ("typed", "read_by_hydra"),
    [
        ("stage=2", 'stage="2"'),
        ("stage=1,2", 'stage="1","2"'),
        ("++stage=3", '++stage="3"'),
        ('stage="2"', 'stage="2"'),
        ("stage.epochs=2", "++stage.epochs=2"),
        ("tuner.rnak=8", "++tuner.rnak=8"),
        ("tuner.rank=8,16", "++tuner.rank=8,16"),
        ("augment.ops.rotate.p=1.0", "++augment.ops.rotate.p=1.0"),
        ("data.train=/abs/a=b.jsonl", "++data.train=/abs/a=b.jsonl"),
        ("sede=1", "++sede=1"),
        ("seed=1", "seed=1"),
        ("tuner=lora,full", "tuner=lora,full"),
        ("logger=[csv,tensorboard]", "logger=[csv,tensorboard]"),
        ("+tuner.extra=1", "+tuner.extra=1"),
        ("++tuner.rank=1", "++tuner.rank=1"),
        ("~augment.ops.rotate", "~augment.ops.rotate"),
        ("hydra.run.dir=x", "hydra.run.dir=x"),
        ("hydra/launcher=joblib", "hydra/launcher=joblib"),
        ("logger@tracker=csv", "logger@tracker=csv"),
        ("--cfg", "--cfg"),
        ("-m", "-m"),
    ],
)
def test_each_kind_of_argument_is_rewritten_only_where_hydra_would_stumble(typed, read_by_hydra):
    assert prepare_argv([typed], "train") == [read_by_hydra]


@given(st.lists(st.integers(0, 99), min_size=1, max_size=5))
def test_quoted_stages_keep_their_numbers_and_quoting_twice_changes_nothing(numbers):
    once = quote_stage("stage=" + ",".join(map(str, numbers)))
    assert [int(part.strip('"')) for part in once.removeprefix("stage=").split(",")] == numbers
    assert quote_stage(once) == once


def test_preparing_twice_equals_preparing_once_for_lightning_repeats_the_arguments():
    typed = ["-m", "stage=1,2", "tuner.rnak=8", "seed=3", "~augment.ops.rotate", "--config-dir", "x"]
    once = prepare_argv(typed, "train")
    assert prepare_argv(once, "train") == once


def test_overrides_come_before_options_so_that_options_may_stand_anywhere():
    assert prepare_argv(["stage=1", "-m", "tuner=lora,full"], "train") == ['stage="1"', "tuner=lora,full", "-m"]


def test_resume_and_a_sweep_do_not_go_together():
    with pytest.raises(ConfigError, match="resume: continues one run, not a sweep"):
        prepare_argv(["-m", "resume=auto"], "train")
