"""Packed, padded and one by one: a step has the same loss and gradients, in every family, over photos, videos, text."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForImageTextToText

from qcvl.data.batch import collate
from qcvl.data.chat import IGNORE
from qcvl.models.forward import normalised
from qcvl.models.pixels import repeated
from qcvl.models.settings import ScratchModel
from qcvl.models.towers import TOWERS, tower_of
from tests.conftest import choice

pytestmark = pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
AUX = 0.5


@pytest.fixture
def talks(scenes, make_data, tmp_path):
    """A file of conversations: a video, a text, and a video beside a photo; videos are lists of frames."""
    image, video = {"type": "image"}, {"type": "video"}
    clips = [[str(scenes / f"zh_{3 * number}.png") for number in range(count)] for count in (2, 4)]
    shown = [([], clips[:1]), ([], []), ([str(scenes / "en_0.png")], clips[1:])]
    rows = []
    for number, (images, videos) in enumerate(shown):
        asked = [*[image] * len(images), *[video] * len(videos), {"type": "text", "text": f"What is {number}?"}]
        messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": f"part {number} of it"}]
        rows.append(json.dumps({"images": images, "videos": videos, "messages": messages}) + "\n")
    (tmp_path / "talks.jsonl").write_text("".join(rows))
    return make_data.source(str(tmp_path / "talks.jsonl"))


def padded(samples: list, processing) -> dict:
    """Encoded samples as a right-padded batch for transformers, photos and videos apart."""
    parts = [collate([item]) for item in samples]

    def rows(name: str, value: int) -> torch.Tensor:
        return pad_sequence([part[name][0] for part in parts], batch_first=True, padding_value=value)

    masks = [torch.ones(part["input_ids"].numel(), dtype=torch.long) for part in parts]
    batch = {"input_ids": rows("input_ids", processing.pad), "mm_token_type_ids": rows("mm_token_type_ids", 0)}
    batch["attention_mask"] = pad_sequence(masks, batch_first=True)
    media: dict = {1: ([], []), 2: ([], [])}
    for part in parts:
        values = torch.from_numpy(repeated(part["pixel_values"].numpy(), 2)) if _still(part, processing) else None
        patches = normalised(part["pixel_values"] if values is None else values, processing.family)
        kinds = part["mm_token_type_ids"][part["mm_token_type_ids"] > 0].tolist()
        for grid in part["image_grid_thw"]:
            count = int(grid.prod())
            pixels, grids = media[kinds[0]]
            pixels.append(patches[:count])
            grids.append(grid)
            patches, kinds = patches[count:], kinds[count // processing.family.merge_size**2 :]
    for kind, names in {1: ("pixel_values", "image_grid_thw"), 2: ("pixel_values_videos", "video_grid_thw")}.items():
        batch |= dict(zip(names, (torch.cat(media[kind][0]), torch.stack(media[kind][1])), strict=True))
    if processing.family.tokens_per_second:
        batch["second_per_grid_ts"] = torch.ones(len(media[2][1]))
    return batch


def _still(part: dict, processing) -> bool:
    return part["pixel_values"].shape[1] < processing.family.patch_values


def padded_loss(plain, head, samples: list, processing) -> torch.Tensor:
    """Mean cross-entropy over labels plus the weighted mean grounding loss, by transformers' own padded forward."""
    labels = pad_sequence([torch.from_numpy(item.labels) for item in samples], batch_first=True, padding_value=IGNORE)
    logits = plain(**padded(samples, processing), use_cache=False).logits[:, :-1]
    entropy = F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE)
    aux, cells = torch.zeros(()), 0
    for item in samples:
        if (item.cell_classes >= 0).any():
            part = collate([item])
            pixels = normalised(torch.from_numpy(repeated(part["pixel_values"].numpy(), 2)), processing.family)
            visual = plain.model.visual(pixels, grid_thw=part["image_grid_thw"]).pooler_output
            aux = aux + head.loss(visual, part["cell_classes"], part["cell_points"]).total
            cells += int((part["cell_classes"] >= 0).sum())
    return entropy + AUX * aux / cells


@pytest.mark.parametrize(
    ("fit", "choice_of_model"),
    [
        ("best_fit", "tiny_qwen2_vl"),
        ("first_fit", "tiny_qwen2_5_vl"),
        ("best_fit", "tiny_scratch"),
        ("first_fit", "tiny_qwen3_vl_moe"),
    ],
)
def test_packed_padded_and_one_by_one_a_step_has_the_same_loss_and_gradients(
    fit, choice_of_model, talks, make_module, make_datamodule, make_data, make_trainer, descent, logged, tmp_path
):
    spec = ScratchModel(**choice(f"model/{choice_of_model}.yaml") | {"min_cells": 1, "lr_multiplier": 1})
    processing = spec.load_processing()
    train = {"en": make_data.source("en.jsonl"), "talks": talks}
    plans = {"packed": {"packing": fit, "packing_length": 700}, "alone": {"batch_size": 1}}
    moved, losses = {}, {}
    for name, plan in plans.items():
        # Two groups of frames at one a second each: what transformers is told of time below.
        video = choice("data/jsonl.yaml")["video"] | {"fps": 2.0, "max_pixels": 4096}
        data = make_data(train=train, val=None, sample_limit=5, dense_share=0.8, video=video, **plan)
        datamodule = make_datamodule(data=data, processing=processing, grounding=True)
        module = make_module(model=spec, processing=processing, towers=TOWERS, aux_grounding=AUX, **descent(1.0))
        module.configure_model()
        if name == "packed":
            module.model.save_pretrained(tmp_path / "plain")
            head = copy.deepcopy(module.grounding)
        dataset, loader = datamodule.train_dataset(), datamodule.train_dataloader()
        samples = [dataset[(0, index)] for index in range(len(dataset))]
        rows = [batch["segments"].numel() for batch in loader]
        assert sum(rows) == len(samples) == 8 and (max(rows) > 1) == (name == "packed")
        before = {key: value.detach().clone() for key, value in module.named_parameters() if value.requires_grad}
        trainer = make_trainer(tmp_path / name, accumulate_grad_batches=len(rows), gradient_clip_val=None)
        trainer.fit(module, datamodule)
        after = dict(module.named_parameters())
        moved[name] = {key: value - after[key].detach() for key, value in before.items()}
        (losses[name],) = logged("train/loss", tmp_path / name)
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path / "plain", attn_implementation="sdpa").train()
    loss = padded_loss(plain, head, samples, processing)
    loss.backward()
    theirs = {f"model.{key}": value.grad for key, value in plain.named_parameters()}
    theirs |= {f"grounding.{key}": value.grad for key, value in head.named_parameters()}
    assert {tower_of(key) for key, gradient in moved["packed"].items() if gradient.abs().max() > 1e-3} >= set(TOWERS)
    assert losses["packed"] == pytest.approx(losses["alone"], abs=1e-5)
    assert losses["packed"] == pytest.approx(loss.item(), abs=1e-5)
    for key, gradient in moved["packed"].items():
        torch.testing.assert_close(gradient, moved["alone"][key], rtol=0, atol=1e-5, msg=f"{key}, one by one")
        torch.testing.assert_close(gradient, theirs[key], rtol=0, atol=1e-5, msg=f"{key}, padded")
