"""``python -m qcvl.evaluate``: a checkpoint's numbers and pictures on ``data.val``."""

from pathlib import Path

from omegaconf import DictConfig

from qcvl import config
from qcvl.composition.opening import open_model


def evaluate(cfg: DictConfig) -> dict[str, float]:
    """Answer every validation record, score, and write metrics.json, tables, predictions and pictures."""
    settings = config.build(cfg)
    from rich.console import Console

    from qcvl.data.datamodule import VLDataModule
    from qcvl.inference.analysis import analyse, group_records, remarks, whole_name, write_analysis
    from qcvl.inference.evaluator import predict_sources, write_predictions
    from qcvl.inference.hf import HFPredictor
    from qcvl.inference.panels import write_panels
    from qcvl.viz.report import headline, results_table
    from qcvl.viz.scores import score_tables

    opened = open_model(settings)
    datamodule = VLDataModule(
        data=settings.data,
        processing=opened.processing,
        answer_format=opened.answer_format,
        prompts=opened.prompts,
        augment=None,
        max_length=settings.global_max_length,
        seed=settings.seed,
        grounding=False,
    )
    datamodule.prepare_data()
    datamodule.setup("validate")
    records = {source.name: source.records for source in datamodule.sources("val")}
    train = settings.data.sources("train")
    grouping = group_records(records, settings.group_by, train, settings.limit)
    predictor = HFPredictor(opened.model, opened.processing, settings.generation)
    answers = predict_sources(predictor, datamodule, settings.limit)
    analysis = analyse(
        records, answers, threshold=settings.threshold, overlap=settings.iou, grouping=grouping, seed=settings.seed
    )
    folder = Path(settings.paths.output_dir)
    write_analysis(folder, analysis)
    for name, predictions in answers.items():
        write_predictions(folder / f"predictions/{name}.jsonl", predictions)
        items = datamodule.evaluation_items(name, settings.panels)
        write_panels(Path(settings.paths.previews), name, items, predictions)
    console = Console()
    console.print(results_table({}, headline(analysis.metrics, settings.iou), intervals=analysis.intervals))
    classes = analysis.classes[whole_name(analysis.classes)]
    for table in score_tables(classes, analysis.groups, str(settings.group_by)):
        console.print(table)
    for remark in remarks(analysis, settings.iou):
        console.print(remark, highlight=False, markup=False)
    where = {"run": folder, "predictions": folder / "predictions", "pictures": settings.paths.previews}
    for name, path in where.items():
        console.print(f"{name:11} {path}", highlight=False, markup=False, soft_wrap=True)
    return analysis.metrics


def main() -> None:
    """Console script ``qcvl-evaluate``."""
    config.run("evaluate", evaluate)


if __name__ == "__main__":
    main()
