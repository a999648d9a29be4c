"""Two processes that hold each row together make the steps and the numbers of one process."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy

from qcvl.data.batch import collate, count_labels
from qcvl.data.chat import IGNORE
from qcvl.errors import ConfigError
from qcvl.models.sequence import SequenceGroup
from qcvl.models.settings import ScratchModel
from qcvl.modules.sequence import RowSharing
from qcvl.modules.settings import GKD
from tests.conftest import choice

pytestmark = pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
LIMITS = {"accumulate_grad_batches": 1, "limit_train_batches": 1.0, "max_steps": -1, "max_epochs": 1}
TOWERS = ("vision", "aligner", "llm")


def sharing(rank: int, size: int) -> RowSharing:
    rows = RowSharing(size)
    rows.group = SequenceGroup(None, rank, size)
    return rows


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_shares_of_a_row_are_all_of_it_each_token_label_and_cell_once(make_datamodule, ranks):
    dataset = make_datamodule(grounding=True).train_dataset()
    batch = collate([dataset[(0, index)] for index in range(3)])
    parts = [sharing(rank, ranks).share(batch) for rank in range(ranks)]
    length = batch["input_ids"].shape[1]
    for name in ("input_ids", "position_ids"):
        assert len({part[name].shape for part in parts}) == 1
        assert torch.equal(torch.cat([part[name] for part in parts], dim=-1)[..., :length], batch[name])
    assert [part["share"].tokens.stop for part in parts][-1] == length
    labels = torch.cat([part["labels"][:, 1:] for part in parts], dim=1)[:, : length - 1]
    assert torch.equal(labels, batch["labels"][:, 1:])
    assert torch.equal(sum(count_labels(part["label_kinds"]) for part in parts), count_labels(batch["label_kinds"]))
    for part in parts:  # wherever there is a label there is its kind
        assert torch.equal(part["labels"][:, 1:] != IGNORE, part["label_kinds"][:, 1:] > 0)
    assert torch.equal(torch.cat([part["cell_points"] for part in parts]), batch["cell_points"])
    assert torch.equal(torch.cat([part["pixel_values"] for part in parts]), batch["pixel_values"])
    assert torch.equal(torch.cat([part["image_grid_thw"] for part in parts]), batch["image_grid_thw"])
    share = parts[0]["share"]
    for slices in (share.cells, share.seen):
        assert [one.start for one in slices[1:]] == [one.stop for one in slices[:-1]]
        assert (slices[0].start, slices[-1].stop) == (0, len(batch["cell_points"]))
    for part, seen in zip(parts, share.seen, strict=True):
        assert len(part["pixel_values"]) == part["image_grid_thw"].prod(1).sum() == 4 * (seen.stop - seen.start)
    for part in parts:
        assert len(part["cell_classes"]) == (part["mm_token_type_ids"] > 0).sum()


def test_a_row_that_nobody_shares_comes_back_as_it_is():
    rows, batch = RowSharing(1), {"input_ids": torch.zeros(1, 3)}
    rows.join()
    assert rows.share(batch) is batch


def test_a_degree_that_the_ranks_or_the_attention_do_not_fit_is_refused(make_module, small_model):
    with pytest.raises(ConfigError, match="sp_degree: groups of 2 ranks do not divide the 1 of this run"):
        RowSharing(2).join()
    with pytest.raises(ConfigError, match=r"sp_degree: 2 needs model.attn=varlen; this model attends by sdpa"):
        make_module(sp_degree=2, model=small_model(attn="sdpa")).configure_model()
    with pytest.raises(ConfigError, match="sp_degree: 3 ranks cannot share 4 attention heads"):
        make_module(sp_degree=3, model=small_model()).configure_model()


def test_the_ranks_of_a_group_read_the_same_samples(make_datamodule):
    seen = []
    for rank in range(4):
        datamodule = make_datamodule(sp_degree=2)
        datamodule.trainer = SimpleNamespace(global_rank=rank, world_size=4, **LIMITS)
        train, (val,) = datamodule.train_dataloader(), datamodule.val_dataloader()
        seen.append([[one.key for batch in train.coming() for one in batch], list(val.batch_sampler)])
    assert seen[0] == seen[1] != seen[2] == seen[3]
    assert len(seen[0][0]) + len(seen[2][0]) == len(make_datamodule().train_dataset())


@pytest.fixture
def equal_runs(make_module, make_datamodule, make_data, make_trainer, descent, logged, tmp_path):
    """``equal_runs(ranks, sp_degree, keys)``: such a run logs what a run of one process does."""

    def train(name, ranks, sp_degree, batch_size, accumulate, data, **module):
        values = {"gradient_clip_val": None, "max_epochs": 2, "accumulate_grad_batches": accumulate}
        if ranks > 1:
            strategy = DDPStrategy(process_group_backend="gloo", start_method="fork")
            values |= {"devices": ranks, "strategy": strategy}
        trainer = make_trainer(tmp_path / name, **values)
        data = make_data(**data, batch_size=batch_size, val_batch_size=3)
        parts = {"processing": module["processing"]} if "processing" in module else {}
        grounding = module.get("aux_grounding", 0) > 0
        datamodule = make_datamodule(data=data, grounding=grounding, sp_degree=sp_degree, **parts)
        trainer.fit(make_module(towers=TOWERS, sp_degree=sp_degree, **descent(0.05), **module), datamodule)

    def run(ranks, sp_degree, keys=(), accumulate=1, data=None, **module):
        data = data or {"sample_limit": 8}
        train("one", 1, 1, 2, accumulate, data, **module)
        train("several", ranks, sp_degree, 2 * sp_degree // ranks, accumulate, data, **module)
        norms = [f"train/grad_norm/{tower}" for tower in TOWERS]
        for key in ("train/loss", "train/token_acc", "eval/loss", "eval/token_acc", *norms, *keys):
            one, several = (logged(key, tmp_path / name) for name in ("one", "several"))
            assert one and several == pytest.approx(one, rel=1e-5, abs=1e-6), key

    return run


def test_losses_gradients_and_validation_equal_those_of_a_single_process(equal_runs):
    equal_runs(2, 2, aux_grounding=0.5, keys=["train/aux_loss"])


def test_a_teacher_tells_each_rank_of_its_own_tokens_and_images(equal_runs):
    values = choice("objective/gkd_forward_only.yaml")
    values["visual_kd"] |= {"enabled": True}
    keys = [f"{prefix}/{name}_kd_loss" for prefix in ("train", "eval") for name in ("llm", "vision")]
    equal_runs(2, 2, objective=GKD(**values | {"eval_kd": True}), keys=keys)


@pytest.mark.slow
def test_groups_share_the_samples_among_them_and_ranks_the_rows_within(equal_runs):
    equal_runs(4, 2, accumulate=2)


@pytest.mark.slow
def test_more_ranks_than_key_heads_are_fine(equal_runs):
    equal_runs(4, 4)


@pytest.mark.slow
@pytest.mark.parametrize("choose", ["tiny_qwen2_5_vl", "tiny_qwen3_vl_moe"])
def test_other_families_and_recomputed_layers_give_the_same(equal_runs, choose):
    model = choice(f"model/{choose}.yaml") | {"min_cells": 1, "lr_multiplier": 1, "gradient_checkpointing": True}
    spec = ScratchModel(**model)
    balance = {"load_balance": 0.5, "keys": ["train/balance_loss", "eval/balance_loss"]} if "moe" in choose else {}
    equal_runs(2, 2, model=spec, processing=spec.load_processing(), **balance)


@pytest.mark.slow
def test_rows_of_text_and_parts_without_an_image_do_not_hang(equal_runs, conversations):
    sources = {source: str(conversations / f"{source}.jsonl") for source in ("text", "chat", "en")}
    equal_runs(2, 2, data={"train": sources, "val": sources, "sampling": "dense"}, keys=["eval/text/loss"])


@pytest.mark.slow
@pytest.mark.parametrize("choose", ["tiny_qwen2_5_vl", "tiny_scratch"])
def test_frames_of_a_video_are_looked_at_by_several_ranks(equal_runs, films, choose):
    spec = ScratchModel(**choice(f"model/{choose}.yaml") | {"min_cells": 1, "lr_multiplier": 1})
    equal_runs(2, 2, data=films, model=spec, processing=spec.load_processing())
