"""What a teacher said, on disk: equal to asking it, asked once, whole after a kill, and never another's."""

import os

import numpy as np
import pytest
import torch

from qcvl.callbacks.checkpoint import TRAINER_STATE, HFCheckpoint
from qcvl.data.batch import collate
from qcvl.errors import ConfigError
from qcvl.losses.jsd import Top
from qcvl.models.forward import unwrap
from qcvl.models.settings import ModelSpec
from qcvl.modules.settings import GKD
from qcvl.modules.teacher_cache import TeacherCache, label_counts, sample_keys
from tests.conftest import choice

pytestmark = pytest.mark.filterwarnings(
    "ignore:The '.*_dataloader' does not have many workers", "ignore:Checkpoint dir"
)
HEADER, KEYS = {"teacher": "a"}, ["0" * 32, "1" * 32, "2" * 32]
CPU = torch.device("cpu")


def said(labels: int, seed: int = 0) -> Top:
    """Random words at so many labels, of 3 tokens each."""
    generator = torch.Generator().manual_seed(seed)
    return Top(torch.randn(labels, 4, generator=generator), torch.randint(0, 99, (labels, 3), generator=generator))


def opened(folder, rank=0, **header) -> TeacherCache:
    return TeacherCache(folder, HEADER | header, k=3, rank=rank)


def assert_equal(one: Top, other: Top) -> None:
    assert torch.equal(one.log_probabilities, other.log_probabilities) and torch.equal(one.ids, other.ids)


def part(words: Top, start: int, end: int) -> Top:
    return Top(*(tensor[start:end] for tensor in words))


def test_what_is_added_is_read_back_in_any_order_by_other_processes_too(tmp_path):
    writer, reader, words = opened(tmp_path / "c"), opened(tmp_path / "c", rank=1), said(7)
    assert writer.missing(KEYS) == KEYS
    writer.add(KEYS[:2], [5, 2], words)
    for cache in (writer, reader, opened(tmp_path / "c")):
        assert cache.missing(KEYS) == KEYS[2:]
        assert_equal(cache.read([KEYS[1], KEYS[0]], CPU), Top(*(x[[5, 6, 0, 1, 2, 3, 4]] for x in words)))
    reader.add(KEYS, [5, 2, 3], said(10, seed=1))  # the first two are there
    assert writer.missing(KEYS) == []
    assert_equal(writer.read(KEYS[:2], CPU), words)
    assert_equal(writer.read(KEYS[2:], CPU), part(said(10, seed=1), 7, 10))
    assert sorted(path.name for path in (tmp_path / "c").glob("*.index")) == ["rank-0.index", "rank-1.index"]
    assert (tmp_path / "c" / "rank-1.words").stat().st_size == 3 * (4 * 4 + 3 * 4)


def test_runs_that_add_at_once_write_files_of_their_own(tmp_path):
    first, second = opened(tmp_path), opened(tmp_path)
    first.add(KEYS[:1], [2], said(2))
    second.add(KEYS[1:2], [3], said(3, seed=1))
    first.add(KEYS[2:], [1], said(1, seed=2))
    assert second.missing(KEYS) == []
    assert_equal(second.read(KEYS, CPU), Top(*map(torch.cat, zip(said(2), said(3, 1), said(1, 2), strict=True))))


@pytest.mark.parametrize("torn", ["line", "rows", "noise"])
def test_a_killed_run_leaves_a_cache_that_loses_its_last_entry_alone(tmp_path, torn):
    writer = opened(tmp_path)
    writer.add(KEYS[:2], [2, 3], said(5))
    del writer
    index, words = tmp_path / "rank-0.index", tmp_path / "rank-0.words"
    if torn == "line":
        os.truncate(index, index.stat().st_size - 1)
    elif torn == "rows":
        os.truncate(words, words.stat().st_size - 1)
    else:
        index.write_bytes(index.read_bytes()[: index.stat().st_size // 2] + b"\0" * 20 + b"\n")
    cache = opened(tmp_path)
    assert cache.missing(KEYS) == KEYS[1:]
    cache.add(KEYS[1:], [3, 1], said(4, seed=1))
    for reader in (cache, opened(tmp_path)):
        assert reader.missing(KEYS) == []
        expected = Top(*map(torch.cat, zip(part(said(5), 0, 2), said(4, seed=1), strict=True)))
        assert_equal(reader.read(KEYS, CPU), expected)


def test_rows_are_on_disk_before_the_line_that_names_them(tmp_path, monkeypatch):
    cache, order = opened(tmp_path), []
    original = os.fsync

    def fsync(number):
        sizes = [(tmp_path / f"rank-0.{name}").stat().st_size for name in ("words", "index")]
        order.append(sizes)
        original(number)

    monkeypatch.setattr(os, "fsync", fsync)
    cache.add(KEYS[:1], [2], said(2))
    assert order == [[2 * 28, 0]]
    assert (tmp_path / "rank-0.index").read_text() == f"{KEYS[0]} 0 2\n"


def test_a_file_larger_than_memory_is_mapped_and_not_read(tmp_path):
    cache, row = opened(tmp_path), 28
    first = 2**40 // row
    with (tmp_path / "rank-7.words").open("wb") as stream:
        stream.truncate(first * row)  # a terabyte of holes
        stream.seek(first * row)
        stream.write(np.array([(np.arange(4), np.arange(3))], cache.row).tobytes())
    (tmp_path / "rank-7.index").write_text(f"{KEYS[0]} {first} 1\n")
    assert cache.missing(KEYS[:1]) == []
    assert isinstance(cache.rows(KEYS[0]), np.memmap)
    assert_equal(cache.read(KEYS[:1], CPU), Top(torch.tensor([[0.0, 1, 2, 3]]), torch.tensor([[0, 1, 2]])))


def test_another_teachers_cache_is_refused(tmp_path):
    opened(tmp_path, teacher="b" * 64)
    opened(tmp_path, teacher="b" * 64)
    with pytest.raises(ConfigError, match=r"objective.teacher_cache=.*another teacher.*teacher b{12}… \(this run's: a"):
        opened(tmp_path)
    with pytest.raises(ConfigError, match=r"another way: k 3 \(this run's: 4\); name another folder"):
        TeacherCache(tmp_path, HEADER | {"teacher": "b" * 64}, k=4, rank=0)
    (tmp_path / "header.json").write_text("{")
    with pytest.raises(ConfigError, match="teacher None"):
        opened(tmp_path, teacher="b" * 64)


def test_a_sample_has_one_key_alone_and_in_a_row_and_another_when_anything_of_it_differs(features, packed, batches):
    keys = sample_keys(packed, 2)
    assert keys == [sample_keys(batch, 2)[0] for batch in batches] and len(set(keys)) == len(keys)
    assert sample_keys(collate(features[::-1]), 2) == keys[::-1]
    assert sum(label_counts(packed)) == int((packed["label_kinds"] > 0).sum())
    assert label_counts(packed) == [label_counts(batch)[0] for batch in batches]
    places = {"input_ids": (0, 5), "label_kinds": (0, 5), "position_ids": (1, 0, 5), "pixel_values": (0, 0)}
    for name, place in places.items():
        changed = {**packed, name: packed[name].clone()}
        changed[name][place] += 1
        assert [one == other for one, other in zip(sample_keys(changed, 2), keys, strict=True)] == [False] + [True] * 4
    turned = {**packed, "image_grid_thw": packed["image_grid_thw"].clone()}
    turned["image_grid_thw"][0] = turned["image_grid_thw"][0, [0, 2, 1]]
    assert (sample_keys(turned, 2)[0] == keys[0]) == (packed["image_grid_thw"][0, 1] == packed["image_grid_thw"][0, 2])


def test_text_alone_has_keys_too(make_datamodule, make_data, conversations):
    data = make_data(train={"text": str(conversations / "text.jsonl")}, sampling="dense")
    dataset = make_datamodule(data=data).train_dataset()
    samples = [dataset[(0, index)] for index in (0, 1)]
    assert sample_keys(collate(samples), 2) == [sample_keys(collate([sample]), 2)[0] for sample in samples]


class Calls:
    """How often a module's forward ran."""

    def __init__(self, module):
        self.count = 0
        module.register_forward_hook(self.add)

    def add(self, *_):
        self.count += 1


def gkd(**changes) -> GKD:
    values = choice("objective/gkd_forward_only.yaml") | {"top_k": 5}
    if "visual_kd" in changes:
        changes["visual_kd"] = values["visual_kd"] | {"enabled": True}
    return GKD(**values | changes)


@pytest.fixture
def make(make_module, lora):
    """``make(**settings)``: a built module that is away from its teacher, always by the same."""

    def build(tuner="lora", model=None, **settings):
        module = make_module(objective=gkd(**settings), tuner=lora() if tuner == "lora" else None, model=model)
        module.configure_model()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for _, parameter in sorted(module.built.named_parameters()):
                if parameter.requires_grad:
                    parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        return module

    return build


@pytest.fixture
def other(small_model, processing, tmp_path):
    """The folder of another model, whose head is padded to more rows."""
    model = small_model(seed=5).load_model()
    model.resize_token_embeddings(model.config.text_config.vocab_size + 8)
    model.save_pretrained(tmp_path / "other")
    processing.save(tmp_path / "other")
    return tmp_path / "other"


def learned(module, batch) -> dict[str, torch.Tensor]:
    """Sums and gradients."""
    module.zero_grad()
    sums = module.losses(batch)
    sum(sums[name] for name in ("llm_kd_sum", "vision_kd_sum") if name in sums).backward()
    grads = {name: p.grad.clone() for name, p in module.built.named_parameters() if p.grad is not None}
    return {name: value.detach() for name, value in sums.items()} | grads


@pytest.mark.parametrize("visual", [False, True])
@pytest.mark.parametrize("tuner", ["lora", "full"])
def test_with_a_full_cache_losses_and_gradients_are_those_without(make, packed, tmp_path, tuner, visual):
    more = {"visual_kd": {}} if visual else {}
    plain = learned(make(tuner, **more), packed)
    module = make(tuner, teacher_cache=str(tmp_path / "c"), **more)
    reads, blocks = Calls(unwrap(module.teacher.model).model.language_model), unwrap(module.teacher.model).model.visual
    looks = Calls(blocks)
    shared = module.teacher.model is module.built
    asked = learned(module, packed)
    assert (reads.count, looks.count) == ((2, 2) if shared else (1, 1))
    recalled = learned(module, packed)
    assert (reads.count, looks.count) == ((3, 3 + visual) if shared else (1, 1 + visual))
    assert plain["llm_kd_sum"] > 0.01
    for name, value in plain.items():
        torch.testing.assert_close(asked[name], value, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(recalled[name], value, rtol=1e-6, atol=1e-6)


def test_samples_are_recalled_in_other_rows_and_one_that_is_new_has_all_of_its_row_asked(
    make, features, batches, tmp_path
):
    module = make("full", teacher_cache=str(tmp_path / "c"))
    reads = Calls(unwrap(module.teacher.model).model.language_model)
    for batch in batches[:3]:
        module.losses(batch)
    assert reads.count == 3
    together = module.losses(collate(features[:3][::-1]))
    assert reads.count == 3
    alone = sum(module.losses(batch)["llm_kd_sum"] for batch in batches[:3])
    assert together["llm_kd_sum"].item() == pytest.approx(alone.item(), rel=1e-4)
    module.losses(collate(features[2:4]))
    assert reads.count == 4
    lines = (tmp_path / "c" / "rank-0.index").read_text().splitlines()
    assert [line.split()[0] for line in lines] == [sample_keys(batch, 2)[0] for batch in batches[:4]]


def test_a_teacher_at_a_path_is_loaded_once_something_is_missing(make, packed, batches, other, tmp_path):
    plain = make(teacher=str(other)).losses(packed)
    settings = {"teacher": str(other), "teacher_cache": str(tmp_path / "c")}
    first = make(**settings)
    assert first.teacher is None
    torch.testing.assert_close(first.losses(packed), plain)
    assert first.teacher is not None
    again = make(**settings)
    torch.testing.assert_close(again.losses(packed), plain)
    again.losses(batches[0])
    assert again.teacher is None
    with_features = make(**settings, visual_kd={})
    assert with_features.teacher is not None


def test_a_teacher_first_asked_in_validation_is_of_use_in_training(make, packed, batches, other, tmp_path):
    module = make(teacher=str(other), teacher_cache=str(tmp_path / "c"), eval_kd=True)
    with torch.inference_mode():
        module.eval().losses(batches[0])
    assert module.teacher is not None
    found = learned(module.train(), packed)
    torch.testing.assert_close(found, learned(make(teacher=str(other)), packed))


def test_heads_padded_to_different_numbers_of_rows_are_compared_where_both_have_them(
    make, small_model, processing, packed, other, tmp_path
):
    small_model().load_model().save_pretrained(tmp_path / "one")
    processing.save(tmp_path / "one")
    for student, teacher in (("one", "other"), ("other", "one")):
        model = ModelSpec(**choice("model/tiny.yaml") | {"path": str(tmp_path / student), "min_cells": 1})
        settings = {"model": model, "teacher": str(tmp_path / teacher)}
        whole = make(**settings, top_k=None).losses(packed)["llm_kd_sum"].item()
        for _ in range(2):  # filled, and recalled
            module = make(**settings, top_k=9999, teacher_cache=str(tmp_path / f"of-{teacher}"))
            assert module.losses(packed)["llm_kd_sum"].item() == pytest.approx(whole, rel=1e-4)
        assert module.teacher is None


def test_a_cache_of_other_weights_is_refused_and_of_the_same_ones_taken_by_every_tuner(make, packed, other, tmp_path):
    cache = {"teacher_cache": str(tmp_path / "c")}
    make("lora", **cache).losses(packed)
    full = make("full", **cache)
    reads = Calls(unwrap(full.teacher.model).model.language_model)
    full.losses(packed)
    assert reads.count == 0
    for changes in ({"teacher": str(other)}, {"kd_temperature": 2.0}, {"top_k": 6}):
        with pytest.raises(ConfigError, match="holds what was said by another teacher or in another way"):
            make("lora", **cache, **changes).on_fit_start()


def test_validation_recalls_too(make, packed, tmp_path):
    module = make("full", teacher_cache=str(tmp_path / "c"), eval_kd=True)
    found = module.losses(packed)
    reads = Calls(unwrap(module.teacher.model).model.language_model)
    with torch.inference_mode():
        torch.testing.assert_close(module.eval().losses(packed)["llm_kd_sum"], found["llm_kd_sum"].detach())
    assert reads.count == 0


@pytest.mark.parametrize("changes", [{"top_k": None}, {"lmbda": 0.5}, {"seq_kd": True}])
def test_a_cache_without_top_k_or_for_drawn_answers_is_refused(changes):
    with pytest.raises(
        ConfigError, match="it keeps the teacher's top_k tokens for the data's own answers; found top_k="
    ):
        gkd(teacher_cache="c", **changes)


def test_fewer_tokens_make_a_smaller_divergence(make, packed):
    values = [make(top_k=k).losses(packed)["llm_kd_sum"].item() for k in (1, 20, 10**6, None)]
    assert values[0] < values[1] < values[2]
    assert values[2] == pytest.approx(values[3], rel=1e-4)


@pytest.fixture
def train(make_module, make_datamodule, make_data, make_trainer, lora, descent, tmp_path):
    """``train(name, …)``: how often a language model read in two epochs of two steps, over four records."""

    def run(name, *, steps=-1, resume=None, **settings):
        data = make_data(
            train={"en": make_data.source("en.jsonl")}, val=None, sample_limit=4, batch_size=2, sampling="dense"
        )
        module = make_module(objective=gkd(**settings), tuner=lora(init="random"), **descent(0.05))
        module.configure_model()
        reads = Calls(unwrap(module.teacher.model).model.language_model)
        saving = HFCheckpoint(dirpath=str(tmp_path / name / "checkpoints"), every_n_train_steps=1, keep_last=9)
        changes = {"max_epochs": 2, "max_steps": steps, "enable_checkpointing": True, "callbacks": [saving]}
        trainer = make_trainer(tmp_path / name, gradient_clip_val=None, **changes)
        state = str(tmp_path / resume / TRAINER_STATE) if resume else None
        trainer.fit(module, make_datamodule(data=data), ckpt_path=state, weights_only=True if resume else None)
        return reads.count

    return run


@pytest.fixture
def assert_same_steps(logged, tmp_path):
    """``assert_same_steps(one, other)``: what two runs logged is equal; one that goes on has the earlier rows too."""

    def check(one, other):
        for key in ("loss", "llm_kd_loss", "grad_norm"):
            expected, found = (logged(f"train/{key}", tmp_path / run) for run in (one, other))
            assert len(expected) == 4 and found == pytest.approx(expected, rel=1e-5), key

    return check


def test_the_second_epoch_and_the_next_run_ask_nothing_and_have_the_same_losses(train, assert_same_steps, tmp_path):
    cache = str(tmp_path / "c")
    assert train("plain") == 4 + 4  # the student is its own teacher: both read in each step
    assert train("filling", teacher_cache=cache) == 4 + 2
    assert train("recalling", teacher_cache=cache) == 4
    for name in ("filling", "recalling"):
        assert_same_steps("plain", name)


def test_a_killed_run_goes_on_with_the_same_losses(train, assert_same_steps, tmp_path):
    train("whole", teacher_cache=str(tmp_path / "a"))
    cache = tmp_path / "b"
    assert train("killed", teacher_cache=str(cache), steps=1) == 2
    os.truncate(cache / "rank-0.index", (cache / "rank-0.index").stat().st_size - 3)
    assert train("resumed", teacher_cache=str(cache), resume="killed/checkpoints/step-1") <= 3 + 2
    assert_same_steps("whole", "resumed")
    assert train("again", teacher_cache=str(cache)) == 4
