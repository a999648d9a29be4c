"""``python -m qcvl.evaluate``: a checkpoint's numbers and pictures on ``data.val``, or the table of several runs."""

import json
from pathlib import Path

from omegaconf import DictConfig

from qcvl import config
from qcvl.composition.opening import open_model


def evaluate(cfg: DictConfig) -> dict[str, float]:
    """Answer every validation record, score, and write metrics.json, predictions and pictures.

    With ``runs`` nothing is answered: the finished metrics of the runs in that folder become one table and one plot.
    """
    settings = config.build(cfg)
    if settings.runs is not None:
        return compare_runs(Path(settings.runs), Path(settings.paths.output_dir))
    from rich.console import Console

    from qcvl.data.datamodule import VLDataModule
    from qcvl.inference.evaluator import evaluate as evaluate_sources
    from qcvl.inference.evaluator import log_keys, write_predictions
    from qcvl.inference.hf import HFPredictor
    from qcvl.inference.panels import write_panels
    from qcvl.viz.report import headline, results_table

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
    predictor = HFPredictor(opened.model, opened.processing, settings.generation)
    results = evaluate_sources(predictor, datamodule, settings.limit)
    folder = Path(settings.paths.output_dir)
    metrics = log_keys(results)
    (folder / "metrics.json").write_text(json.dumps({"final": metrics}, indent=1) + "\n", encoding="utf-8")
    for name in datamodule.val_names():
        write_predictions(folder / f"predictions/{name}.jsonl", results[name].predictions)
        items = datamodule.evaluation_items(name, settings.panels)
        write_panels(Path(settings.paths.previews), name, items, results[name].predictions)
    console = Console()
    console.print(results_table({}, headline(metrics)))
    where = {"run": folder, "predictions": folder / "predictions", "pictures": settings.paths.previews}
    for name, path in where.items():
        console.print(f"{name:11} {path}", highlight=False, markup=False, soft_wrap=True)
    return metrics


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
