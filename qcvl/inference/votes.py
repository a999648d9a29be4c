"""What many overlapping windows say of one photo, merged: duplicates become one object, windows that saw it vote."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qcvl.geometry.overlap import self_overlaps
from qcvl.geometry.shapes import Shape
from qcvl.inference.pieces import Piece, joined
from qcvl.inference.settings import Tiles
from qcvl.schema.types import Annotation

TOUCH_PX = 2.5  # an object that ends so near to an inner border of its window may go on behind it
SAME_SHARE = 0.6  # of the smaller of two shapes inside the other: a piece of it, if cut
MEAN_IOU = 0.5  # members below it are too unlike the best one to be averaged with it
LINE_RADIUS_PX = 4.0  # lines are compared as bands of twice that width


@dataclass(frozen=True, slots=True)
class Seen:
    """One object of a window's answer in pixels of the photo, in canonical form; ``look`` numbers the answer."""

    note: Annotation
    score: float
    look: int


class Ballot:
    """All that was seen of one kind (regions or lines) in one image, and how the windows lie in it.

    Args:
        seen: N objects.
        windows: float64 ``[looks, 4]``, the window (x1, y1, x2, y2) of each question.
        size: ``(width, height)`` of the photo.
        tiles: weight of cut objects, and how much overlap makes two one.
    """

    def __init__(self, seen: Sequence[Seen], windows: np.ndarray, size: tuple[int, int], tiles: Tiles) -> None:
        self.seen, self.windows, self.border_weight = seen, windows, tiles.border_weight
        far = np.array([np.inf, np.inf, *size])
        self.inner: np.ndarray = (windows > 0) & (windows < far)  # borders with more of the photo behind them
        self.shapes = [item.note.shape for item in seen]
        self.bounds = np.array([shape.bounds for shape in self.shapes])
        self.extents = (self.bounds[:, 2:] - self.bounds[:, :2]).sum(axis=1)
        self.looks = np.array([item.look for item in seen])
        self.cut = self._cut(self.looks, self.bounds)  # [N, 4]: which sides of each object may go on
        self.whole = self.cut.sum(axis=1) == 0
        self.weights = np.array([item.score for item in seen]) * np.where(self.whole, 1.0, tiles.border_weight)
        self.iou, share = self_overlaps(self.shapes, LINE_RADIUS_PX)
        # Only what is cut may be a piece of the other: a label on a cabinet lies in it too, and is no piece of it.
        pieces = (share > SAME_SHARE) & ~(self.whole[:, None] & self.whole[None])
        self.same = (self.iou > tiles.same_iou) | pieces

    def _cut(self, looks: np.ndarray, bounds: np.ndarray) -> np.ndarray:
        """Bool ``[K, 4]``: which sides of bounds the windows of K looks may cut, at borders within the photo."""
        room = (bounds - self.windows[looks]) * np.array([1, 1, -1, -1])
        return np.asarray(self.inner[looks] & (room <= TOUCH_PX))

    def clusters(self) -> list[np.ndarray]:
        """Indices of the members of each object, whatever they call it, the highest weight (the leader) first.

        What one answer lists are different objects: of each look a cluster has the one that fits its leader best.
        """
        order = np.lexsort((-self.extents, -self.weights))  # of equal weights the larger one leads
        free = np.ones(len(order), dtype=bool)
        found = []
        for leader in order:
            if free[leader]:
                fitting = np.flatnonzero(free & self.same[leader] & (self.looks != self.looks[leader]))
                fitting = fitting[np.argsort(-self.iou[leader, fitting], kind="stable")]
                others = fitting[np.unique(self.looks[fitting], return_index=True)[1]]
                members = np.array([leader, *others[np.argsort(-self.weights[others], kind="stable")]])
                free[members] = False
                found.append(members)
        return found

    def name(self, members: np.ndarray) -> str:
        """The desc with the largest sum of weights."""
        sums: dict[str, float] = defaultdict(float)
        for member in members:
            sums[self.seen[member].note.desc] += self.weights[member]
        return max(sums, key=sums.__getitem__)

    def confidence(self, members: np.ndarray, desc: str, shape: Shape) -> float:
        """Weights of those that say ``desc`` over the sum if all looks with the shape in their window did, at most 1.

        A shape that is whole in no window is expected, cut, of the looks that have its middle.
        """
        votes = sum(self.weights[member] for member in members if self.seen[member].note.desc == desc)
        bounds = np.array(shape.bounds)
        able = _holding(self.windows, bounds)
        if not len(able):
            able = _holding(self.windows, np.tile((bounds[:2] + bounds[2:]) / 2, 2))
        expected = np.where(self._cut(able, bounds).any(axis=1), self.border_weight, 1.0).sum()
        return float(min(votes / expected, 1.0)) if expected > 0 else 0.0

    def region(self, members: np.ndarray) -> Shape:
        """One shape of several: the weighted mean of the whole ones that look like the best of them.

        Without a whole one, a box takes each side from the members that are not cut there.
        """
        whole = members[self.whole[members]]
        if not len(whole):
            leader = self.shapes[members[0]]
            return self._box_of_pieces(members) if leader.kind == "bbox_2d" else leader
        best = self.shapes[whole[0]]
        like = [
            m for m in whole if m == whole[0] or (self.iou[whole[0], m] > MEAN_IOU and _alike(self.shapes[m], best))
        ]
        points = np.array([_aligned(self.shapes[m].points, best) for m in like])
        return Shape(best.kind, np.average(points, axis=0, weights=_positive(self.weights[like])))

    def _box_of_pieces(self, members: np.ndarray) -> Shape:
        """The box of which every member is a piece; a side at which all are cut lies at the outermost of them."""
        bounds, cut, weights = self.bounds[members], self.cut[members], _positive(self.weights[members])
        sides = np.concatenate([bounds[:, :2].min(axis=0), bounds[:, 2:].max(axis=0)])
        for side in range(4):
            ends = ~cut[:, side]
            if ends.any():
                sides[side] = np.average(bounds[ends, side], weights=weights[ends])
        low, high = sides[:2], sides[2:]
        return Shape("bbox_2d", np.stack([np.minimum(low, high), np.maximum(low, high)]))

    def line(self, members: np.ndarray) -> list[Piece]:
        """The best whole line, or the pieces joined where they meet."""
        whole = members[self.whole[members]]
        if len(whole):
            return [Piece(self.shapes[whole[0]].points, False, False)]
        return joined([self._piece(member) for member in members], LINE_RADIUS_PX)

    def _piece(self, member: int) -> Piece:
        points = self.shapes[member].points
        ends = np.tile(points[[0, -1]], 2)  # [2, 4]: x, y beside the x, y of both corners of the window
        start, end = self._cut(self.looks[[member, member]], ends)
        return Piece(points, bool(start.any()), bool(end.any()))


def merge(
    seen: Sequence[Seen], corners: Sequence[tuple[int, int]], size: tuple[int, int], tiles: Tiles
) -> tuple[list[Annotation], list[float]]:
    """The objects of a photo and their confidences 0..1, from what all looks at its windows saw.

    Objects of different answers are the same, whatever they are called, when they overlap (greedily, from the highest
    weight down): by IoU, or because one is a piece of the other, cut by a border. Lines compare with lines only, and
    their pieces are joined where they meet.

    Args:
        seen: what was seen, in pixels of the photo.
        corners: top left ``(x, y)`` of the window of each look.
        size: ``(width, height)`` of the photo.
        tiles: the windows' side, the weight of cut objects, and how much overlap makes two one.
    """
    notes: list[Annotation] = []
    scores: list[float] = []
    if not seen:
        return notes, scores
    windows = np.array([(x, y, x + tiles.size, y + tiles.size) for x, y in corners], dtype=np.float64)
    groups: dict[tuple[int, bool], list[Seen]] = defaultdict(list)
    for item in seen:
        groups[item.note.image, item.note.shape.kind == "line"].append(item)
    for (image, lines), group in groups.items():
        ballot = Ballot(group, windows, size, tiles)
        for shape, desc, score in _lines(ballot) if lines else _regions(ballot):
            notes.append(Annotation(shape, desc, image))
            scores.append(score)
    return notes, scores


def _regions(ballot: Ballot) -> list[tuple[Shape, str, float]]:
    found = []
    for members in ballot.clusters():
        shape, desc = ballot.region(members), ballot.name(members)
        found.append((shape, desc, ballot.confidence(members, desc, shape)))
    return found


def _lines(ballot: Ballot) -> list[tuple[Shape, str, float]]:
    """Lines of each desc, joined across windows; a joined line's confidence is its pieces' mean by length."""
    pieces: dict[str, list[Piece]] = defaultdict(list)
    for members in ballot.clusters():
        desc = ballot.name(members)
        for piece in ballot.line(members):
            score = ballot.confidence(members, desc, Shape("line", piece.points))
            pieces[desc].append(piece.scored(score))
    return [
        (Shape("line", piece.points), desc, piece.score)
        for desc, found in pieces.items()
        for piece in joined(found, LINE_RADIUS_PX)
    ]


def _holding(windows: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Indices of the windows ``[looks, 4]`` that hold bounds ``[4]`` whole."""
    return np.flatnonzero(((windows[:, :2] <= bounds[:2]) & (bounds[2:] <= windows[:, 2:])).all(axis=1))


def _alike(shape: Shape, other: Shape) -> bool:
    return shape.kind == other.kind and len(shape.points) == len(other.points)


def _aligned(points: np.ndarray, best: Shape) -> np.ndarray:
    """The ring ``points`` turned to start at the vertex that fits ``best``: near a tie canonical starts differ."""
    if best.kind == "bbox_2d":
        return points
    turns = [np.roll(points, -start, axis=0) for start in range(len(points))]
    return min(turns, key=lambda turn: float(((turn - best.points) ** 2).sum()))


def _positive(weights: np.ndarray) -> np.ndarray:
    """Weights to average with: equal ones where all are 0."""
    return weights if weights.sum() > 0 else np.ones_like(weights)
