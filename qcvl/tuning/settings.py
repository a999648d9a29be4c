"""The settings of learning: which towers move, and how they move.

Importing this module costs no torch: the heavy modules are imported inside ``setup``.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator
from typing_extensions import TypedDict

from qcvl.models.towers import TOWERS, Tower
from qcvl.schema.settings import settings

if TYPE_CHECKING:
    from torch import nn

    from qcvl.tuning.adapters import AdapterModules
    from qcvl.tuning.ranks import RankCourse

Way = Literal["adapter", "full", "frozen"]

NO_TARGETS = "^$"  # a regular expression that no module's name matches

Share = Annotated[float, Field(ge=0, lt=1)]


class Rates(TypedDict):
    """Peak learning rates of a stage, one for each way a tower can move."""

    adapter: PositiveFloat
    full: PositiveFloat


class LastBlocks(TypedDict):
    """How many of a tower's last blocks move; None: the whole tower."""

    vision: PositiveInt | None
    llm: PositiveInt | None


@settings
class TrainingStage:
    """Which towers move, for how many epochs, at what rates, and what the run starts from.

    With ``last_blocks`` only the last blocks of a tower move, and nothing beside them (embeddings, patches, the last
    norm). ``freeze_modules`` are paths, matched from the end, that stay as they are within towers that move.

    ``vit_lr``, ``aligner_lr`` and ``llm_lr`` are peak rates of single towers, in place of ``rates`` unless None.
    ``layer_decay`` is what a block's rate is multiplied by for each block above it; 1 gives all the same.

    ``init_from`` is ``None`` (the base model), ``"latest"`` (the newest complete ``last`` of a lower stage with the
    same base), ``"previous"`` (of a sweep's jobs one after another, the one before this one; the first starts from the
    base model) or the path of a checkpoint folder.
    """

    number: PositiveInt
    towers: Annotated[list[Tower], Field(min_length=1)]
    last_blocks: LastBlocks
    freeze_modules: list[str]
    epochs: PositiveFloat
    rates: Rates
    vit_lr: PositiveFloat | None
    aligner_lr: PositiveFloat | None
    llm_lr: PositiveFloat | None
    layer_decay: Annotated[float, Field(gt=0, le=1)]
    init_from: str | None

    def rate(self, tower: str, way: str) -> float:
        """The peak rate of a tower, before ``model.lr_multiplier``: its own where it has one, else that of its way."""
        own = {"vision": self.vit_lr, "aligner": self.aligner_lr, "llm": self.llm_lr}.get(tower)
        return self.rates[way] if own is None else own  # type: ignore[literal-required]

    @property
    def name(self) -> str:
        """The number as text, for messages and job names."""
        return str(self.number)

    @field_validator("towers")
    @classmethod
    def _each_tower_once(cls, towers: list[Tower]) -> list[Tower]:
        if len(set(towers)) != len(towers):
            raise ValueError(f"names a tower twice: {towers}; expected each of {', '.join(TOWERS)} at most once")
        return towers


@settings
class FullTuner:
    """Trains the weights of the stage's towers themselves."""

    @property
    def kind(self) -> str:
        """``"full"``."""
        return "full"

    def way(self, tower: Tower, towers: Sequence[Tower]) -> Way:
        """``"full"`` for a tower of the stage, else ``"frozen"``."""
        return "full" if tower in towers else "frozen"

    def setup(self, model: nn.Module, towers: Sequence[Tower], *, held: Collection[str] = ()) -> nn.Module:
        """Freeze ``model``, then let the weights of ``towers`` train in float32; returns the same object.

        ``held`` (from ``freezing.held_modules``) are module paths of these towers that stay frozen.
        """
        from qcvl.tuning.full import train_towers

        return train_towers(model, towers, held)

    def rank_course(self, model: nn.Module, total_steps: int) -> None:
        """None: weights have no rank to shrink."""
        return


class RankSchedule(TypedDict):
    """How AdaLoRA's ranks fall from ``initial_rank`` to a mean of the tuner's ``rank``.

    The first ``warmup_ratio`` of all steps keep the initial rank, the last ``final_ratio`` the final one; in between
    ranks are dealt anew every ``every_steps`` steps. ``orthogonality`` weighs how far the singular vectors are from
    orthogonal in the loss.
    """

    initial_rank: PositiveInt
    warmup_ratio: Share
    final_ratio: Share
    every_steps: PositiveInt
    orthogonality: Annotated[float, Field(ge=0)]


class Quantization(TypedDict):
    """The frozen base's linears in four bits: ``nf4`` or ``fp4``, the blocks' scales quantized too when ``double``."""

    kind: Literal["nf4", "fp4"]
    double: bool


@settings
class PeftTuner:
    """Trains adapters (any peft method that names target modules) on the linears of the stage's towers.

    ``method`` is peft's own name (``lora``, ``oft``, ``loha`` …). ``rank``, ``alpha`` and ``dropout`` go to that
    method's own fields; null leaves peft's default. ``init`` is how an adapter starts: ``identity`` (as if it were not
    there), ``gaussian`` (the same, LoRA's A normal instead of uniform) or ``random`` (nothing is zero). ``bias`` trains
    biases too, those of the adapted linears or all of their towers. LoRA's B learns at ``b_rate_ratio`` times the rate
    of A (LoRA+).

    ``target_modules`` is ``"all-linear"``, a list of module names (each matched from the end, as peft does), a regular
    expression over the whole module path, or ``"^$"``: no adapter at all. Towers in ``full_towers`` train their own
    weights beside the adapter. ``options`` are further fields of peft's config class.
    """

    method: str
    rank: PositiveInt | None
    alpha: int | float | None
    dropout: Share | None
    init: Literal["identity", "gaussian", "random"]
    bias: Literal["none", "adapted", "all"]
    b_rate_ratio: PositiveFloat
    rank_schedule: RankSchedule | None
    quantization: Quantization | None
    target_modules: str | list[str]
    full_towers: list[Literal["aligner"]]
    options: dict[str, Any]

    @model_validator(mode="after")
    def _methods_have_what_is_asked_of_them(self) -> PeftTuner:
        if (self.kind == "adalora") != (self.rank_schedule is not None):
            raise ValueError(f"rank_schedule belongs to method adalora, which needs one; found method {self.method}")
        if self.b_rate_ratio != 1 and self.kind not in ("lora", "adalora"):
            raise ValueError(f"b_rate_ratio={self.b_rate_ratio}: {self.method} has no matrix B as lora has; use 1.0")
        if self.quantization is not None and self.kind != "lora":
            raise ValueError(f"quantization works with method lora, not {self.method}; use null")
        if self.init == "gaussian" and self.kind != "lora":
            raise ValueError(f"init=gaussian is LoRA's; {self.method} knows identity and random")
        return self

    @property
    def kind(self) -> str:
        """Peft's name of the method in lower case, such as ``"lora"``."""
        return self.method.lower()

    def way(self, tower: Tower, towers: Sequence[Tower]) -> Way:
        """How a tower moves: ``"full"`` in ``full_towers``, else ``"adapter"``; ``"frozen"`` outside the stage."""
        if tower not in towers:
            return "frozen"
        if tower in self.full_towers:
            return "full"
        return "frozen" if self.target_modules == NO_TARGETS else "adapter"

    def setup(
        self,
        model: nn.Module,
        towers: Sequence[Tower],
        extra_modules: AdapterModules | None = None,
        *,
        held: Collection[str] = (),
    ) -> nn.Module:
        """Wrap ``model`` in a peft model whose adapters on ``towers`` train in float32; all else is frozen.

        ``extra_modules`` (from ``checkpoints.adapters.adapter_modules``) are adapted too, so that an earlier stage's
        adapter has a place; those of towers outside ``towers``, and in ``held`` modules, stay frozen but are saved with
        the rest.
        """
        from qcvl.tuning.adapters import add_adapters

        return add_adapters(model, self, towers, extra_modules, held)

    def rank_course(self, model: nn.Module, total_steps: int) -> RankCourse | None:
        """What shrinks the ranks of the model that ``setup`` made over ``total_steps`` optimizer steps, if anything."""
        from qcvl.tuning.ranks import RankCourse

        return None if self.rank_schedule is None else RankCourse(model, self.rank_schedule, total_steps)


Tuner = FullTuner | PeftTuner
