"""What holds for every shipped tuner: it trains, frozen weights stay, its folder loads in plain peft, and it merges."""

import warnings

import peft
import pytest
import torch
from torch import nn

from qcvl.checkpoints.adapters import save_model
from qcvl.checkpoints.merge import merge
from qcvl.models.towers import TOWERS, tower_of
from qcvl.tuning.adapters import base_name
from qcvl.tuning.settings import PeftTuner
from tests.conftest import CONF, QUANT, choice

TUNERS = sorted(path.stem for path in (CONF / "tuner").glob("*.yaml") if path.stem != "full")
SMALL = {"n_frequency": 100}  # FourierFT's frequencies; a linear of the small model has 1024 or 1536
ALL = list(TOWERS)


@pytest.fixture(params=[pytest.param(name, marks=QUANT if name == "qlora" else []) for name in TUNERS])
def tuner(request) -> PeftTuner:
    """Each shipped tuner, small."""
    return shipped(request.param)


def shipped(name: str, **changes: object) -> PeftTuner:
    values = choice(f"tuner/{name}.yaml")
    if values["rank"] is not None:
        values |= {"rank": 4, "alpha": 8}
    if values["rank_schedule"] is not None:
        values["rank_schedule"] = values["rank_schedule"] | {"initial_rank": 6, "every_steps": 1}
    values["options"] = {key: SMALL.get(key, value) for key, value in values["options"].items()}
    return PeftTuner(**values | changes)


def towers_for(tuner: PeftTuner) -> list[str]:
    return ["aligner"] if tuner.full_towers and tuner.way("llm", ALL) == "frozen" else ["llm", "aligner"]


@pytest.fixture
def descend():
    """``descend(model, steps)``: AdamW steps on one fixed sample with an image; returns the losses."""
    ids = torch.tensor([[5, 62, 60, 60, 60, 60, 63, 7, 9, 11]])
    pixels = torch.randn(16, 3 * 2 * 16 * 16, generator=torch.Generator().manual_seed(3))
    media = {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, 4, 4]])}

    def run(model: nn.Module, steps: int = 8, rate: float = 1e-2, after=None) -> list[float]:
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate, weight_decay=0.0)
        losses = []
        for step in range(1, steps + 1):
            optimizer.zero_grad()
            loss = model(input_ids=ids, labels=ids, mm_token_type_ids=(ids == 60).long(), **media).loss
            loss.backward()
            optimizer.step()
            if after is not None:
                after(step)
            losses.append(float(loss.detach()))
        return losses

    return run


@pytest.fixture
def train(descend):
    """``train(tuner, model, steps)``: what ``descend`` does to the tuned model, ranks shrinking where they do."""

    def run(tuner: PeftTuner, model: nn.Module, steps: int = 8) -> tuple[nn.Module, list[float]]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # BOFT says that it has no CUDA extension
            tuned = tuner.setup(model, towers_for(tuner)).train()
        course = tuner.rank_course(tuned, steps)
        return tuned, descend(tuned, steps, after=course.after_step if course else None)

    return run


def frozen(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}


def test_it_learns_and_what_is_frozen_stays_bit_identical(tuner, model, descend):
    tuned = tuner.setup(model, towers_for(tuner))
    still = frozen(tuned)
    losses = descend(tuned)
    after = dict(tuned.named_parameters())
    assert losses[-1] < 0.97 * losses[0], losses
    assert all(torch.equal(value, after[name]) for name, value in still.items())
    moved = {tower_of(base_name(name)) for name, p in tuned.named_parameters() if p.requires_grad}
    assert moved == {tower for tower in towers_for(tuner) if tuner.way(tower, towers_for(tuner)) != "frozen"}


def test_it_starts_as_the_base(tuner, make_model, logits):
    if tuner.quantization is not None:
        pytest.skip("four bits are not the base; see test_qlora")
    tuned = tuner.setup(make_model(), towers_for(tuner))
    torch.testing.assert_close(logits(tuned), logits(make_model()), rtol=1e-4, atol=1e-5)


def test_its_folder_loads_in_plain_peft_and_merges_to_the_same_logits(tuner, make_model, train, logits, tmp_path):
    if tuner.quantization is not None:
        pytest.skip("four bits are not the base; see test_qlora")
    tuned, _ = train(tuner, make_model())
    save_model(tuned, tmp_path)
    trained = logits(tuned)
    assert (trained - logits(make_model())).abs().max() > 0.05
    plain = peft.PeftModel.from_pretrained(make_model(), tmp_path)
    torch.testing.assert_close(logits(plain), trained, rtol=1e-4, atol=1e-4)
    merged = merge(make_model(), tmp_path)
    assert not [name for name, _ in merged.named_parameters() if "lora" in name or "boft" in name or "fourier" in name]
    torch.testing.assert_close(logits(merged), trained, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("bias", ["adapted", "all"])
@pytest.mark.parametrize("name", ["lora", "adalora", "boft", "fourierft"])
def test_biases_that_train_are_saved_and_loaded_and_merged(name, bias, make_model, train, logits, tmp_path):
    tuned, _ = train(shipped(name, bias=bias), make_model())
    biases = {base_name(n) for n, p in tuned.named_parameters() if p.requires_grad and n.endswith(".bias")}
    own = dict(make_model().named_parameters())
    aligner = {n for n in own if tower_of(n) == "aligner" and n.endswith(".bias")}
    assert biases == (aligner if bias == "all" else {n for n in aligner if ".linear_fc" in n})
    assert all(not torch.equal(p, own[base_name(n)]) for n, p in tuned.named_parameters() if base_name(n) in biases)
    save_model(tuned, tmp_path)
    plain = peft.PeftModel.from_pretrained(make_model(), tmp_path)
    torch.testing.assert_close(logits(plain), logits(tuned), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits(merge(make_model(), tmp_path)), logits(tuned), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["lora", "rslora", "dora", "boft", "fourierft", "adalora"])
def test_a_random_start_is_another_model_than_the_base(name, make_model, logits):
    base = logits(make_model())
    starts = [logits(shipped(name, init=init).setup(make_model(), ["llm"])) for init in ("identity", "random")]
    torch.testing.assert_close(starts[0], base, rtol=1e-4, atol=1e-5)
    assert (starts[1] - base).abs().max() > 1e-3


def test_a_gaussian_start_has_normal_rows_and_still_is_the_base(make_model, logits):
    def first(init: str) -> torch.Tensor:
        tuned = shipped("lora", init=init, rank=16).setup(make_model(), ["llm"])
        torch.testing.assert_close(logits(tuned), logits(make_model()))
        return torch.cat(
            [p.detach().flatten() for n, p in tuned.named_parameters() if ".lora_A." in n and ".down_proj" not in n]
        )

    gaussian, uniform = first("gaussian"), first("identity")
    assert gaussian.std() == pytest.approx(1 / 16, rel=0.1)  # peft's standard deviation is 1 / rank
    kurtosis = [float(((x - x.mean()) ** 4).mean() / x.var() ** 2) for x in (gaussian, uniform)]
    assert kurtosis == pytest.approx([3.0, 1.8], rel=0.1)  # those of a normal and a uniform distribution


def test_dropout_is_drawn_in_training_alone(make_model, train, logits):
    losses = {name: train(shipped("lora", dropout=rate), make_model())[1] for name, rate in (("a", 0.0), ("b", 0.5))}
    assert losses["a"][0] == losses["b"][0] and losses["a"][1:] != losses["b"][1:]


def test_scaling_is_alpha_over_rank_and_over_its_root_with_rslora(make_model):
    def scaling(name: str) -> float:
        tuned = shipped(name).setup(make_model(), ["llm"])
        return next(m.scaling["default"] for m in tuned.modules() if hasattr(m, "lora_A"))

    assert (scaling("lora"), scaling("rslora")) == (8 / 4, 8 / 4**0.5)


def test_dora_has_a_length_for_each_row(make_model):
    tuned = shipped("dora").setup(make_model(), ["llm"])
    lengths = {n: p for n, p in tuned.named_parameters() if "lora_magnitude_vector" in n}
    rows = {n: m.base_layer.weight.norm(dim=1) for n, m in tuned.named_modules() if hasattr(m, "base_layer")}
    assert len(lengths) == 14
    for name, vector in lengths.items():
        torch.testing.assert_close(vector, rows[name.split(".lora_magnitude")[0]])
