"""A small byte-level tokenizer with Qwen's special tokens, a two-layer model over it, and packed batches."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, PreTrainedTokenizerFast

from qcvl.models.forward import normalised
from qcvl.models.pixels import to_patches
from qcvl.models.positions import rope_positions
from qcvl.models.settings import ScratchModel
from qcvl.models.spec import Processing

SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
TEMPLATE = """{%- for message in messages %}<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}\
{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}\
{% endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
ARCHITECTURE = {
    "model_type": "qwen3_vl",
    "tie_word_embeddings": True,
    "text_config": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "rope_parameters": ROPE,
    },
    "vision_config": {
        "depth": 2,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_heads": 2,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0],
    },
}


def scratch(tokenizer: Path, **changes: object) -> ScratchModel:
    """Settings of the small random model, with some of them changed."""
    values: dict = {
        "architecture": ARCHITECTURE,
        "tokenizer": str(tokenizer),
        "init_std": 0.2,
        "position_table_scale": 0.5,
        "scale_residual_outputs": True,
        "seed": 0,
        "dtype": "float32",
        "attn": "varlen",
        "min_cells": 1,
        "max_cells": 16,
        "lr_multiplier": 1.0,
        "context_factor": 1.0,
        "gradient_checkpointing": False,
        "compile": False,
        "liger": False,
    }
    return ScratchModel(**(values | changes))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Two torch threads on shared cores stall each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tokenizer.json, its config and a chat template, as a checkpoint has them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(["user assistant a red plate and a blue screw"] * 3, trainer)
    folder = tmp_path_factory.mktemp("tokenizer")
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    wrapped.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture(scope="session")
def processing(tokenizer_folder: Path) -> Processing:
    """The processing of the small model: 1 to 16 cells of 32x32 pixels."""
    return scratch(tokenizer_folder).load_processing()


@pytest.fixture
def model(tokenizer_folder: Path) -> torch.nn.Module:
    """The small model with qcvl's fast paths, in training mode."""
    return scratch(tokenizer_folder).load_model().train()


@pytest.fixture
def checkpoint(model: torch.nn.Module, processing: Processing, tmp_path: Path) -> Path:
    """The small model saved with its processing."""
    model.save_pretrained(tmp_path / "checkpoint")
    processing.save(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.fixture
def plain(checkpoint: Path) -> torch.nn.Module:
    """The same weights in untouched transformers, on its own SDPA path."""
    return AutoModelForImageTextToText.from_pretrained(checkpoint, attn_implementation="sdpa").train()


def make_sample(processing: Processing, sizes: list[tuple[int, int]], words: int, seed: int) -> dict:
    """One sample: ``words`` random text tokens around an image of each ``(height, width)``."""
    random = np.random.default_rng(seed)
    ids, patches, grids = [processing.turn_start], [], []
    for height, width in sizes:
        rows, grid = to_patches(random.integers(0, 256, (height, width, 3), dtype=np.uint8), processing)
        cells = grid[1] * grid[2] // processing.family.merge_size**2
        ids += [processing.vision_start, *[processing.image_pad] * cells, processing.vision_end]
        patches.append(normalised(torch.from_numpy(rows), processing.family))
        grids.append(grid)
    ids += random.integers(len(SPECIAL), 290, words).tolist()
    return {
        "ids": np.array(ids),
        "patches": patches,
        "grids": grids,
        "positions": rope_positions(ids, grids, processing),
    }


def pack(samples: list[dict]) -> dict:
    """The one-row batch of some samples."""
    patches = [rows for sample in samples for rows in sample["patches"]]
    return {
        "input_ids": torch.from_numpy(np.concatenate([sample["ids"] for sample in samples]))[None],
        "position_ids": torch.from_numpy(np.concatenate([sample["positions"] for sample in samples], axis=1))[:, None],
        "segments": tuple(len(sample["ids"]) for sample in samples),
        "pixel_values": torch.cat(patches) if patches else None,
        "image_grid_thw": torch.tensor([grid for sample in samples for grid in sample["grids"]]) if patches else None,
    }


@pytest.fixture(scope="session")
def samples(processing: Processing) -> list[dict]:
    """Samples of unequal lengths with none, one, two equal and two different images."""
    shapes = [([], 5), ([(64, 64)], 9), ([(64, 96), (64, 64)], 30), ([(64, 64), (64, 64)], 3), ([(96, 32)], 28)]
    return [make_sample(processing, sizes, words, seed) for seed, (sizes, words) in enumerate(shapes)]
