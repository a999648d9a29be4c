"""Every error qcvl raises on purpose: where it happened, what was found, what was expected, what to do next."""

from pathlib import Path


class QcvlError(Exception):
    """Base of all errors meant for the user; entry points print them without a traceback."""


class ConfigError(QcvlError):
    """The composed configuration is wrong; the message lists every problem, one a line."""


class DataError(QcvlError):
    """A data set, an image or an encoded sample cannot be used."""


class CheckpointError(QcvlError):
    """A checkpoint folder is missing, incomplete, damaged or of another kind than asked for."""


class TrackerError(QcvlError):
    """A tracker (Weights & Biases) cannot be used: no network, no key, or no such project."""


class ParseError(QcvlError):
    """A model's answer could not be read."""


class RecordError(DataError):
    """One JSONL line breaks the record contract.

    Its text is ``path:line: field message``, for instance
    ``train.jsonl:418: objects[2].line has 7 numbers; a polyline needs x, y pairs``. ``code`` names the kind of problem.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str | Path | None = None,
        line: int | None = None,
        field: str | None = None,
        code: str = "schema",
    ) -> None:
        self.path, self.line, self.field, self.problem, self.code = path, line, field, message, code
        where = ":".join(str(part) for part in (path, line) if part is not None)
        super().__init__(": ".join(part for part in (where, " ".join(filter(None, (field, message)))) if part))
