"""Conversations in packs of samples that fit into one row, written beforehand for trainers that pack no other way."""

from collections.abc import Sequence

from qcvl.data.encode import Encoder
from qcvl.data.images import photo_sizes
from qcvl.data.packs import best_fit
from qcvl.data.reading import Notice
from qcvl.data.samples import outline
from qcvl.errors import DataError
from qcvl.models.spec import Processing
from qcvl.schema.answer import DEFAULT_FORMAT
from qcvl.schema.prompts import TaskPrompt
from qcvl.schema.records import Record


def in_packs(
    records: Sequence[Record], processing: Processing, packing_length: int
) -> tuple[list[list[Record]], list[Notice]]:
    """Chat records in packs of at most ``packing_length`` tokens, and what was too long to share one.

    Tokens are those of training with ``processing``, photos among them, known from their headers.

    Raises:
        DataError: for a record with videos, whose length depends on how a trainer samples their frames.
    """
    encoder = Encoder(
        processing=processing, answer_format=DEFAULT_FORMAT, max_length=packing_length, overlong="error", classes={}
    )
    lengths = [_length(record, encoder) for record in records]
    notices = [
        Notice(f"sample of more than packing_length={packing_length} tokens, a pack of its own", record.where)
        for record, length in zip(records, lengths, strict=True)
        if length > packing_length
    ]
    packs = sorted(map(sorted, best_fit(lengths, packing_length, range(len(records)))))
    return [[records[place] for place in pack] for pack in packs], notices


def _length(record: Record, encoder: Encoder) -> int:
    if record.videos:
        raise DataError(f"{record.where}: a video has no length before its frames are chosen; set packing_length=null")
    return encoder.length(outline(record, "chat", photo_sizes(record)), TaskPrompt(system="", user=""), record.where)
