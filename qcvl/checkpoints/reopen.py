"""A checkpoint folder as a model that answers: its base, its weights and the processing it was trained with."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from qcvl.checkpoints.agreement import require_same_text
from qcvl.checkpoints.contract import Contract, read_contract
from qcvl.checkpoints.describe import describe_base
from qcvl.checkpoints.folder import verify
from qcvl.errors import CheckpointError
from qcvl.models.settings import Model, at_path
from qcvl.models.spec import Processing
from qcvl.schema.answer import AnswerFormat
from qcvl.schema.prompts import Prompts, TaskPrompt
from qcvl.schema.types import Pairing

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Reopened:
    """A model with the processing, answer format, prompts and pairing it was trained with."""

    model: "nn.Module"
    processing: Processing
    answer_format: AnswerFormat
    prompts: Prompts
    pairing: Pairing | None


def reopen(folder: Path, model: Model, *, merged: bool = False) -> Reopened:
    """Load a checkpoint folder written by ``qcvl.train``.

    Args:
        folder: verified against its manifest first.
        model: its dtype and attention are used. An adapter goes on this model when it is the checkpoint's base, else on
            the base the checkpoint names.
        merged: fold an adapter into the base's weights and give back a plain transformers model.

    Raises:
        CheckpointError: for a damaged folder, or a base that is not the one the adapter was trained on.
    """
    import peft

    from qcvl.checkpoints.adapters import is_adapter
    from qcvl.checkpoints.merge import merge

    verify(folder)
    contract = read_contract(folder)
    adapter = is_adapter(folder)
    spec = base_of(contract, model) if adapter else at_path(model, str(folder))
    processing = spec.load_processing()
    require_same_text(folder, processing, "checkpoint")
    loaded = spec.load_model()
    if adapter:
        loaded = merge(loaded, folder) if merged else peft.PeftModel.from_pretrained(loaded, folder)
    return Reopened(
        model=loaded,
        processing=replace(processing, min_pixels=contract.min_pixels, max_pixels=contract.max_pixels),
        answer_format=AnswerFormat(**contract.answer_format),
        prompts=Prompts(**{task: TaskPrompt(**texts) for task, texts in contract.prompts.items()}),
        pairing=contract.pairing,
    )


def base_of(contract: Contract, model: Model) -> Model:
    """``model`` where it is the base a checkpoint was trained on, else the base its contract names, read as ``model``.

    Either is read with the length of context the checkpoint was trained with.

    Raises:
        CheckpointError: when that folder holds other weights now.
    """
    named = contract.base
    model = replace(model, context_factor=named.context_factor)
    if describe_base(model, named.model_type).fingerprint == named.fingerprint:
        return model
    spec = at_path(model, named.path)
    found = describe_base(spec, named.model_type).fingerprint
    if found != named.fingerprint:
        raise CheckpointError(
            f"the adapter was trained on {named.path} with fingerprint {named.fingerprint[:12]}…, but that folder now "
            f"has {found[:12]}…; give the original base with model.path="
        )
    return spec
