"""``python -m qcvl.evaluate``: a checkpoint's numbers and pictures on ``data.val``, or the table of several runs."""

from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from qcvl import config
from qcvl.composition.cost import Meter, write_cost
from qcvl.composition.opening import open_model
from qcvl.composition.processes import is_first_process
from qcvl.composition.roots import Evaluate
from qcvl.errors import DataError

if TYPE_CHECKING:
    from torch import nn

    from qcvl.checkpoints.reopen import Reopened
    from qcvl.data.datamodule import VLDataModule
    from qcvl.inference.analysis import Analysis
    from qcvl.inference.evaluator import Prediction

    Answers = dict[str, list[Prediction]]


def evaluate(cfg: DictConfig) -> dict[str, float]:
    """Answer every validation record, score, and write metrics.json, tables, predictions and pictures.

    Of several processes (``devices``) each answers about its share; the first scores and writes, and the others return
    nothing. With ``runs`` nothing is answered: the finished metrics of the runs in that folder become one table and one
    plot.
    """
    settings = config.build(cfg)
    if settings.runs is not None:
        return compare_runs(Path(settings.runs), Path(settings.paths.output_dir))
    from qcvl.inference.analysis import analyse, group_records
    from qcvl.inference.evaluator import predict_sources
    from qcvl.inference.hf import HFPredictor
    from qcvl.inference.tiles import with_tiles

    opened = open_model(settings)
    datamodule = validation_data(settings, opened)
    records = {source.name: source.records for source in datamodule.sources("val")}
    grouping = group_records(records, settings.group_by, settings.data.sources("train"), settings.limit)
    whole = HFPredictor(opened.model, opened.processing, settings.generation)
    predictor = with_tiles(whole, settings.tiles, opened.answer_format)
    meter = Meter()
    answers = predict_sources(predictor, datamodule, settings.limit)
    if not answers:
        raise DataError("data.val holds conversations alone, whose answers have no score; add records with objects")
    cost = cost_of_answers(meter, opened.model, sum(map(len, answers.values())))
    if not is_first_process():
        return {}
    analysis = analyse(
        records, answers, threshold=settings.threshold, overlap=settings.iou, grouping=grouping, seed=settings.seed
    )
    write(settings, datamodule, answers, analysis)
    write_cost(Path(settings.paths.output_dir), cost)
    show(settings, analysis, cost)
    return analysis.metrics


def validation_data(settings: Evaluate, opened: "Reopened") -> "VLDataModule":
    """The data module of ``data.val``, seen as the checkpoint was trained to see it."""
    from qcvl.data.datamodule import VLDataModule
    from qcvl.inference.sharding import wait_for_all

    datamodule = VLDataModule(
        data=settings.data,
        processing=opened.processing,
        answer_format=opened.answer_format,
        prompts=opened.prompts,
        augment=None,
        max_length=settings.global_max_length,
        seed=settings.seed,
        grounding=False,
        pairing=opened.pairing,
        sp_degree=1,
    )
    if is_first_process():
        datamodule.prepare_data()
    wait_for_all()
    datamodule.setup("validate")
    return datamodule


def cost_of_answers(meter: Meter, model: "nn.Module", answers: int) -> dict[str, float]:
    """What ``answers`` answers cost all processes since each one's ``meter``, photos decoded and answers read included.

    Processor times add up; by the clock the slowest counts.
    """
    from qcvl.inference.sharding import gather_objects

    processor, clock = zip(*gather_objects([meter.spent()]), strict=True)
    return {
        "answers": answers,
        "core_ms_per_answer": 1000 * sum(processor) / max(answers, 1),
        "ms_per_answer": 1000 * max(clock) / max(answers, 1),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def write(settings: Evaluate, datamodule: "VLDataModule", answers: "Answers", analysis: "Analysis") -> None:
    """Write scores, tables, predictions and, of the objects that count, panels into the run's folder."""
    from qcvl.inference.analysis import write_analysis
    from qcvl.inference.evaluator import above, write_predictions
    from qcvl.inference.panels import write_panels

    folder = Path(settings.paths.output_dir)
    write_analysis(folder, analysis)
    for name, predictions in answers.items():
        write_predictions(folder / f"predictions/{name}.jsonl", predictions)
        items = datamodule.evaluation_items(name, settings.panels)
        shown = [above(prediction, analysis.threshold.value, datamodule.answer_format) for prediction in predictions]
        write_panels(Path(settings.paths.previews), name, items, shown)


def show(settings: Evaluate, analysis: "Analysis", cost: dict[str, float]) -> None:
    """Print the scores, the tables of classes and groups, what to know about them, and where everything is."""
    from rich.console import Console

    from qcvl.inference.analysis import remarks, whole_name
    from qcvl.viz.report import headline, results_table
    from qcvl.viz.scores import score_tables

    console = Console()
    console.print(results_table({}, headline(analysis.metrics, settings.iou), intervals=analysis.intervals))
    classes = analysis.classes[whole_name(analysis.classes)]
    for table in score_tables(classes, analysis.groups, str(settings.group_by)):
        console.print(table)
    for remark in remarks(analysis, settings.iou):
        console.print(remark, highlight=False, markup=False)
    work, clock = (
        f"{cost['core_ms_per_answer']:.4g} ms of processor time",
        f"{cost['ms_per_answer']:.4g} ms by the clock",
    )
    console.print(f"cost        {work} an answer, {clock}; {cost['parameters']:,} parameters", highlight=False)
    folder = Path(settings.paths.output_dir)
    where = {"run": folder, "predictions": folder / "predictions", "pictures": settings.paths.previews}
    for name, path in where.items():
        console.print(f"{name:11} {path}", highlight=False, markup=False, soft_wrap=True)


def compare_runs(runs_folder: Path, folder: Path) -> dict[str, float]:
    """Print the table of the runs, write it and its plot into ``folder``; returns the final metrics of the best run."""
    from rich.console import Console

    from qcvl.viz.runs import read_runs
    from qcvl.viz.runs_report import print_runs

    runs = read_runs(runs_folder)
    print_runs(runs, folder, Console())
    return runs.best.metrics["final"] if runs.best is not None else {}


def main() -> None:
    """Console script ``qcvl-evaluate``."""
    config.run("evaluate", evaluate)


if __name__ == "__main__":
    main()
