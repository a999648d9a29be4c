"""Distillation through Lightning's Trainer: what accumulates, what is logged, what a resumed run is held to."""

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy

from qcvl.callbacks.drift import DriftAlarm
from qcvl.errors import CheckpointError
from qcvl.modules.settings import GKD
from tests.conftest import CONF, QUANT, choice

pytestmark = pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
TUNERS, LIKE_THEM = ("dora", "fourierft", "lora_aligner_full"), ("lora", "rslora", "adalora", "boft", "aligner")
KEYS = ("loss", "sft_loss", "llm_kd_loss", "vision_kd_loss", "token_acc")


@pytest.fixture
def train(make_module, make_datamodule, make_data, make_trainer, lora, descent, tmp_path):
    """``train(name, …)``: the module after one epoch over four records, features held near as well."""

    def run(name="run", *, limit=4, batch_size=4, accumulate=1, sources=None, validate=False, trainer=None, **settings):
        values = choice("objective/gkd_forward_only.yaml") | settings
        values["visual_kd"] = values["visual_kd"] | {"enabled": True}
        sources = {"train": sources or {"en": make_data.source("en.jsonl")}}
        sources["val"] = {"val": make_data.source("en.jsonl")} if validate else None
        data = make_data(**sources, sample_limit=limit, batch_size=batch_size, sampling="dense")
        module = make_module(objective=GKD(**values), tuner=lora(init="random"), **descent(0.05))
        changes = {"gradient_clip_val": None, "accumulate_grad_batches": accumulate} | (trainer or {})
        make_trainer(tmp_path / name, **changes).fit(module, make_datamodule(data=data))
        return module

    return run


def test_micro_batches_make_the_step_of_one_big_batch(train, trained, logged, tmp_path):
    whole = trained(train("whole"))
    parts = trained(train("parts", batch_size=1, accumulate=4))
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], rtol=0, atol=1e-5)
    for key in KEYS:
        one, other = (logged(f"train/{key}", tmp_path / name) for name in ("whole", "parts"))
        assert len(one) == 1 and one[0] > 1e-4 or key == "token_acc", key
        assert one == pytest.approx(other, rel=1e-4), key


def test_the_keys_are_exactly_these_each_prefixed_once(train, tmp_path, logged):
    import json

    def keys(prefix: str, name: str) -> set[str]:
        rows = [json.loads(line) for line in (tmp_path / name / "logging.jsonl").read_text().splitlines()]
        found = {key for row in rows for key in row if key.startswith(prefix)}
        return {key for key in found if not key.startswith((f"{prefix}grad_norm", f"{prefix}sft_loss/"))}

    train("asked", eval_kd=True, validate=True)
    assert keys("train/", "asked") == {f"train/{key}" for key in KEYS}
    assert keys("eval/", "asked") == {f"eval/{key}" for key in KEYS}
    parts = sum(logged(f"eval/{key}", tmp_path / "asked")[0] for key in KEYS[1:4])
    assert logged("eval/loss", tmp_path / "asked")[0] == pytest.approx(parts, rel=1e-5)
    train("unasked", llm_kd_weight=0.0, validate=True)
    assert keys("train/", "unasked") == {f"train/{key}" for key in KEYS if key != "llm_kd_loss"}
    assert keys("eval/", "unasked") == {"eval/loss", "eval/sft_loss", "eval/token_acc"}


def test_steps_with_and_without_photos_go_on_together(train, conversations, logged, tmp_path):
    train(
        limit=None,
        batch_size=2,
        sources={"text": str(conversations / "text.jsonl"), "en": str(conversations / "en.jsonl")},
    )
    distances = logged("train/vision_kd_loss", tmp_path / "run")
    assert len(distances) == 6 and all(value >= 0 for value in distances) and max(distances) > 0


def test_the_alarm_of_a_rising_divergence_looks_at_every_step(train, logged, tmp_path, caplog):
    alarm = DriftAlarm(window=2, ratio=1e-9, floor=1e-9)
    train(batch_size=1, trainer={"callbacks": [alarm], "log_every_n_steps": 1})
    assert len(logged("train/llm_kd_loss", tmp_path / "run")) == 4
    assert "step 4: train/llm_kd_loss rose from" in caplog.text


@pytest.mark.parametrize("drawn", [False, True])
def test_in_half_precision_every_trained_weight_still_gets_a_gradient(train, trained, logged, tmp_path, drawn):
    """Autocast keeps casts of weights within a step, some of whose passes are without gradients."""
    settings = {"lmbda": 1.0, "temperature": 0.0, "max_completion_length": 5} if drawn else {}
    for name, precision in (("half", "bf16-mixed"), ("full", "32-true")):
        module = train(name, limit=2, batch_size=2, sft_alpha=0.0, trainer={"precision": precision}, **settings)
        assert all(parameter.grad is None or parameter.dtype == torch.float32 for parameter in module.parameters())
    for tower in ("llm", "aligner"):
        half, full = (logged(f"train/grad_norm/{tower}", tmp_path / name)[0] for name in ("half", "full"))
        assert full > 0 and half == pytest.approx(full, rel=0.2), tower


@pytest.mark.slow
@pytest.mark.parametrize("drawn", [False, True])
def test_two_processes_make_the_losses_of_one(train, logged, tmp_path, drawn):
    settings = {"lmbda": 1.0, "temperature": 0.0, "max_completion_length": 5} if drawn else {}
    train("one", batch_size=2, **settings)
    gloo = DDPStrategy(process_group_backend="gloo", start_method="fork")
    train("two", batch_size=1, trainer={"devices": 2, "strategy": gloo}, **settings)
    for key in (*KEYS, "grad_norm"):
        one, two = (logged(f"train/{key}", tmp_path / name) for name in ("one", "two"))
        assert len(one) == 2 and two == pytest.approx(one, rel=1e-3), key


@pytest.fixture
def beginnings(make_module, tmp_path):
    """Two checkpoint folders of whole models that differ."""
    folders = []
    for index in range(2):
        module = make_module()
        module.configure_model()
        with torch.no_grad():
            module.model.lm_head.weight += index + 1
        folders.append(tmp_path / f"beginning-{index}")
        folders[-1].mkdir()
        module.save(folders[-1])
    return folders


def test_a_run_that_goes_on_is_held_to_what_it_was_held_to(make_module, beginnings):
    objective = GKD(**choice("objective/gkd_forward_only.yaml"))
    first, resumed = (make_module(objective=objective, init_from=folder) for folder in beginnings)
    for module in (first, resumed):
        module.configure_model()
    checkpoint = {"state_dict": first.state_dict(), "global_step": 3}
    first.on_save_checkpoint(checkpoint)
    assert not torch.equal(first.teacher.model.lm_head.weight, resumed.teacher.model.lm_head.weight)
    resumed.on_load_checkpoint(checkpoint)
    assert torch.equal(first.teacher.model.lm_head.weight, resumed.teacher.model.lm_head.weight)
    assert not any(parameter.requires_grad for parameter in resumed.teacher.model.parameters())
    checkpoint["teacher_start"] = str(beginnings[0]) + "-gone"
    with pytest.raises(CheckpointError, match="beginning-0-gone, which the run started from, is no longer there"):
        resumed.on_load_checkpoint(checkpoint)


@pytest.mark.parametrize("tuner", [*TUNERS, *(pytest.param(name, marks=pytest.mark.slow) for name in LIKE_THEM)])
def test_with_every_tuner_the_teacher_is_the_model_without_what_it_adds(make_module, packed, tuner):
    from qcvl.models.forward import hidden_states, normalised
    from qcvl.tuning.settings import PeftTuner

    small = {} if tuner == "aligner" else {"options": choice(f"tuner/{tuner}.yaml")["options"]}
    module = make_module(
        objective=GKD(**choice("objective/gkd_forward_only.yaml")),
        tuner=PeftTuner(**choice(f"tuner/{tuner}.yaml") | small),
    )
    module.configure_model()
    with torch.no_grad():
        for parameter in module.built.parameters():
            parameter += 0.02 * parameter.requires_grad
    pixels = normalised(packed["pixel_values"], module.processing.family)
    row = {**packed, "pixel_values": pixels, "segments": tuple(packed["segments"].tolist())}
    flags = [parameter.requires_grad for parameter in module.built.parameters()]
    with module.teacher.asked(module.device) as teacher:
        found = hidden_states(teacher, row).states
    assert module.teacher.model is module.built
    assert flags == [parameter.requires_grad for parameter in module.built.parameters()]
    with torch.no_grad():
        expected = hidden_states(module.spec.load_model(), row).states
        student = hidden_states(module.built, row).states
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(student, expected, atol=1e-3)


EVERY = ("full", *TUNERS, *LIKE_THEM, "qlora")
OFTEN = ("full", "dora", "fourierft")  # one of each kind; the others are slow in number
MARKS = {"qlora": QUANT} | {name: pytest.mark.slow for name in EVERY if name not in (*OFTEN, "qlora")}


def test_every_choice_of_tuner_is_tried():
    assert set(EVERY) == {path.stem for path in (CONF / "tuner").glob("*.yaml")}


@pytest.mark.parametrize("tuner", [pytest.param(name, marks=MARKS.get(name, ())) for name in EVERY])
def test_two_steps_of_every_tuner_start_at_a_teacher_that_stays_what_it_was(
    make_module, make_datamodule, make_data, make_trainer, packed, logged, tmp_path, tuner
):
    from qcvl.models.forward import hidden_states, normalised
    from qcvl.tuning.settings import FullTuner, PeftTuner

    module = make_module(
        objective=GKD(**choice("objective/gkd_forward_only.yaml")),
        tuner=FullTuner() if tuner == "full" else PeftTuner(**choice(f"tuner/{tuner}.yaml")),
        rate=1e-2,
    )
    module.configure_model()
    pixels = normalised(packed["pixel_values"], module.processing.family)
    row = {**packed, "pixel_values": pixels, "segments": tuple(packed["segments"].tolist())}

    def said() -> torch.Tensor:
        with module.teacher.asked(module.device) as teacher:
            return hidden_states(teacher, row).states

    before = said()
    data = make_data(train={"en": make_data.source("en.jsonl")}, val=None, sample_limit=2, batch_size=1)
    make_trainer(tmp_path).fit(module, make_datamodule(data=data))
    assert torch.equal(said(), before)
    losses = [logged(f"train/{key}", tmp_path) for key in ("loss", "llm_kd_loss")]
    assert all(len(values) == 2 and torch.tensor(values).isfinite().all() for values in losses)
    first, second = losses[1]
    if tuner != "fourierft":  # which is not the identity at its start
        assert first == pytest.approx(0, abs=1e-6)
    assert second > 1e-7
