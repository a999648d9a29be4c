"""The tiny model's tokenizer: rebuilt bit by bit, whole for any text, short for answers, native in its chat turns."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from qcvl.data.scenes.corpus import corpus, write_tiny_tokenizer
from qcvl.data.scenes.draw import draw_scene
from qcvl.data.scenes.words import DOMAINS, LANGUAGES, PARTS, describe
from qcvl.models.tiny import SPECIAL_TOKENS, TINY_FOLDER, build_tokenizer
from qcvl.schema.answer import render_answer

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT.parent / "shared" / "data" / "tokenizer"


def prompt_texts() -> list[str]:
    files = [
        yaml.safe_load((ROOT / "conf" / "prompts" / f"{name}.yaml").read_text(encoding="utf-8")) for name in LANGUAGES
    ]
    return [file[task][role] for file in files for task in ("dense", "summary", "chat") for role in ("system", "user")]


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return Tokenizer.from_file(str(TINY_FOLDER / "tokenizer.json"))


@pytest.fixture(scope="module")
def loaded():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(TINY_FOLDER)


def pieces(bpe: Tokenizer, text: str) -> list[str]:
    return [bpe.decode([token]) for token in bpe.encode(text).ids]


def test_the_shipped_tokenizer_is_rebuilt_bit_by_bit(tmp_path: Path):
    write_tiny_tokenizer(tmp_path, prompt_texts())
    for name in ("tokenizer.json", "tokenizer_config.json"):
        built, shipped = ((folder / name).read_bytes() for folder in (tmp_path, TINY_FOLDER))
        assert hashlib.sha256(built).hexdigest() == hashlib.sha256(shipped).hexdigest(), (
            f"{name} differs from what conf/prompts and the scenes give; the shipped weights know the shipped ids, "
            "so take the change back or rebuild tokenizer and weights"
        )


def test_the_order_and_repetition_of_prompts_do_not_matter(tmp_path: Path):
    prompts = prompt_texts()
    write_tiny_tokenizer(tmp_path, [*prompts[::-1], prompts[0]])
    assert (tmp_path / "tokenizer.json").read_bytes() == (TINY_FOLDER / "tokenizer.json").read_bytes()


def test_too_few_texts_for_the_vocabulary_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="expected 400"):
        build_tokenizer(["plate"] * 9, 400, tmp_path)


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=80))
def test_any_unicode_text_comes_back_unchanged(text):
    bpe = Tokenizer.from_file(str(TINY_FOLDER / "tokenizer.json"))
    assert bpe.decode(bpe.encode(text).ids, skip_special_tokens=False) == text


@settings(max_examples=50, deadline=None)
@given(text=st.text(alphabet='0123456789 ,[]{}":ab线', max_size=40))
def test_every_digit_is_a_token_of_its_own(text):
    bpe = Tokenizer.from_file(str(TINY_FOLDER / "tokenizer.json"))
    single = [piece for piece in pieces(bpe, text) if any(character.isdigit() for character in piece)]
    assert single == [character for character in text if character.isdigit()]


def test_no_token_of_an_answer_spans_two_words(bpe):
    for language in LANGUAGES:
        for noun, attribute in PARTS:
            base, demo = (pieces(bpe, describe(noun, attribute, domain, language)) for domain in DOMAINS)
            shared = [piece for piece in base if piece.strip()]
            assert len(shared) == 2 and set(shared) <= set(demo)


def test_json_between_the_words_of_an_answer_is_few_tokens(bpe):
    # Per object: "object_" and "": {"bbox_" + 2 + d": [" and "], "desc": "" and the closing one: six; the rest is
    # digits, commas between numbers, and the words.
    for index in range(30):
        scene = draw_scene(7, index, "base")
        for annotation in scene.annotations:
            text = render_answer([annotation], (200, 200))
            numbers = json.loads(text)["object_1"][annotation.shape.kind]
            digits = sum(character.isdigit() for character in text)
            words = 2
            assert len(bpe.encode(text).ids) - digits - (len(numbers) - 1) - words <= 6


def test_every_prompt_is_at_most_25_tokens(bpe):
    lengths = {text: len(bpe.encode(text).ids) for text in prompt_texts()}
    assert max(lengths.values()) <= 25, lengths


def test_the_corpus_is_the_same_each_time_and_holds_no_two_words_in_one_text():
    texts = list(corpus(3, seed=1))
    assert texts == list(corpus(3, seed=1))
    assert {"红色", "铭牌", "red", "plate"} <= set(texts)
    assert not any("红色铭牌" in text or "red plate" in text for text in texts)


def test_special_tokens_take_the_last_ids_in_the_order_of_qwen(bpe):
    size = bpe.get_vocab_size()
    expected = list(range(size - len(SPECIAL_TOKENS), size))
    assert [bpe.token_to_id(name) for name in SPECIAL_TOKENS] == expected


def test_special_tokens_carry_the_names_of_the_real_tokenizer():
    if not GOLDEN.is_dir():
        pytest.skip(f"{GOLDEN} is not here")
    real = json.loads((GOLDEN / "tokenizer_config.json").read_text(encoding="utf-8"))["added_tokens_decoder"]
    assert [token["content"] for token in real.values() if token["special"]] == list(SPECIAL_TOKENS)


def test_transformers_loads_it_with_the_same_ids_and_special_roles(loaded, bpe):
    text = '{"object_1": {"bbox_2d": [110, 140, 300, 330], "desc": "红色铭牌"}}'
    assert loaded(text)["input_ids"] == bpe.encode(text).ids
    assert len(loaded) == bpe.get_vocab_size()
    assert (loaded.eos_token, loaded.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert set(loaded.all_special_tokens) == set(SPECIAL_TOKENS)
    ids = loaded("<|im_start|><|image_pad|>")["input_ids"]
    assert ids == [bpe.token_to_id("<|im_start|>"), bpe.token_to_id("<|image_pad|>")]


def test_it_survives_saving_and_loading(loaded, tmp_path: Path):
    from transformers import AutoTokenizer

    loaded.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.get_vocab() == loaded.get_vocab()
    assert again.chat_template == loaded.chat_template
    assert again("划痕 12")["input_ids"] == loaded("划痕 12")["input_ids"]


def test_chat_turns_render_as_qwen3_vl_renders_them(loaded):
    if not GOLDEN.is_dir():
        pytest.skip(f"{GOLDEN} is not here")
    cases = json.loads((GOLDEN / "golden_chat.json").read_text(encoding="utf-8"))["cases"]
    for name, case in cases.items():
        options = {"add_generation_prompt": case["add_generation_prompt"], **case["kwargs"]}
        assert loaded.apply_chat_template(case["messages"], tokenize=False, **options) == case["qwen3_vl"], name


def test_text_between_media_keeps_its_place_and_white_space(loaded):
    content = [{"type": "text", "text": " a\n"}, {"type": "image"}, {"type": "text", "text": "b "}, {"type": "video"}]
    rendered = loaded.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    assert rendered == (
        "<|im_start|>user\n a\n<|vision_start|><|image_pad|><|vision_end|>b "
        "<|vision_start|><|video_pad|><|vision_end|><|im_end|>\n"
    )


def test_content_of_an_unknown_type_is_an_error_that_names_it(loaded):
    from jinja2.exceptions import TemplateError

    with pytest.raises(TemplateError, match="audio"):
        loaded.apply_chat_template([{"role": "user", "content": [{"type": "audio"}]}], tokenize=False)


def test_the_image_processor_makes_64_patches_of_a_square_photo():
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(TINY_FOLDER, backend="pil")
    out = processor(images=[np.full((200, 200, 3), 255, np.uint8)], return_tensors="np")
    assert out["image_grid_thw"].tolist() == [[1, 8, 8]]
    assert np.allclose(out["pixel_values"], 1.0)  # white is (1 - mean .5) / std .5
    assert out["pixel_values"].shape == (64, 3 * 2 * 16 * 16)
