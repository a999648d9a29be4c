"""Token counts without a photo or transformers, against what the encoder makes of the sample."""

import lzma
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcvl import config
from qcvl.data.encode import Encoder
from qcvl.data.samples import build_sample
from qcvl.data.video import VideoSampling
from qcvl.doctor.lengths import Lengths
from qcvl.doctor.reading import read_blocks
from qcvl.doctor.survey import check_data
from qcvl.models.light import LightTokenizer
from qcvl.schema.answer import DEFAULT_FORMAT
from tests.conftest import choice


@pytest.fixture(params=["norm1000", "none"])
def answer_format(request):
    return replace(DEFAULT_FORMAT, emit_norm=request.param)


@pytest.fixture
def lengths(small_model, prompts, answer_format):
    video = VideoSampling(**choice("data/jsonl.yaml")["video"])
    limits = {"limit": 4096, "severity": "error", "pairing": None, "video": video}
    return Lengths(model=small_model(max_cells=9), prompts=prompts, answer=answer_format, **limits)


@pytest.mark.parametrize("task", ["dense", "summary"])
def test_a_length_is_that_of_the_encoded_sample(scenes, make_data, small_model, prompts, lengths, answer_format, task):
    processing = small_model(max_cells=9).load_processing()
    encoder = Encoder(processing=processing, answer_format=answer_format, max_length=9999, overlong="error", classes={})
    source = make_data.source("zh.jsonl", task=task)
    (block,) = read_blocks(source, 512)
    for entry, _ in block.entries():
        record = entry.record()
        features = encoder(build_sample(record, task), prompts.for_task(task), "")
        length = lengths.longest(entry, record.sizes, source, "mixed")
        assert length.tokens == len(features.input_ids)
        assert length.image_tokens == features.token_types.sum()
        assert length.patches == features.grids.prod()


def test_of_two_tasks_the_longer_counts_and_a_photo_of_unknown_size_none(make_data, lengths):
    (block,) = read_blocks(make_data.source("en.jsonl"), 512)
    entry, _ = next(block.entries())
    both, dense, summary = (
        lengths.longest(entry, entry.said.sizes, make_data.source("en.jsonl"), sampling)
        for sampling in ("mixed", "dense", "summary")
    )
    assert both == dense and dense.tokens > summary.tokens
    assert lengths.longest(entry, [None], make_data.source("en.jsonl"), "mixed") is None


def test_the_report_counts_lengths_and_names_samples_over_the_limit(check, make_data, lengths):
    data = make_data(val=None, train={"en": make_data.source("en.jsonl", repeat=2)}, sampling="dense")
    whole = check_data(data, check.survey_of(lengths=lengths)).sources["train/en"].tokens
    assert whole.samples == sum(count for _, _, count in whole.histogram) == 8 and whole.above_limit == 0
    assert abs(whole.epoch_tokens - 2 * 8 * whole.mean) < 1 and 0 < whole.image_share < 1
    limit = whole.median
    short = check_data(data, check.survey_of(lengths=replace(lengths, limit=limit)))
    over = [finding for finding in short.findings if finding.code == "overlong"]
    assert len(over) == short.sources["train/en"].tokens.above_limit > 0
    assert all(f"the limit is {limit}" in finding.message and finding.severity == "error" for finding in over)


@pytest.mark.parametrize(("overlong", "severity"), [("error", "error"), ("drop", "warning"), ("shrink_image", "note")])
def test_how_bad_a_long_sample_is_follows_from_what_training_does_with_it(check, lengths, overlong, severity):
    made = Lengths.of(check.data_of(overlong=overlong), lengths.model, lengths.prompts, lengths.answer, 100)
    assert (made.severity, made.limit) == (severity, 100)


def test_other_processes_read_the_tokenizer_themselves(make_data, lengths):
    (block,) = read_blocks(make_data.source("en.jsonl"), 512)
    entry, _ = next(block.entries())
    here = lengths.longest(entry, entry.said.sizes, make_data.source("en.jsonl"), "dense")
    there = pickle.loads(pickle.dumps(lengths))
    assert there.longest(entry, entry.said.sizes, make_data.source("en.jsonl"), "dense") == here


def folder_of_the_real_tokenizer(shared_data, tmp_path):
    folder = shared_data("tokenizer")
    (tmp_path / "tokenizer.json").write_bytes(lzma.decompress((folder / "tokenizer.json.xz").read_bytes()))
    (tmp_path / "tokenizer_config.json").write_bytes((folder / "tokenizer_config.json").read_bytes())
    return tmp_path


@settings(max_examples=30)
@given(st.text(max_size=30) | st.sampled_from(["<|im_end|>", "a<|image_pad|>b", "é", "  12 345"]))
def test_the_light_tokenizer_of_the_embedded_model_gives_transformers_ids(processing, text):
    light = LightTokenizer(Path(processing.tokenizer.name_or_path))
    ids = processing.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert light.encode(text, add_special_tokens=False, split_special_tokens=True) == ids


def test_the_light_tokenizer_of_qwen3_gives_transformers_ids_and_template(shared_data, tmp_path):
    from transformers import AutoTokenizer

    folder = folder_of_the_real_tokenizer(shared_data, tmp_path)
    full, light = AutoTokenizer.from_pretrained(folder), LightTokenizer(folder)
    for text in ("BBU设备/品牌:华为", '{"bbox_2d": [1, 22, 333]}', "<|im_end|>x", "e\u0301 ﬁ 12345", " two  blanks\n"):
        ids = full.encode(text, add_special_tokens=False, split_special_tokens=True)
        assert light.encode(text, add_special_tokens=False, split_special_tokens=True) == ids
    assert light.get_vocab() == full.get_vocab()
    special = {index: str(token) for index, token in full.added_tokens_decoder.items() if token.special}
    assert {i: str(t.content) for i, t in light.added_tokens_decoder.items() if t.special} == special
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    shared = {"chat_template": full.chat_template, "tokenize": False, "add_generation_prompt": True}
    assert light.apply_chat_template(messages, **shared) == full.apply_chat_template(messages, **shared)


def test_counting_tokens_imports_neither_torch_nor_transformers():
    code = (
        "import sys; from qcvl import config\n"
        "s = config.build(config.load('check', ['model=tiny', 'data=demo']))\n"
        "from qcvl.doctor.lengths import Lengths\n"
        "lengths = Lengths.of(s.data, s.model, s.prompts, s.answer, 4096)\n"
        "assert lengths.encoder.processing.image_pad and not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(config.CONF_DIR.parent)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
