"""Rows that several ranks hold give each rank its part of what the whole row gives, and gradients that add up."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from qcvl.errors import ConfigError
from qcvl.models.attention import segment_attention
from qcvl.models.sequence import (
    RowShare,
    SequenceGroup,
    deal_frames,
    exchange,
    require_heads,
    share_width,
    summed,
    to_heads,
    to_places,
    to_tokens,
)

LENGTHS = (5, 1, 3, 2)  # 11 tokens: neither 2 nor 4 ranks divide them
HEADS, KEY_HEADS, WIDTH = 8, 2, 4


def together(work, ranks: int, folder: Path) -> list:
    """What ``work(group)`` returns on each of ``ranks`` processes that join one group over gloo."""
    mp.start_processes(_one, (work, ranks, folder), nprocs=ranks, start_method="fork")
    return [torch.load(folder / f"{rank}.pt") for rank in range(ranks)]


def _one(rank: int, work, ranks: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    torch.save(work(SequenceGroup.join(ranks)), folder / f"{rank}.pt")
    dist.destroy_process_group()


def row(heads: int, seed: int) -> torch.Tensor:
    return torch.randn(1, heads, sum(LENGTHS), WIDTH, generator=torch.Generator().manual_seed(seed))


def heads_of_a_row() -> list[torch.Tensor]:
    return [row(heads, seed).requires_grad_() for seed, heads in enumerate((HEADS, KEY_HEADS, KEY_HEADS))]


def weighed(out: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """A sum that tells every number of ``[1, tokens, H, D]`` apart."""
    weights = row(HEADS, 9).transpose(1, 2)[:, start:stop]
    return (out[:, : stop - start] * weights).sum()


OPTIONS = {"causal": True, "scaling": None, "dropout": 0.0}


def attend(group: SequenceGroup) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """This rank's part of the outputs, and the gradients of its part of a sum over all of them."""
    length, width = sum(LENGTHS), share_width(sum(LENGTHS), group.size)
    start, stop = group.rank * width, min((group.rank + 1) * width, length)
    share = RowShare(group, length, slice(start, stop), (), ())
    inputs = heads_of_a_row()
    padding = (0, 0, 0, group.size * width - length)
    parts = [torch.nn.functional.pad(one, padding)[:, :, start : start + width] for one in inputs]
    out = to_tokens(segment_attention(*to_heads(*parts, share), LENGTHS, **OPTIONS), share)
    weighed(out, start, stop).backward()
    return out[:, : stop - start].detach(), [one.grad for one in inputs]


@pytest.mark.parametrize("ranks", [2, 4])  # 4 ranks repeat the 2 key heads
def test_attention_over_parts_of_a_row_is_that_of_the_whole_and_gradients_add_up(tmp_path, ranks):
    inputs = heads_of_a_row()
    expected = segment_attention(*inputs, LENGTHS, **OPTIONS)
    weighed(expected, 0, sum(LENGTHS)).backward()
    found = together(attend, ranks, tmp_path)
    torch.testing.assert_close(torch.cat([out for out, _ in found], dim=1), expected.detach())
    for place, whole in enumerate(inputs):
        torch.testing.assert_close(sum(gradients[place] for _, gradients in found), whole.grad)


def trade(group: SequenceGroup) -> dict[str, torch.Tensor]:
    blocks = (torch.arange(group.size) + 10 * group.rank).double().requires_grad_()
    traded = exchange(blocks, group)
    (traded * torch.tensor([1.0, 3.0])).sum().backward()
    part = torch.tensor(2.0 + group.rank, requires_grad=True)
    total = summed(part, group)
    ((group.rank + 1) * total**2).backward()
    back = exchange(traded, group)
    return {
        "traded": traded.detach(),
        "back": back.detach(),
        "grad": blocks.grad,
        "total": total.detach(),
        "dtotal": part.grad,
    }


def test_blocks_go_to_their_ranks_and_gradients_come_back(tmp_path):
    first, second = together(trade, 2, tmp_path)
    assert first["traded"].tolist() == [0, 10] and second["traded"].tolist() == [1, 11]
    assert first["back"].tolist() == [0, 1] and second["back"].tolist() == [10, 11]
    # What a rank kept for itself it weighed by its own place, what it gave away was weighed by its place over there.
    assert first["grad"].tolist() == [1, 1] and second["grad"].tolist() == [3, 3]
    assert first["total"] == second["total"] == 5
    assert first["dtotal"] == second["dtotal"] == 10 + 20  # of 1 * total**2 here and 2 * total**2 there


@pytest.mark.parametrize(
    ("grids", "ranks", "expected"),
    [
        ([[1, 4, 4], [1, 4, 4], [1, 4, 4]], 3, [[[1, 4, 4]]] * 3),
        ([[5, 4, 4], [1, 4, 8]], 2, [[[3, 4, 4]], [[2, 4, 4], [1, 4, 8]]]),  # the third frame is nearer to the first
        ([[1, 40, 40], [1, 4, 4], [1, 4, 4]], 2, [[[1, 40, 40]], [[1, 4, 4], [1, 4, 4]]]),
        ([[1, 4, 4]], 4, [[], [], [[1, 4, 4]], []]),
        ([], 2, [[], []]),
    ],
)
def test_neighbouring_frames_are_dealt_in_parts_of_about_equally_many_patches(grids, ranks, expected):
    parts = deal_frames(torch.tensor(grids, dtype=torch.long).view(-1, 3), ranks)
    assert [part.tolist() for part in parts] == expected


CELLS = ((0, 1), (1, 1), (1, 7))  # in each rank's part of a row; the second has none
SEEN = ((0, 3), (3, 6), (6, 7))


def bring(group: SequenceGroup) -> tuple[torch.Tensor, torch.Tensor]:
    cells, seen = (tuple(slice(*edges) for edges in of_ranks) for of_ranks in (CELLS, SEEN))
    share = RowShare(group, 20, slice(0, 0), cells, seen)
    own = torch.arange(14.0).view(7, 2)[seen[group.rank]].requires_grad_()
    part = to_places(own, share)
    (part * (group.rank + 1)).sum().backward()
    return part.detach(), own.grad


def test_visual_tokens_go_from_the_rank_that_looked_at_them_to_where_they_stand_and_gradients_back(tmp_path):
    found = together(bring, 3, tmp_path)
    row = torch.arange(14.0).view(7, 2)
    for (part, _), (start, stop) in zip(found, CELLS, strict=True):
        assert torch.equal(part, row[start:stop])
    gradients = torch.cat([gradient for _, gradient in found])
    assert gradients[:, 0].tolist() == [
        1,
        3,
        3,
        3,
        3,
        3,
        3,
    ]  # the first token is on the first rank, the rest on the last


@pytest.mark.parametrize(
    ("heads", "key_heads", "ranks", "fits"),
    [(32, 8, 8, True), (32, 8, 16, True), (32, 8, 3, False), (4, 2, 4, True), (4, 2, 8, False), (28, 4, 7, False)],
)
def test_ranks_divide_the_heads_and_divide_or_repeat_the_key_heads(heads, key_heads, ranks, fits):
    if fits:
        require_heads(heads, key_heads, ranks)
    else:
        with pytest.raises(ConfigError, match=f"^sp_degree: {ranks} ranks cannot share {heads} attention heads"):
            require_heads(heads, key_heads, ranks)


def test_a_wrong_degree_is_told_what_fits():
    with pytest.raises(ConfigError, match="this model takes 1, 2, 4, 8, 16, 32$"):
        require_heads(32, 8, 3)
