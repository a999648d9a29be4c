"""Every tuner and optimizer: a run that is stopped and goes on has the losses and weights of one that was not."""

import json

import pytest
import torch

from qcvl.tuning.descent.settings import AdamW8bit, Constant, LinearWarmupWithMinLr, MuonAdamW
from qcvl.tuning.settings import FullTuner, PeftTuner
from tests.callbacks.conftest import QUIET
from tests.callbacks.test_resume import SAVING, Kill, Killed
from tests.conftest import CONF, QUANT, choice

pytestmark = QUIET
TUNERS = sorted(path.stem for path in (CONF / "tuner").glob("*.yaml"))
EIGHT_BIT = {"optimizer": AdamW8bit(**choice("optimizer/adamw_8bit.yaml"))}
MUON = {"optimizer": MuonAdamW(**choice("optimizer/muon_adamw.yaml"))}
OTHERS = {
    "adamw_8bit": ("full", EIGHT_BIT),
    "muon": ("full", MUON),
    "linear": ("lora", {"lr_scheduler": LinearWarmupWithMinLr(**choice("lr_scheduler/linear.yaml"))}),
    "constant": ("lora", {"lr_scheduler": Constant(**choice("lr_scheduler/constant.yaml"))}),
}


def shipped(name: str):
    """A tuner as it ships, small, with dropout where it has any."""
    values = choice(f"tuner/{name}.yaml")
    if not values:
        return FullTuner()
    if values["rank"] is not None:
        values |= {"rank": 4, "alpha": 8}
    if values["dropout"] is not None:
        values["dropout"] = 0.3
    if values["rank_schedule"] is not None:
        values["rank_schedule"] = values["rank_schedule"] | {"initial_rank": 6, "every_steps": 1}
    return PeftTuner(**values)


@pytest.fixture
def train(start_run, make_module):
    """``train(name, tuner, **parts)``: six steps, two of three micro-batches an epoch; returns the module."""

    def run(name, tuner, parts, **changes):
        module = make_module(tuner=tuner, rate=1e-2, **parts)
        values = {"limit": 5, "batch_size": 1, "accumulate_grad_batches": 2, "max_epochs": 2, "checkpoint": SAVING}
        return start_run(name, module=module, **values | changes).lightning_module

    return run


def losses(folder) -> list[float]:
    rows = map(json.loads, (folder / "logging.jsonl").read_text().splitlines())
    return [row["train/loss"] for row in rows if "train/loss" in row]


SLOW = {name for name in (*TUNERS, *OTHERS) if name not in ("adalora", "adamw_8bit")}  # these have a state of their own
EIGHT_OR_FOUR_BITS = ("qlora", "adamw_8bit")
CASES = {name: (name, {}) for name in TUNERS} | OTHERS


@pytest.mark.parametrize(
    ("tuner", "parts"),
    [
        pytest.param(*case, id=name, marks=[pytest.mark.slow] * (name in SLOW) + QUANT * (name in EIGHT_OR_FOUR_BITS))
        for name, case in CASES.items()
    ],
)
def test_it_goes_on_exactly(train, tmp_path, tuner, parts):
    straight = train("straight", shipped(tuner), parts)
    with pytest.raises(Killed):
        train("stopped", shipped(tuner), parts, callbacks=[Kill(4)])
    resumed = train("stopped", shipped(tuner), parts, resume=tmp_path / "stopped/checkpoints/step-4")
    assert losses(tmp_path / "stopped") == losses(tmp_path / "straight")
    assert len(set(losses(tmp_path / "straight"))) == 6
    expected = straight.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.state_dict().items())
    if tuner == "adalora":
        states = [module.rank_course.state_dict() for module in (straight, resumed)]
        assert str(states[0]) == str(states[1]) and states[0]["rank_pattern"]


def test_adalora_ends_with_the_ranks_that_it_was_told(train, tmp_path):
    module = train("run", shipped("adalora"), {})
    values = {n: p for n, p in module.model.named_parameters() if ".lora_E." in n and p.requires_grad}
    assert sum(int((value != 0).sum()) for value in values.values()) == pytest.approx(4 * len(values), abs=1)
    config = json.loads((tmp_path / "run/checkpoints/last/adapter_config.json").read_text())
    assert sum(map(sum, config["rank_pattern"].values())) == pytest.approx(4 * len(values), abs=1)
    assert (config["total_step"], config["tinit"], config["tfinal"]) == (6, 1, 1)  # ratios .1 and .3 of six steps
