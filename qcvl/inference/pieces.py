"""Polylines cut at the borders of windows, joined again where two pieces run along each other or meet."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import shapely
from shapely.ops import substring


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A polyline ``[N, 2]``, whether it is cut at its first and at its last point, and its confidence."""

    points: np.ndarray
    cut_start: bool
    cut_end: bool
    score: float = 0.0

    @property
    def length(self) -> float:
        """In pixels."""
        return float(np.hypot(*np.diff(self.points, axis=0).T).sum())

    def reversed(self) -> "Piece":
        """The same polyline from its other end."""
        return Piece(self.points[::-1], self.cut_end, self.cut_start, self.score)

    def scored(self, score: float) -> "Piece":
        """The same polyline with another confidence."""
        return replace(self, score=score)


class _Band(NamedTuple):
    piece: Piece
    area: shapely.Geometry


def joined(pieces: Sequence[Piece], radius: float) -> list[Piece]:
    """Fewer, longer pieces, the longest first: pieces that continue each other become one, pieces within one go.

    Two pieces continue each other when each is cut at an end that comes within ``radius`` px of the other.
    """
    waiting = sorted(pieces, key=lambda piece: -piece.length)
    found: list[Piece] = []
    while waiting:
        piece = waiting.pop(0)
        while (step := _grown(piece, waiting, radius)) is not None:
            index, piece = step
            del waiting[index]
        found.append(piece)
    return found


def _grown(piece: Piece, waiting: Sequence[Piece], radius: float) -> tuple[int, Piece] | None:
    """The first of ``waiting`` that lies within a piece or continues it, and what the two are together."""
    for index, other in enumerate(waiting):
        longer = piece if _within(other, piece, radius) else _continued(piece, other, radius)
        if longer is not None:
            return index, longer
    return None


def _within(piece: Piece, other: Piece, radius: float) -> bool:
    """True when all of a piece runs within ``radius`` px of the other."""
    band = shapely.buffer(shapely.linestrings(other.points), radius)
    return bool(shapely.contains_properly(band, shapely.linestrings(piece.points)))


def _continued(first: Piece, second: Piece, radius: float) -> Piece | None:
    """The two as one piece when one goes on where the other is cut, else None."""
    for a in (first, first.reversed()):
        for b in (second, second.reversed()):
            if a.cut_end and b.cut_start and (points := _chain(a.points, b.points, radius)) is not None:
                lengths = (a.length, b.length)
                score = float(np.average([a.score, b.score], weights=lengths)) if sum(lengths) else a.score
                return Piece(points, a.cut_start, b.cut_end, score)
    return None


def _chain(a: np.ndarray, b: np.ndarray, radius: float) -> np.ndarray | None:
    """Polyline ``a`` and what ``b`` adds after a's end; None where b does not run on from there."""
    line_a, line_b = shapely.linestrings(a), shapely.linestrings(b)
    end, start = shapely.points(a[-1]), shapely.points(b[0])
    if shapely.distance(end, line_b) > radius or shapely.distance(start, line_a) > radius:
        return None
    rest = substring(line_b, shapely.line_locate_point(line_b, end), line_b.length)
    if rest.geom_type != "LineString" or rest.length <= radius:
        return None
    added = shapely.get_coordinates(rest)[1:]
    # The cut end is a vertex of the window's making: it goes where the line runs straight on.
    straight = shapely.distance(end, shapely.linestrings([a[-2], added[0]])) <= radius / 2
    return np.concatenate([a[:-1] if straight else a, added])
