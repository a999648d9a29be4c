"""Whether a checkpoint and a run are of the same model: base weights, tokenizer, template, trained tensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qcvl.checkpoints.contract import Base, read_contract
from qcvl.errors import CheckpointError
from qcvl.models.folders import read_json
from qcvl.models.spec import Processing

AS_STARTED = "resume with the run's own stage and tuner, or start a new run from its weights with stage.init_from="
REMEDY = "set model to what the checkpoint was trained from"


def require_same_base(folder: Path, base: Base, setting: str) -> None:
    """Compare the base model that a checkpoint names with that of this run.

    Raises:
        CheckpointError: with both, and the ``setting`` that named the checkpoint.
    """
    found = read_contract(folder).base
    if found.fingerprint != base.fingerprint:
        raise CheckpointError(
            f"{setting}: {folder} was trained from {found.path} ({found.fingerprint[:12]}…), this run's "
            f"model is {base.path} ({base.fingerprint[:12]}…); set model to the same base"
        )


def require_same_text(folder: Path, processing: Processing, setting: str) -> None:
    """Compare the tokenizer's vocabulary and the chat template in a checkpoint with those of this run's model.

    Raises:
        CheckpointError: naming the first token that differs, or the first line of the template.
    """
    tokenizer = read_json(folder / "tokenizer.json")
    saved = tokenizer["model"]["vocab"] | {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    own = processing.tokenizer.get_vocab()
    if differ := sorted(token for token in saved.keys() | own.keys() if saved.get(token) != own.get(token)):
        token = differ[0]
        raise CheckpointError(
            f"{setting}: {len(differ)} tokens of {folder} are not those of this run's tokenizer, first {token!r}: "
            f"{saved.get(token)} in the checkpoint, {own.get(token)} now; {REMEDY}, with the tokenizer it had then"
        )
    template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    if template != processing.chat_template:
        lines = [text.splitlines() for text in (template, processing.chat_template)]
        number = next(
            (i for i, pair in enumerate(zip(*lines, strict=False)) if len(set(pair)) > 1), min(map(len, lines))
        )
        raise CheckpointError(
            f"{setting}: the chat template of {folder} is not that of this run's model, first in line {number + 1}; "
            f"{REMEDY}, or copy the checkpoint's chat_template.jinja into the model's folder"
        )


def require_same_tensors(
    saved: Mapping[str, Any], own: Mapping[str, Any], *, setting: str, of: object, remedy: str
) -> None:
    """Compare names and shapes of trained tensors that were saved with those that this run trains.

    Args:
        saved: tensors by name.
        own: those of this run.
        setting: the setting that named the saved ones, for messages, as ``of`` and ``remedy`` are.
        of: what they were saved of.
        remedy: what to do.

    Raises:
        CheckpointError: naming the first difference.
    """
    before, now = ({name: list(tensor.shape) for name, tensor in tensors.items()} for tensors in (saved, own))
    if differ := sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name)):
        name = differ[0]
        raise CheckpointError(
            f"{setting}: {len(differ)} trained tensors are not those of {of}, first {name}: {before.get(name)} "
            f"in the checkpoint, {now.get(name)} now; {remedy}"
        )
