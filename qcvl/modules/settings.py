"""What a run optimizes. Torch-free: the module class is imported in setup()."""

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, PositiveInt
from typing_extensions import TypedDict

from qcvl.errors import ConfigError
from qcvl.schema.settings import settings

if TYPE_CHECKING:
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
class SFT:
    """Supervised fine-tuning: cross-entropy on the answers' tokens.

    ``aux_grounding`` is the weight of an auxiliary dense loss that helps a small model without a pretrained eye: a
    throw-away linear head on each merged visual token names the object over it and places its outline. 0 (right for
    pretrained checkpoints) leaves it out.

    The loss is the mean over all trained tokens of an optimizer step, each weighted by its kind's ``token_weights``:
    the sum of weight times cross-entropy over the sum of weights.

    ``load_balance`` is the weight of the loss that makes a mixture of experts use all of them (see
    ``losses.balance``). Above 0, routers train with a language model that trains in full; at 0 they stay as they are.

    A step whose loss or gradient is not finite moves nothing; ``max_nonfinite_steps`` in a row end the run.
    """

    aux_grounding: float = Field(ge=0)
    load_balance: float = Field(ge=0)
    token_weights: TokenWeights
    max_nonfinite_steps: PositiveInt

    def __post_init__(self) -> None:
        if not any(self.token_weights.values()):
            raise ConfigError("objective.token_weights: all are 0, which trains nothing; give one kind a weight")

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
