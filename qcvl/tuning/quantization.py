"""The frozen base of QLoRA: linears in four bits, through bitsandbytes."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from qcvl.errors import ConfigError
from qcvl.tuning.freezing import is_under

if TYPE_CHECKING:
    from qcvl.tuning.settings import Quantization


def quantize(model: nn.Module, settings: "Quantization", kept: Collection[str] = ()) -> None:
    """Replace the linears of ``model`` by 4-bit ones, but ``lm_head`` and those under ``kept`` paths.

    They compute in the dtype that their weights had. bitsandbytes quantizes where the weights lie, on a CPU too.

    Raises:
        ConfigError: when bitsandbytes is not installed.
    """
    bnb = bitsandbytes()
    linears = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.rsplit(".", 1)[-1] != "lm_head" and not is_under(name, kept)
    ]
    for name, linear in linears:
        packed = bnb.nn.Linear4bit(
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None,
            compute_dtype=linear.weight.dtype,
            compress_statistics=settings["double"],
            quant_type=settings["kind"],
            device="meta",
        )
        packed.weight = bnb.nn.Params4bit(
            linear.weight.data,
            requires_grad=False,
            compress_statistics=settings["double"],
            quant_type=settings["kind"],
            module=packed,
        )
        packed.bias = linear.bias
        # Else evaluation on a CPU with AVX512-BF16 repacks the weights for good, their scales rounded to bfloat16.
        packed.support_avx512bf16_for_cpu = False
        packed = packed.to(linear.weight.device)  # this is what quantizes
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, packed)
    model.is_loaded_in_4bit = True  # tells peft to lay its 4-bit layers over them


def weight_count(parameter: torch.Tensor) -> int:
    """How many numbers a parameter stands for: a 4-bit one packs two into a byte."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else state.shape.numel()


def bitsandbytes() -> Any:
    """The package.

    Raises:
        ConfigError: where it cannot be imported.
    """
    try:
        import bitsandbytes as package
    except ImportError as error:
        raise ConfigError(
            f"bitsandbytes cannot be imported ({error}), which 4-bit weights and 8-bit optimizers need; "
            "pip install 'qcvl[quant]', or choose tuner=lora and optimizer=adamw"
        ) from None
    return package
