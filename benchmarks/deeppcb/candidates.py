"""Where a photo differs from its template: candidate places, and the windows around them that the network sees."""

from collections.abc import Sequence

import cv2
import numpy as np

from qcvl.schema.types import Annotation

MEDIAN = 5  # px: takes away edges that are one or two pixels off; 99 % of the defects still hold a candidate
CUT = 60  # grey levels of difference; the photos are almost black and white, so 30 to 90 find the same
MIN_AREA = 12  # px
PART = 32  # px: longer blobs (a defect grown together with a shifted edge) are cut into parts of at most this side
SIDE = 64  # px, of a window: nine defects in ten are not longer; 96 px took twice the time for a lower mAP
PADDING = 127  # beyond the border, in both channels: grey, no difference


def places(pixels: np.ndarray) -> np.ndarray:
    """``(x, y)`` of the candidates, int ``[N, 2]``, in a photo and its template (first two channels of ``pixels``)."""
    difference = cv2.medianBlur(cv2.absdiff(pixels[..., 0], pixels[..., 1]), MEDIAN)
    _, labels, blobs, _ = cv2.connectedComponentsWithStats((difference > CUT).astype(np.uint8), connectivity=8)
    y, x = np.nonzero(labels)
    left, top, width, height = blobs[labels[y, x], :4].T
    columns, rows = -(-width // PART), -(-height // PART)
    part = ((x - left) * columns // width, (y - top) * rows // height)
    _, index, area = np.unique(np.stack([labels[y, x], *part]), axis=1, return_inverse=True, return_counts=True)
    middles = np.stack([np.bincount(index.ravel(), weights=values, minlength=len(area)) for values in (x, y)], axis=1)
    return np.round((middles / area[:, None])[area >= MIN_AREA] + 0.5).astype(int)


def windows(pixels: np.ndarray, centres: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Photo and template around each centre, uint8 ``[N, 2, side, side]``."""
    half = side // 2
    frame = (half, half, half, half)
    planes = [cv2.copyMakeBorder(pixels[..., i], *frame, cv2.BORDER_CONSTANT, value=PADDING) for i in (0, 1)]
    padded = np.stack(planes)
    cuts = [padded[:, y : y + side, x : x + side] for x, y in centres]
    return np.stack(cuts) if cuts else np.empty((0, 2, side, side), np.uint8)


def targets(centres: np.ndarray, defects: Sequence[Annotation], classes: Sequence[str]) -> tuple[np.ndarray, ...]:
    """What each candidate is: class ``[N]`` (``len(classes)`` for background) and box ``[N, 4]`` seen from its centre.

    A candidate belongs to the defect whose box holds it, the one with the nearest middle where several do.
    """
    labels, offsets = np.full(len(centres), len(classes)), np.zeros((len(centres), 4), np.float32)
    if not defects:
        return labels, offsets
    boxes = np.array([defect.shape.bounds for defect in defects])
    for row, (x, y) in enumerate(centres):
        seen = boxes - (x, y, x, y)
        outside = (seen[:, :2] > 0).any(axis=1) | (seen[:, 2:] < 0).any(axis=1)
        distance = np.where(outside, np.inf, np.hypot(*(seen[:, :2] + seen[:, 2:]).T))
        nearest = int(distance.argmin())
        if not outside[nearest]:
            labels[row], offsets[row] = classes.index(defects[nearest].desc), seen[nearest]
    return labels, offsets
