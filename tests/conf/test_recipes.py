"""Other trainers' settings as experiments: what they say, what is left over, and that the result composes."""

from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from qcvl import config
from qcvl.composition.recipes.reading import read_settings
from qcvl.composition.recipes.translation import translate
from qcvl.composition.recipes.writing import convert_recipe, experiment_text
from qcvl.errors import ConfigError


@pytest.fixture
def sample(shared_data):
    """``sample("msswift_stage2.yaml")``: one of the files that users bring."""
    folder = shared_data("formats") / "configs"
    return lambda name: folder / name


@pytest.fixture
def composed(tmp_path):
    """``composed(source)``: the run that a converted file makes, on the embedded model where it names none."""

    def compose(source: Path, *overrides: str):
        convert_recipe(source, tmp_path / "mine/experiment/recipe.yaml")
        data = ["data.train=train.jsonl", "data.val=val.jsonl"]
        search = f"hydra.searchpath=[file://{tmp_path / 'mine'}]"
        cfg = config.load("train", [search, "experiment=recipe", *data, *overrides])
        config.validate(cfg)
        return cfg

    return compose


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("lmms_qwen2_5_vl.yaml", "model.path=qwen2_5"),
        ("lmms_qwen3_vl.yaml", ""),
        ("msswift_aligner.yaml", ""),
        ("msswift_augment.yaml", ""),
        ("msswift_gkd.yaml", ""),
        ("msswift_gkd_forward.yaml", ""),
        ("msswift_schedule.yaml", ""),
        ("msswift_stage1.yaml", ""),
        ("msswift_stage2.yaml", ""),
        ("official_sft.sh", "model.path=mine"),
    ],
)
def test_every_file_users_bring_composes_and_is_used_or_listed_name_by_name(sample, composed, name, model):
    composed(sample(name), *filter(None, [model]))
    given = read_settings(sample(name))
    recipe = translate(given)
    listed = {left for left, _, _ in recipe.left}
    assert listed - {"model"} <= given.keys()
    values = [value for value in given.values() if isinstance(value, float)]
    told = experiment_text(recipe, name)
    assert all(str(value) in told or f"{value:.1e}" in told or f"{value:.0e}" in told for value in values)


def test_a_stage_of_ms_swift_keeps_its_towers_tuner_epochs_and_rate(sample, composed):
    cfg = composed(sample("msswift_stage2.yaml"))
    assert list(cfg.stage.towers) == ["llm", "aligner"] and cfg.stage.epochs == 2
    assert cfg.stage.rates.adapter == 5e-5 and cfg.tuner.method == "lora" and cfg.tuner.target_modules == "all-linear"
    assert cfg.model.path == "/path/to/base/Qwen3-VL-4B-Instruct"
    cfg = composed(sample("msswift_stage1.yaml"))
    assert list(cfg.stage.towers) == ["aligner"] and cfg.stage.epochs == 3 and cfg.stage.rates.adapter == 1e-4


def test_an_aligner_saved_beside_an_empty_adapter_trains_in_full_at_its_own_rate(sample, composed):
    cfg = composed(sample("msswift_aligner.yaml"))
    assert list(cfg.stage.towers) == ["aligner"] and list(cfg.tuner.full_towers) == ["aligner"]
    assert cfg.tuner.target_modules == "^$" and cfg.stage.aligner_lr == 1e-4
    assert cfg.optimizer.weight_decay == 0.1 and cfg.lr_scheduler.warmup_ratio == 0.3


def test_distillation_of_ms_swift_keeps_its_teacher_weights_and_draws(sample, composed):
    objective = composed(sample("msswift_gkd.yaml")).objective
    expected = {"beta": 0.5, "sft_alpha": 0.3, "seq_kd": True, "lmbda": 0.5, "temperature": 0.9}
    expected |= {"max_completion_length": 256, "teacher": "/abs/path/to/base/Qwen3-VL-4B-Instruct"}
    assert {name: objective[name] for name in expected} == expected
    objective = composed(sample("msswift_gkd_forward.yaml")).objective
    assert (objective.beta, objective.sft_alpha, objective.seq_kd, objective.lmbda) == (0.1, 1.0, False, 0.0)


def test_a_teacher_that_is_the_model_itself_becomes_no_second_copy():
    given = {"rlhf_type": "gkd", "model": "/x/Qwen3-VL-4B-Instruct"}
    assert translate(given | {"teacher_model": "/x/Qwen3-VL-4B-Instruct"}).settings["objective.teacher"] == "self"
    assert translate(given | {"teacher_model": "/x/larger"}).settings["objective.teacher"] == "/x/larger"
    assert ("rlhf_type", "dpo", "no counterpart") in translate({"rlhf_type": "dpo", "beta": 0.1}).left


def test_a_list_of_ops_becomes_the_order_and_the_numbers_of_our_ops(sample, composed):
    cfg = composed(sample("msswift_augment.yaml"))
    assert list(cfg.augment.order) == ["hflip", "rotate", "color_jitter", "pad_to_multiple"]
    assert cfg.augment.ops.rotate.p == 0.3 and cfg.augment.ops.rotate.max_rotation_degrees == 15
    assert (
        list(cfg.augment.ops.color_jitter.brightness) == [0.85, 1.15] and cfg.augment.ops.pad_to_multiple.multiple == 32
    )


def test_the_official_command_gives_towers_budget_and_step_size(sample, composed):
    source = sample("official_sft.sh")
    with pytest.raises(ConfigError, match=r"model\.path: .*string"):
        composed(source)  # it names a folder that says no size: nothing else is trained in its place
    cfg = composed(source, "model.path=mine")
    assert list(cfg.stage.towers) == ["llm", "aligner"] and cfg.stage.rates.full == 2e-7
    assert cfg.model.max_cells == 576 * 28 * 28 // 32**2 and cfg.model.min_cells == 16 * 28 * 28 // 32**2
    assert cfg.data.batch_size * cfg.trainer.accumulate_grad_batches == 16 and cfg.global_max_length == 4096
    left = {name: why for name, _, why in translate(read_settings(source)).left}
    assert left["deepspeed"] == "no counterpart" and "convert" in left["dataset_use"]


def test_what_other_trainers_say_of_videos_is_set_for_ours():
    names = {"max_frames": 256, "min_frames": 8, "max_pixels": 40_000, "min_pixels": 3_000, "fps": 2.0}
    recipe = translate({f"video_{name}": value for name, value in names.items()} | {"video_backend": "torchvision"})
    assert {key: value for key, value in recipe.settings.items() if key.startswith("data.video")} == {
        f"data.video.{name}": value for name, value in names.items()
    }
    assert ("video_backend", "torchvision", "videos are read by PyAV or decord") in recipe.left
    assert translate({"video_backend": "decord"}).settings["data.video.backend"] == "decord"
    assert translate({"fps": 4}).settings["data.video.fps"] == 4


@pytest.mark.parametrize(
    ("given", "groups", "settings"),
    [
        ({"use_dora": True, "lorap_lr_ratio": 16}, {"tuner": "dora"}, {"tuner.b_rate_ratio": 16}),
        ({"use_rslora": True, "lorap_lr_ratio": None}, {"tuner": "rslora"}, {}),
        ({"quant_bits": 4, "optim": "paged_adamw_8bit"}, {"tuner": "qlora", "optimizer": "adamw_8bit"}, {}),
        ({"load_in_4bit": False, "optim": "adamw_torch_fused"}, {"tuner": "lora", "optimizer": "adamw"}, {}),
        ({"vit_lr": 1e-6, "aligner_lr": 2e-5}, {}, {"stage.vit_lr": 1e-6, "stage.aligner_lr": 2e-5}),
        ({"lr_scheduler_type": "linear"}, {"lr_scheduler": "linear"}, {"lr_scheduler.min_lr": 0.0}),
        ({"lr_scheduler_type": "constant"}, {"lr_scheduler": "constant"}, {"lr_scheduler.warmup_steps": 0}),
        (
            {"lr_scheduler_type": "constant_with_warmup", "warmup_ratio": 0.1},
            {"lr_scheduler": "constant"},
            {"lr_scheduler.warmup_steps": None, "lr_scheduler.warmup_ratio": 0.1},
        ),
        ({"save_total_limit": 3}, {}, {"callbacks.checkpoint.keep_last": 3}),
    ],
)
def test_how_other_trainers_tune_is_how_ours_does(tmp_path, composed, given, groups, settings):
    file = tmp_path / "theirs.yaml"
    file.write_text(
        yaml.safe_dump({"model": "/m/Qwen3-VL-4B-Instruct", "train_type": "lora", "freeze_vit": False} | given)
    )
    recipe = translate(read_settings(file))
    assert groups.items() <= recipe.groups.items() and settings.items() <= recipe.settings.items()
    assert recipe.left == []
    cfg = composed(file)
    assert {name: OmegaConf.select(cfg, name) for name in settings} == settings


def test_lmms_trains_all_towers_unless_modules_are_frozen(sample, composed):
    cfg = composed(sample("lmms_qwen3_vl.yaml"))
    assert (cfg.data.video.max_pixels, cfg.data.video.max_frames, cfg.data.video.fps) == (50_176, 512, 1)
    assert list(cfg.stage.towers) == ["vision", "aligner", "llm"] and cfg.trainer.max_steps == 1000
    assert cfg.callbacks.checkpoint.every_n_train_steps == 1000 and cfg.logger.wandb.name == "qwen3_vl_training"
    assert cfg.data.overlong == "drop" and cfg.lr_scheduler.min_lr == 0
    assert list(composed(sample("lmms_qwen2_5_vl.yaml"), "model.path=x").stage.towers) == ["llm"]


def test_a_command_is_read_with_its_variables_sums_lists_and_flags(tmp_path):
    script = tmp_path / "run.sh"
    script.write_text(
        "# swift\nRATE=1e-5\nMAX_PIXELS=$((32*32*100)) \\\nswift sft --model /m/Qwen3-VL-8B-Instruct \\\n"
        "  --learning_rate $RATE --target_modules q_proj v_proj --train_type lora --bf16 --report_to=none --seed 7\n"
    )
    assert read_settings(script) == {
        "rate": 1e-5,
        "max_pixels": 102400,
        "model": "/m/Qwen3-VL-8B-Instruct",
        "learning_rate": 1e-5,
        "target_modules": ["q_proj", "v_proj"],
        "train_type": "lora",
        "bf16": True,
        "report_to": "none",
        "seed": 7,
    }
    recipe = translate(read_settings(script))
    assert recipe.groups["model"] == "qwen3_vl_8b" and recipe.settings["model.max_cells"] == 100
    assert recipe.settings["tuner.target_modules"] == ["q_proj", "v_proj"]
    assert recipe.settings["trainer.precision"] == "bf16-mixed"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "[1, 2", "is no valid YAML: .* correct it"),
        ("a.yaml", "- 3", "holds int; expected settings by name"),
        ("a.yaml", "{}", "holds no settings"),
        ("a.sh", "echo 'unfinished", "cannot be read as a shell script"),
        ("a.sh", "# nothing", "holds no settings"),
    ],
)
def test_a_file_without_settings_is_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_settings(tmp_path / name)
    with pytest.raises(ConfigError, match="not found; give a YAML file"):
        read_settings(tmp_path / "absent.yaml")


def test_an_output_that_hydra_would_not_find_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"is no experiment; expected FOLDER/experiment/NAME\.yaml"):
        convert_recipe(tmp_path / "a.yaml", tmp_path / "b.yaml")


def test_the_command_writes_the_experiment_and_says_what_is_left_over(sample, tmp_path, capsys):
    from qcvl.convert import convert

    output = tmp_path / "mine/experiment/stage2.yaml"
    convert(
        config.load("convert", ["format=ms_swift_config", f"input={sample('msswift_stage2.yaml')}", f"output={output}"])
    )
    said = capsys.readouterr().out
    assert "left over: resume_from_checkpoint" in said and "experiment=stage2" in said
    assert yaml.safe_load(output.read_text())["stage"] == {"rates": {"adapter": 5e-5}, "epochs": 2}
