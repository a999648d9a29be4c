"""A trace and a table of a few steps."""

import json

import pytest

from qcvl.callbacks.profile import Profile
from tests.callbacks.conftest import QUIET

pytestmark = QUIET


@pytest.mark.parametrize(("skip", "steps"), [(1, 1), (2, 2)])
def test_the_trace_has_the_steps_that_were_asked_for(skip, steps, make_module, make_datamodule, make_trainer, tmp_path):
    one = Profile(folder=str(tmp_path / "profile"), skip=skip, steps=steps)
    make_trainer(callbacks=[one], max_steps=4, max_epochs=-1).fit(make_module(), make_datamodule())
    events = json.loads((tmp_path / "profile/trace.json").read_text())["traceEvents"]
    found = {event["name"] for event in events if event.get("name", "").startswith("ProfilerStep")}
    assert found == {f"ProfilerStep#{number}" for number in range(skip, skip + steps)}
    assert "aten::mm" in (tmp_path / "profile/operations.txt").read_text()


@pytest.mark.parametrize("wrong", [{"skip": 0, "steps": 2}, {"skip": 2, "steps": 0}])
def test_nothing_to_record_is_refused(wrong):
    with pytest.raises(ValueError, match=r"callbacks\.profile: skip=\d and steps=\d; expected at least 1"):
        Profile(folder="x", **wrong)
