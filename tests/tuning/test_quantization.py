"""Four-bit bases on a CPU: what is packed, what it computes, and what a checkpoint of it is to plain transformers."""

import sys

import peft
import pytest
import torch
from torch import nn
from transformers import BitsAndBytesConfig, Qwen3VLForConditionalGeneration

from qcvl.checkpoints.adapters import save_model
from qcvl.checkpoints.merge import merge
from qcvl.errors import ConfigError
from qcvl.models.towers import TOWERS, tower_of
from qcvl.tuning.groups import parameter_groups, tower_table
from tests.checkpoints.conftest import disturb, logits  # noqa: F401

bnb = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install 'qcvl[quant]'")
pytestmark = pytest.mark.quant
NF4 = {"kind": "nf4", "double": True}


@pytest.fixture
def qlora(lora):
    """Makes the tuner of ``tuner=qlora`` at rank 4."""
    return lambda **changes: lora(**{"quantization": NF4} | changes)


def packed(model: nn.Module) -> set[str]:
    names = {name for name, module in model.named_modules() if isinstance(module, bnb.nn.Linear4bit)}
    return {name.removeprefix("base_model.model.").removesuffix(".base_layer") for name in names}


def dequantized(model: nn.Module, kind: str, double: bool) -> nn.Module:
    """The model with each linear's weight packed and unpacked again by bitsandbytes' own functions."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":
            data, state = bnb.functional.quantize_4bit(module.weight.data, quant_type=kind, compress_statistics=double)
            module.weight.data = bnb.functional.dequantize_4bit(data, state)
    return model


def test_every_linear_but_the_head_and_full_towers_is_packed(make_model, qlora):
    linears = {n for n, m in make_model().named_modules() if isinstance(m, nn.Linear)} - {"lm_head"}
    assert packed(qlora().setup(make_model(), ["llm"])) == linears
    mixed = packed(qlora(full_towers=["aligner"]).setup(make_model(), ["llm", "aligner"]))
    assert mixed == {name for name in linears if tower_of(name) != "aligner"}


@pytest.mark.parametrize(("kind", "double"), [("nf4", True), ("nf4", False), ("fp4", False)])
def test_it_computes_what_the_unpacked_weights_compute(make_model, qlora, logits, kind, double):  # noqa: F811
    tuned = qlora(quantization={"kind": kind, "double": double}).setup(make_model(), ["llm"])
    expected = logits(dequantized(make_model(), kind, double))
    torch.testing.assert_close(logits(tuned), expected, rtol=1e-4, atol=1e-4)
    assert (expected - logits(make_model())).abs().max() > 1e-3


def test_a_checkpoint_loads_in_plain_peft_over_a_base_that_transformers_quantized(
    make_model,
    qlora,
    logits,  # noqa: F811
    disturb,  # noqa: F811
    tmp_path,
):
    make_model().save_pretrained(tmp_path / "base")
    tuned = disturb(qlora().setup(make_model(), ["llm", "aligner"]))
    (tmp_path / "adapter").mkdir()
    save_model(tuned, tmp_path / "adapter")
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    settings.bnb_4bit_compute_dtype = torch.float32
    base = Qwen3VLForConditionalGeneration.from_pretrained(
        tmp_path / "base", quantization_config=settings, dtype=torch.float32, device_map="cpu"
    )
    assert packed(base) == packed(tuned)
    for module in base.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False  # its form for such CPUs rounds scales to bfloat16
    found = logits(peft.PeftModel.from_pretrained(base, tmp_path / "adapter"))
    torch.testing.assert_close(found, logits(tuned), rtol=1e-3, atol=1e-3)


def test_it_merges_into_the_base_as_it_is(make_model, qlora, logits, disturb, tmp_path):  # noqa: F811
    tuned = disturb(qlora().setup(make_model(), ["llm"]))
    save_model(tuned, tmp_path)
    merged = merge(make_model(), tmp_path)
    plain = peft.PeftModel.from_pretrained(make_model(), tmp_path)
    torch.testing.assert_close(logits(merged), logits(plain), rtol=1e-4, atol=1e-4)
    assert (logits(merged) - logits(tuned)).abs().max() > 1e-3  # four bits are not the base


def test_the_table_counts_numbers_and_not_bytes(make_model, qlora, lora, stage):
    step = stage(2, "llm")
    totals = []
    for tuner in (qlora(), lora()):
        tuned = tuner.setup(make_model(), step.towers)
        rows = tower_table(tuned, parameter_groups(tuned, tuner, step, 1.0, 0.1), tuner, step)
        totals.append([(row.total, row.trained) for row in rows])
    assert totals[0] == totals[1]


def test_adapters_train_in_float32_over_a_packed_bfloat16_base(make_model, qlora):
    tuned = qlora().setup(make_model(dtype=torch.bfloat16), list(TOWERS))
    assert {p.dtype for p in tuned.parameters() if p.requires_grad} == {torch.float32}
    weights = {p.dtype for n, p in tuned.named_parameters() if n.endswith("q_proj.base_layer.weight")}
    assert weights == {torch.uint8}


def test_without_bitsandbytes_the_error_names_the_extra(make_model, qlora, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match=r"bitsandbytes cannot be imported .* pip install 'qcvl\[quant\]'"):
        qlora().setup(make_model(), ["llm"])
