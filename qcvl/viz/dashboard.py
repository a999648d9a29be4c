"""A W&B workspace for the keys that qcvl logs: which plots there are, and the object that W&B keeps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qcvl.geometry.shapes import KINDS

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

_PHASES = ("load", "vision", "llm", "backward", "optimizer")  # callbacks.step_times
_TOWERS = ("vision", "aligner", "llm")


@dataclass(frozen=True, slots=True)
class Plot:
    """One plot over the steps: ``keys``, or every key that ``pattern`` matches whole."""

    title: str
    keys: tuple[str, ...] = ()
    pattern: str | None = None


def sections(sources: Sequence[str]) -> dict[str, list[Plot]]:
    """Plots by section; ``sources`` are the names of ``data.val`` (``val`` where it is a single file)."""
    found = {
        "Loss": [
            Plot("loss", ("train/loss", "eval/loss")),
            Plot("token accuracy", ("train/token_acc", "eval/token_acc")),
        ]
    }
    for source in sources:
        scope = f"eval/{source}"
        found[f"Scores: {source}"] = [
            Plot("F1 by overlap", tuple(f"{scope}/dense_f1@{overlap}" for overlap in (0.33, 0.5, 0.75))),
            Plot("F1 of places alone", tuple(f"{scope}/dense_loc_f1@{overlap}" for overlap in (0.33, 0.5, 0.75))),
            Plot("F1 by geometry", pattern=rf"{scope}/({'|'.join(KINDS)})_f1@0\.5"),
            Plot("valid and whole answers", (f"{scope}/json_valid", f"{scope}/finished")),
            Plot("wrong number of objects", (f"{scope}/dense_count_error",)),
            Plot(
                "duplicates, out of frame",
                tuple(f"{scope}/dense_{name}_rate" for name in ("duplicate", "out_of_frame")),
            ),
        ]
    found["Learning rates"] = [
        Plot("learning rate", tuple(f"lr/{tower}" for tower in _TOWERS)),
        Plot("gradient norm", ("train/grad_norm", *(f"train/grad_norm/{tower}" for tower in _TOWERS))),
    ]
    found["Speed"] = [
        Plot("tokens a second", ("perf/tokens_per_s",)),
        Plot("samples a second", ("perf/samples_per_s",)),
        Plot("patches a second", ("perf/patches_per_s",)),
        Plot("share of time waiting for data", ("perf/loader_wait",)),
        Plot("model TFLOP/s, by device", ("perf/model_tflops_per_s",)),
        Plot("share of the device's best", ("perf/mfu",)),
        Plot("seconds a step", tuple(f"perf/seconds/{phase}" for phase in _PHASES)),
        Plot("peak memory, GiB", ("perf/peak_memory_gib",)),
    ]
    return found


def picture_tables(sources: Sequence[str]) -> list[str]:
    """Keys of the tables with truth and prediction drawn on photos."""
    return [f"eval/{source}/panels" for source in sources]


def build_workspace(entity: str, project: str, name: str, sources: Sequence[str]) -> "Workspace":
    """The workspace; runs are grouped by sweep. Nothing is sent before its ``save()``."""
    from wandb_workspaces import workspaces
    from wandb_workspaces.reports import v2 as panels

    made = [
        workspaces.Section(
            name=title,
            is_open=True,
            panels=[panels.LinePlot(title=p.title, y=list(p.keys), metric_regex=p.pattern) for p in plots],
        )
        for title, plots in sections(sources).items()
    ]
    pictures = workspaces.Section(
        name="Pictures",
        is_open=True,
        panels=[panels.WeavePanelSummaryTable(table_name=key) for key in picture_tables(sources)],
    )
    grouping = workspaces.RunsetSettings(groupby=[workspaces.Metric("Group")])
    return workspaces.Workspace(
        entity=entity, project=project, name=name, sections=[*made, pictures], runset_settings=grouping
    )


def layout_json(workspace: "Workspace") -> str:
    """The layout as W&B receives it."""
    return workspace._to_model().spec.model_dump_json(by_alias=True, exclude_none=True)
