"""Whether a record has what samples are made of: a summary for summary samples, labelled objects for dense ones."""

from collections.abc import Iterator

from qcvl.data.samples import record_error
from qcvl.errors import RecordError
from qcvl.schema.records import Record


def missing_parts(record: Record, sampling: str, source: str) -> Iterator[RecordError]:
    """What ``record`` lacks for the ``sampling`` (dense, summary or mixed) of the source named ``source``."""
    wanted = f"is missing, but source {source} samples {sampling}"
    if sampling != "dense" and record.summary is None:
        yield record_error(record, "summary", f"{wanted}; add the summary or set data.sampling=dense")
    if sampling != "summary" and not record.annotated:
        advice = 'label the photo ("objects": [] says it shows none) or set data.sampling=summary'
        yield record_error(record, "objects", f"{wanted}; {advice}")
