"""``python -m qcvl.visualize``: records drawn on their photos, or beside the answers of an evaluation."""

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from qcvl import config
from qcvl.errors import ConfigError, DataError
from qcvl.schema.answer import AnswerFormat
from qcvl.schema.records import Record

if TYPE_CHECKING:
    from qcvl.inference.evaluator import Prediction


def visualize(cfg: DictConfig) -> list[Path]:
    """Draw the first ``limit`` records of each source of ``split``; returns the pictures and then the contact sheet.

    With predictions the pictures come worst first, each with its text in a ``.txt`` beside it.

    Raises:
        ConfigError: when the split is not given.
        DataError: for records, photos or predictions that cannot be read or do not belong together.
    """
    settings = config.build(cfg)
    settings.data.prepare()
    sources = {
        name: list(islice(source.open(), settings.limit))
        for name, source in settings.data.sources(settings.split).items()
    }
    if not sources:
        raise ConfigError(f"data.{settings.split}: nothing to draw; add data.{settings.split}=F.jsonl, or data=demo")
    answers = settings.predictions and read_answers(Path(settings.predictions), settings.answer)
    folder = Path(settings.paths.output_dir)
    paths = draw_answers(folder, sources, answers) if answers else draw_truth(folder, sources)
    from rich.console import Console

    for path in paths:
        Console().print(f"picture {path}", highlight=False, markup=False, soft_wrap=True)
    return paths


def draw_truth(folder: Path, sources: Mapping[str, Sequence[Record]]) -> list[Path]:
    """Write a picture for each photo of the records by source, and the sheet of all."""
    from qcvl.doctor.pictures import draw_record
    from qcvl.viz.sheet import contact_sheet, save_png

    pictures = {}
    for source, records in sources.items():
        for index, record in enumerate(records):
            drawn = draw_record(record)
            for number, picture in enumerate(drawn):
                pictures[f"{source}-{index:04d}{f'-{number}' if len(drawn) > 1 else ''}"] = picture
    if not pictures:
        raise DataError(f"the records of {', '.join(sources)} have no image to draw; give others or raise limit")
    paths = [save_png(folder / "pictures" / f"{name}.png", picture) for name, picture in pictures.items()]
    return [*paths, save_png(folder / "sheet.png", contact_sheet(list(pictures.values())))]


def draw_answers(
    folder: Path, sources: Mapping[str, Sequence[Record]], answers: "Mapping[tuple[str, int], Prediction]"
) -> list[Path]:
    """Write a panel for each photo of a record that there is an answer to, worst first, and the sheet of all."""
    from qcvl.inference.panels import draw_panels, save_panel, sheet, worst_first
    from qcvl.viz.sheet import save_png

    numbers = [(name, index) for name, records in sources.items() for index in range(len(records))]
    if answers.keys().isdisjoint(numbers):
        raise DataError(
            f"predictions: none is about the drawn records of {', '.join(sources)}; give the predictions and the data "
            "of one evaluation, or a larger limit"
        )
    answered = [(sources[name][index], answers[name, index]) for name, index in numbers if (name, index) in answers]
    for record, answer in answered:
        require_same_photos(answer, record)
    panels = worst_first(panel for record, answer in answered for panel in draw_panels(record, answer))
    paths = [save_panel(folder / "pictures", panel) for panel in panels]
    return [*paths, save_png(folder / "sheet.png", sheet(panels))]


def require_same_photos(answer: "Prediction", record: Record) -> None:
    """Raise DataError when an answer is about other photos than the record of its number."""
    photos = [value for value in record.images if isinstance(value, str)]  # others have no name to compare
    if photos and photos != list(answer.images):
        raise DataError(
            f"{record.where} is about {', '.join(photos)} but the answer to {answer.source} {answer.index} is about "
            f"{', '.join(answer.images)}; give the data of the evaluation that made the predictions"
        )


def read_answers(path: Path, answer_format: AnswerFormat) -> "dict[tuple[str, int], Prediction]":
    """The dense answers in a file, or in all files of a folder, by source and record number; there is at least one."""
    from qcvl.inference.evaluator import read_predictions

    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path] if path.is_file() else []
    answers = (answer for file in files for answer in read_predictions(file, answer_format))
    dense = {(answer.source, answer.index): answer for answer in answers if answer.task == "dense"}
    if not dense:
        raise DataError(f"{path} holds no dense answers; give the file or folder that python -m qcvl.evaluate printed")
    return dense


def main() -> None:
    """Console script ``qcvl-visualize``."""
    config.run("visualize", visualize)


if __name__ == "__main__":
    main()
