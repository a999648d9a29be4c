"""Memory of a training step before it runs, from the model's layers, what of them trains, and the batch.

Four parts: weights as they are stored; a gradient for each trained number; the optimizer's state of it; and what
backward needs of forward, as this is counted here:

* of a norm over the width its input in float32 and its output, and what its weight scales if that trains;
* of queries, keys and values what goes into the rotation and comes out, of attention what it gives, twice;
* of the layers that widen a row what they give, of the one that narrows it what it is given, of experts those it meets;
* of an adapter what lies between its two factors, and in half precision its input once more, in float32;
* of a block under activation checkpointing its input alone, and once the most that one block needs by itself;
* of the head the logits at label positions, their float32 form and log-probabilities, and the gradients of both.

A tower below everything that trains keeps nothing. Kernels' own workspace and the allocator's gaps are not counted.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from torch import Tensor, nn

from qcvl.models.flops import STEPS, WRAPPERS, batch_amounts
from qcvl.models.forward import unwrap

FLOAT32 = 4
HEADS = ("q_norm", "k_norm")
CHUNK = 4096  # label tokens whose logits exist at once (see ``modules.sft``)


class StepMemory(NamedTuple):
    """Bytes of each part."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """All of them, as at the end of forward: the most of a step."""
        return sum(self)


def step_memory(model: nn.Module, batch: Mapping[str, Tensor], optimizer: int, half: bool) -> StepMemory:
    """What a step of ``model`` (plain or wrapped by peft) on one packed row takes.

    Args:
        model: with what trains now.
        batch: as ``data.batch.collate`` makes it.
        optimizer: bytes of the optimizer's state.
        half: whether layers compute in 16 bits.
    """
    core = unwrap(model)
    held = {tensor.data_ptr(): tensor for tensor in (*model.parameters(), *model.buffers())}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    size = 2 if half else FLOAT32
    amounts = batch_amounts(batch, core.config.vision_config.spatial_merge_size, None)
    rows = {"patch": amounts["patch"], "cell": amounts["cell"], "token": amounts["token"]}
    checkpointed = any(getattr(module, "gradient_checkpointing", False) for module in core.modules())
    kept = _kept(core, rows, size, checkpointed) + _head(core, amounts["label"], size)
    return StepMemory(
        sum(tensor.numel() * tensor.element_size() for tensor in held.values()),
        sum(parameter.numel() * parameter.element_size() for parameter in trained),
        optimizer,
        int(kept),
    )


def _kept(core: nn.Module, rows: Mapping[str, int], size: int, checkpointed: bool) -> float:
    """What all blocks in the graph keep; a block is in it where it or something before it trains."""
    kept = largest = 0.0
    alive = dict.fromkeys(("visual", "aligner", "llm"), False)
    for tower, unit, block in _blocks(core):
        alive[tower] |= any(parameter.requires_grad for parameter in block.parameters())
        if tower == "aligner":  # sees the vision tower's blocks, and what it gives enters the text layers
            alive["aligner"] |= alive["visual"]
            alive["llm"] |= alive["aligner"]
        if not alive[tower]:
            continue
        whole = rows[unit] * _row_bytes(block, size)
        again = checkpointed and unit != "cell"
        largest = max(largest, whole if again else 0.0)
        kept += rows[unit] * _width(block) * size if again else whole
    return kept + largest


def _blocks(core: nn.Module) -> Iterator[tuple[str, str, nn.Module]]:
    """Tower, unit of its rows and module of each block, in the order of forward."""
    visual, text = core.model.visual, core.model.language_model
    for block in visual.blocks:
        yield "visual", "patch", block
    for merger in (visual.merger, *getattr(visual, "deepstack_merger_list", ())):
        yield "aligner", "cell", merger
    for block in text.layers:
        yield "llm", "token", block


def _row_bytes(block: nn.Module, size: int) -> float:
    """What backward needs of one row of a block (see the module's text)."""
    total, has_head_norms = 0.0, any(name.endswith(HEADS) for name, _ in block.named_modules())
    for name, module in block.named_modules():
        parts = WRAPPERS.sub("", name).split(".")
        step = next((STEPS[part] for part in reversed(parts) if part in STEPS), None)
        if "lora_A" in parts and isinstance(module, nn.Linear):
            total += FLOAT32 * (module.out_features + (module.in_features if size < FLOAT32 else 0))
        elif isinstance(module, nn.Linear) and "lora_B" not in parts:
            total += size * _of_linear(module, step)
            if has_head_norms and not {"q_proj", "k_proj"}.isdisjoint(parts):
                total += size * module.out_features  # between the norm of the heads and the rotation
    return total + _of_norms(block, size) + _of_experts(block, size)


def _of_linear(module: nn.Linear, step: float | None) -> int:
    """Numbers kept of one row around a linear layer, by its step in the block (see ``flops.STEPS``)."""
    if step == STEPS["q_proj"]:
        return 2 * module.out_features  # before and after rotation
    if step == STEPS["o_proj"]:
        return 2 * module.in_features  # as attention gives it, and in the order of the row
    if step == STEPS["down_proj"]:
        return module.in_features  # its own output joins the residual stream
    return module.out_features


def _of_norms(block: nn.Module, size: int) -> int:
    """Bytes kept of one row by a block's norms over its whole width."""
    width = _width(block)
    norms = [m for name, m in block.named_modules() if _is_norm(m) and not name.endswith(HEADS)]
    return sum((FLOAT32 * (1 + norm.weight.requires_grad) + size) * width for norm in norms)


def _of_experts(block: nn.Module, size: int) -> float:
    """Bytes kept of one row by the experts it meets: what each is given, its halves, their product and its output."""
    mixtures = [module for module in block.modules() if hasattr(module, "top_k")]
    tensors = [p for p in block.parameters() if p.ndim == 3]
    if not mixtures or not tensors:
        return 0.0
    up, down = (min(tensors, key=lambda p: sign * p.shape[1] / p.shape[2]) for sign in (-1, 1))
    return mixtures[0].top_k * size * (2 * up.shape[1] + 2 * down.shape[1])


def _width(block: nn.Module) -> int:
    """Numbers in a row of the stream that a block reads."""
    return next(module.weight.numel() for module in block.modules() if _is_norm(module))


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()


def _head(core: nn.Module, labels: int, size: int) -> int:
    """Bytes around the head: logits, the same in float32, log-probabilities, and the gradients of both forms."""
    copies = 3 * FLOAT32 + (2 * size if size < FLOAT32 else 0)
    return min(labels, CHUNK) * core.get_output_embeddings().weight.shape[0] * copies
