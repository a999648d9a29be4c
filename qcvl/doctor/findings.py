"""What a check finds: each finding has a place, a stable code and a severity.

An error stops training, a warning is worth a look, a note is for information; a repair says what ``fix`` changed.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from qcvl.errors import RecordError

Severity = Literal["error", "warning", "note", "repair"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)

# Every code, how severe it is and what it means. Codes are stable: scripts may look for them in findings.jsonl.
CODES: dict[str, tuple[Severity, str]] = {
    "schema": ("error", "a field breaks the record contract"),
    "box-inverted": ("error", "x1 > x2 or y1 > y2"),
    "box-flat": ("error", "a box without width or height"),
    "shape-flat": ("error", "a shape of too few distinct points"),
    "point-count": ("error", "poly_points or line_points is not the number of points"),
    "shape-outside": ("error", "a shape wholly outside its photo"),
    "desc-empty": ("error", "an object without a description"),
    "summary-empty": ("error", "a summary without text"),
    "summary-missing": ("error", "a record sampled for summaries has none"),
    "objects-missing": ("error", "a record sampled for dense answers was never labelled"),
    "messages-missing": ("error", "a record sampled for chat has no conversation"),
    "image-missing": ("error", "a photo that is not there"),
    "image-url": ("error", "a photo that would have to be downloaded"),
    "image-damaged": ("error", "a photo that cannot be read"),
    "image-size": ("error", "width and height are not the photo's"),
    "image-turned": ("error", "width and height are those before EXIF orientation"),
    "video-missing": ("error", "a video, or a frame of one, that is not there"),
    "video-damaged": ("error", "a video, or a frame of one, that cannot be read"),
    "group": ("error", "metadata.group or metadata.label cannot be read"),
    "overlong": ("error", "more tokens than global_max_length"),
    "shape-cut": ("warning", "a shape partly outside its photo; training clips it"),
    "shape-degenerate": ("warning", "a shape that collapses on the 0-1000 grid"),
    "quad-dented": ("warning", "a quad that is not convex"),
    "quad-crossed": ("warning", "a quad whose sides cross (bow tie)"),
    "poly-crossed": ("warning", "a polygon whose sides cross"),
    "object-duplicate": ("warning", "two objects of one description in one place"),
    "desc-blanks": ("warning", "a description with blanks around it"),
    "desc-control": ("warning", "a description with control or invisible characters"),
    "desc-width": ("warning", "full-width and half-width forms mixed in one description"),
    "desc-special": ("warning", "a description with a string that models treat as a special token"),
    "desc-variant": ("warning", "a description that differs from a more frequent one in case, width or blanks alone"),
    "desc-typo": ("warning", "a description seen once, one letter from a frequent one"),
    "message-tag": ("warning", "a text with what another tool reads as the place of an image, or a special token"),
    "summary-contradicts": ("warning", "counts in the summary are not those of the objects"),
    "image-shared": ("warning", "a validation photo that is trained on as well"),
    "image-duplicate": ("warning", "a validation photo with the same bytes as a training photo"),
    "image-similar": ("warning", "a validation photo that looks like a training photo"),
    "group-shared": ("warning", "a group of photos in both training and validation"),
    "group-missing": ("warning", "a record without the group asked for by group_by"),
    "order": ("note", "objects out of reading order; training sorts them"),
    "no-objects": ("note", "a labelled photo that shows nothing"),
    "repaired": ("repair", "changed in the repaired copy"),
    "left-out": ("repair", "left out of the repaired copy"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing found in the source named ``source`` (``train/zh``): ``path:line: field message``."""

    code: str
    severity: Severity
    source: str
    path: str | None
    line: int | None
    field: str | None
    message: str

    def __str__(self) -> str:
        """The finding as errors of records are written."""
        return str(RecordError(self.message, path=self.path, line=self.line, field=self.field))


def found(
    code: str,
    message: str,
    *,
    source: str,
    path: str | Path | None,
    line: int | None,
    field: str | None = None,
    severity: Severity | None = None,
) -> Finding:
    """A finding with the severity of its code unless another one is given."""
    return Finding(
        code=code,
        severity=severity or CODES[code][0],
        source=source,
        path=None if path is None else str(path),
        line=line,
        field=field,
        message=message,
    )


def refused(error: RecordError, source: str, code: str | None = None) -> Finding:
    """The finding of a record's error."""
    known = code or (error.code if error.code in CODES else "schema")
    return found(known, error.problem, source=source, path=error.path, line=error.line, field=error.field)
