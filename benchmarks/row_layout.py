"""A training step over 16 samples: one packed row with a label-only head beside transformers' padded batch.

Both are forward and backward of the embedded model with all weights trained in float32, on the same samples. The peer
is the stock model with ``attn_implementation="sdpa"`` and ``model(labels=…)``.
"""

import sys
from collections.abc import Mapping, Sequence

import torch
from measure import median_seconds, report
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForImageTextToText

from qcvl import config
from qcvl.data.batch import collate
from qcvl.data.chat import IGNORE
from qcvl.models.folders import find_folder
from qcvl.models.forward import normalised
from qcvl.models.pixels import repeated
from qcvl.models.spec import Processing

OVERRIDES = ("data=scenes", "data.sampling=dense", "data.num_workers=0", "stage=3", "tuner=full")


def padded(batch: Mapping[str, Tensor], processing: Processing) -> dict[str, Tensor]:
    """The samples of a packed row ``[1, L]`` as a right-padded batch ``[samples, longest]``."""
    lengths = batch["segments"].tolist()

    def rows(name: str, value: int) -> Tensor:
        return pad_sequence(batch[name][0].split(lengths), batch_first=True, padding_value=value)

    pixels = repeated(batch["pixel_values"].numpy(), processing.family.temporal_patch_size)
    mask = pad_sequence([torch.ones(length, dtype=torch.long) for length in lengths], batch_first=True)
    return {
        "input_ids": rows("input_ids", processing.pad),
        "labels": rows("labels", IGNORE),
        "mm_token_type_ids": rows("mm_token_type_ids", 0),
        "attention_mask": mask,
        "pixel_values": normalised(torch.from_numpy(pixels), processing.family),
        "image_grid_thw": batch["image_grid_thw"],
    }


def main(arguments: Sequence[str] = ()) -> None:
    """Compare time and loss; ``--quick`` takes two samples and one repeat."""
    samples, repeats = (2, 1) if "--quick" in arguments else (16, 9)
    run = config.build(config.load("train", OVERRIDES))
    run.module.configure_model()
    dataset = run.datamodule.train_dataset()
    row = collate([dataset[0, index] for index in range(samples)])
    batch = padded(row, run.datamodule.processing)
    stock = AutoModelForImageTextToText.from_pretrained(
        find_folder(run.settings.model.path, weights=True), dtype=torch.float32, attn_implementation="sdpa"
    )
    labels = (row["labels"] != IGNORE).sum()

    def ours() -> Tensor:
        return run.module.losses(row)["sft_sum"].sum() / labels

    def peer() -> Tensor:
        return stock(**batch, use_cache=False).loss

    def step(model: nn.Module, loss: Tensor) -> None:
        loss.backward()
        model.zero_grad()

    difference = abs(ours().item() - peer().item())
    ours_s, peer_s = median_seconds([lambda: step(run.module, ours()), lambda: step(stock, peer())], repeats)
    tokens = row["input_ids"].numel()
    rows = {
        "batch": f"{samples} samples, {tokens} tokens ({batch['input_ids'].numel()} padded), {int(labels)} labels",
        "qcvl, packed row": f"{1000 * ours_s:.0f} ms a step, {tokens / ours_s:.0f} tokens/s",
        "transformers, padded batch": f"{1000 * peer_s:.0f} ms a step, {tokens / peer_s:.0f} tokens/s",
        "loss difference": f"{difference:.1e}",
    }
    numbers = {"step_s": ours_s, "peer_step_s": peer_s, "loss_difference": difference}
    report("row_layout", rows, ratio=peer_s / ours_s, peer="transformers padded batch, sdpa", **numbers)


if __name__ == "__main__":
    main(sys.argv[1:])
