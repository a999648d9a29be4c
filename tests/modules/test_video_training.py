"""Real clips train: through the data module, in rows with photos and texts, with the loss each sample has alone."""

import json
import shutil

import pytest
import torch

from qcvl.data.batch import collate
from qcvl.data.chat import IGNORE
from tests.conftest import choice

pytest.importorskip("av")
pytestmark = pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")


@pytest.fixture
def films(shared_data, scenes, tmp_path):
    """A file of 6 conversations: two about a clip, one about a clip and a photo, one about a photo, two of text."""
    shutil.copy(shared_data("video") / "clip_a.mp4", tmp_path)
    image, video = {"type": "image"}, {"type": "video"}
    shown = [([], ["clip_a.mp4"]), ([], []), ([str(scenes / "en_0.png")], ["clip_a.mp4"])]
    shown += [([str(scenes / "en_1.png")], []), ([], [{"video": "clip_a.mp4", "video_end": 2.0}]), ([], [])]
    rows = []
    for number, (images, videos) in enumerate(shown):
        asked = [*[image] * len(images), *[video] * len(videos), {"type": "text", "text": f"What is {number}?"}]
        messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": f"part {number}"}]
        rows.append(json.dumps({"images": images, "videos": videos, "messages": messages}) + "\n")
    (tmp_path / "films.jsonl").write_text("".join(rows))
    return str(tmp_path / "films.jsonl")


@pytest.fixture
def data(make_data, films):
    """Data settings over the file, few small frames of each clip."""
    video = choice("data/jsonl.yaml")["video"] | {"max_pixels": 4096}
    return lambda **changes: make_data(**{"train": films, "val": films, "batch_size": 3, "video": video} | changes)


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
