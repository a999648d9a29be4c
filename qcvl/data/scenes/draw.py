"""One inspection scene as a photo with its annotations: a pure function of seed, index and domain."""

from typing import NamedTuple

import numpy as np

from qcvl.data.scenes.layout import GROUP, Part, group_defects, lay_out
from qcvl.data.scenes.paint import CELL, paint_part
from qcvl.data.scenes.surfaces import photograph, surface
from qcvl.data.scenes.words import DOMAINS, Domain, Label, Language, describe, summarize
from qcvl.geometry.shapes import Shape
from qcvl.schema.types import Annotation


class Scene(NamedTuple):
    """A photo (uint8 RGB ``[200, 200, 3]``), its annotations in pixels, its summary and the label of its group."""

    image: np.ndarray
    annotations: list[Annotation]
    summary: str
    label: Label


def draw_scene(seed: int, index: int, domain: Domain, language: Language = "zh") -> Scene:
    """Photo ``index`` of the endless series ``(seed, domain)``, with its texts in ``language``.

    Every coordinate is a multiple of 2 px: shapes lie on a lattice of 1/100 of the side, so norm1000 coordinates are
    multiples of 10 and a tiny model is not asked for a third digit that its 16 visual tokens cannot carry.
    Photos ``4g … 4g + 3`` are group ``g``; the label is ``fail`` when any of the four shows a defect. The language
    changes the texts only, never a pixel.
    """
    defects = group_defects(seed, index // GROUP)
    rng = np.random.default_rng([seed, index, 2 + DOMAINS.index(domain)])
    parts = lay_out(rng, defective=index % GROUP in defects)
    image = surface(rng, domain)
    for part in parts:
        paint_part(image, part, rng)
    return Scene(
        image=photograph(image, rng, domain),
        annotations=[_annotate(part, domain, language) for part in parts],
        summary=summarize((part.noun for part in parts), language),
        label="fail" if defects else "pass",
    )


def _annotate(part: Part, domain: Domain, language: Language) -> Annotation:
    shape = Shape(part.shape.kind, part.shape.points * CELL)
    return Annotation(shape, describe(part.noun, part.attribute, domain, language))
