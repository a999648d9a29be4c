"""``python -m qcvl.visualize``: records drawn on their photos, before and after augmentation, or beside answers."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from qcvl import config
from qcvl.errors import ConfigError, DataError
from qcvl.schema.answer import AnswerFormat
from qcvl.schema.records import Record

if TYPE_CHECKING:
    import numpy as np

    from qcvl.composition.roots import Visualize
    from qcvl.inference.evaluator import Prediction


def visualize(cfg: DictConfig) -> list[Path]:
    """Draw the first ``limit`` records of each source of ``split``; returns the pictures and then the contact sheet.

    With predictions the pictures come worst first, each with its text in a ``.txt`` beside it. With ops enabled in
    ``augment``, each picture is a row: the photo, then ``draws`` draws of it.

    Raises:
        ConfigError: when the split is not given, or both predictions and augmentation are.
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
    if settings.predictions and settings.augment.order:
        raise ConfigError("augment: predictions are about photos as they are; leave out one of predictions and augment")
    answers = settings.predictions and read_answers(Path(settings.predictions), settings.answer)
    folder = Path(settings.paths.output_dir)
    if answers:
        paths = draw_answers(folder, sources, answers)
    elif settings.augment.order:
        paths = draw_pictures(folder, sources, partial(varied, settings), columns=1, share=settings.draws + 1)
    else:
        paths = draw_pictures(folder, sources, as_recorded)
    from rich.console import Console

    for path in paths:
        Console().print(f"picture {path}", highlight=False, markup=False, soft_wrap=True)
    return paths


def as_recorded(record: Record, index: int) -> "list[np.ndarray]":
    """A picture of each photo of a record."""
    from qcvl.doctor.pictures import draw_record

    return draw_record(record)


def varied(settings: "Visualize", record: Record, index: int) -> "list[np.ndarray]":
    """A row of pictures of each photo of a record: as it is, and as the first ``draws`` epochs may show it."""
    from qcvl.data.samples import build_sample
    from qcvl.doctor.pictures import draw_augmented

    before = build_sample(record, "dense" if record.annotations else "summary", settings.data.pair)
    after = [settings.augment(before, (settings.seed, epoch, index)) for epoch in range(settings.draws)]
    return draw_augmented(record, before, after)


def draw_pictures(
    folder: Path,
    sources: Mapping[str, Sequence[Record]],
    draw: "Callable[[Record, int], list[np.ndarray]]",
    columns: int = 4,
    share: int = 1,
) -> list[Path]:
    """Write the pictures of all records by source, and a sheet: ``columns`` a row, each ``share`` thumbnails wide."""
    from qcvl.viz.sheet import THUMBNAIL_PX, contact_sheet, save_png

    pictures, shown = {}, count()
    for source, records in sources.items():
        for index, record in enumerate(records):
            drawn = draw(record, next(shown))
            for number, picture in enumerate(drawn):
                pictures[f"{source}-{index:04d}{f'-{number}' if len(drawn) > 1 else ''}"] = picture
    if not pictures:
        raise DataError(f"the records of {', '.join(sources)} have no image to draw; give others or raise limit")
    paths = [save_png(folder / "pictures" / f"{name}.png", picture) for name, picture in pictures.items()]
    sheet = contact_sheet(list(pictures.values()), columns=columns, width=share * THUMBNAIL_PX)
    return [*paths, save_png(folder / "sheet.png", sheet)]


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
