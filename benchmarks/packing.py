"""Packs of 16,384 tokens on eight ranks, for three sets of lengths, beside a fixed number of samples in each row.

The sets are drawn from a fixed seed: photos and short chats (1:2), long records of several photos, and videos. Fill is
tokens over what the packs may hold, beside the fullest that as many packs as the tokens need could be; imbalance is how
much longer the slowest rank of a step takes than their mean, over an epoch, by the costs of ``qcvl.data.costs``.
``ratio`` is the time of the slowest ranks of the peer's plan over ours, the lowest of the sets.
"""

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from measure import median_seconds, report

from qcvl.data.costs import text_cost, visual_cost
from qcvl.data.packing import Plan, fixed_count
from qcvl.data.packs import Packing, Packs

CAPACITY, RANKS = 16384, 8
MERGED = 4  # patches of a visual token


class Lengths(NamedTuple):
    """Tokens int64 ``[n]`` and costs float64 ``[n]`` of the samples of a set."""

    tokens: np.ndarray
    costs: np.ndarray


def sized(text: np.ndarray, frames: np.ndarray, cells: np.ndarray) -> Lengths:
    """Samples of so many text tokens and frames (or photos) of so many visual tokens each."""
    tokens = text + frames * cells
    visual = [
        visual_cost(np.array([[count, 2, MERGED * each // 2]])) for count, each in zip(frames, cells, strict=True)
    ]
    return Lengths(tokens, text_cost(tokens) + np.array(visual))


def length_sets(scale: int) -> Iterator[tuple[str, Lengths]]:
    """The three sets by name; ``scale`` 1 is about 1,000 packs each."""
    rng = np.random.default_rng(0)
    photos, chats, long, videos = 8000 // scale, 16000 // scale, 4000 // scale, 6000 // scale
    sides = np.array([400, 1200, 2040])  # of 640x640, 1280x960 and 1920x1080 pixels
    yield (
        "photos and chats",
        sized(
            np.concatenate([rng.integers(60, 900, photos), 30 + rng.lognormal(5, 0.7, chats).astype(np.int64)]),
            np.concatenate([np.ones(photos, dtype=np.int64), np.zeros(chats, dtype=np.int64)]),
            np.concatenate([rng.choice(sides, photos), np.zeros(chats, dtype=np.int64)]),
        ),
    )
    yield "all long", sized(rng.integers(500, 2500, long), rng.integers(1, 4, long), rng.choice(sides[1:], long))
    yield "video", sized(rng.integers(60, 600, videos), rng.integers(4, 33, videos), rng.choice([96, 144, 196], videos))


def waits(plan: Plan, costs: np.ndarray) -> tuple[float, float]:
    """Costs of the slowest rank of each step and of the ranks' mean, summed over an epoch."""
    ranks = np.array([[costs[batch].sum() for batch in step] for step in plan])
    return float(ranks.max(axis=1).sum()), float(ranks.mean(axis=1).sum())


def fill_share(plan: Plan, tokens: np.ndarray) -> tuple[float, float]:
    """The share of the packs' room that is filled, and that share over the one of the fewest packs there could be."""
    packs, fewest = sum(map(len, plan)), -(-int(tokens.sum()) // CAPACITY)
    return float(tokens.sum()) / CAPACITY / packs, fewest / packs


def epoch(packs: Packs, lengths: Lengths) -> Plan:
    """The first epoch's plan."""
    rng = np.random.default_rng(1)
    return packs(*lengths, rng.permutation(len(lengths.tokens)), rng)


def main(arguments: Sequence[str] = ()) -> None:
    """Plan an epoch of each set; ``--quick`` takes a tenth of the samples and one repeat."""
    scale, repeats = (10, 1) if "--quick" in arguments else (1, 3)
    rows, numbers, ratios = {}, {}, []
    for name, lengths in length_sets(scale):
        falling = np.sort(lengths.tokens)[::-1]
        a_row = max(1, int(CAPACITY / lengths.tokens.mean()))
        counted = fixed_count(np.random.default_rng(1).permutation(len(falling)).tolist(), a_row, RANKS)
        for fit in ("best_fit", "first_fit"):
            packs = Packs(falling, Packing(fit, CAPACITY), RANKS)
            plan = epoch(packs, lengths)
            (seconds,) = median_seconds([partial(epoch, packs, lengths)], repeats)
            (share, of_best), (slowest, mean) = fill_share(plan, lengths.tokens), waits(plan, lengths.costs)
            rows[f"{name}, {fit}"] = (
                f"{len(falling)} samples in {sum(map(len, plan))} packs: fill {share:.4f}, {of_best:.4f} of the bound; "
                f"imbalance {slowest / mean - 1:.2%}; planned in {seconds:.2f} s"
            )
            if fit == "best_fit":
                key = name.replace(" ", "_")
                numbers |= {f"{key}_fill": of_best, f"{key}_imbalance": slowest / mean - 1}
                ratios.append(waits(counted, lengths.costs)[0] / slowest)
        slowest, mean = waits(counted, lengths.costs)
        rows[f"{name}, {a_row} samples a row"] = f"imbalance {slowest / mean - 1:.2%}"
    report("packing", rows, ratio=min(ratios), peer="a fixed number of samples in each row", **numbers)


if __name__ == "__main__":
    main(sys.argv[1:])
