"""What a run optimizes. Torch-free: the module class is imported in setup()."""

from typing import TYPE_CHECKING, Any

from pydantic import Field

from qcvl.schema.settings import settings

if TYPE_CHECKING:
    from qcvl.modules.sft import SFTModule


@settings
class SFT:
    """Supervised fine-tuning: cross-entropy on the answers' tokens.

    ``aux_grounding`` is the weight of an auxiliary dense loss that helps a small model without a pretrained eye: a
    throw-away linear head on each merged visual token names the object over it and places its outline. 0 (right for
    pretrained checkpoints) leaves it out.
    """

    aux_grounding: float = Field(ge=0)

    def setup(self, **parts: Any) -> "SFTModule":
        """Build the LightningModule from the run's other parts (see SFTModule)."""
        from qcvl.modules.sft import SFTModule

        return SFTModule(aux_grounding=self.aux_grounding, **parts)
