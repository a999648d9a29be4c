"""``strategy=deepspeed_*``: the configuration DeepSpeed gets, and what is refused with it."""

import json
from types import SimpleNamespace

import pytest

from qcvl import config
from qcvl.errors import ConfigError
from qcvl.modules.zero.config import deepspeed_config
from qcvl.modules.zero.settings import Zero, Zero3
from tests.conftest import choice

CHOICES = ("deepspeed_zero1", "deepspeed_zero2", "deepspeed_zero3", "deepspeed_zero3_offload")
RUN = {"precision": "bf16-mixed", "accumulate": 8, "gradient_clip": 1.0, "micro_batch": 4}
ON_HOST = {"device": "cpu", "pin_memory": True}


def zero(name: str, **changes) -> Zero | Zero3:
    values = choice(f"strategy/{name}.yaml")["strategy"]["zero"]
    kind = {"Zero": Zero, "Zero3": Zero3}[values.pop("_target_").rsplit(".", 1)[1]]
    return kind(**values | changes)


def test_the_configuration_of_stage_2_is_made_from_the_runs_settings():
    assert deepspeed_config(zero("deepspeed_zero2"), **RUN) == {
        "train_micro_batch_size_per_gpu": 4,
        "gradient_accumulation_steps": 8,
        "gradient_clipping": 1.0,
        "bf16": {"enabled": True, "check_grad_overflow": True},
        "fp16": {"enabled": False, "loss_scale": 0, "initial_scale_power": 16},
        "zero_allow_untested_optimizer": False,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {
            "stage": 2,
            "reduce_bucket_size": 200_000_000,
            "allgather_bucket_size": 200_000_000,
            "overlap_comm": True,
            "contiguous_gradients": True,
        },
    }


def test_the_choices_differ_by_stage_and_offload():
    sections = {name: deepspeed_config(zero(name), **RUN)["zero_optimization"] for name in CHOICES}
    assert [section["stage"] for section in sections.values()] == [1, 2, 3, 3]
    assert sections["deepspeed_zero1"] == sections["deepspeed_zero2"] | {"stage": 1}
    offloaded = sections["deepspeed_zero3"] | {"offload_optimizer": ON_HOST, "offload_param": ON_HOST}
    assert sections["deepspeed_zero3_offload"] == offloaded
    assert sections["deepspeed_zero3"]["stage3_gather_16bit_weights_on_model_save"] is True
    json.dumps(sections)


@pytest.mark.parametrize(
    ("name", "changed", "found"),
    [
        ("deepspeed_zero1", {"offload_optimizer": True}, {"offload_optimizer": ON_HOST}),
        ("deepspeed_zero1", {"reduce_bucket_size": 5}, {"reduce_bucket_size": 5}),
        ("deepspeed_zero2", {"allgather_bucket_size": 6}, {"allgather_bucket_size": 6}),
        ("deepspeed_zero3", {"offload_parameters": True}, {"offload_param": ON_HOST}),
        ("deepspeed_zero3", {"reduce_bucket_size": 5}, {"reduce_bucket_size": 5}),
        ("deepspeed_zero3", {"prefetch_bucket_size": 7}, {"stage3_prefetch_bucket_size": 7}),
        ("deepspeed_zero3", {"persistence_threshold": 8}, {"stage3_param_persistence_threshold": 8}),
        (
            "deepspeed_zero3",
            {"max_live_parameters": 9},
            {"stage3_max_live_parameters": 9, "stage3_max_reuse_distance": 9},
        ),
    ],
)
def test_each_setting_reaches_its_key_and_no_other(name, changed, found):
    before, after = (zero(name, **values).section() for values in ({}, changed))
    assert after == before | found != before


@pytest.mark.parametrize(
    ("precision", "half"),
    [("bf16-mixed", "bf16"), ("bf16-true", "bf16"), ("16-mixed", "fp16"), ("16-true", "fp16"), ("32-true", None)],
)
def test_the_precision_of_the_trainer_decides_the_half_precision(precision, half):
    made = deepspeed_config(zero("deepspeed_zero2"), **RUN | {"precision": precision})
    assert {name: made[name]["enabled"] for name in ("bf16", "fp16")} == {
        "bf16": half == "bf16",
        "fp16": half == "fp16",
    }


@pytest.mark.parametrize("clip", [None, 0, 0.0])
def test_without_a_clip_value_nothing_is_clipped(clip):
    assert deepspeed_config(zero("deepspeed_zero2"), **RUN | {"gradient_clip": clip})["gradient_clipping"] == 0.0


@pytest.mark.parametrize(
    ("strategy", "overrides", "message"),
    [
        ("deepspeed_zero3", ["model=tiny_qwen3_vl_moe"], "qwen3_vl_moe, a mixture of experts: ZeRO-3 gathers"),
        ("deepspeed_zero3_offload", ["model=tiny_qwen3_vl_moe"], "use strategy=deepspeed_zero2"),
        ("deepspeed_zero2", ["model=tiny_qwen3_vl_moe"], None),
        ("ddp", ["model=tiny_qwen3_vl_moe"], None),
        ("deepspeed_zero3", ["tuner=qlora"], "tuner.quantization: ZeRO-3"),
        ("deepspeed_zero2", ["tuner=qlora"], None),
        ("deepspeed_zero1", ["optimizer=muon_adamw"], "which AdamW alone can do; found MuonAdamW"),
        ("deepspeed_zero2", ["optimizer=adamw_8bit"], "found AdamW8bit, use optimizer=adamw"),
        ("deepspeed_zero1", ["tuner=adalora"], "tuner: AdaLoRA"),
        ("deepspeed_zero2", ["trainer.accelerator=cpu"], "trainer.accelerator: cpu, and DeepSpeed needs GPUs"),
        ("deepspeed_zero2", ["trainer.accelerator=gpu"], None),
        ("deepspeed_zero2", ["trainer.gradient_clip_algorithm=value"], "clips by the norm alone"),
        ("ddp", ["optimizer=adamw_8bit", "tuner=adalora", "trainer.accelerator=cpu"], None),
    ],
)
def test_what_deepspeed_cannot_do_is_refused_with_the_reason(strategy, overrides, message):
    cfg = config.load("train", [f"strategy={strategy}", *overrides])
    if message is None:
        config.check_compatible(cfg)
        return
    with pytest.raises(ConfigError) as caught:
        config.check_compatible(cfg)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)  # one reason, once


def test_the_experts_of_a_local_folder_are_found_in_its_config(tmp_path):
    def check(model_type: str) -> None:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
        config.check_compatible(config.load("train", ["strategy=deepspeed_zero3", f"model.path={tmp_path}"]))

    check("qwen3_vl")
    with pytest.raises(ConfigError, match="model is a qwen3_vl_moe"):
        check("qwen3_vl_moe")


def test_experts_that_only_the_fetched_config_names_are_refused_before_weights_are_loaded():
    from qcvl.composition import assemble

    strategy = SimpleNamespace(zero=zero("deepspeed_zero3"))
    settings = SimpleNamespace(trainer=SimpleNamespace(keywords={"strategy": strategy}))
    assemble._refuse_experts(settings, "qwen3_vl")
    with pytest.raises(ConfigError, match="mixture of experts"):
        assemble._refuse_experts(settings, "qwen3_vl_moe")


def test_without_deepspeed_the_error_says_what_to_install(monkeypatch):
    from qcvl.modules.zero import strategy

    monkeypatch.setattr(strategy, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'qcvl\[deepspeed\]'"):
        config.instantiate_settings(config.load("train", ["strategy=deepspeed_zero2"]))
