"""Memory of a step by the formula, against the bytes of all tensors while a step runs."""

import pytest
import torch

from qcvl.callbacks.live import LiveBytes
from qcvl.data.batch import collate
from qcvl.models.memory import step_memory
from qcvl.models.spec import FAMILIES
from qcvl.tuning.descent.settings import AdamW, MuonAdamW
from qcvl.tuning.settings import FullTuner
from tests.conftest import choice


def test_live_bytes_are_those_of_storages_until_they_are_freed():
    weight = torch.randn(100, 100, requires_grad=True)
    live = LiveBytes([weight, weight.view(-1)])
    assert live.now == live.peak == 40_000
    with live:
        rows = torch.ones(1000, 100)
        loss = (rows @ weight).relu().sum()  # the product is freed, its part above 0 is kept for backward
        assert live.now == 40_000 + 400_000 + 400_000 + 4
        assert live.peak == 40_000 + 3 * 400_000  # while the product still lives
        loss.backward()
        del rows, loss
    assert live.now == 80_000  # the weight and its gradient


@pytest.fixture
def batch(make_datamodule, make_data):
    dataset = make_datamodule(data=make_data(sampling="dense")).train_dataset()
    return collate([dataset[(0, index)] for index in range(8)])


def family(small_model, name, **changes):
    """The tiny model of a family: as large as in ``conf/model``, where what lies around the blocks weighs little."""
    files = {"qwen3_vl": "tiny_scratch", "qwen3_vl_moe": "tiny_qwen3_vl_moe"}
    values = choice(f"model/{files.get(name, f'tiny_{name}')}.yaml")
    kept = {key: values[key] for key in ("architecture", "position_table_scale")}
    return small_model(**kept, **changes)


@pytest.mark.parametrize(
    ("name", "way", "checkpointed"),
    [*((name, "lora", False) for name in FAMILIES), ("qwen3_vl", "full", True), ("qwen3_vl_moe", "full", False)],
)
def test_the_formula_is_within_a_quarter_of_a_real_step(
    small_model, make_module, make_datamodule, make_data, lora, name, way, checkpointed
):
    spec = family(small_model, name, gradient_checkpointing=checkpointed)
    processing = spec.load_processing()
    tuner = lora(rank=32) if way == "lora" else FullTuner()
    module = make_module(model=spec, processing=processing, tuner=tuner, towers=("llm", "aligner"))
    module.configure_model()
    dataset = make_datamodule(processing=processing, data=make_data(sampling="dense")).train_dataset()
    batch = collate([dataset[(0, index)] for index in range(4)])
    estimate = step_memory(module.built, batch, 0, half=False)
    live = LiveBytes([*module.built.parameters(), *module.built.buffers()])
    assert estimate.weights == live.now
    with live:
        module.combine(module.losses(batch), torch.ones(5), torch.ones(())).backward()
    gradients = [parameter.grad for parameter in module.built.parameters() if parameter.grad is not None]
    assert estimate.gradients >= sum(gradient.nbytes for gradient in gradients)
    assert 0.8 < live.peak / estimate.total < 1.25


def test_towers_below_what_trains_keep_nothing_and_towers_above_do(make_module, batch):
    kept = {}
    for towers in (("aligner",), ("vision",), ("llm",), ("vision", "llm")):
        module = make_module(towers=towers)
        module.configure_model()
        kept[towers] = step_memory(module.built, batch, 0, half=False).activations
    assert 0 < kept["aligner",] < kept["vision",]  # text layers have to hand gradients down to both
    assert 0 < kept["llm",] < kept["vision", "llm"]


def test_half_precision_halves_weights_and_adapters_read_copies_in_float32(small_model, make_module, batch, lora):
    found = {}
    for dtype in ("float32", "bfloat16"):
        module = make_module(model=small_model(dtype=dtype), tuner=lora())
        module.configure_model()
        found[dtype] = step_memory(module.built, batch, 0, half=dtype == "bfloat16")
    adapters = found["float32"].gradients
    assert found["bfloat16"].gradients == adapters  # float32 in both
    assert found["bfloat16"].weights - adapters == pytest.approx((found["float32"].weights - adapters) / 2, rel=0.01)
    assert found["float32"].activations / 2 < found["bfloat16"].activations < 1.5 * found["float32"].activations


@pytest.mark.parametrize("cls", [AdamW, MuonAdamW])
def test_an_optimizers_state_takes_the_bytes_its_settings_say(make_module, cls):
    name = {AdamW: "adamw", MuonAdamW: "muon_adamw"}[cls]
    settings = cls(**choice(f"optimizer/{name}.yaml"))
    module = make_module(optimizer=settings)
    module.configure_model()
    optimizer = settings.setup(module.groups())
    for parameter in module.built.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    tensors = [v for row in optimizer.state.values() for v in row.values() if isinstance(v, torch.Tensor) and v.ndim]
    said = sum(settings.state_bytes(group) * sum(p.numel() for p in group["params"]) for group in module.groups())
    assert said == sum(tensor.nbytes for tensor in tensors)
