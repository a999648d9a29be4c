"""How a part looks: one painter a noun, each filling exactly its shape.

Points are pixels with continuous edges; OpenCV's are pixel centres, half a pixel further (``_fixed`` converts).
"""

from collections.abc import Callable

import cv2
import numpy as np

from qcvl.data.scenes.layout import LATTICE, Part
from qcvl.data.scenes.surfaces import SIDE

CELL = SIDE // LATTICE  # pixels a lattice cell
CABLE_WIDTH = 7  # pixels; 4.5 px of the 128 that the tiny model sees

Colour = tuple[float, ...]  # red, green, blue: 0 to 255
COLOURS: dict[str, Colour] = {
    "red": (198, 48, 46),
    "blue": (38, 92, 198),
    "green": (44, 146, 76),
    "yellow": (236, 196, 36),
    "white": (246, 246, 242),
    "orange": (236, 126, 34),
    "steel": (152, 158, 166),
}
SHIFT = 4  # OpenCV takes points in 1/16 px


def paint_part(image: np.ndarray, part: Part, rng: np.random.Generator) -> None:
    """Draw one part over ``image`` (uint8 RGB ``[200, 200, 3]``, changed in place)."""
    PAINTERS[part.noun](image, part.shape.outline * CELL, part.attribute, rng)


def _fixed(points: np.ndarray) -> np.ndarray:
    return np.round((np.asarray(points) - 0.5) * (1 << SHIFT)).astype(np.int32)


def _fill(image: np.ndarray, points: np.ndarray, colour: Colour) -> None:
    cv2.fillPoly(image, [_fixed(points)], colour, cv2.LINE_AA, SHIFT)


def _stroke(image: np.ndarray, points: np.ndarray, colour: Colour, width: int, closed: bool = False) -> None:
    cv2.polylines(image, [_fixed(points)], closed, colour, width, cv2.LINE_AA, SHIFT)


def _disc(image: np.ndarray, centre: np.ndarray, radius: float, colour: Colour) -> None:
    cv2.circle(image, _fixed(centre).tolist(), round(radius * (1 << SHIFT)), colour, -1, cv2.LINE_AA, SHIFT)


def _jitter(colour: Colour, rng: np.random.Generator) -> Colour:
    shift = rng.uniform(-14, 14)
    return tuple(float(np.clip(value + shift + rng.uniform(-6, 6), 0, 255)) for value in colour)


def _shade(colour: Colour, factor: float) -> Colour:
    return tuple(min(255.0, value * factor) for value in colour)


def _on(corners: np.ndarray, u: float, v: float) -> np.ndarray:
    """The point at fractions ``u`` (first edge) and ``v`` (last edge) of a quadrilateral, ``[2]``."""
    top, bottom = (1 - u) * corners[0] + u * corners[1], (1 - u) * corners[3] + u * corners[2]
    return (1 - v) * top + v * bottom


def _inset(corners: np.ndarray, share: float) -> np.ndarray:
    near, far = share, 1 - share
    return np.array([_on(corners, u, v) for u, v in ((near, near), (far, near), (far, far), (near, far))])


def _plate(image: np.ndarray, corners: np.ndarray, attribute: str, rng: np.random.Generator) -> None:
    """A painted plate: dark rim, engraved frame, a title bar and two lines of text, rivet holes in the corners."""
    colour = _jitter(COLOURS[attribute], rng)
    _fill(image, corners, _shade(colour, 0.7))
    _fill(image, _inset(corners, 0.035), colour)
    _stroke(image, _inset(corners, 0.11), _shade(colour, 1.3), 1, closed=True)
    for corner in _inset(corners, 0.07):
        _disc(image, corner, 1.6, _shade(colour, 0.5))
    for row, v in enumerate((0.36, 0.54, 0.7)):
        line = np.array([_on(corners, 0.22, v), _on(corners, rng.uniform(0.5, 0.8), v)])
        _stroke(image, line, _shade(colour, 0.55 if row else 0.45), 1 if row else 3)


def _label(image: np.ndarray, corners: np.ndarray, attribute: str, rng: np.random.Generator) -> None:
    """A paper label: thin dark edge, a barcode on one half and text on the other."""
    colour = _jitter(COLOURS[attribute], rng)
    _fill(image, corners, _shade(colour, 0.55))
    _fill(image, _inset(corners, 0.03), colour)
    ink = (40.0, 40.0, 44.0)
    for u in np.linspace(0.14, 0.5, 6):
        _stroke(image, np.array([_on(corners, u, 0.24), _on(corners, u, 0.76)]), ink, int(rng.integers(1, 3)))
    for v in (0.3, 0.5, 0.7):
        _stroke(image, np.array([_on(corners, 0.6, v), _on(corners, rng.uniform(0.74, 0.88), v)]), ink, 1)


def _cable(image: np.ndarray, points: np.ndarray, attribute: str, rng: np.random.Generator) -> None:
    """A round cable: dark jacket edge, coloured body, a highlight; joints and ends are round."""
    colour = _jitter(COLOURS[attribute], rng)
    _stroke(image, points, _shade(colour, 0.5), CABLE_WIDTH)
    _stroke(image, points, colour, CABLE_WIDTH - 2)
    _stroke(image, points - 0.8, _shade(colour, 1.35), 1)


def _screw(image: np.ndarray, corners: np.ndarray, attribute: str, rng: np.random.Generator) -> None:
    """A cross-head screw seen from above; the washer touches all four sides of its box."""
    steel = _jitter(COLOURS[attribute], rng)
    centre, radius = corners.mean(axis=0), (corners[1, 0] - corners[0, 0]) / 2
    _disc(image, centre, radius - 0.5, _shade(steel, 0.45))
    _disc(image, centre, radius - 2, _shade(steel, 1.25))
    _disc(image, centre, 0.66 * radius, _shade(steel, 0.85))
    angle = rng.uniform(0, np.pi / 2)
    for turn in (angle, angle + np.pi / 2):
        arm = 0.45 * radius * np.array([np.cos(turn), np.sin(turn)])
        _stroke(image, np.array([centre - arm, centre + arm]), (34.0, 34.0, 38.0), 3)


def _defect(image: np.ndarray, corners: np.ndarray, attribute: str, rng: np.random.Generator) -> None:
    painter = _scratch if attribute == "scratch" else _burn
    painter(image, corners, rng)


def _scratch(image: np.ndarray, corners: np.ndarray, rng: np.random.Generator) -> None:
    """Three bright gouges with dark edges that run from side to side of the box along one diagonal."""
    flip = rng.random() < 0.5
    for start, end in (((0.03, 0.7), (0.7, 0.03)), ((0.03, 0.97), (0.97, 0.03)), ((0.3, 0.97), (0.97, 0.3))):
        middle = np.mean([start, end], axis=0) + rng.uniform(-0.05, 0.05, size=2)
        way = np.array([_on(corners, 1 - u if flip else u, v) for u, v in (start, middle, end)])
        _stroke(image, way, (52.0, 50.0, 50.0), 4)
        _stroke(image, way, (236.0, 238.0, 240.0), 2)


def _burn(image: np.ndarray, corners: np.ndarray, rng: np.random.Generator) -> None:
    """A scorch mark: a ragged brown ring around a black core, as wide and high as its box."""
    centre, half = corners.mean(axis=0), (corners[2] - corners[0]) / 2
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    # Full radius along the axes, ragged between them: the mark still touches all four sides.
    ragged = 1 - rng.uniform(0, 0.2, size=24) * (np.arange(24) % 6 != 0)
    rim = ragged[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    for scale, colour in ((0.97, (150.0, 96.0, 48.0)), (0.78, (86.0, 50.0, 30.0)), (0.52, (20.0, 16.0, 16.0))):
        _fill(image, centre + scale * rim * half, colour)


PAINTERS: dict[str, Callable[[np.ndarray, np.ndarray, str, np.random.Generator], None]] = {
    "plate": _plate,
    "label": _label,
    "cable": _cable,
    "screw": _screw,
    "defect": _defect,
}
