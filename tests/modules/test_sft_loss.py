"""The SFT loss by its mathematics: transformers' own, packed or alone, and the auxiliary part."""

import pytest
import torch
from transformers import AutoModelForImageTextToText

from qcvl.data.batch import collate, count_labels
from qcvl.data.chat import IGNORE
from qcvl.data.dataset import CLASS_LIMIT
from qcvl.data.label_kinds import LABEL_KINDS
from qcvl.errors import ConfigError
from qcvl.models.forward import normalised
from qcvl.models.towers import tower_of
from qcvl.modules.settings import SFT
from qcvl.modules.sft import SFTModule
from tests.conftest import choice


@pytest.fixture
def module(make_module):
    module = make_module(towers=["vision", "aligner", "llm"])
    module.configure_model()
    return module


@pytest.fixture
def plain(module, tmp_path):
    """The module's weights in untouched transformers, on its own SDPA path."""
    module.model.save_pretrained(tmp_path / "plain")
    return AutoModelForImageTextToText.from_pretrained(tmp_path / "plain", attn_implementation="sdpa").train()


def inputs(batches: list[dict]) -> dict:
    """Rows of equal length as a padded batch for transformers."""
    rows = {name: torch.cat([b[name] for b in batches]) for name in ("input_ids", "mm_token_type_ids", "labels")}
    media = {name: torch.cat([b[name] for b in batches]) for name in ("pixel_values", "image_grid_thw")}
    still = (media["pixel_values"].view(-1, 3, 1, 16 * 16) / 255 - 0.5) / 0.5
    media["pixel_values"] = still.expand(-1, -1, 2, -1).flatten(1)  # transformers wants an image twice along time
    return {**rows, **media, "attention_mask": torch.ones_like(rows["input_ids"])}


def mean_loss(module: SFTModule, batch: dict) -> torch.Tensor:
    return module.losses(batch)["sft_sum"].sum() / (batch["labels"] != IGNORE).sum()


def gradients(module: SFTModule) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in module.model.named_parameters() if p.grad is not None}
    module.zero_grad()
    return found


def test_each_records_loss_is_the_one_of_plain_transformers(module, plain, batches):
    for batch in batches:
        assert mean_loss(module, batch).item() == pytest.approx(plain(**inputs([batch])).loss.item(), abs=1e-4)


def test_on_equal_records_a_batch_has_the_loss_and_the_gradients_of_plain_transformers(module, plain, features):
    packed = collate([features[0]] * 3)
    loss = mean_loss(module, packed)
    loss.backward()
    expected = plain(**inputs([collate([features[0]])] * 3)).loss
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-4)
    theirs = {name: parameter.grad for name, parameter in plain.named_parameters() if parameter.grad is not None}
    ours = gradients(module)
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-3, atol=1e-5)


def test_a_packed_row_has_the_losses_and_gradients_of_its_samples_one_by_one(module, packed, batches):
    sums = module.losses(packed)
    sums["sft_sum"].sum().backward()
    together = gradients(module)
    alone = [module.losses(batch) for batch in batches]
    sum(one["sft_sum"].sum() for one in alone).backward()
    count = sum(int((batch["labels"] != IGNORE).sum()) for batch in batches)
    difference = sums["sft_sum"] - sum(one["sft_sum"] for one in alone)
    assert difference.abs().max().item() / count < 1e-5
    assert sums["correct"] == sum(one["correct"] for one in alone)
    for name, gradient in gradients(module).items():
        torch.testing.assert_close(together[name] / count, gradient / count, rtol=0, atol=1e-5)


def test_right_guesses_are_counted_at_label_positions_only(module, plain, batches):
    batch = batches[0]
    with torch.no_grad():
        logits = plain(**inputs([batch])).logits[0, :-1]
        found = module.losses(batch)["correct"]
    targets = batch["labels"][0, 1:]
    assert found == int((logits.argmax(-1) == targets)[targets != IGNORE].sum())


def test_the_samples_of_a_row_may_stand_in_any_order(module, features):
    rows = [collate(features), collate(features[::-1])]
    with torch.no_grad():
        losses = [float(module.losses(row)["sft_sum"].sum()) for row in rows]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_each_kind_of_token_counts_by_its_weight(make_module, plain, module, batches):
    """By hand from transformers' own logits: sum of weight times cross-entropy over sum of weights."""
    weights = dict(zip(LABEL_KINDS, (0.5, 1.0, 3.0, 2.0, 4.0), strict=True))
    weighted = make_module(towers=["vision", "aligner", "llm"], token_weights=weights)
    weighted.configure_model()
    total, share = torch.zeros(()), torch.zeros(())
    found = torch.zeros(len(LABEL_KINDS))
    with torch.no_grad():
        for batch in batches:
            logits = plain(**inputs([batch])).logits[0, :-1]
            losses = torch.nn.functional.cross_entropy(logits, batch["labels"][0, 1:], reduction="none")
            for loss, kind in zip(losses, batch["label_kinds"][0, 1:].tolist(), strict=True):
                weight = weights[LABEL_KINDS[kind - 1]] if kind else 0.0
                total, share = total + weight * loss, share + weight
                found[kind - 1] += kind > 0
        loss = step_loss(batches, weighted)
    torch.testing.assert_close(loss, total / share, rtol=1e-4, atol=1e-5)
    assert found.tolist()[-1] == 0 and (found[:-1] > 0).all()  # no chat among them


def step_loss(batches: list[dict], module: SFTModule) -> torch.Tensor:
    """The module's loss over several batches as one optimizer step."""
    sums = [module.losses(batch)["sft_sum"] for batch in batches]
    counts = sum(count_labels(batch["label_kinds"]) for batch in batches)
    return module.combine({"sft_sum": sum(sums)}, counts.float(), torch.ones(()))


def test_weights_that_train_nothing_are_refused():
    with pytest.raises(ConfigError, match="token_weights: all are 0"):
        SFT(**choice("objective/sft.yaml") | {"token_weights": dict.fromkeys(LABEL_KINDS, 0.0)})


def test_without_its_weight_the_auxiliary_loss_adds_nothing(module, make_datamodule):
    dataset = make_datamodule(grounding=True).train_dataset()
    batch = collate([dataset[(0, index)] for index in range(3)])
    assert "cell_classes" in batch and module.grounding is None and module.extra_groups() == []
    sums = module.losses(batch)
    assert sums.keys() == {"sft_sum", "correct"}
    counts = torch.tensor([4.0, 0.0, 3.0, 0.0, 0.0])
    torch.testing.assert_close(module.combine(sums, counts, torch.tensor(3.0)), sums["sft_sum"].sum() / 7)


def test_with_a_weight_the_auxiliary_loss_is_a_weighted_mean_over_visual_tokens(make_module, make_datamodule):
    module = make_module(aux_grounding=0.5, towers=["vision", "aligner", "llm"])
    module.configure_model()
    dataset = make_datamodule(grounding=True).train_dataset()
    batch = collate([dataset[(0, index)] for index in range(3)])
    sums = module.losses(batch)
    labels, cells = count_labels(batch["label_kinds"]).float(), torch.tensor(batch["cell_classes"].numel())
    total = module.combine(sums, labels, cells)
    pixels = normalised(batch["pixel_values"], module.processing.family)
    visual = module.model.model.visual(pixels, grid_thw=batch["image_grid_thw"]).pooler_output
    aux = module.grounding.loss(visual, batch["cell_classes"], batch["cell_points"]).total
    torch.testing.assert_close(total, sums["sft_sum"].sum() / labels.sum() + 0.5 * aux / cells)
    assert aux > 0
    sums["aux_sum"].backward()
    reached = {tower_of(name) for name, p in module.model.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"vision", "aligner"} <= reached
    assert all(parameter.grad.any() for parameter in module.grounding.parameters())


def test_the_auxiliary_head_trains_at_its_own_rate_and_is_resumed_but_not_saved(make_module, tmp_path):
    module = make_module(aux_grounding=1.0, rate=2e-4)
    module.configure_model()
    assert module.grounding.num_classes == CLASS_LIMIT
    assert {(group["tower"], group["lr"]) for group in module.extra_groups()} == {("grounding", 2e-4)}
    in_groups = [id(p) for group in module.groups() + module.extra_groups() for p in group["params"]]
    wanted = [id(p) for p in module.parameters() if p.requires_grad]
    assert sorted(in_groups) == sorted(wanted)
    assert {"grounding.linear.weight", "grounding.linear.bias"} <= module.state_dict().keys()
    module.save(tmp_path)
    saved = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert saved.state_dict().keys() == module.model.state_dict().keys()


def test_the_trainers_state_holds_trained_parameters_only_and_they_load_back(make_module, lora):
    first, second = make_module(tuner=lora()), make_module(tuner=lora())
    for module in (first, second):
        module.configure_model()
    for parameter in first.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter)
    state = first.state_dict()
    assert state and all("lora_" in name for name in state)
    second.load_state_dict(state, strict=False)
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in state.items())


@pytest.fixture
def talk(make_datamodule, make_data, conversations):
    """Encoded training samples: two texts alone, a conversation with two photos, and a dense sample."""
    train = {name: str(conversations / f"{name}.jsonl") for name in ("text", "chat", "en")}
    dataset = make_datamodule(data=make_data(train=train, sampling="dense")).train_dataset()
    return [dataset[(0, index)] for index in (0, 1, 4, 10)]


def test_conversations_packed_with_photos_have_the_loss_and_the_gradients_they_have_alone(module, talk):
    parts = [collate([item]) for item in talk]
    counts = [int((batch["labels"] != IGNORE).sum()) for batch in parts]
    alone = sum(module.losses(batch)["sft_sum"].sum() for batch in parts) / sum(counts)
    alone.backward()
    expected = gradients(module)
    packed = mean_loss(module, collate(talk))
    packed.backward()
    assert packed.item() == pytest.approx(alone.item(), rel=1e-5)
    found = gradients(module)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-6)


def test_a_text_alone_has_the_loss_of_plain_transformers(module, plain, talk):
    batch = collate(talk[:1])
    expected = plain(input_ids=batch["input_ids"], labels=batch["labels"]).loss
    assert mean_loss(module, batch).item() == pytest.approx(expected.item(), abs=1e-4)


def test_a_step_is_divided_by_its_exact_counts_where_autocast_rounds_products(make_module):
    module = make_module()
    sums = {"sft_sum": torch.tensor([1001.0, 3.0, 517.0, 9.0, 1.0])[: len(LABEL_KINDS)]}
    labels = torch.tensor([1283.0, 7.0, 641.0, 2.0, 1.0])[: len(LABEL_KINDS)]
    with torch.autocast("cpu", torch.bfloat16):  # which has 8 bits: 1283 would be 1280
        loss = module.combine(sums, labels, torch.ones(()))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(sums["sft_sum"].sum().item() / labels.sum().item(), rel=1e-6)
