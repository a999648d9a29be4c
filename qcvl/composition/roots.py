"""What each root (``conf/<root>.yaml``) holds: one command's scalars and groups, checked like any other settings."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, NonNegativeInt, PositiveInt

from qcvl.schema.settings import settings


def _built(part: Any) -> Any:
    if isinstance(part, dict):
        raise ValueError("should have a _target_; without one nothing can be built from it")
    return part


Parts = dict[str, Annotated[Any, AfterValidator(_built)]]  # {name: object made from a _target_}


@settings
class Paths:
    """Folders of a run: where all runs are, where made data are, this run's own, its checkpoints and pictures."""

    outputs: str
    data_dir: str
    output_dir: str
    checkpoints: str
    previews: str


@settings
class Root:
    """What every command has: its job (names the run directory), seed, torch threads, trusted targets and folders."""

    job: str
    seed: NonNegativeInt
    threads: PositiveInt
    trusted_targets: list[str]
    paths: Paths


@settings
class Train(Root):
    """``python -m qcvl.train``.

    ``resume`` is None for a fresh start (also after ``resume=auto`` that found nothing), else a checkpoint folder.
    ``tiles`` None validates whole photos. ``batch_probe`` looks for the largest ``data.token_budget`` (see
    ``callbacks.batch_probe``). ``sp_degree`` neighbouring ranks hold each row together (see ``models.sequence``).
    ``replay`` is None, or the folder of a step that was not finite: then nothing is trained and that step is made again
    (see ``modules.replay``).
    """

    batch_probe: bool
    sp_degree: PositiveInt
    global_max_length: PositiveInt
    resume: Annotated[str | None, BeforeValidator(lambda value: None if value == "auto" else value)]
    replay: str | None
    generation: Any
    tiles: Any
    model: Any
    prompts: Any
    answer: Any
    augment: Any
    data: Any
    stage: Any
    tuner: Any
    objective: Any
    optimizer: Any
    lr_scheduler: Any
    trainer: Any
    callbacks: Parts
    logger: Parts


@settings
class Evaluate(Root):
    """``python -m qcvl.evaluate``: ``checkpoint`` is a folder or None (``model`` as it is); ``limit`` None is all.

    Objects that score below ``threshold`` count for average precision alone; the name of a source of ``data.val``
    chooses the one with the best F1 on that source. ``iou`` is the overlap from which an object is found in that choice
    and in the tables by class and by group. ``group_by`` makes groups: a key of the records' metadata, or
    ``path:`` and a regular expression on the photo's path.
    ``tiles`` None asks about whole photos.

    ``runs`` (None: no) is a folder of finished runs to compare in place of answering anything. Each of ``devices``
    answers about its share of the records.
    """

    runs: str | None
    devices: PositiveInt
    checkpoint: str | None
    global_max_length: PositiveInt
    limit: PositiveInt | None
    threshold: Annotated[float, Field(ge=0, le=1)] | str
    iou: Annotated[float, Field(gt=0, le=1)]
    group_by: str | None
    panels: NonNegativeInt
    generation: Any
    tiles: Any
    model: Any
    prompts: Any
    answer: Any
    data: Any


@settings
class Infer(Root):
    """``python -m qcvl.infer``: ``input`` is a photo, a folder of photos or a JSONL file.

    ``prompts`` and ``answer`` None are the checkpoint's own; ``tiles`` None asks about whole photos. Objects that score
    below ``threshold`` are neither printed nor drawn. Each of ``devices`` answers about its share of the photos.
    """

    devices: PositiveInt
    checkpoint: str | None
    input: str
    task: Literal["dense", "summary"]
    overlays: bool
    threshold: Annotated[float, Field(ge=0, le=1)]
    generation: Any
    tiles: Any
    model: Any
    prompts: Any
    answer: Any


@settings
class Check(Root):
    """``python -m qcvl.check``: reads every record of ``data`` and every photo's header; ``decode`` also its pixels.

    ``fix`` writes a repaired copy of each JSONL file. ``model`` None counts no tokens. Groups that both splits share
    are found by ``group_by`` (see ``Evaluate``), None: by ``metadata.group`` where records have it. ``workers`` None is
    one process a core.
    """

    decode: bool
    fix: bool
    group_by: str | None
    workers: PositiveInt | None
    global_max_length: PositiveInt
    model: Any
    prompts: Any
    answer: Any
    data: Any


@settings
class Visualize(Root):
    """``python -m qcvl.visualize``: draws ``limit`` records of each source of a split.

    With ops enabled in ``augment`` each photo is drawn as it is and as ``draws`` draws show it.
    ``predictions`` (None for none) is a JSONL file of answers to them or a folder of such files, written as ``answer``
    says; they are drawn beside the truth.
    """

    split: Literal["train", "val"]
    predictions: str | None
    limit: PositiveInt
    draws: PositiveInt
    answer: Any
    augment: Any
    data: Any


@settings
class Convert(Root):
    """``python -m qcvl.convert``: rewrites the data set ``input`` of one ``format`` as ``output`` in the format ``to``.

    ``root`` is the folder of its photos; None: where the format itself says they are. ``prompts`` and ``answer`` are
    what formats of conversations ask and answer about records with objects or a summary. With a ``packing_length``
    conversations are written in packs of at most so many tokens of ``model``.
    """

    format: str
    to: str
    packing_length: PositiveInt | None
    model: Any
    prompts: Any
    answer: Any
    input: str
    output: str
    split: Literal["train", "val"]
    root: str | None


@settings
class Export(Root):
    """``python -m qcvl.export``: merges a checkpoint's adapter into its base and writes a plain Hugging Face folder.

    ``share`` is how much of the way from the base to the checkpoint its weights go.
    """

    checkpoint: str
    output: str
    model: Any
    share: Annotated[float, Field(gt=0, le=1)]
    dtype: Literal["float32", "bfloat16"]


@settings
class Dashboard(Root):
    """``python -m qcvl.dashboard``: a view ``name`` of the W&B project ``entity/project``.

    ``sources`` are the names of the validation data whose scores it shows.
    """

    entity: str
    project: str
    name: str
    sources: list[str]
