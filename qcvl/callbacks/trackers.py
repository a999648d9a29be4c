"""Trackers that need a network are asked before anything else is done."""

from collections.abc import Iterable

from lightning.pytorch.loggers import Logger, WandbLogger

from qcvl.errors import TrackerError


def start_trackers(loggers: Iterable[Logger]) -> None:
    """Begin the W&B run of each W&B logger; others need no start. On ranks above 0 nothing happens.

    Left to itself it would begin after data and weights are loaded, and end the run with a traceback.

    Raises:
        TrackerError: where W&B cannot be reached or knows no key.
    """
    for logger in loggers:
        if not isinstance(logger, WandbLogger):
            continue
        from wandb.errors import Error  # here: importing wandb takes a second, and most runs do without it

        try:
            _ = logger.experiment
        except Error as error:
            reason = str(error).splitlines()[0]
            raise TrackerError(
                f"logger: Weights & Biases cannot be used: {reason}; with logger.wandb.offline=true the run is written "
                "locally and can be uploaded later (wandb sync), or mend the network or the key (wandb login)"
            ) from None
