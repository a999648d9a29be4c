"""The vocabulary of qcvl: records, annotations, samples, answers and verdicts (no torch)."""

from qcvl.schema.answer import Answer, AnswerFormat, parse_answer, render_answer
from qcvl.schema.groups import Verdict, parse_verdict
from qcvl.schema.records import Record
from qcvl.schema.types import Annotation, Sample

__all__ = [
    "Annotation",
    "Answer",
    "AnswerFormat",
    "Record",
    "Sample",
    "Verdict",
    "parse_answer",
    "parse_verdict",
    "render_answer",
]
