"""Where the parts of a scene lie: shapes on a lattice, clear of one another.

Coordinates are whole numbers of 1/100 of the side (2 px of a 200-px photo), so every norm1000 coordinate is a multiple
of 10. A model that sees 128 px through 16 visual tokens cannot tell 1/1000 of the side: a third digit would be
noise in its targets, a loss that no training lowers.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from qcvl.data.scenes.words import ATTRIBUTES, Noun
from qcvl.geometry.norm import canonical
from qcvl.geometry.shapes import Shape

LATTICE = 100  # cells a side
GROUP = 4  # photos a group
BORDER = 2  # cells kept free along the frame
GAP = 3  # cells kept free around every part
TRIES = 40  # proposals for one part before the scene goes without it
NOUN_SHARES: dict[Noun, float] = {"plate": 0.36, "label": 0.24, "cable": 0.2, "screw": 0.2}


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a scene: a noun, its attribute and its shape in lattice cells (0 to 100)."""

    noun: Noun
    attribute: str
    shape: Shape


def group_defects(seed: int, group: int) -> frozenset[int]:
    """Which of the four photos of a group show a defect: none in half of the groups, else one to three."""
    rng = np.random.default_rng([seed, group, 1])
    if rng.random() < 0.5:
        return frozenset()
    return frozenset(rng.permutation(GROUP)[: rng.integers(1, GROUP)].tolist())


def lay_out(rng: np.random.Generator, defective: bool) -> list[Part]:
    """One to four parts that keep ``GAP`` cells between them; a defective scene has one or two defects among them."""
    nouns = _choose_nouns(rng, defective)
    taken = np.zeros((LATTICE, LATTICE), np.uint8)
    parts = []
    for noun in nouns:
        part = _place(rng, noun, taken)
        if part is not None:
            parts.append(part)
    return parts


def _choose_nouns(rng: np.random.Generator, defective: bool) -> list[Noun]:
    count = int(rng.choice(4, p=[0.2, 0.3, 0.3, 0.2])) + 1
    defects = min(count, 1 + int(rng.random() < 0.3)) if defective else 0
    names: list[Noun] = list(NOUN_SHARES)
    others = rng.choice(len(names), size=count - defects, p=list(NOUN_SHARES.values()))
    nouns = sorted((names[index] for index in others), key=lambda noun: noun != "cable")
    # Defects come first, they must fit (the group's label depends on them); then cables, which need the most room.
    return [*("defect" for _ in range(defects)), *nouns]


def _place(rng: np.random.Generator, noun: Noun, taken: np.ndarray) -> Part | None:
    """A part of this noun on free cells (then marked in ``taken``), or None when ``TRIES`` proposals did not fit."""
    words = ATTRIBUTES[noun]
    attribute = words[rng.integers(len(words))]
    for _ in range(TRIES):
        shape = PROPOSALS[noun](rng)
        if shape is None or (_footprint(shape, 0) & taken).any():
            continue
        np.bitwise_or(taken, _footprint(shape, GAP), out=taken)
        return Part(noun, attribute, shape)
    return None


def _footprint(shape: Shape, gap: int) -> np.ndarray:
    """Cells under a shape grown by ``gap`` cells, uint8 ``[100, 100]``; a line is three cells wide."""
    mask = np.zeros((LATTICE, LATTICE), np.uint8)
    points = [shape.outline.astype(np.int32)]
    closed = shape.kind != "line"
    if closed:
        cv2.fillPoly(mask, points, 1)
    cv2.polylines(mask, points, closed, 1, thickness=2 * gap + (1 if closed else 3))
    return mask


def _box(rng: np.random.Generator, width: int, height: int) -> Shape:
    x, y = (int(rng.integers(BORDER, LATTICE - BORDER - side + 1)) for side in (width, height))
    return Shape("bbox_2d", np.array([[x, y], [x + width, y + height]]))


def _plate(rng: np.random.Generator) -> Shape:
    sides = int(rng.integers(22, 46)), int(rng.integers(18, 33))
    return _box(rng, *(sides if rng.random() < 0.7 else sides[::-1]))


def _screw(rng: np.random.Generator) -> Shape:
    side = int(rng.integers(16, 21))
    return _box(rng, side, side)


def _defect(rng: np.random.Generator) -> Shape:
    return _box(rng, int(rng.integers(20, 36)), int(rng.integers(18, 31)))


def _label(rng: np.random.Generator) -> Shape | None:
    """A rectangle tilted by 8 to 35 degrees either way, its vertices rounded to the lattice."""
    half = np.array([rng.uniform(26, 43), rng.uniform(19, 25)]) / 2
    angle = np.radians(rng.uniform(8, 35)) * rng.choice([-1, 1])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half @ turn.T
    points = np.round(corners + rng.uniform(20, 80, size=2))
    return canonical(Shape("quad", points)) if _inside(points) else None


def _cable(rng: np.random.Generator) -> Shape | None:
    """Three points, seldom four (those rarely fit the frame), 22 to 38 cells apart, bending by 15 to 65 degrees."""
    segments = 3 if rng.random() < 1 / 7 else 2
    bends = rng.uniform(15, 65, size=segments) * rng.choice([-1, 1], size=segments)
    headings = np.radians(rng.uniform(-80, 80) + np.cumsum(bends))
    steps = rng.uniform(22, 38, size=segments)[:, None] * np.stack([np.cos(headings), np.sin(headings)], axis=1)
    start = rng.uniform(BORDER, LATTICE - BORDER, size=2)
    points = np.round(np.vstack([start, start + np.cumsum(steps, axis=0)]))
    return canonical(Shape("line", points)) if _inside(points) else None


def _inside(points: np.ndarray) -> bool:
    return bool(points.min() >= BORDER and points.max() <= LATTICE - BORDER)


PROPOSALS: dict[Noun, Callable[[np.random.Generator], Shape | None]] = {
    "plate": _plate,
    "label": _label,
    "cable": _cable,
    "screw": _screw,
    "defect": _defect,
}
