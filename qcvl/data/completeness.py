"""What samples of a record are, and whether it has what they are made of: objects, a summary, or messages."""

from collections.abc import Iterator

from qcvl.data.samples import record_error
from qcvl.data.sources import Sampling
from qcvl.errors import RecordError
from qcvl.schema.records import Record


def sampling_of(record: Record, sampling: Sampling, *, fixed: bool) -> Sampling:
    """``sampling``, but chat for a record that has messages and no objects, unless its source has ``fixed`` the task.

    So a file of conversations, or one that mixes them with labelled photos, needs no setting.
    """
    return "chat" if record.messages and not record.annotated and not fixed else sampling


def missing_parts(record: Record, sampling: Sampling, source: str) -> Iterator[RecordError]:
    """What ``record`` lacks for the ``sampling`` of the source named ``source``."""
    wanted = f"is missing, but source {source} samples {sampling}"
    if sampling == "chat":
        if not record.messages:
            yield record_error(record, "messages", f"{wanted}; add the conversation or give the source another task")
        return
    if sampling != "dense" and record.summary is None:
        yield record_error(record, "summary", f"{wanted}; add the summary or set data.sampling=dense")
    if sampling != "summary" and not record.annotated:
        advice = 'label the photo ("objects": [] says it shows none) or set data.sampling=summary'
        yield record_error(record, "objects", f"{wanted}; {advice}")
