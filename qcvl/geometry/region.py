"""Shapely regions of rings: the area a ring encloses, also when the ring crosses itself."""

from collections.abc import Sequence

import shapely

from qcvl.geometry.shapes import Points, as_points


def region(points_N2: Sequence | Points) -> shapely.Geometry:
    """The area inside a ring ``[N, 2]`` as a valid (Multi)Polygon; empty for a ring without area.

    A bow-tie is its two triangles; parts a ring encloses twice count once.
    """
    points = as_points(points_N2)
    if len(points) < 3:
        return shapely.Polygon()
    polygon = shapely.polygons(points)
    if shapely.is_valid(polygon):
        return polygon
    # "structure" keeps all lobes of a crossing ring; without collapsed parts the result is areas only.
    return shapely.make_valid(polygon, method="structure", keep_collapsed=False)


def rings(geometry: shapely.Geometry) -> list[Points]:
    """Outer rings ``[N, 2]`` of all areas in a geometry, largest first, without the repeated last point."""
    parts = shapely.get_parts(shapely.get_parts(geometry))  # twice: a collection may hold a MultiPolygon
    areas = [part for part in parts if part.geom_type == "Polygon" and not part.is_empty]
    areas.sort(key=lambda part: (-part.area, part.bounds))
    return [shapely.get_coordinates(part.exterior)[:-1] for part in areas]
