"""Objects in a small window of a large photo, by shapely and plain numbers: skipping far ones changes nothing."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from qcvl.augment.actions import Reframe
from qcvl.geometry.shapes import Shape
from qcvl.schema.types import Annotation, Sample
from tests.augment.ops import compose

SIDE, SIZE = 400, 64
PIXELS = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


class Window:
    """A crop of ``SIZE`` pixels at a given place."""

    def __init__(self, x, y, least):
        self.x, self.y, self.least = x, y, least

    def draw(self, view, rng):
        window = (float(self.x), float(self.y), float(self.x + SIZE), float(self.y + SIZE))
        return Reframe(window=window, width=SIZE, height=SIZE, min_coverage=self.least)


def shapes():
    """Boxes, turned quads, concave polygons and polylines of 10 to 90 pixels anywhere in the photo."""
    place, length = st.floats(45, SIDE - 45), st.floats(5, 45)
    ring = st.tuples(st.sampled_from(["bbox_2d", "quad", "poly", "line"]), place, place, length, st.floats(0, 6))

    def build(values):
        kind, x, y, radius, turn = values
        if kind == "bbox_2d":
            return Shape(kind, [x - radius, y - radius / 2, x + radius, y + radius / 2])
        count, radii = {"quad": (4, 1), "poly": (8, 2), "line": (5, 1)}[kind]
        angles = turn + np.arange(count) * 2 * np.pi / count
        lengths = np.where(np.arange(count) % radii == 0, radius, 0.6 * radius)
        return Shape(kind, np.stack([x + lengths * np.cos(angles), y + lengths * np.sin(angles)], axis=1))

    return st.lists(ring.map(build), max_size=12)


def measure(shape, frame):
    """Area (length of a line) of a shape inside a frame, by shapely."""
    whole = shapely.LineString(shape.points) if shape.kind == "line" else shapely.Polygon(shape.outline)
    part = whole.intersection(frame)
    return part.length if shape.kind == "line" else part.area


@settings(max_examples=60)
@given(
    shapes=shapes(),
    x=st.integers(0, SIDE - SIZE),
    y=st.integers(0, SIDE - SIZE),
    least=st.sampled_from([0.0, 0.3, 0.5]),
)
def test_what_is_left_of_each_object_is_its_intersection_with_the_window(shapes, x, y, least):
    notes = tuple(Annotation(shape, str(index)) for index, shape in enumerate(shapes))
    pipeline = compose(ops={"crop": Window(x, y, least)}, min_coverage=0.9)
    out = pipeline(Sample(images=(PIXELS,), annotations=notes, task="dense"), (0, 0, 0))
    assert np.array_equal(out.images[0], PIXELS[y : y + SIZE, x : x + SIZE])
    frame, everywhere = shapely.box(x, y, x + SIZE, y + SIZE), shapely.box(0, 0, SIDE, SIDE)
    shares = {index: measure(shape, frame) / measure(shape, everywhere) for index, shape in enumerate(shapes)}
    clear = {index: share for index, share in shares.items() if abs(share - least) > 1e-6}  # none on the threshold
    expected = {index for index, share in clear.items() if share > least}
    assert {index for index in out.kept_indices if index in clear} == expected
    here = shapely.box(0, 0, SIZE, SIZE)
    for index, share, note in zip(out.kept_indices, out.coverages, out.annotations, strict=True):
        assert share == pytest.approx(shares[index], abs=1e-9)
        assert note.desc == str(index)
        if note.shape.kind == "bbox_2d":
            moved = shapes[index].points - (x, y)
            np.testing.assert_allclose(note.shape.points, np.clip(moved, 0, SIZE), atol=1e-9)
        if shares[index] > 1 - 1e-9:
            assert measure(note.shape, here) == pytest.approx(measure(shapes[index], everywhere))
    sums = out.telemetry
    assert sums["crop/shown"] == len(shapes)
    assert sums["crop/coverage"] == pytest.approx(sum(shares[index] for index in set(out.kept_indices)), abs=1e-6)
