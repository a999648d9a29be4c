"""What augmentation did, as sums that add up over photos, batches and ranks, and the rates that logs show of them.

A pipeline counts ``<op>/applied``, ``<op>/skipped`` and ``<op>/<reason>``, at each cut how much of objects is left and
how much of the canvas is padding, and ``objects/<what happened>``. ``rates`` divides each by what it was counted over.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np

from qcvl.augment.actions import Reframe
from qcvl.augment.view import View
from qcvl.geometry.affine import transform_shape
from qcvl.geometry.overlap import coverage
from qcvl.geometry.shapes import Shape

Telemetry = defaultdict[str, float]
SEEN = "objects/seen"
CHANGED_DESCS = "relabel/changed_descs"
BASES = ("skipped", "shown", "cuts")  # counted for others to be divided by
SUMS = (*BASES, "seen", "coverage", "padding")  # of use in a rate alone


def count_cut(telemetry: Telemetry, name: str, view: View, barrier: Reframe, after: View) -> None:
    """Add one cut by the op ``name``: the shares of objects that show before and after it, and its canvas' padding."""
    telemetry[f"{name}/cuts"] += 1
    telemetry[f"{name}/padding"] += padding(view, barrier)
    telemetry[f"{name}/shown"] += sum(tracked.share for tracked in view.objects)
    telemetry[f"{name}/coverage"] += sum(tracked.share for tracked in after.objects)


def added(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The sum of some counts, name by name."""
    total: defaultdict[str, float] = defaultdict(float)
    for part in parts:
        for name, value in part.items():
            total[name] += value
    return dict(total)


def padding(view: View, barrier: Reframe) -> float:
    """Share 0..1 of the canvas behind ``barrier`` where the one before it does not show."""
    x1, y1, x2, y2 = visible = barrier.visible(view.width, view.height)
    whole = barrier.width * barrier.height
    matrix = barrier.matrix @ view.moves
    (a, b, right), (c, d, down), _ = matrix.tolist()
    if (b == c == 0) or (a == d == 0):  # the frame stays upright: plain numbers, as most windows are
        across, along = a * view.width + b * view.height, c * view.width + d * view.height
        left, top = right + min(across, 0.0), down + min(along, 0.0)
        sides = min(x2, left + abs(across)) - max(x1, left), min(y2, top + abs(along)) - max(y1, top)
        return 1.0 - max(sides[0], 0.0) * max(sides[1], 0.0) / whole
    frame = transform_shape(Shape("bbox_2d", np.array([[0, 0], [view.width, view.height]])), matrix)
    area = view.width * view.height * abs(float(np.linalg.det(matrix[:2, :2])))
    return max(0.0, 1.0 - coverage(frame, visible) * area / whole)


def rates(sums: Mapping[str, float]) -> dict[str, float]:
    """Means to log, ``augment/<op>/<what>``; counts without a base are left out.

    ``applied`` and each reason are a share of the times the op was asked, ``coverage`` of what showed of objects before
    its cuts, ``padding`` of the canvas it cut, ``objects/<what happened>`` and ``relabel/changed_descs`` of the objects
    seen. ``changed_texts`` is how many texts an op rewrote each time it was asked.
    """
    found = {}
    for key, value in sums.items():
        op, what = key.rsplit("/", 1)
        if what in BASES or key == SEEN:
            continue
        if op == "objects" or key == CHANGED_DESCS:
            base = sums.get(SEEN, 0)
        elif what in ("coverage", "padding"):
            base = sums[f"{op}/{'shown' if what == 'coverage' else 'cuts'}"]
        else:
            base = sums.get(f"{op}/applied", 0) + sums.get(f"{op}/skipped", 0)
        if base:
            found[f"augment/{key}"] = value / base
    return found
