"""``python -m qcvl.infer``: answers about a photo, a folder or a JSONL file, as JSONL and drawn on the photos."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from qcvl import config
from qcvl.composition.opening import open_model
from qcvl.composition.processes import is_first_process
from qcvl.errors import DataError
from qcvl.schema.records import Record, read_records

if TYPE_CHECKING:
    from qcvl.inference.evaluator import Prediction

PHOTOS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}


def infer(cfg: DictConfig) -> None:
    """Answer about every photo of ``input``; writes predictions.jsonl and, with ``overlays``, one PNG a photo.

    predictions.jsonl holds every object with its score; printed and drawn are those that score ``threshold`` or more.
    Of several processes (``devices``) each answers about its share, and the first writes what all found.
    """
    settings = config.build(cfg)
    records = records_of(Path(settings.input))
    from rich.console import Console

    from qcvl.data.datamodule import EvaluationItem
    from qcvl.inference.evaluator import above, predict, write_predictions
    from qcvl.inference.hf import HFPredictor
    from qcvl.inference.sharding import gather_objects, shard
    from qcvl.inference.tiles import with_tiles

    opened = open_model(settings)
    whole = HFPredictor(opened.model, opened.processing, settings.generation)
    predictor = with_tiles(whole, settings.tiles, opened.answer_format)
    items = [
        EvaluationItem(record, index, settings.task, opened.prompts, opened.pairing)
        for index, record in enumerate(records)
    ]
    mine = predict(shard(items), predictor, opened.answer_format, source="input")
    folder, overlays = Path(settings.paths.output_dir), settings.overlays and settings.task == "dense"
    if overlays:
        shown = [above(prediction, settings.threshold, opened.answer_format) for prediction in mine]
        draw_overlays(shard(records), shown, folder / "overlays")
    predictions = gather_objects(mine)
    if not is_first_process():
        return
    write_predictions(folder / "predictions.jsonl", predictions)
    console = Console()
    for prediction in predictions[:10]:
        text = above(prediction, settings.threshold, opened.answer_format).text
        console.print(f"{prediction.images[0]}: {text}", highlight=False, markup=False, soft_wrap=True)
    if overlays:
        console.print(f"overlays    {folder / 'overlays'}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"predictions {folder / 'predictions.jsonl'}", highlight=False, markup=False, soft_wrap=True)


def records_of(source: Path) -> list[Record]:
    """One record a photo of a file or folder (searched recursively, in name order), or the records of a JSONL file.

    Raises:
        DataError: when there is nothing to answer about.
    """
    if source.suffix == ".jsonl":
        records = read_records(source)
        for record in records:
            if not record.images:
                raise DataError(f"{record.where}: has no image to answer about; leave the record out")
        return records
    if source.is_dir():
        photos = sorted(path for path in source.rglob("*") if path.suffix.lower() in PHOTOS)
        if not photos:
            raise DataError(f"{source} holds no photos ({', '.join(sorted(PHOTOS))}); give another folder")
    elif source.is_file():
        photos = [source]
    else:
        raise DataError(f"{source} not found; give a photo, a folder of photos or a JSONL file: input=/abs/photos")
    return [Record(images=(str(photo.resolve()),), annotated=False) for photo in photos]


def draw_overlays(records: Sequence[Record], predictions: Sequence["Prediction"], folder: Path) -> None:
    """Draw each answer on its photos: ``<number>_<name>.png``."""
    from qcvl.data.samples import load_photo
    from qcvl.viz.draw import draw_annotations
    from qcvl.viz.sheet import save_png

    for record, prediction in zip(records, predictions, strict=True):
        for number in range(len(prediction.sizes)):  # of a pair seen as one image, the photo alone
            notes = [note for note in prediction.answer.annotations if note.image == number]
            name = f"{prediction.index:05d}_{Path(prediction.images[number]).stem}.png"
            save_png(folder / name, draw_annotations(load_photo(record, number), notes))


def main() -> None:
    """Console script ``qcvl-infer``."""
    config.run("infer", infer)


if __name__ == "__main__":
    main()
