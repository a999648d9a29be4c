"""Batched generation: token by token what transformers writes for each request alone."""

import copy
from collections import Counter
from dataclasses import replace

import pytest
import torch

from qcvl.data.chat import ask, encode_question
from qcvl.data.media import patchify
from qcvl.inference import generate as generation
from qcvl.inference.generate import Sampler, generate
from qcvl.models.forward import normalised
from qcvl.models.pixels import to_patches
from qcvl.models.speed import takes_still_patches
from tests.conftest import photo

CPU = torch.device("cpu")
GREEDY = Sampler(temperature=0, top_p=1, device=CPU)
NEVER = -1  # no token has this id
LIMIT = 20


def alone(processing, request) -> dict[str, torch.Tensor]:
    """One request as transformers' own generate takes it, without padding."""
    patches, grids = patchify(request.images, processing)
    ids = torch.from_numpy(encode_question(processing, ask(request.prompt, len(request.images)), grids))[None]
    types = (ids == processing.image_pad).long()
    pixels = normalised(torch.from_numpy(patches), processing.family)
    media = {"pixel_values": pixels, "image_grid_thw": torch.from_numpy(grids)}
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": types, **media}


@pytest.fixture(scope="module")
def expected(plain, processing, requests):
    """What plain transformers writes greedily about each request, with no end in sight."""
    answers = []
    for request in requests:
        inputs = alone(processing, request)
        out = plain.generate(**inputs, max_new_tokens=LIMIT, do_sample=False, eos_token_id=NEVER, pad_token_id=0)
        answers.append(out[0, inputs["input_ids"].shape[1] :].tolist())
    return answers


@pytest.fixture(scope="module")
def end_id(expected):
    """A token that ends some rows early, one later, and not all: a forced end of turn."""
    counts = Counter(token for answer in expected for token in set(answer))
    firsts = {token: [answer.index(token) for answer in expected if token in answer] for token in counts}
    return max(firsts, key=lambda token: (len(firsts[token]) < len(expected), len(set(firsts[token]))))


def cut(answer: list[int], end: int) -> list[int]:
    """An answer through its first end token."""
    return answer[: answer.index(end) + 1] if end in answer else answer


def write(model, make_predictor, requests, end: int, limits=None, sampler=GREEDY, together=99) -> list[list[int]]:
    parts = make_predictor()._parts(requests, together)
    with torch.inference_mode():
        return [row.ids for row in generate(model, parts, limits or [LIMIT] * len(requests), end, sampler)]


def test_the_answers_to_compare_with_are_varied(expected, end_id):
    assert len({tuple(answer) for answer in expected}) == len(expected)
    assert min(len(set(answer)) for answer in expected) > 3
    lengths = [len(cut(answer, end_id)) for answer in expected]
    assert len(set(lengths)) >= 3 and max(lengths) == LIMIT


def test_a_batch_of_unequal_requests_gives_what_transformers_writes_for_each_alone(
    model, make_predictor, requests, expected
):
    assert write(model, make_predictor, requests, NEVER) == expected


@pytest.mark.parametrize("together", [1, 2, 4])
def test_prompts_read_part_by_part_are_continued_as_those_read_at_once(
    model, make_predictor, requests, expected, together
):
    assert write(model, make_predictor, requests, NEVER, together=together) == expected


def test_a_request_alone_gives_the_same_as_in_the_batch(model, make_predictor, requests, expected):
    assert [write(model, make_predictor, [request], NEVER)[0] for request in requests] == expected


def test_rows_end_at_their_own_end_token_and_leave_without_changing_the_others(
    model, make_predictor, requests, expected, end_id, monkeypatch
):
    wanted = [cut(answer, end_id) for answer in expected]
    sizes = []
    handle = model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    try:
        assert write(model, make_predictor, requests, end_id) == wanted
        alive = [sum(len(answer) > step for answer in wanted) for step in range(LIMIT)]
        assert sizes == [size for size in alive if size]  # each step computes the unfinished rows only
        sizes.clear()
        monkeypatch.setattr(generation, "LEAVE_SHARE", 2)  # no row ever leaves
        assert write(model, make_predictor, requests, end_id) == wanted
        assert set(sizes) == {len(requests)}
    finally:
        handle.remove()


def test_each_row_has_its_own_limit(model, make_predictor, requests, expected):
    limits = [1, 7, 20, 3, 12]
    found = write(model, make_predictor, requests, NEVER, limits)
    assert found == [answer[:limit] for answer, limit in zip(expected, limits, strict=True)]


def test_a_row_that_may_write_nothing_writes_nothing(model, make_predictor, requests, expected):
    found = write(model, make_predictor, requests[:2], NEVER, [0, 4])
    assert found == [[], expected[1][:4]]


def test_an_adapter_writes_what_its_merged_weights_write(small_model, make_predictor, lora, requests, expected):
    torch.manual_seed(1)
    wrapped = lora().setup(small_model(init_std=0.3).load_model(), ["llm", "aligner"]).eval()
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    found = write(wrapped, make_predictor, requests, NEVER)
    assert found != expected
    assert write(wrapped.merge_and_unload(), make_predictor, requests, NEVER) == found


def test_drawn_answers_come_from_the_samplers_seed_and_leave_the_global_state_alone(model, make_predictor, requests):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (
        write(model, make_predictor, requests, NEVER, sampler=Sampler(2.0, 0.95, CPU, seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert first == again != other


def test_a_nearly_cold_sampler_is_greedy(model, make_predictor, requests, expected):
    sampler = Sampler(temperature=1e-4, top_p=1.0, device=CPU)
    assert write(model, make_predictor, requests, NEVER, sampler=sampler) == expected


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_draws_follow_the_tempered_probabilities(temperature):
    shares = torch.tensor([0.5, 0.3, 0.2])
    sampler = Sampler(temperature, top_p=1.0, device=CPU)
    draws = sampler.choose(shares.log().expand(20_000, 3))
    wanted = shares ** (1 / temperature) / (shares ** (1 / temperature)).sum()
    found = draws.bincount(minlength=3) / len(draws)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.015)  # about four standard deviations


def test_the_nucleus_is_the_fewest_tokens_that_hold_top_p():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(2000, 4)
    kept = {top_p: set(Sampler(1.0, top_p, CPU).choose(logits).tolist()) for top_p in (0.4, 0.7, 0.9, 0.96)}
    assert kept == {0.4: {0}, 0.7: {0, 1}, 0.9: {0, 1, 2}, 0.96: {0, 1, 2, 3}}


@pytest.mark.parametrize("warns", [True, False])
def test_drawing_leaves_the_demand_for_determinism_as_it_was(warns):
    logits, seen = torch.zeros(1, 4), []
    sampler = Sampler(1.0, 0.9, torch.device("cpu"))
    sampler.warp.append(lambda ids, scores: seen.append(torch.are_deterministic_algorithms_enabled()) or scores)
    torch.use_deterministic_algorithms(True, warn_only=warns)
    try:
        sampler.choose(logits)
        assert seen == [False] and torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled() == warns
    finally:
        torch.use_deterministic_algorithms(False)


def test_the_predictors_batches_are_left_padded(make_predictor, processing, requests):
    (inputs,) = make_predictor()._parts(requests, len(requests))
    for row, request in enumerate(requests):
        ids = alone(processing, request)["input_ids"][0]
        assert torch.equal(inputs["input_ids"][row, -len(ids) :], ids)
        assert inputs["attention_mask"][row].tolist() == [0] * (inputs["input_ids"].shape[1] - len(ids)) + [1] * len(
            ids
        )


def test_batches_keep_the_order_and_the_texts_of_single_answers(make_predictor, requests):
    together = make_predictor().answer(requests)
    assert [make_predictor(batch_size=size).answer(requests) for size in (1, 2, 3)] == [together] * 3
    assert make_predictor().answer(requests[::-1]) == together[::-1]


def test_a_reply_counts_its_tokens_and_knows_whether_it_ended_by_itself(
    make_predictor, processing, requests, expected, end_id
):
    ending = replace(processing)
    vars(ending)["turn_end"] = end_id  # a token that these weights do write
    replies = make_predictor(processing=ending, max_new_tokens=LIMIT).answer(requests)
    for reply, answer in zip(replies, expected, strict=True):
        written = cut(answer, end_id)
        assert reply.finished == (written[-1] == end_id)
        assert reply.tokens == len(written) - reply.finished
        assert reply.text == processing.tokenizer.decode(written[: reply.tokens])
    assert {reply.finished for reply in replies} == {True, False}


def test_the_smaller_of_the_requests_and_the_runs_limit_holds(make_predictor, requests):
    some = [replace(request, max_new_tokens=limit) for request, limit in zip(requests, (3, 99, 1, 12, 5), strict=True)]
    assert [reply.tokens for reply in make_predictor(max_new_tokens=6).answer(some)] == [3, 6, 1, 6, 5]


@pytest.mark.parametrize("training", [True, False])
def test_answering_gives_the_model_back_in_the_mode_it_was_in(small_model, make_predictor, requests, training):
    model = small_model().load_model().train(training)
    make_predictor(model=model, max_new_tokens=2).answer(requests[:1])
    assert all(module.training == training for module in model.modules())


def test_no_request_has_no_reply(make_predictor):
    assert make_predictor().answer([]) == []


def test_the_size_the_model_sees_is_that_of_its_patches(make_predictor, processing):
    assert make_predictor().seen_size((600, 300)) == (160, 64)
    _, grids = patchify([torch.zeros(300, 600, 3, dtype=torch.uint8).numpy()], processing)
    assert (int(grids[0, 2]) * 16, int(grids[0, 1]) * 16) == (160, 64)


def test_each_object_of_a_dense_answer_has_a_score_and_a_summary_has_none(make_predictor, requests):
    dense, summary = make_predictor().answer([requests[0], replace(requests[0], task="summary")])
    assert dense.score_source == "token_probability" and dense.scores == ()  # a random model lists no objects
    assert (summary.text, summary.scores, summary.score_source) == (dense.text, None, "constant")


def test_a_still_images_rows_without_the_repetition_along_time_are_embedded_alike(model, processing):
    image = photo(96, 64, seed=1)
    (twice, grid), (once, same) = (to_patches(image, processing, still=still) for still in (False, True))
    assert grid == same and twice.shape[1] == 2 * once.shape[1]
    sides = processing.family.patch_size**2
    assert (twice.reshape(len(twice), 3, 2, sides) == once.reshape(len(once), 3, 1, sides)).all()
    embed = model.model.visual.patch_embed
    with torch.inference_mode():
        first, second = (embed(normalised(torch.from_numpy(rows), processing.family)) for rows in (once, twice))
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)


class Wrapped(torch.nn.Module):
    """A convolution as an adapter wraps it."""

    def __init__(self, base: torch.nn.Conv3d) -> None:
        super().__init__()
        self.base, self.weight = base, base.weight

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.base(values)


def test_another_patch_embedding_gets_whole_patches_and_an_adapted_one_repeats_them(
    model, plain, make_predictor, requests
):
    assert takes_still_patches(model) and not takes_still_patches(plain)
    adapted = copy.deepcopy(model)
    adapted.model.visual.patch_embed.proj = Wrapped(adapted.model.visual.patch_embed.proj)
    assert takes_still_patches(adapted)
    replies = [make_predictor(model=one).answer(requests) for one in (model, plain, adapted)]
    assert len({tuple(reply.text for reply in some) for some in replies}) == 1
