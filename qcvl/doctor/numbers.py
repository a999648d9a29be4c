"""What a source holds, counted block by block: sums that add up, so that no record has to be kept."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from qcvl.doctor.lengths import Length
from qcvl.doctor.photos import Photo
from qcvl.doctor.reading import Entry
from qcvl.doctor.shapes import LINE, Shapes
from qcvl.errors import RecordError
from qcvl.geometry.shapes import KINDS
from qcvl.schema.descs import desc_parts
from qcvl.schema.groups import group_of, label_of
from qcvl.schema.records import Record

TOP = 20  # descs, classes, attributes and photo sizes listed by how often they occur
VERDICTS = ("pass", "fail", "unlabelled")
HISTOGRAM_BINS = 24


@dataclass(slots=True)
class Numbers:
    """Counts of one source or block; ``add`` joins two.

    ``descs`` maps a description to how often and where (line and object) it was first seen, ``per_photo`` a number of
    objects to photos with that many, ``spans`` a geometry to a count by power of two of the size in pixels (the root
    of a shape's area in its bounds, a line's longer side), ``groups`` a group to the labels it was given.
    """

    records: int = 0
    photos: int = 0
    summaries: int = 0
    objects: Counter[str] = field(default_factory=Counter)
    descs: dict[str, tuple[int, int | None, int]] = field(default_factory=dict)
    per_photo: Counter[int] = field(default_factory=Counter)
    spans: dict[str, Counter[int]] = field(default_factory=dict)
    sizes: Counter[str] = field(default_factory=Counter)
    groups: dict[str, set[str | None]] = field(default_factory=dict)
    tokens: list[int] = field(default_factory=list)
    image_tokens: int = 0
    patches: int = 0

    def add(self, other: "Numbers") -> None:
        """Count what ``other`` counted, which comes later in the source."""
        self.records += other.records
        self.photos += other.photos
        self.summaries += other.summaries
        self.image_tokens += other.image_tokens
        self.patches += other.patches
        self.tokens += other.tokens
        self.objects.update(other.objects)
        self.per_photo.update(other.per_photo)
        self.sizes.update(other.sizes)
        for desc, (count, line, place) in other.descs.items():
            known = self.descs.get(desc)
            self.descs[desc] = (known[0] + count, known[1], known[2]) if known else (count, line, place)
        for kind, counts in other.spans.items():
            self.spans.setdefault(kind, Counter()).update(counts)
        for group, labels in other.groups.items():
            self.groups.setdefault(group, set()).update(labels)

    def count_entry(self, entry: Entry, photos: Sequence[Photo], length: Length | None) -> None:
        """Count one record without problems."""
        said = entry.said
        self.records += 1
        self.photos += len(said.images)
        self.summaries += said.summary is not None
        if said.annotated and len(said.images) == 1:
            self.per_photo[len(said.objects)] += 1
        elif said.annotated:
            shown = Counter(image for _, _, _, image in said.objects)
            self.per_photo.update(shown[image] for image in range(len(said.images)))
        for place, (_, _, desc, _) in enumerate(said.objects):
            known = self.descs.get(desc)
            self.descs[desc] = (known[0] + 1, known[1], known[2]) if known else (1, entry.line, place)
        for photo in photos:
            self.sizes["{}x{}".format(*photo.size) if photo.size else "unknown"] += 1
        if length is not None:
            self.tokens.append(length.tokens)
            self.image_tokens += length.image_tokens
            self.patches += length.patches
        if "group" in said.metadata:
            self._count_group(entry)

    def count_shapes(self, shapes: Shapes) -> None:
        """Count the geometries of a block and how large they are."""
        if not len(shapes):
            return
        sides = np.maximum(shapes.high - shapes.low, 1e-3)
        spans = np.where(shapes.kinds == LINE, sides.max(axis=1), np.sqrt(sides.prod(axis=1)))
        powers = np.floor(np.log2(spans)).clip(0).astype(np.int64)
        for number, kind in enumerate(KINDS):
            own = powers[shapes.kinds == number]
            self.objects[kind] += len(own)
            if len(own):
                values, counts = np.unique(own, return_counts=True)
                pairs = zip(values.tolist(), counts.tolist(), strict=True)
                self.spans.setdefault(kind, Counter()).update(dict(pairs))

    def _count_group(self, entry: Entry) -> None:
        record = Record(images=entry.said.images, metadata=entry.said.metadata)
        try:
            group, label = group_of(record), label_of(record)
        except RecordError:  # the check has named it
            return
        if group is not None:
            self.groups.setdefault(group, set()).add(label)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenNumbers:
    """Lengths of a source's samples: quantiles, a histogram ``[[from, to, samples], …]`` and the cost of an epoch."""

    samples: int
    mean: float
    median: int
    p95: int
    longest: int
    image_share: float
    limit: int
    above_limit: int
    histogram: list[list[int]]
    epoch_tokens: int
    epoch_patches: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceNumbers:
    """What the report says about one source.

    ``descs``, ``classes``, ``attributes`` and ``photo_sizes`` (``640x480``) hold the most frequent ones out of
    ``distinct_…``; ``objects_per_photo`` and ``shape_sizes`` (``{"quad": {"16-32": 5}}``, in pixels) are histograms;
    ``groups`` counts by the label of the group; ``tokens`` is None where they were not counted.
    """

    records: int
    photos: int
    objects: dict[str, int]
    photos_without_objects: int
    objects_per_photo: dict[str, int]
    shape_sizes: dict[str, dict[str, int]]
    descs: dict[str, int]
    distinct_descs: int
    classes: dict[str, int]
    distinct_classes: int
    attributes: dict[str, int]
    distinct_attributes: int
    photo_sizes: dict[str, int]
    distinct_sizes: int
    summaries: int
    groups: dict[str, int]
    tokens: TokenNumbers | None
    errors: int
    warnings: int
    notes: int

    def to_json(self) -> dict[str, Any]:
        """The numbers as JSON."""
        return asdict(self)


def summed(numbers: Numbers, found: Mapping[str, int], *, repeat: float, limit: int | None) -> SourceNumbers:
    """What the report says about a source of these counts; ``found`` counts its findings by severity."""
    classes, attributes = Counter[str](), Counter[str]()
    for desc, (count, _, _) in numbers.descs.items():
        name, values = desc_parts(desc)
        classes[name] += count
        for value in values:
            attributes[value] += count
    descs = Counter({desc: count for desc, (count, _, _) in numbers.descs.items()})
    spans = {
        kind: {f"{2**power if power else 0}-{2 ** (power + 1)}": counts[power] for power in sorted(counts)}
        for kind, counts in numbers.spans.items()
    }
    return SourceNumbers(
        records=numbers.records,
        photos=numbers.photos,
        objects={kind: numbers.objects[kind] for kind in KINDS},
        photos_without_objects=numbers.per_photo[0],
        objects_per_photo={str(count): numbers.per_photo[count] for count in sorted(numbers.per_photo)},
        shape_sizes=spans,
        descs=dict(descs.most_common(TOP)),
        distinct_descs=len(descs),
        classes=dict(classes.most_common(TOP)),
        distinct_classes=len(classes),
        attributes=dict(attributes.most_common(TOP)),
        distinct_attributes=len(attributes),
        photo_sizes=dict(numbers.sizes.most_common(TOP)),
        distinct_sizes=len(numbers.sizes),
        summaries=numbers.summaries,
        groups=_verdicts(numbers.groups),
        tokens=None if limit is None or not numbers.tokens else _token_numbers(numbers, repeat, limit),
        errors=found.get("error", 0),
        warnings=found.get("warning", 0),
        notes=found.get("note", 0),
    )


def _verdicts(groups: Mapping[str, set[str | None]]) -> dict[str, int]:
    """How many groups are labelled pass, fail, or not at all; one failed photo fails its group."""
    said = Counter(
        next((word for word in ("fail", "pass") if word in labels), "unlabelled") for labels in groups.values()
    )
    return {verdict: said[verdict] for verdict in VERDICTS}


def _token_numbers(numbers: Numbers, repeat: float, limit: int) -> TokenNumbers:
    lengths = np.array(numbers.tokens)
    counts, edges = np.histogram(lengths, bins=_bins(int(lengths.min()), int(lengths.max())))
    total = int(lengths.sum())
    return TokenNumbers(
        samples=len(lengths),
        mean=round(float(lengths.mean()), 1),
        median=int(np.median(lengths)),
        p95=int(np.quantile(lengths, 0.95, method="higher")),
        longest=int(lengths.max()),
        image_share=round(numbers.image_tokens / total, 4),
        limit=limit,
        above_limit=int((lengths > limit).sum()),
        histogram=[[int(a), int(b), int(n)] for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True)],
        epoch_tokens=round(total * repeat),
        epoch_patches=round(numbers.patches * repeat),
    )


def _bins(low: int, high: int) -> np.ndarray:
    """Whole edges of about ``HISTOGRAM_BINS`` equal bins that hold ``low`` to ``high``."""
    step = max(1, -(-(high + 1 - low) // HISTOGRAM_BINS))
    return np.arange(low // step * step, high + step + 1, step)
