"""Shapes in continuous pixel coordinates: the stable names of the geometry layer (numpy and shapely only)."""

from qcvl.geometry.affine import (
    apply_affine,
    hflip_matrix,
    keeps_boxes,
    pixel_center_matrix,
    rotation_matrix,
    scale_matrix,
    shear_matrix,
    transform_shape,
    translation_matrix,
    vflip_matrix,
)
from qcvl.geometry.clip import clip_polygon, clip_polygon_parts, clip_polyline, clip_shape, min_area_quad
from qcvl.geometry.grid import EmitNorm, from_grid, grid_limits, settle_on_grid, to_grid
from qcvl.geometry.norm import canonical, canonical_line, canonical_polygon, signed_area
from qcvl.geometry.order import Order, center_point, reading_order, reference_point
from qcvl.geometry.overlap import (
    buffered_line_iou,
    buffered_line_iou_matrix,
    coverage,
    iou,
    iou_matrix,
    self_overlaps,
)
from qcvl.geometry.shapes import KINDS, Kind, Points, Shape, as_points, as_shape

__all__ = [
    "KINDS",
    "EmitNorm",
    "Kind",
    "Order",
    "Points",
    "Shape",
    "apply_affine",
    "as_points",
    "as_shape",
    "buffered_line_iou",
    "buffered_line_iou_matrix",
    "canonical",
    "canonical_line",
    "canonical_polygon",
    "center_point",
    "clip_polygon",
    "clip_polygon_parts",
    "clip_polyline",
    "clip_shape",
    "coverage",
    "from_grid",
    "grid_limits",
    "hflip_matrix",
    "iou",
    "iou_matrix",
    "keeps_boxes",
    "min_area_quad",
    "pixel_center_matrix",
    "reading_order",
    "reference_point",
    "rotation_matrix",
    "scale_matrix",
    "self_overlaps",
    "settle_on_grid",
    "shear_matrix",
    "signed_area",
    "to_grid",
    "transform_shape",
    "translation_matrix",
    "vflip_matrix",
]
