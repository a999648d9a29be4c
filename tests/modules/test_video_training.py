"""Real clips train: through the data module, in rows with photos and texts, with the loss each sample has alone."""

import pytest
import torch

from qcvl.data.batch import collate
from qcvl.data.chat import IGNORE

pytest.importorskip("av")
pytestmark = pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")


@pytest.fixture
def data(make_data, films):
    """Data settings over the films."""
    return lambda **changes: make_data(**{**films, "batch_size": 3, **changes})


def test_steps_over_videos_photos_and_texts_train_all_towers(make_module, make_datamodule, make_trainer, data, logged):
    module = make_module(towers=["vision", "aligner", "llm"], rate=3e-3)
    trainer = make_trainer(max_epochs=2, num_sanity_val_steps=0)
    trainer.fit(module, make_datamodule(data=data()))
    assert len(logged("train/loss")) == 4
    for tower in ("vision", "aligner", "llm"):
        assert min(logged(f"train/grad_norm/{tower}")) > 0
    first, last = logged("eval/loss")[0], logged("eval/loss")[-1]
    assert last < first


def test_batches_by_tokens_count_the_frames_of_videos(make_datamodule, data):
    datamodule = make_datamodule(data=data(token_budget=150, val=None))
    dataset = datamodule.train_dataset()
    lengths = {len(dataset[(0, index)].input_ids) for index in range(6)}
    loader = datamodule.train_dataloader()
    rows = list(loader)
    sizes = [[int(size) for size in row["segments"]] for row in rows]
    assert {size for row in sizes for size in row} == lengths and sum(map(len, sizes)) == 6
    assert all(sum(row) <= 150 or len(row) == 1 for row in sizes)


def test_a_row_with_videos_has_the_loss_and_the_gradients_of_its_samples_alone(make_module, make_datamodule, data):
    module = make_module(towers=["vision", "aligner", "llm"])
    module.configure_model()
    dataset = make_datamodule(data=data()).train_dataset()
    items = [dataset[(0, index)] for index in range(4)]
    parts = [collate([item]) for item in items]
    alone = sum(module.losses(batch)["sft_sum"].sum() for batch in parts)
    alone.backward()
    expected = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad(set_to_none=True)
    batch = collate(items)
    assert set(batch["mm_token_type_ids"].unique().tolist()) == {0, 1, 2} and (batch["labels"] != IGNORE).any()
    packed = module.losses(batch)["sft_sum"].sum()
    packed.backward()
    assert packed.item() == pytest.approx(alone.item(), rel=1e-5)
    for name, p in module.named_parameters():
        if name in expected:
            torch.testing.assert_close(p.grad, expected[name], rtol=1e-3, atol=1e-5)
