"""What a run writes into ``qcvl.json``."""

import dataclasses
import hashlib
import json
from typing import Any

from qcvl.checkpoints.contract import Base, Contract
from qcvl.checkpoints.fingerprint import fingerprint
from qcvl.models.folders import find_folder
from qcvl.models.settings import Model, ModelSpec
from qcvl.models.spec import Processing
from qcvl.schema.answer import AnswerFormat
from qcvl.schema.prompts import Prompts
from qcvl.schema.types import Pairing
from qcvl.tuning.settings import TOWERS, TrainingStage, Tuner

RESAMPLE = "bicubic"


def describe_base(model: Model, model_type: str) -> Base:
    """The base of a run: a folder's fingerprint, or for random weights that of the settings that make them."""
    if isinstance(model, ModelSpec):
        folder = find_folder(model.path, weights=True)
        path, mark = model.path, fingerprint(folder)
    else:
        settings = json.dumps(dataclasses.asdict(model), sort_keys=True)
        path, mark = "scratch", hashlib.sha256(settings.encode()).hexdigest()
    return Base(path=path, model_type=model_type, fingerprint=mark, context_factor=model.context_factor)


def describe(
    *,
    model: Model,
    processing: Processing,
    stage: TrainingStage,
    tuner: Tuner,
    answer_format: AnswerFormat,
    prompts: Prompts,
    pairing: Pairing | None,
) -> Contract:
    """The processing contract of every checkpoint this run writes."""
    texts: dict[str, Any] = dataclasses.asdict(prompts)
    return Contract(
        version=1,
        stage=stage.number,
        min_pixels=processing.min_pixels,
        max_pixels=processing.max_pixels,
        patch_factor=processing.family.factor,
        resample=RESAMPLE,
        exif=True,
        emit_norm=answer_format.emit_norm,
        answer_format=dataclasses.asdict(answer_format),
        prompts=texts,
        order=answer_format.order,
        pairing=pairing,
        base=describe_base(model, processing.family.model_type),
        tuner={tower: tuner.way(tower, stage.towers) for tower in TOWERS},
    )
