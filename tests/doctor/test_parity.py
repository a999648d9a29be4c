"""A checkpoint by qcvl and by plain transformers: equal for every family, and named where one of the two is changed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate

from qcvl.config import load
from qcvl.data.chat import IGNORE
from qcvl.doctor.parity import (
    check_labels,
    check_logits,
    check_pixels,
    check_tokens,
    examples_of,
    fast_logits,
    load_plain,
)
from qcvl.errors import DataError
from qcvl.models.settings import at_path
from qcvl.models.spec import FAMILIES
from tests.models.families import ARCHITECTURES


@pytest.fixture(scope="session")
def saved(tmp_path_factory, small_model):
    """``saved(family)``: settings of a folder with random weights of a small model of that family."""
    made = {}

    def make(family):
        if family not in made:
            scale = 0.5 if family.startswith("qwen3") else None
            scratch = small_model(architecture=ARCHITECTURES[family], position_table_scale=scale, init_std=0.2)
            folder = tmp_path_factory.mktemp(family)
            scratch.load_model().save_pretrained(folder)
            scratch.load_processing().save(folder)
            made[family] = at_path(scratch, str(folder))
        return made[family]

    return make


@pytest.fixture
def opened(saved, make_datamodule, make_data):
    """``opened(family)``: the settings, the processing and four examples of photos of three sizes."""

    def make(family="qwen3_vl", sampling="dense"):
        spec = saved(family)
        processing = spec.load_processing()
        datamodule = make_datamodule(processing=processing, data=make_data(sampling=sampling))
        return spec, processing, examples_of(datamodule.train_dataset(), 4)

    return make


@pytest.fixture
def copied(tmp_path):
    """``copied(spec)``: a copy of its folder."""
    return lambda spec: shutil.copytree(spec.path, tmp_path / "copy")


def rewrite(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def with_features(example, **changes):
    return replace(example, features=replace(example.features, **changes))


@pytest.mark.parametrize("family", list(FAMILIES))
def test_every_family_has_the_logits_pixels_tokens_and_labels_of_transformers(opened, lora, family):
    spec, processing, examples = opened(family)
    assert len({image.shape for example in examples for image in example.images}) > 1
    model = lora().setup(spec.load_model(), ("llm", "aligner"))
    verdicts = [
        check_logits(model, lambda: load_plain(spec), examples, processing),
        check_pixels(Path(spec.path), examples, processing),
        check_tokens(Path(spec.path), examples, processing),
        check_labels(examples, processing),
    ]
    assert [(row.check, row.found) for row in verdicts if not row.passed] == []


def test_the_plain_model_is_transformers_own(saved):
    plain = load_plain(saved("qwen2_5_vl"))
    assert all(type(module).__module__.startswith(("transformers.", "torch.")) for module in plain.modules())
    assert not plain.training and plain.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("name", ["visual.patch_embed.proj.weight", "language_model.layers.0.mlp.up_proj.weight"])
def test_logits_differ_where_one_tensor_does(opened, name):
    spec, processing, examples = opened()
    plain = load_plain(spec)
    with torch.no_grad():
        plain.model.get_parameter(name).mul_(1.02)
    verdict = check_logits(spec.load_model(), lambda: plain, examples, processing)
    assert not verdict.passed and "at most 0.0001 in float32" in verdict.expected


@pytest.mark.parametrize("rows", [slice(2, 3), slice(1, 4)])
def test_logits_differ_where_positions_do(opened, rows):
    spec, processing, examples = opened("qwen2_vl")
    positions = examples[1].features.positions.copy()
    positions[rows] //= 2
    wrong = [examples[0], with_features(examples[1], positions=positions), *examples[2:]]
    assert not check_logits(spec.load_model(), lambda: load_plain(spec), wrong, processing).passed


def test_logits_that_are_no_numbers_do_not_pass(opened):
    spec, processing, examples = opened()
    model = spec.load_model()
    with torch.no_grad():
        model.model.language_model.norm.weight.fill_(torch.nan)
    assert not check_logits(model, lambda: load_plain(spec), examples, processing).passed


def test_half_precision_passes_at_its_own_tolerance_and_not_at_that_of_float32(opened):
    spec, processing, examples = opened("qwen2_5_vl")
    half = replace(spec, dtype="bfloat16")
    verdict = check_logits(half.load_model(), lambda: load_plain(half), examples, processing)
    assert verdict.passed and "0.05 in bfloat16" in verdict.expected
    assert not check_logits(half.load_model(), lambda: load_plain(spec), examples, processing).passed


def test_adapters_are_left_out_of_the_logits_and_the_model_goes_on_training(opened, lora):
    spec, processing, examples = opened()
    model = lora(init="random").setup(spec.load_model(), ("llm",)).train()
    assert check_logits(model, lambda: load_plain(spec), examples, processing).passed
    assert model.training
    plain = fast_logits(spec.load_model(), examples, processing)
    assert torch.equal(fast_logits(model, examples, processing), plain)


@pytest.mark.parametrize("change", [{"image_mean": [0.5, 0.5, 0.52]}, {"resample": 2}, {"rescale_factor": 1 / 256}])
def test_pixels_differ_where_the_folder_prepares_them_in_another_way(opened, copied, change):
    spec, processing, examples = opened()
    folder = copied(spec)
    assert check_pixels(folder, examples, processing).passed
    rewrite(folder / "preprocessor_config.json", **change)
    verdict = check_pixels(folder, examples, processing)
    assert not verdict.passed and "differ by" in verdict.found


def test_pixels_need_the_folders_own_settings(opened, copied):
    spec, processing, examples = opened()
    folder = copied(spec)
    (folder / "preprocessor_config.json").unlink()
    verdict = check_pixels(folder, examples, processing)
    assert not verdict.passed and "has no preprocessor_config.json" in verdict.found


def test_another_patch_side_is_named_by_the_two_grids(opened):
    spec, processing, examples = opened()
    other = replace(processing, family=replace(processing.family, patch_size=14))
    verdict = check_pixels(Path(spec.path), examples, other)
    assert not verdict.passed and "1176] patches in a grid of" in verdict.found and "1536] in" in verdict.found


def test_tokens_differ_where_the_template_does_and_the_place_is_shown(opened, copied):
    spec, processing, examples = opened()
    folder = copied(spec)
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|vision_start|>", "Picture: <|vision_start|>"))
    verdict = check_tokens(folder, examples, processing)
    assert not verdict.passed
    assert f"{examples[0].where} from token" in verdict.found and "Pict" in verdict.found


def test_tokens_that_the_weights_know_by_another_number_are_named(opened, copied):
    spec, processing, examples = opened()
    folder = copied(spec)
    rewrite(folder / "config.json", image_token_id=3)
    verdict = check_tokens(folder, examples, processing)
    assert not verdict.passed and f"image_token_id is 3, the tokenizer has {processing.image_pad}" in verdict.found


def moved(labels):
    return np.roll(labels, -1)


def without_end(labels):
    return np.where(np.arange(len(labels)) == np.flatnonzero(labels != IGNORE)[-1], IGNORE, labels)


def with_question(labels):
    first = np.flatnonzero(labels != IGNORE)[0]
    return np.where(np.arange(len(labels)) == first - 1, 5, labels)


def with_gap(labels):
    return np.where(np.arange(len(labels)) == np.flatnonzero(labels != IGNORE)[3], IGNORE, labels)


@pytest.mark.parametrize("change", [moved, without_end, with_question, with_gap])
def test_labels_are_exactly_the_answer(opened, change):
    _, processing, examples = opened()
    assert check_labels(examples, processing).passed
    wrong = with_features(examples[2], labels=change(examples[2].features.labels))
    verdict = check_labels([*examples[:2], wrong], processing)
    assert not verdict.passed and examples[2].where in verdict.found


def test_summaries_are_examples_too_and_conversations_are_refused(opened, make_datamodule, make_data, conversations):
    _, processing, examples = opened(sampling="summary")
    assert {example.task for example in examples} == {"summary"} and check_labels(examples, processing).passed
    data = make_data(**dict.fromkeys(("train", "val"), {"chat": make_data.source("chat.jsonl")}), sampling="chat")
    with pytest.raises(DataError, match=r"chat\.jsonl:\d+: is a conversation; give records of objects"):
        examples_of(make_datamodule(data=data).train_dataset(), 4)


def test_the_experiment_needs_weights_and_nothing_else():
    cfg = load("train", ["experiment=verify_real", "model.path=embedded:tiny"])
    settings = instantiate(cfg.data, _convert_="all")
    assert settings.sources("train").keys() == settings.sources("val").keys() == {"train"}
    assert (cfg.data.sample_limit, cfg.data.batch_size, cfg.trainer.max_steps, cfg.trainer.max_epochs) == (4, 4, 20, 20)
