"""``python -m qcvl.train``: evaluate, train, evaluate again, and say where everything is."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from qcvl import config
from qcvl.composition.cost import Meter, write_cost
from qcvl.errors import CheckpointError, DataError

if TYPE_CHECKING:
    from rich.console import Console

    from qcvl.composition.assemble import Run


def train(cfg: DictConfig) -> float | None:
    """Run one training job; returns the final value of the monitored metric, for sweepers."""
    meter = Meter()
    run = config.build(cfg)
    if run.settings.replay is not None:
        make_again(run, cfg, Path(run.settings.replay))
        return None
    from rich.console import Console

    from qcvl.callbacks.checkpoint import TRAINER_STATE
    from qcvl.callbacks.out_of_memory import telling_what_to_change
    from qcvl.callbacks.ranks import ending_together
    from qcvl.callbacks.trackers import start_trackers

    console = Console(quiet=not run.trainer.is_global_zero)
    start_trackers(run.trainer.loggers)
    run.datamodule.prepare_data()
    inspect(run)  # bad data stops here, before weights are loaded
    run.datamodule.setup("fit")
    run.module.configure_model()
    announce(run, cfg, console)
    with ending_together(run.trainer), telling_what_to_change(run.trainer, run.module):
        audit(run, console)
        if run.settings.resume is None:
            forget_former_start(run)
            run.trainer.validate(run.module, run.datamodule, verbose=False)
            run.trainer.fit(run.module, run.datamodule)
        else:
            go_on(run, Path(run.settings.resume) / TRAINER_STATE)
        value = conclude(run, console, meter)
        judge(run, console)
        return value


def _of_any_device(settings: Mapping[Any, Any]) -> dict[str, Any]:
    """Settings without what a replay, which runs on one device under a name of its own, has of its own."""
    named = {str(key): value for key, value in settings.items()}
    return named | {"job": None, "sp_degree": 1, "trainer": {**named["trainer"], "strategy": None}}


def make_again(run: "Run", cfg: DictConfig, folder: Path) -> None:
    """Replay one step of another run that was not finite; print and keep (``replay.txt``) which module made it."""
    from rich.console import Console

    from qcvl.composition.resume import differences, saved_settings
    from qcvl.modules.replay import replay, report

    console = Console()
    before = saved_settings(folder)
    now = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(now, dict)  # a root is a mapping
    if before and (others := differences(_of_any_device(before), _of_any_device(now))):
        console.print(f"replay: {others}", highlight=False, markup=False, soft_wrap=True)
    found = report(replay(run.module, run.trainer, folder))
    console.print(found, soft_wrap=True)
    with (Path(run.settings.paths.output_dir) / "replay.txt").open("w", encoding="utf-8") as file:
        Console(file=file, width=120, color_system=None, force_terminal=False).print(found, soft_wrap=True)


def inspect(run: "Run") -> None:
    """Check the data as ``qcvl.check`` does, and keep what it found and what the run is made with.

    Raises:
        DataError: listing the errors, each with file, line and field.
    """
    from qcvl.callbacks.environment import write_environment
    from qcvl.doctor.report import DATA_REPORT, save_report
    from qcvl.doctor.survey import check_data, quick

    report = check_data(run.settings.data, quick(run.settings.data))
    output_dir = Path(run.settings.paths.output_dir)
    if run.trainer.is_global_zero:
        save_report(report, output_dir / DATA_REPORT)
    if report.count("error"):
        raise DataError(report.error_text())
    if run.trainer.is_global_zero:
        write_environment(output_dir, run.datamodule)


def forget_former_start(run: "Run") -> None:
    """Remove the rows and metrics of a start in this directory that ended before its first checkpoint."""
    if run.trainer.is_global_zero:
        for name in ("logging.jsonl", "metrics.json", "bad_samples.jsonl"):
            (Path(run.settings.paths.output_dir) / name).unlink(missing_ok=True)
        shutil.rmtree(Path(run.settings.paths.output_dir) / "nonfinite", ignore_errors=True)


def go_on(run: "Run", state: Path) -> None:
    """Continue training from a checkpoint's trainer state.

    Raises:
        CheckpointError: when there is more in it than numbers and tensors, none of which is run.
    """
    try:
        run.trainer.fit(run.module, run.datamodule, ckpt_path=str(state), weights_only=True)
    except UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{state}: is no trainer state of qcvl ({reason}); use another checkpoint") from None


def announce(run: "Run", cfg: DictConfig, console: "Console") -> None:
    """Print the resolved settings and what moves in each tower."""
    from qcvl.tuning.groups import tower_table
    from qcvl.viz.report import settings_tree, towers_table

    settings = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(settings, dict)  # a root is a mapping
    console.print(settings_tree({str(key): value for key, value in settings.items()}))
    module = run.module
    console.print(towers_table(tower_table(module.built, module.groups(), module.tuner, module.stage)))


def audit(run: "Run", console: "Console") -> None:
    """Print and keep what the first samples look like and which of their tokens are trained, and draw what they say.

    Raises:
        DataError: for a sample that cannot be encoded, before the first step.
    """
    from qcvl.doctor.first_batch import save_first_batch
    from qcvl.doctor.labels import audit_labels, audit_report, save_audit

    if run.trainer.is_global_zero:
        keep_going = run.settings.data.max_bad_fraction > 0
        labels = audit_labels(run.datamodule.train_dataset(), keep_going=keep_going)
        save_audit(labels, Path(run.settings.paths.output_dir))
        console.print(audit_report(labels), soft_wrap=True)
        data, folder = run.datamodule, Path(run.settings.paths.previews)
        sheet = save_first_batch(labels.samples, data.processing, data.answer_format, folder)
        console.print(f"first      {sheet}", highlight=False, markup=False, soft_wrap=True)


def conclude(run: "Run", console: "Console", meter: Meter) -> float | None:
    """Evaluate the final weights unless that was just done, print the results, the cost and where everything is."""
    from qcvl.callbacks.metrics_file import MetricsFile
    from qcvl.viz.report import headline, results_table

    keeper = next((item for item in run.trainer.callbacks if isinstance(item, MetricsFile)), None)
    if keeper is None or run.trainer.fast_dev_run:
        return None
    if keeper.latest is None or keeper.latest[0] != run.trainer.global_step:
        run.trainer.validate(run.module, run.datamodule, verbose=False)
    metrics = keeper.finish(run.trainer)
    console.print(results_table(*(headline(metrics.get(name, {})) for name in ("initial", "final", "best"))))
    output_dir = Path(run.settings.paths.output_dir)
    checkpoint = output_dir / "checkpoints" / "last"
    processor, clock = (seconds / 60 for seconds in meter.spent())
    if run.trainer.is_global_zero:
        write_cost(output_dir, {"core_minutes": processor, "minutes": clock})
    console.print(f"cost       {processor:.3g} minutes of processor time, {clock:.3g} by the clock", highlight=False)
    console.print(f"run        {output_dir}", highlight=False, markup=False, soft_wrap=True)
    for path in sorted((output_dir / "previews" / f"step-{run.trainer.global_step}").glob("sheet-*.png")):
        console.print(f"pictures   {path}", highlight=False, markup=False, soft_wrap=True)
    for line in (
        f"checkpoint {checkpoint}",
        f"next       python -m qcvl.evaluate checkpoint={checkpoint}",
        f"           python -m qcvl.infer checkpoint={checkpoint} input=PHOTO_OR_FOLDER",
        "           python -m qcvl.train data=jsonl data.train=/abs/train.jsonl data.val=/abs/val.jsonl",
    ):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return metrics["final"].get(keeper.monitor)


def judge(run: "Run", console: "Console") -> None:
    """Say what a verification found, where the run has one.

    Raises:
        QcvlError: when a check failed.
    """
    from qcvl.callbacks.verification import Verification

    for item in run.trainer.callbacks:
        if isinstance(item, Verification):
            item.finish(run.module, console)


def main() -> None:
    """Console script ``qcvl-train``."""
    config.run("train", train)


if __name__ == "__main__":
    main()
