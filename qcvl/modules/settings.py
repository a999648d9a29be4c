"""What a run optimizes. Torch-free: the module class is imported in setup()."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt
from typing_extensions import TypedDict

from qcvl.errors import ConfigError
from qcvl.schema.settings import settings

if TYPE_CHECKING:
    from qcvl.modules.gkd import GKDModule
    from qcvl.modules.sft import SFTModule


Weight = Annotated[float, Field(ge=0)]


class TokenWeights(TypedDict):
    """How much a trained token counts in the loss, by what it says (see ``data.label_kinds``)."""

    format: Weight
    coordinates: Weight
    descriptions: Weight
    summary: Weight
    chat: Weight


@settings
class Objective:
    """What every objective has.

    The cross-entropy is the mean over all trained tokens of an optimizer step, each weighted by its kind's
    ``token_weights``: the sum of weight times cross-entropy over the sum of weights.

    A step whose loss or gradient is not finite moves nothing; ``max_nonfinite_steps`` in a row end the run.
    """

    token_weights: TokenWeights
    max_nonfinite_steps: PositiveInt

    def __post_init__(self) -> None:
        if not any(self.token_weights.values()):
            raise ConfigError("objective.token_weights: all are 0, which trains nothing; give one kind a weight")

    @property
    def grounding(self) -> bool:
        """Whether samples need the targets of the auxiliary dense loss."""
        return False


@settings
class SFT(Objective):
    """Supervised fine-tuning: cross-entropy on the answers' tokens.

    ``aux_grounding`` is the weight of an auxiliary dense loss that helps a small model without a pretrained eye: a
    throw-away linear head on each merged visual token names the object over it and places its outline. 0 (right for
    pretrained checkpoints) leaves it out.

    ``load_balance`` is the weight of the loss that makes a mixture of experts use all of them (see
    ``losses.balance``). Above 0, routers train with a language model that trains in full; at 0 they stay as they are.
    """

    aux_grounding: float = Field(ge=0)
    load_balance: float = Field(ge=0)

    @property
    def grounding(self) -> bool:
        """Whether the auxiliary loss has a weight."""
        return self.aux_grounding > 0

    def setup(self, **parts: Any) -> "SFTModule":
        """Build the LightningModule from the run's other parts (see SFTModule)."""
        from qcvl.modules.sft import SFTModule

        return SFTModule(
            aux_grounding=self.aux_grounding,
            load_balance=self.load_balance,
            token_weights=self.token_weights,
            max_nonfinite_steps=self.max_nonfinite_steps,
            **parts,
        )


VisualTarget = Literal["merger", "deepstack", "vision"]


class VisualKD(TypedDict):
    """Distillation of visual features: ``weight`` times the mean ``distance`` of each of ``targets``.

    ``merger`` are the visual tokens that the language model reads first, ``deepstack`` those that its next layers read,
    ``vision`` what leaves the last block of the vision tower. Targets given as a mapping have a weight each.
    """

    enabled: bool
    weight: Annotated[float, Field(gt=0)]
    distance: Literal["mse", "cosine"]
    targets: Annotated[list[VisualTarget], Field(min_length=1)] | dict[VisualTarget, PositiveFloat]


@settings
class GKD(Objective):
    """Generalized knowledge distillation: the answers' cross-entropy, and nearness to a teacher.

    The loss is ``llm_kd_weight * divergence + sft_alpha * cross-entropy + visual_kd.weight * distance``, all means.

    ``teacher`` is ``"self"`` (with adapters the same model with them off; else a frozen copy of what moves, as it was
    at the start), or the folder or hub id of a checkpoint with the same vocabulary and patches, such as a larger model.
    ``teacher_dtype`` is its number format, None that of the student; with ``teacher_offload`` weights that it does not
    share with the student wait in the host's memory while it is not asked.

    ``beta`` and ``kd_temperature`` are those of ``losses.jsd.divergence``; ``beta=0`` is the full
    ``KL(teacher || student)``, and ``llm_kd_weight=0`` is how the divergence is left out.

    With ``top_k`` it is taken on the teacher's ``k`` most likely tokens and the rest as one outcome (see
    ``losses.jsd``). ``teacher_cache`` is a folder where what the teacher says of these is kept by sample, ``8 k + 4``
    bytes a label, so that it is asked once about a sample, in this run and in others (see ``modules.teacher_cache``);
    a sample that was augmented differently is another one.

    The divergence is taken on answers: a share ``lmbda`` of steps on those the student draws, the others on those of
    the teacher with ``seq_kd`` and of the data set without. Which, is a function of (seed, step). Answers are drawn at
    ``temperature`` and have at most ``max_completion_length`` tokens. The cross-entropy is always that of the data set.

    Validation asks the teacher with ``eval_kd`` alone, about the data set's answers.
    """

    teacher: str
    teacher_dtype: Literal["float32", "bfloat16"] | None
    teacher_offload: bool
    beta: Annotated[float, Field(ge=0, le=1)]
    sft_alpha: Annotated[float, Field(ge=0)]
    llm_kd_weight: Annotated[float, Field(ge=0)]
    kd_temperature: PositiveFloat
    top_k: PositiveInt | None
    teacher_cache: str | None
    lmbda: Annotated[float, Field(ge=0, le=1)]
    seq_kd: bool
    temperature: Annotated[float, Field(ge=0)]
    max_completion_length: PositiveInt
    eval_kd: bool
    visual_kd: VisualKD

    def __post_init__(self) -> None:
        Objective.__post_init__(self)
        if not self.sft_alpha and not self.llm_kd_weight and not self.visual_kd["enabled"]:
            raise ConfigError(
                "objective: sft_alpha and llm_kd_weight are 0 and visual_kd is off, which trains nothing; give one a "
                "weight"
            )
        if self.teacher_cache is not None and (self.top_k is None or self.lmbda or self.seq_kd):
            raise ConfigError(
                f"objective.teacher_cache={self.teacher_cache}: it keeps the teacher's top_k tokens for the data's own "
                f"answers; found top_k={self.top_k}, lmbda={self.lmbda}, seq_kd={self.seq_kd}; use "
                "objective=gkd_forward_only objective.top_k=64, or teacher_cache=null"
            )

    def setup(self, **parts: Any) -> "GKDModule":
        """Build the LightningModule from the run's other parts (see GKDModule)."""
        from qcvl.modules.gkd import GKDModule

        return GKDModule(
            settings=self, token_weights=self.token_weights, max_nonfinite_steps=self.max_nonfinite_steps, **parts
        )
