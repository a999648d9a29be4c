import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from qcvl import config
from qcvl.errors import ConfigError

MUON = {"optimizer": {"_target_": "qcvl.tuning.descent.settings.MuonAdamW"}}


@pytest.mark.parametrize(
    ("strategy", "refused"),
    [
        ("deepspeed_stage_2", True),
        ({"_target_": "lightning.pytorch.strategies.DeepSpeedStrategy"}, True),
        ({"_target_": "lightning.pytorch.strategies.ModelParallelStrategy"}, True),
        ({"_target_": "qcvl.modules.fsdp.FSDP"}, True),
        ("ddp", False),
        ({"_target_": "lightning.pytorch.strategies.DDPStrategy"}, False),
        ("auto", False),
    ],
)
def test_muon_is_refused_where_a_strategy_shards_its_matrices(strategy, refused):
    cfg = OmegaConf.create({**MUON, "trainer": {"strategy": strategy}})
    if refused:
        with pytest.raises(ConfigError, match="optimizer: Muon works on whole matrices"):
            config.check_compatible(cfg)
    else:
        config.check_compatible(cfg)
    config.check_compatible(OmegaConf.create({"optimizer": {"_target_": "x.AdamW"}, "trainer": {"strategy": strategy}}))


FSDP = {"_target_": "qcvl.modules.fsdp.FSDP"}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"trainer": {"strategy": "fsdp"}}, "is Lightning's own"),
        ({"tuner": {"quantization": {"storage": "nf4"}}}, "tuner.quantization: four-bit weights"),
        ({"tuner": {"method": "adalora"}}, "tuner: AdaLoRA ranks whole matrices"),
        ({"optimizer": {"_target_": "qcvl.tuning.descent.settings.AdamW8bit"}}, "optimizer: moments in eight bits"),
    ],
)
def test_what_needs_whole_weights_is_refused_under_fsdp(settings, told):
    with pytest.raises(ConfigError, match=told):
        config.check_compatible(OmegaConf.create({"trainer": {"strategy": FSDP}, **settings}))
    config.check_compatible(OmegaConf.create({**settings, "trainer": {"strategy": "ddp"}}))
    plain = {"tuner": {"method": "lora", "quantization": None}, "optimizer": {"_target_": "x.AdamW"}}
    config.check_compatible(OmegaConf.create({"trainer": {"strategy": FSDP}, **plain}))


def test_other_kernels_are_refused_beside_one_another_and_compiled_ones_where_zero_gathers_within_them():
    for strategy, name in (("deepspeed_zero2", "compile"), ("deepspeed_zero3", "liger")):
        config.check_compatible(config.load("train", [f"strategy={strategy}", f"model.{name}=true"]))
    for strategy in (FSDP, "ddp"):
        for name in ("compile", "liger"):
            config.check_compatible(OmegaConf.create({"model": {name: True}, "trainer": {"strategy": strategy}}))
    with pytest.raises(ConfigError, match="model.compile: ZeRO-3 gathers each layer's weights inside"):
        config.check_compatible(config.load("train", ["strategy=deepspeed_zero3", "model.compile=true"]))
    with pytest.raises(ConfigError, match="model.liger: .* leave out one of"):
        config.check_compatible(OmegaConf.create({"model": {"compile": True, "liger": True}}))


@pytest.fixture
def sweep():
    def start(launcher, mode="MULTIRUN"):
        hydra = {"hydra": {"mode": mode, "launcher": launcher}}
        from hydra.types import RunMode

        hydra["hydra"]["mode"] = RunMode[mode]
        HydraConfig.instance().cfg = OmegaConf.create(hydra)

    yield start
    HydraConfig.instance().cfg = None


BASIC = {"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}
JOBLIB = {"_target_": "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"}
LOCAL = {"_target_": "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher"}


@pytest.mark.parametrize(
    ("launcher", "devices", "refused"),
    [
        (BASIC, 2, False),
        (LOCAL, 1, False),
        (LOCAL, 2, True),
        (LOCAL, "2", True),
        (LOCAL, [0, 1], True),
        (LOCAL, "0,1", True),
        (LOCAL, "auto", False),
        ({**JOBLIB, "n_jobs": 1}, 2, False),
        ({**JOBLIB, "n_jobs": 4}, 2, True),
        ({**JOBLIB, "n_jobs": -1}, 2, True),
        ({"_target_": "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"}, 2, False),
    ],
)
def test_jobs_side_by_side_take_one_device_each(sweep, launcher, devices, refused):
    cfg = OmegaConf.create({"trainer": {"devices": devices, "num_nodes": 1}})
    sweep(launcher)
    if refused:
        with pytest.raises(ConfigError, match="jobs run side by side, all on the same ones"):
            config.check_compatible(cfg)
    else:
        config.check_compatible(cfg)
    sweep(launcher, mode="RUN")
    config.check_compatible(cfg)


def test_all_broken_rules_come_in_one_error(sweep):
    sweep(LOCAL)
    trainer = {"strategy": "deepspeed_stage_2", "devices": 2}
    cfg = OmegaConf.create({**MUON, "trainer": trainer, "stage": {"number": 1, "init_from": "latest"}})
    with pytest.raises(ConfigError) as caught:
        config.check_compatible(cfg)
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        "optimizer",
        "stage.init_from",
        "trainer.devices",
    ]


def test_a_threshold_by_name_is_chosen_on_a_source_of_the_validation_data():
    with pytest.raises(ConfigError) as caught:
        config.check_compatible(config.load("evaluate", ["threshold=dev"]))
    assert str(caught.value) == ("threshold: dev is not a source of data.val (zh, en); name one, or give a score 0..1")
    config.check_compatible(config.load("evaluate", ["threshold=zh"]))
    bare = ["data=jsonl", "data.val=/abs/val.jsonl"]
    config.check_compatible(config.load("evaluate", [*bare, "threshold=val"]))
    with pytest.raises(ConfigError, match=r"threshold: zh is not a source of data.val \(val\)"):
        config.check_compatible(config.load("evaluate", [*bare, "threshold=zh"]))


def test_a_threshold_and_an_iou_are_shares():
    for wrong in ("threshold=1.5", "threshold=-0.1", "iou=0", "iou=1.1"):
        with pytest.raises(ConfigError, match=wrong.split("=")[0]):
            config.validate(config.load("evaluate", [wrong]))
    config.validate(config.load("evaluate", ["threshold=0.46", "iou=0.33", "group_by=board"]))


def test_groups_scored_apart_take_no_sources_name():
    sources = ["data=jsonl", "data.val={seen: a.jsonl, test: b.jsonl}"]
    config.check_compatible(config.load("evaluate", sources))
    with pytest.raises(ConfigError, match=r"data.val.seen: group_by scores groups apart under this name"):
        config.check_compatible(config.load("evaluate", [*sources, "group_by=board"]))


@pytest.mark.parametrize(("pair", "refused"), [("fused", False), ("photo", True), (None, True)])
def test_the_template_is_shifted_in_fused_pairs_alone(pair, refused):
    ops = {"slip": {"_target_": "qcvl.augment.pair.PairShift"}}
    cfg = OmegaConf.create({"augment": {"order": ["slip"], "ops": ops}, "data": {"pair": pair}})
    if refused:
        with pytest.raises(ConfigError, match=rf"augment\.order: slip moves the template .* data\.pair is {pair}"):
            config.check_compatible(cfg)
    else:
        config.check_compatible(cfg)
    config.check_compatible(OmegaConf.create({"augment": {"order": [], "ops": ops}, "data": {"pair": pair}}))


def test_streams_need_an_end_and_cannot_say_which_groups_were_seen():
    streamed = ["data=jsonl", "data.train=/abs/shards", "data.val=/abs/val.jsonl", "data.shuffle_buffer=100"]
    with pytest.raises(ConfigError, match="^trainer.max_steps: data.shuffle_buffer reads streams, which have no end"):
        config.check_compatible(config.load("train", streamed))
    for end in ("trainer.max_steps=9", "trainer.fast_dev_run=true"):
        config.check_compatible(config.load("train", [*streamed, end]))
    with pytest.raises(ConfigError, match="^group_by: which groups training saw is not known of streams"):
        config.check_compatible(config.load("evaluate", [*streamed, "group_by=site"]))
    config.check_compatible(config.load("evaluate", [*streamed, "group_by=site", "data.train=null"]))


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        (["tuner=full", "stage=2"], "llm, aligner trained in full"),
        (["tuner=lora_aligner_full", "stage=1"], "aligner trained in full"),
        (["tuner=lora_aligner_full", "stage=1", "trainer.precision=bf16-mixed"], None),
        (["tuner=full", "stage=3", "model.dtype=float32"], None),
        (["tuner=lora", "stage=3"], None),
        (["experiment=aligner_playbook"], None),
    ],
)
def test_weights_trained_in_full_beside_bfloat16_ones_need_mixed_precision(settings, refused):
    data = ["data=jsonl", "data.train=/abs/train.jsonl", "data.val=/abs/val.jsonl"]
    cfg = config.load("train", [*settings, "model=qwen3_vl_2b", *data])
    if refused is None:
        config.check_compatible(cfg)
    else:
        with pytest.raises(ConfigError, match=rf"^trainer\.precision: {refused}.*use trainer\.precision=bf16-mixed"):
            config.check_compatible(cfg)


def test_a_probe_for_the_largest_budget_starts_from_one():
    wanting = config.load("train", ["batch_probe=true"])
    with pytest.raises(ConfigError, match=r"batch_probe: looks for the largest data\.token_budget, now null"):
        config.check_compatible(wanting)
    for right in (["batch_probe=true", "data.token_budget=4096"], ["batch_probe=false"]):
        config.check_compatible(config.load("train", right))


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        (["sp_degree=2", "strategy=ddp", "trainer.devices=4"], None),
        (["sp_degree=4", "strategy=ddp", "trainer.devices=2", "trainer.num_nodes=2"], None),
        (["sp_degree=2", "strategy=ddp", "trainer.devices=auto"], None),
        (["sp_degree=2", "strategy=ddp", "trainer.devices=3"], "groups of 2 ranks do not divide the 3 of this run"),
        (["sp_degree=2"], "groups of 2 ranks do not divide the 1 of this run"),
        (["sp_degree=2", "strategy=fsdp", "trainer.devices=2"], None),
        (["sp_degree=2", "strategy=deepspeed_zero3", "trainer.devices=3"], "groups of 2 ranks do not divide the 3"),
    ],
)
def test_ranks_that_hold_rows_together_make_whole_groups(settings, refused):
    cfg = config.load("train", settings)
    if refused is None:
        config.check_compatible(cfg)
    else:
        with pytest.raises(ConfigError, match=f"^sp_degree: .*{refused}"):
            config.check_compatible(cfg)


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        (["objective=gkd", "strategy=ddp"], None),
        (["objective=gkd_forward_only", "strategy=fsdp"], None),
        (["objective=gkd", "strategy=fsdp"], None),
        (["objective=gkd_forward_only", "strategy=deepspeed_zero2"], None),
        (["objective=gkd", "strategy=deepspeed_zero3"], None),
        (["objective=gkd", "strategy=deepspeed_zero2", "tuner=full"], None),
        (
            ["objective=gkd", "strategy=deepspeed_zero3", "tuner=full"],
            "objective.teacher: self is a copy of what trains",
        ),
        (["objective=gkd", "strategy=deepspeed_zero3", "tuner=lora_aligner_full"], "objective.teacher: self is a copy"),
        (["objective=gkd", "strategy=deepspeed_zero3", "tuner=full", "objective.teacher=/base"], None),
        (["objective=gkd_forward_only", "strategy=ddp", "sp_degree=2"], None),
        (
            ["objective=gkd", "strategy=ddp", "sp_degree=2"],
            r"nor keep a teacher's \(objective.lmbda, objective.seq_kd\)",
        ),
        (
            ["objective=gkd_forward_only", "objective.teacher_cache=/c", "objective.top_k=8", "sp_degree=2"],
            r"nor keep a teacher's \(objective.teacher_cache\)",
        ),
    ],
)
def test_a_teacher_goes_with_every_strategy_but_for_what_ranks_would_wait_for(settings, refused):
    cfg = config.load("train", settings)
    if refused is None:
        config.check_compatible(cfg)
    else:
        with pytest.raises(ConfigError, match=refused):
            config.check_compatible(cfg)


def test_a_step_is_not_replayed_by_a_run_that_goes_on():
    with pytest.raises(ConfigError, match="^replay: makes one step again and trains nothing; leave out resume"):
        config.check_compatible(config.load("train", ["replay=/runs/a/nonfinite/step-3", "resume=/runs/b"]))
    config.check_compatible(config.load("train", ["replay=/runs/a/nonfinite/step-3"]))
