"""``python -m qcvl.dashboard entity=…``: a view of a W&B project with plots of what qcvl logs."""

from pathlib import Path

from omegaconf import DictConfig

from qcvl import config
from qcvl.errors import ConfigError, TrackerError


def dashboard(cfg: DictConfig) -> str:
    """Keep the layout as ``dashboard.json``, save it to W&B and return the address of the view.

    Raises:
        ConfigError: where wandb-workspaces is not installed.
        TrackerError: where W&B cannot be reached, knows no key or has no such project; ``dashboard.json`` is there.
    """
    settings = config.build(cfg)
    from qcvl.viz.dashboard import build_workspace, layout_json

    try:
        workspace = build_workspace(settings.entity, settings.project, settings.name, settings.sources)
    except ModuleNotFoundError as error:
        raise ConfigError(f"dashboard: {error.name} is not installed; run pip install 'qcvl[dashboard]'") from None
    path = Path(settings.paths.output_dir) / "dashboard.json"
    path.write_text(layout_json(workspace) + "\n", encoding="utf-8")
    import wandb

    try:
        workspace.save()
    except (wandb.errors.Error, OSError) as error:
        reason = str(error).splitlines()[0]
        raise TrackerError(
            f"W&B did not take the view of {settings.entity}/{settings.project}: {reason}; it needs a network, a key "
            f"(wandb login) and a project that has runs. The layout is in {path}"
        ) from None
    print(workspace.url)
    return workspace.url


def main() -> None:
    """Console script ``qcvl-dashboard``."""
    config.run("dashboard", dashboard)


if __name__ == "__main__":
    main()
