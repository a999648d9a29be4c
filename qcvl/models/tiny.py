"""The embedded model's folder and its tokenizer: a byte-level BPE small enough for one to two million parameters."""

import json
from collections.abc import Iterable
from pathlib import Path

TINY_FOLDER = Path(__file__).with_suffix("")

# The names of Qwen3-VL's special tokens, in the order of their ids there (151643 to 151656).
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "add_bos_token": False,
    "add_prefix_space": False,
    "bos_token": None,
    "clean_up_tokenization_spaces": False,
    "eos_token": "<|im_end|>",
    "extra_special_tokens": [name for name in SPECIAL_TOKENS if name not in ("<|endoftext|>", "<|im_end|>")],
    "model_max_length": 4096,
    "pad_token": "<|endoftext|>",
    "unk_token": None,
}


def build_tokenizer(texts: Iterable[str], vocab_size: int, folder: Path) -> None:
    """Train a byte-level BPE of exactly ``vocab_size`` ids on ``texts``; write ``tokenizer.json`` and its config.

    Digits are always single tokens. Text is not split at spaces or punctuation, so that a stretch of JSON such as
    ``], "desc": "`` becomes one token. Special tokens take the last ids. Equal texts in equal order give equal bytes.

    Raises:
        ValueError: when the texts do not hold enough different stretches for ``vocab_size`` ids.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    single_digits = pre_tokenizers.Digits(individual_digits=True)
    whole_text = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([single_digits, whole_text])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    found = tokenizer.get_vocab_size()
    if found != vocab_size:
        raise ValueError(f"the texts gave {found} ids, expected {vocab_size}; pass more texts or a smaller vocab_size")
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = json.dumps(TOKENIZER_CONFIG, indent=2) + "\n"
    (folder / "tokenizer_config.json").write_text(config, encoding="utf-8")
