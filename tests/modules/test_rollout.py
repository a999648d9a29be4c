"""Answers drawn in training: which steps, by whom, how they are read, and how they count."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qcvl.data.batch import collate
from qcvl.data.chat import IGNORE
from qcvl.models.forward import look, normalised
from qcvl.modules.rollout import Reader, author_of, draw_answers
from qcvl.modules.settings import GKD
from tests.conftest import choice

pytestmark = pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
LIMIT = 6


@given(st.integers(0, 2**40), st.integers(0, 10**6), st.floats(0, 1), st.booleans())
def test_whose_answers_a_step_is_about_follows_from_seed_and_step(seed, step, lmbda, seq_kd):
    author = author_of(seed, step, lmbda, seq_kd=seq_kd)
    assert author == author_of(seed, step, lmbda, seq_kd=seq_kd)
    assert author in ("student", "teacher" if seq_kd else "data")
    assert author_of(seed, step, 1.0, seq_kd=seq_kd) == "student" != author_of(seed, step, 0.0, seq_kd=seq_kd)


def test_the_share_of_steps_about_the_students_answers_is_lmbda():
    for lmbda in (0.1, 0.5, 0.8):
        count = sum(author_of(3, step, lmbda, seq_kd=False) == "student" for step in range(4000))
        assert count / 4000 == pytest.approx(lmbda, abs=0.03)
    assert [author_of(0, step, 0.5, seq_kd=True) for step in range(20)] != [
        author_of(1, step, 0.5, seq_kd=True) for step in range(20)
    ]


@pytest.fixture
def module(make_module):
    built = make_module()
    built.configure_model()
    return built


def drawn(module, batch: dict, **changes) -> tuple[dict, dict]:
    """The batch as the model reads it, and the row of drawn answers."""
    pixels = normalised(batch["pixel_values"], module.processing.family)
    row = {**batch, "pixel_values": pixels, "segments": tuple(batch["segments"].tolist())}
    with torch.no_grad():
        seen = look(module.built, pixels, batch["image_grid_thw"])
    options = {"limit": LIMIT, "temperature": 0.0, "seed": 1} | changes
    return row, draw_answers(module.built, module.processing, row, seen, **options)


@pytest.fixture
def talk(make_datamodule, make_data, conversations):
    """A text alone, a conversation of two turns with two photos, and two dense samples."""
    train = {name: str(conversations / f"{name}.jsonl") for name in ("text", "chat", "en")}
    dataset = make_datamodule(data=make_data(train=train, sampling="dense")).train_dataset()
    return [dataset[(0, index)] for index in (0, 4, 10, 11)]


def test_each_sample_keeps_its_prompt_and_gets_the_answer_that_transformers_writes(module, talk):
    """The answers are those of the model's own ``generate``, one sample at a time."""
    row, found = drawn(module, collate(talk))
    model = module.built.eval()
    ends = torch.tensor(found["segments"]).cumsum(0).tolist()
    for sample, end, length in zip(talk, ends, found["segments"], strict=True):
        ids = found["input_ids"][0, end - length : end]
        kinds = found["label_kinds"][0, end - length : end]
        last = max(
            place
            for place in range(1, len(sample.labels))
            if sample.labels[place - 1] == IGNORE != sample.labels[place]
        )
        assert ids[:last].tolist() == sample.input_ids[:last].tolist()
        assert kinds[:last].tolist() == [0] * last and (kinds[last:] > 0).all()
        images = {}
        if len(sample.grids):
            part = collate([sample])
            images = {"image_grid_thw": part["image_grid_thw"]}
            images["pixel_values"] = normalised(part["pixel_values"], module.processing.family)
            images["mm_token_type_ids"] = part["mm_token_type_ids"][:, :last]
        expected = model.generate(
            input_ids=ids[None, :last],
            do_sample=False,
            max_new_tokens=LIMIT,
            attention_mask=torch.ones(1, last),
            **images,
        )
        assert ids.tolist() == expected[0].tolist()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_model_that_would_write_visual_placeholders_writes_the_next_likely_words(module, talk, temperature):
    batch, pads = collate(talk), [module.processing.image_pad, module.processing.video_pad]
    head = module.built.get_output_embeddings()
    likely = head.register_forward_hook(lambda layer, inputs, out: out.index_fill(-1, torch.tensor(pads), 1e4))
    row, new = drawn(module, batch, temperature=temperature)
    likely.remove()
    written = new["input_ids"][new["label_kinds"] > 0]
    assert len(written) >= len(talk) and not torch.isin(written, torch.tensor(pads)).any()
    with torch.no_grad():  # as many placeholders as visual tokens, so that the row can be read
        module.losses(
            {**batch, **{name: new[name] for name in ("input_ids", "label_kinds", "position_ids")}}
            | {
                "labels": torch.where(new["label_kinds"] > 0, new["input_ids"], IGNORE),
                "segments": torch.tensor(new["segments"]),
            }
        )
    assert row["input_ids"].shape[0] == new["input_ids"].shape[0] == 1


def test_positions_of_drawn_answers_go_on_from_the_prompt(module, talk):
    row, found = drawn(module, collate(talk))
    start, ours = 0, 0
    for length, prompt_row in zip(found["segments"], row["segments"], strict=True):
        positions = found["position_ids"][:, 0, start : start + length]
        kinds = found["label_kinds"][0, start : start + length]
        first = int(kinds.nonzero()[0])
        assert torch.equal(positions[:, :first], row["position_ids"][:, 0, ours : ours + first])
        steps = positions[:, first:] - positions[:, first - 1 : -1]
        assert (steps == 1).all()
        start, ours = start + length, ours + prompt_row


def test_draws_follow_from_the_seed_and_leave_other_random_numbers_as_they_are(module, talk):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    rows = [drawn(module, collate(talk), temperature=1.0, seed=seed)[1]["input_ids"] for seed in (1, 1, 2)]
    assert torch.equal(rows[0], rows[1]) and rows[0].tolist() != rows[2].tolist()
    assert torch.rand(1) == expected
    assert module.built.training


def test_an_answer_has_at_most_as_many_tokens_as_allowed(module, talk):
    for limit in (1, 4):
        _, found = drawn(module, collate(talk), limit=limit)
        assert (found["label_kinds"] > 0).sum() <= limit * len(talk)


@pytest.fixture
def train(make_module, make_datamodule, make_data, make_trainer, lora, tmp_path, monkeypatch):
    """``train(name, …)``: one epoch of distillation with drawn answers over four records; who wrote, how often."""
    written = []

    def note(*args, **kwargs):
        row = draw_answers(*args, **kwargs)
        written.append(row)
        return row

    monkeypatch.setattr("qcvl.modules.gkd.draw_answers", note)

    def run(name="run", *, limit=4, batch_size=2, accumulate=1, rate=1e-2, **settings):
        written.clear()
        values = choice("objective/gkd.yaml") | {"max_completion_length": LIMIT} | settings
        data = make_data(
            train={"en": make_data.source("en.jsonl")}, val=None, sample_limit=limit, batch_size=batch_size
        )
        module = make_module(objective=GKD(**values), tuner=lora(), rate=rate)
        make_trainer(tmp_path / name, accumulate_grad_batches=accumulate).fit(module, make_datamodule(data=data))
        return list(written)

    return run


@pytest.mark.parametrize(
    ("lmbda", "seq_kd", "rows"), [(1.0, False, 2), (0.0, True, 2), (0.0, False, 0)], ids=["student", "teacher", "data"]
)
def test_steps_train_on_whose_answers_they_are_told_to(train, logged, tmp_path, lmbda, seq_kd, rows):
    written = train(lmbda=lmbda, seq_kd=seq_kd)
    assert len(written) == rows and all(len(row["segments"]) == 2 for row in written)
    losses = [logged(f"train/{key}", tmp_path / "run") for key in ("loss", "sft_loss", "llm_kd_loss")]
    assert len(losses[0]) == 2
    for loss, sft, kd in zip(*losses, strict=True):
        assert loss == pytest.approx(sft + kd, rel=1e-5)
    assert losses[2][1] > 1e-7  # after a step the student is no longer its teacher
    assert all(norm > 0 for norm in logged("train/grad_norm/llm", tmp_path / "run"))


def test_the_cross_entropy_is_that_of_the_data_whoever_writes(train, logged, tmp_path):
    for name, settings in (("drawn", {"lmbda": 1.0}), ("read", {"lmbda": 0.0, "seq_kd": False})):
        train(name, limit=2, **settings)
    for key in ("train/sft_loss", "train/token_acc"):
        one, other = (logged(key, tmp_path / name) for name in ("drawn", "read"))
        assert len(one) == 1 and one == pytest.approx(other, rel=1e-6)


def test_a_run_draws_the_same_answers_again(train):
    first = train("first", lmbda=0.5, batch_size=1)
    again = train("again", lmbda=0.5, batch_size=1)
    assert len(first) == 4 and all(
        torch.equal(a["input_ids"], b["input_ids"]) for a, b in zip(first, again, strict=True)
    )
    assert len({str(row["input_ids"].tolist()) for row in first}) == 4


def test_a_reader_over_looked_at_images_gives_the_logits_of_the_model(module, talk):
    batch = collate(talk[2:3])
    pixels = normalised(batch["pixel_values"], module.processing.family)
    model = module.built.eval()
    told = {"position_ids": batch["position_ids"], "attention_mask": None, "use_cache": False}
    with torch.no_grad():
        seen = look(model, pixels, batch["image_grid_thw"])
        found = Reader(model)(input_ids=batch["input_ids"], seen=seen, logits_to_keep=3, **told).logits
        expected = model(
            input_ids=batch["input_ids"],
            pixel_values=pixels,
            image_grid_thw=batch["image_grid_thw"],
            mm_token_type_ids=batch["mm_token_type_ids"],
            **told,
        ).logits[:, -3:]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
