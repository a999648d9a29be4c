"""The geometry package as others see it: its names, its runnable examples, and what it does not import."""

import doctest
import importlib
import subprocess
import sys

import numpy as np
import pytest

import qcvl.geometry
from qcvl.geometry import Shape, as_points, as_shape

STABLE = (
    "apply_affine",
    "clip_polygon",
    "clip_polyline",
    "min_area_quad",
    "canonical_polygon",
    "coverage",
    "iou",
    "to_grid",
    "from_grid",
)


def test_the_stable_names_are_exported():
    assert set(STABLE) <= set(qcvl.geometry.__all__)
    assert all(hasattr(qcvl.geometry, name) for name in qcvl.geometry.__all__)


@pytest.mark.parametrize("module", ["affine", "grid", "overlap"])
def test_the_examples_in_the_docstrings_run(module):
    result = doctest.testmod(importlib.import_module(f"qcvl.geometry.{module}"))
    assert result.attempted > 0
    assert result.failed == 0


def test_geometry_imports_numpy_and_shapely_only():
    code = "import sys, qcvl.geometry; print({'torch', 'cv2', 'pydantic', 'transformers', 'PIL'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_points_come_flat_or_in_pairs():
    assert np.array_equal(as_points([1, 2, 3, 4]), as_points([[1, 2], [3, 4]]))
    with pytest.raises(ValueError, match="x, y pairs"):
        as_points([1, 2, 3])
    with pytest.raises(ValueError, match="x, y pairs"):
        as_points([[1, 2, 3]])


def test_bare_points_are_a_box_or_a_polygon():
    assert as_shape([1, 2, 3, 4]) == Shape("bbox_2d", [1, 2, 3, 4])
    assert as_shape([[0, 0], [1, 0], [1, 1]]).kind == "poly"
    line = Shape("line", [0, 0, 1, 1])
    assert as_shape(line) is line


def test_shapes_compare_by_kind_and_points():
    assert Shape("quad", [0, 0, 1, 0, 1, 1, 0, 1]) != Shape("poly", [0, 0, 1, 0, 1, 1, 0, 1])
    assert len({Shape("line", [0, 0, 1, 1]), Shape("line", [[0, 0], [1, 1]])}) == 1


def test_the_outline_of_a_box_is_its_four_corners_clockwise():
    assert Shape("bbox_2d", [3, 4, 1, 2]).outline.tolist() == [[1, 2], [3, 2], [3, 4], [1, 4]]
    assert Shape("line", [3, 4, 1, 2]).bounds == (1, 2, 3, 4)
