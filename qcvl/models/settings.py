"""The two ways to get a model, as settings: a checkpoint by its path, or random weights by an architecture."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from qcvl.models.folders import check_weights, find_folder, read_config
from qcvl.models.spec import Family, Processing, load_processing, read_image_settings
from qcvl.schema.settings import settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Dtype = Literal["float32", "bfloat16", "auto"]
Attention = Literal["auto", "sdpa", "varlen", "flash_attention_2"]
Count = Annotated[int, Field(ge=1)]
ContextFactor = Annotated[float, Field(ge=1, le=4)]  # beyond 4, YaRN was not trained or measured by anyone


@settings
class ModelSettings:
    """What every model choice has: number format, attention, image budget in merged cells, and its rate factor.

    ``dtype=auto`` keeps the checkpoint's own. ``attn=auto`` is flash_attention_2 on a GPU that has it, else varlen:
    torch's own kernel on a GPU in half precision, exact SDPA per packed sample elsewhere. ``lr_multiplier`` scales the
    stage's learning rates for this model. ``context_factor`` above 1 lengthens the context by YaRN (see
    ``models.context``). ``gradient_checkpointing`` recomputes layers in backward: of both towers, or of those named.
    ``compile`` trains through torch.compile, block by block, ``liger`` through Liger's kernels; both first compare a
    batch with what the blocks give as they are.
    """

    dtype: Dtype
    attn: Attention
    min_cells: Count
    max_cells: Count
    lr_multiplier: Annotated[float, Field(gt=0)]
    context_factor: ContextFactor
    gradient_checkpointing: bool | tuple[Literal["vision", "llm"], ...]
    compile: bool
    liger: bool

    def __post_init__(self) -> None:
        if self.min_cells > self.max_cells:
            raise ValueError(f"min_cells {self.min_cells} is above max_cells {self.max_cells}")


@settings
class ModelSpec(ModelSettings):
    """A pretrained checkpoint at ``path``: a local folder, a hub id ``owner/name``, or ``embedded:tiny``."""

    path: str

    def load_processing(self, *, light: bool = False) -> Processing:
        """Tokenizer, chat template and patch grid of the checkpoint; reads no weights. ``light``: to count tokens."""
        folder = find_folder(self.path, weights=False)
        return load_processing(folder, read_config(folder), self.min_cells, self.max_cells, light=light)

    def load_model(self) -> "PreTrainedModel":
        """The checkpoint's model on the CPU in ``dtype``, with the fast attention paths in place."""
        from qcvl.models.build import load_pretrained

        folder = find_folder(self.path, weights=True)
        Family.from_config(read_config(folder), read_image_settings(folder), folder)
        check_weights(folder)
        return load_pretrained(folder, self)


@settings
class ScratchModel(ModelSettings):
    """Random weights of an architecture, the same for the same seed.

    ``architecture`` is a ``config.json`` (model_type, text_config, vision_config in Hugging Face's names) without the
    vocabulary, which comes from ``tokenizer`` (a folder, hub id or ``embedded:tiny``). Weights are normal with
    ``init_std``; outputs of residual branches are divided by sqrt(2 * layers) when ``scale_residual_outputs``; the
    vision position table is 2-D sine-cosine times ``position_table_scale`` (null for a family without one).
    """

    architecture: dict[str, Any]
    tokenizer: str
    init_std: Annotated[float, Field(gt=0)]
    position_table_scale: float | None
    scale_residual_outputs: bool
    seed: int

    def load_processing(self, *, light: bool = False) -> Processing:
        """Tokenizer and template of ``tokenizer``, patch grid of ``architecture``. ``light``: to count tokens."""
        folder = find_folder(self.tokenizer, weights=False)
        cells = self.min_cells, self.max_cells
        return load_processing(folder, self.architecture, *cells, light=light, borrowed=True)

    def load_model(self) -> "PreTrainedModel":
        """A model with reproducible random weights on the CPU; the global random state is left as it was."""
        from qcvl.models.build import build_scratch

        return build_scratch(self, self.load_processing())


Model = ModelSpec | ScratchModel


def at_path(model: Model, path: str) -> ModelSpec:
    """The checkpoint at ``path`` with the number format, attention, image budget, rate and context of ``model``."""
    return ModelSpec(
        path=path,
        dtype=model.dtype,
        attn=model.attn,
        min_cells=model.min_cells,
        max_cells=model.max_cells,
        lr_multiplier=model.lr_multiplier,
        context_factor=model.context_factor,
        gradient_checkpointing=model.gradient_checkpointing,
        compile=model.compile,
        liger=model.liger,
    )
