"""The model that evaluate and infer answer with: a checkpoint, or ``model`` as it is."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from qcvl.composition.devices import start_processes
from qcvl.composition.quiet import quiet
from qcvl.composition.roots import Evaluate, Infer
from qcvl.errors import ConfigError

if TYPE_CHECKING:
    from qcvl.checkpoints.reopen import Reopened


def open_model(settings: Evaluate | Infer) -> "Reopened":
    """A checkpoint with the processing it was trained with, or ``settings.model`` with the run's prompts and format.

    It is on this process's device (see ``start_processes``).

    Raises:
        ConfigError: without a checkpoint, when prompts or answer format are not given either.
    """
    import torch

    quiet()
    torch.set_num_threads(settings.threads)
    device = start_processes(settings.devices)
    opened = _opened(settings)
    opened.model.to(device)
    return opened


def _opened(settings: Evaluate | Infer) -> "Reopened":
    from qcvl.checkpoints.reopen import Reopened, reopen

    if settings.checkpoint is not None:
        opened = reopen(Path(settings.checkpoint), settings.model)
        own = settings.answer and settings.answer.resolved(opened.processing.family.emit_norm)
        return replace(opened, answer_format=own or opened.answer_format, prompts=settings.prompts or opened.prompts)
    missing = [name for name in ("prompts", "answer") if getattr(settings, name) is None]
    if missing:
        raise ConfigError(
            f"{', '.join(missing)}: must be given without a checkpoint, which would bring its own; "
            "add prompts=zh answer=objects, or checkpoint=outputs/train/…/checkpoints/last"
        )
    processing = settings.model.load_processing()
    answer_format = settings.answer.resolved(processing.family.emit_norm)
    pairing = settings.data.pair if isinstance(settings, Evaluate) else None
    return Reopened(settings.model.load_model(), processing, answer_format, settings.prompts, pairing)
