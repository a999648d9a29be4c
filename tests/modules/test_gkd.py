"""Distillation by its definitions: what each loss is, whose answers it is on, who the teacher is."""

import pytest
import torch

from qcvl.data.batch import collate, count_labels
from qcvl.data.label_kinds import LABEL_KINDS
from qcvl.errors import ConfigError
from qcvl.losses import taught
from qcvl.models.forward import hidden_states, label_logits, look, normalised, unwrap
from qcvl.models.settings import ModelSpec, ScratchModel
from qcvl.models.towers import tower_of
from qcvl.modules.settings import GKD
from qcvl.modules.sft import before_labels
from qcvl.modules.teacher import adapters_off
from qcvl.modules.visual_targets import require_targets
from qcvl.tuning.adapters import base_name
from tests.conftest import choice

pytestmark = pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
TOWERS = ["vision", "aligner", "llm"]


def gkd(**changes) -> GKD:
    """``objective=gkd_forward_only`` with changes; those of ``visual_kd`` switch it on."""
    values = choice("objective/gkd_forward_only.yaml")
    if "visual_kd" in changes:
        changes["visual_kd"] = values["visual_kd"] | {"enabled": True} | changes["visual_kd"]
    return GKD(**values | changes)


@pytest.fixture
def make(make_module):
    """``make(tuner=…, towers=…, shake=.05, **settings)``: a built module whose trained weights left their start."""

    def build(*, tuner=None, towers=TOWERS, shake=0.05, rate=1e-3, model=None, parts=None, **settings):
        module = make_module(
            objective=gkd(**settings), tuner=tuner, towers=towers, rate=rate, model=model, **parts or {}
        )
        module.configure_model()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in module.built.parameters():
                if parameter.requires_grad and shake:
                    parameter += shake * torch.randn(parameter.shape, generator=generator)
        return module

    return build


def row_of(module, batch: dict) -> dict:
    pixels = normalised(batch["pixel_values"], module.processing.family)
    return {**batch, "pixel_values": pixels, "segments": tuple(batch["segments"].tolist())}


def logits_at_labels(module, model, batch: dict) -> torch.Tensor:
    states = hidden_states(model, row_of(module, batch)).states
    return label_logits(model, states, before_labels(batch["label_kinds"]))


def divergences(student: torch.Tensor, teacher: torch.Tensor, beta: float) -> torch.Tensor:
    """By definition in float64."""
    p, q = (logits.double().softmax(-1) for logits in (student, teacher))
    mixture = (1 - beta) * p + beta * q
    return (beta * q * (q / mixture).log() + (1 - beta) * p * (p / mixture).log()).sum(-1)


def start_of(module) -> torch.nn.Module:
    """The model as it was before anything was trained."""
    return module.spec.load_model()


@pytest.mark.parametrize("kind", ["full", "lora", "lora_aligner_full", "biases"])
def test_the_divergence_is_from_the_model_as_it_was_at_the_start(make, lora, packed, kind):
    changes = {"lora_aligner_full": {"full_towers": ["aligner"]}, "biases": {"bias": "all"}}
    module = make(tuner=None if kind == "full" else lora(**changes.get(kind, {})))
    with torch.no_grad():
        found = module.losses(packed)
        teacher, student = (logits_at_labels(module, model, packed) for model in (start_of(module), module.built))
    expected = divergences(student, teacher, 0.1).sum()
    assert expected > 0.01
    assert found["llm_kd_sum"].item() == pytest.approx(expected.item(), rel=1e-3)
    shared = module.teacher.model is module.built
    assert shared == (kind in ("lora", "lora_aligner_full"))


def test_the_loss_is_the_weighted_sum_of_means_and_the_logged_ones_are_its_parts(make, lora, packed):
    module = make(tuner=lora(), sft_alpha=0.3, llm_kd_weight=2.0, visual_kd={"weight": 0.5})
    with torch.no_grad():
        sums = module.losses(packed)
    labels, cells = count_labels(packed["label_kinds"]).float(), sums["cells"]
    assert cells == (packed["mm_token_type_ids"] > 0).sum()
    values = module.means({name: value.double() for name, value in {**sums, "labels": labels}.items()})
    total = labels.sum()
    assert values["sft_loss"].item() == pytest.approx(0.3 * float(sums["sft_sum"].sum() / total), rel=1e-5)
    assert values["llm_kd_loss"].item() == pytest.approx(2 * float(sums["llm_kd_sum"] / total), rel=1e-5)
    assert values["vision_kd_loss"].item() == pytest.approx(0.5 * float(sums["vision_kd_sum"] / cells), rel=1e-5)
    loss = module.combine(sums, labels, cells.float())
    parts = (values[name].item() for name in ("sft_loss", "llm_kd_loss", "vision_kd_loss"))
    assert loss.item() == pytest.approx(sum(parts), rel=1e-5)


def test_the_gradient_is_that_of_the_plain_formula(make, lora, packed):
    module = make(tuner=lora(), beta=0.4)
    names = [name for name, parameter in module.built.named_parameters() if parameter.requires_grad]
    trained = [dict(module.built.named_parameters())[name] for name in names]
    sums = module.losses(packed)
    found = torch.autograd.grad(sums["llm_kd_sum"], trained)
    with torch.no_grad():
        teacher = logits_at_labels(module, start_of(module), packed)
    expected = torch.autograd.grad(
        divergences(logits_at_labels(module, module.built, packed), teacher, 0.4).sum(), trained
    )
    assert any(gradient.abs().max() > 1e-3 for gradient in expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-4)


def test_packed_samples_have_the_losses_they_have_alone(make, lora, packed, batches):
    module = make(tuner=lora(), visual_kd={})
    with torch.no_grad():
        together, alone = module.losses(packed), [module.losses(batch) for batch in batches]
    assert {"llm_kd_sum", "vision_kd_sum"} <= together.keys()
    for name, value in together.items():
        torch.testing.assert_close(value, sum(sums[name] for sums in alone), rtol=1e-4, atol=1e-4)


def test_without_its_weight_the_divergence_has_no_key_and_the_teacher_no_language_model(make, packed):
    module = make(llm_kd_weight=0.0, visual_kd={})
    sums = module.losses(packed)
    assert "llm_kd_sum" not in sums and "vision_kd_sum" in sums
    parts = unwrap(module.teacher.model)
    assert not list(parts.lm_head.parameters()) and not list(parts.model.language_model.parameters())
    assert make(llm_kd_weight=0.0).teacher is None


@pytest.mark.parametrize("weights", [{}, {"token_weights": dict.fromkeys(LABEL_KINDS, 2.0) | {"coordinates": 0.5}}])
def test_one_pass_over_the_head_gives_both_losses_as_two_would_and_is_enough(make, lora, packed, monkeypatch, weights):
    module = make(tuner=lora(), beta=0.4, sft_alpha=0.3, **weights)
    trained = [parameter for parameter in module.built.parameters() if parameter.requires_grad]
    labels = count_labels(packed["label_kinds"]).float()
    monkeypatch.setattr(taught, "_apart", None)  # would be called where weights were foretold wrongly
    results = []
    for at_once in (True, False):
        monkeypatch.setitem(module.__dict__, "_heads_are_equal", at_once)
        sums = module.losses(packed)
        gradients = torch.autograd.grad(3 * module.combine(sums, labels, torch.ones(())), trained)
        results.append([*(sums[name] for name in ("sft_sum", "correct", "llm_kd_sum")), *gradients])
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_lightnings_validation_has_the_losses_of_training(make, lora, packed):
    module = make(tuner=lora(), eval_kd=True)
    expected = module.losses(packed)
    with torch.inference_mode():
        found = module.eval().losses(packed)
    for name in ("sft_sum", "llm_kd_sum"):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-5)


def test_validation_asks_the_teacher_where_it_is_told_to_alone(make, lora, packed, monkeypatch):
    for eval_kd in (False, True):
        module = make(tuner=lora(), eval_kd=eval_kd, visual_kd={}).eval()
        assert ("llm_kd_sum" in module.losses(packed)) == eval_kd
        assert ("vision_kd_sum" in module.losses(packed)) == eval_kd
        module.train()
        assert "llm_kd_sum" in module.losses(packed)


def test_asking_the_teacher_leaves_the_student_as_it_was(make, lora, packed):
    module = make(tuner=lora(dropout=0.5), towers=["llm", "aligner"])
    before = [(name, p.requires_grad) for name, p in module.named_parameters()]
    module.losses(packed)
    assert [(name, p.requires_grad) for name, p in module.named_parameters()] == before
    assert all(part.training for part in module.built.modules())


def test_adapters_that_are_kept_still_stay_still_after_the_teacher_was_asked(make, lora, packed):
    module = make(tuner=lora())
    frozen = [
        p for name, p in module.built.named_parameters() if "lora_" in name and tower_of(base_name(name)) == "vision"
    ]
    for parameter in frozen:
        parameter.requires_grad_(False)
    with module.teacher.asked(module.device):
        pass
    assert frozen and not any(parameter.requires_grad for parameter in frozen)


class Counted:
    """Counts how often vision blocks run, those of several models together."""

    def __init__(self, *models):
        self.runs = 0
        for block in {block for model in models for block in unwrap(model).model.visual.blocks}:
            block.register_forward_hook(self.count)

    def count(self, *_):
        self.runs += 1


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_frozen_vision_runs_once_for_both_and_the_losses_are_the_same(make, lora, packed, kind):
    module = make(tuner=lora() if kind == "lora" else None, towers=["llm", "aligner"], visual_kd={})
    counted = Counted(module.built, module.teacher.model)
    assert module.teacher.sees_as_student
    with torch.no_grad():
        once = module.losses(packed)
        assert counted.runs == len(unwrap(module.built).model.visual.blocks)
        module.teacher.sees_as_student = False
        twice = module.losses(packed)
    for name, value in once.items():
        torch.testing.assert_close(value, twice[name], rtol=1e-5, atol=1e-5)


def test_vision_that_moves_is_looked_at_by_each(make, lora):
    assert not make(tuner=lora()).teacher.sees_as_student
    assert not make().teacher.sees_as_student


@pytest.mark.parametrize("distance", ["mse", "cosine"])
def test_the_visual_distance_is_that_of_each_target_by_its_weight(make, lora, packed, distance):
    targets = {"merger": 1.0, "deepstack": 3.0, "vision": 0.5}
    module = make(tuner=lora(), llm_kd_weight=0.0, visual_kd={"distance": distance, "targets": targets})
    row = row_of(module, packed)
    with torch.no_grad():
        found = module.losses(packed)
        args = row["pixel_values"], row["image_grid_thw"]
        student = look(module.built, *args, keep_blocks=True)
        teacher = look(start_of(module), *args, keep_blocks=True)

    def far(one, other):
        if distance == "mse":
            return float(((one - other) ** 2).mean())
        return float((1 - torch.nn.functional.cosine_similarity(one, other)).mean())

    expected = far(student.merged, teacher.merged)
    expected += 3 * far(student.deepstack[0], teacher.deepstack[0])
    expected += 0.5 * far(student.blocks[1], teacher.blocks[1])
    assert found["vision_kd_sum"].item() == pytest.approx(expected * len(student.merged), rel=1e-3)
    assert expected > 1e-4


def test_a_batch_without_images_has_no_visual_distance(make, lora, make_datamodule, make_data, conversations):
    data = make_data(train={"text": str(conversations / "text.jsonl")}, sampling="dense")
    batch = collate([make_datamodule(data=data).train_dataset()[(0, 0)]])
    module = make(tuner=lora(), visual_kd={})
    sums = module.losses(batch)
    assert sums["vision_kd_sum"] == 0 and sums["cells"] == 0 and sums["llm_kd_sum"] > 0
    module.combine(sums, count_labels(batch["label_kinds"]).float(), sums["cells"].float()).backward()


def test_visual_targets_that_cannot_move_are_refused(make, lora):
    with pytest.raises(ConfigError, match="visual_kd.targets: vision: nothing of it is trained, so its distance"):
        make(tuner=lora(), towers=["llm", "aligner"], visual_kd={"targets": ["merger", "vision"]})
    with pytest.raises(ConfigError, match="merger: nothing of it is trained.*; deepstack: nothing of it"):
        make(tuner=lora(), towers=["llm"], visual_kd={})


def test_weights_that_train_nothing_are_refused():
    with pytest.raises(ConfigError, match="sft_alpha and llm_kd_weight are 0 and visual_kd is off"):
        gkd(sft_alpha=0.0, llm_kd_weight=0.0)


def test_a_divergence_that_is_not_off_at_beta_0_is_warned_of(make, caplog):
    make(beta=0.0)
    assert "objective.beta=0 is the whole KL(teacher || student)" in caplog.text
    caplog.clear()
    make(beta=0.1)
    assert not caplog.text


@pytest.fixture
def large(small_model, processing, tmp_path):
    """The folder of a teacher of the same vocabulary, twice as wide as the student."""
    spec = small_model()
    text = spec.architecture["text_config"] | {"hidden_size": 128, "num_hidden_layers": 3}
    spec = small_model(architecture=spec.architecture | {"text_config": text}, seed=5)
    spec.load_model().save_pretrained(tmp_path / "large")
    processing.save(tmp_path / "large")
    return tmp_path / "large"


def test_a_larger_model_of_the_same_vocabulary_teaches(make, lora, packed, large):
    module = make(tuner=lora(), teacher=str(large))
    with torch.no_grad():
        found = module.losses(packed)
        spec = ModelSpec(**choice("model/tiny.yaml") | {"path": str(large), "min_cells": 1})
        teacher = logits_at_labels(module, spec.load_model(), packed)
        student = logits_at_labels(module, module.built, packed)
    expected = divergences(student, teacher, 0.1).sum().item()
    assert found["llm_kd_sum"].item() == pytest.approx(expected, rel=1e-3)
    assert not any("teacher" in name for name in [*module.state_dict(), *dict(module.named_parameters())])


def test_a_teacher_of_other_widths_cannot_teach_features(make, lora, large):
    with pytest.raises(ConfigError, match="merger: the teacher has 1 of width 128, the student 1 of width 64"):
        make(tuner=lora(), teacher=str(large), visual_kd={"targets": ["merger"]})


def test_a_teacher_of_another_vocabulary_is_refused_before_a_weight_is_read(make, large):
    file = large / "tokenizer.json"
    file.write_text(file.read_text().replace("<|im_end|>", "<|im_done|>"))
    for weights in large.glob("*.safetensors"):
        weights.unlink()
    with pytest.raises(ConfigError, match=r"objective.teacher=.*large: 2 tokens are others than the student's, first"):
        make(teacher=str(large))


def test_a_frozen_copy_may_be_in_half_precision_and_shares_what_does_not_move(make, packed):
    full, half = (make(towers=["llm"], teacher_dtype=dtype) for dtype in (None, "bfloat16"))
    kinds = [{p.dtype for p in module.teacher.model.parameters()} for module in (full, half)]
    assert kinds == [{torch.float32}, {torch.bfloat16}]
    own = {id(parameter) for parameter in full.built.parameters()}
    shared = {tower_of(name) for name, p in full.teacher.model.named_parameters() if id(p) in own}
    assert shared == {"vision", "aligner"}
    with torch.no_grad():
        one, other = (float(module.losses(packed)["llm_kd_sum"]) for module in (full, half))
    assert one != other and one == pytest.approx(other, rel=0.1)


def test_adapters_are_on_again_after_an_error(make, lora):
    module = make(tuner=lora())
    with pytest.raises(ZeroDivisionError), adapters_off(module.teacher.adapters):
        1 / 0  # noqa: B018
    assert module.built.get_model_status().enabled is True


def test_weights_of_a_teachers_own_wait_in_the_hosts_memory_where_that_is_asked_for(make, packed, monkeypatch):
    for offload in (False, True):
        module, moves = make(towers=["llm"], teacher_offload=offload), []
        monkeypatch.setattr(module.teacher, "_move", moves.append)
        module.losses(packed)
        assert moves == [module.device] + [torch.device("cpu")] * offload
        own = sum(tensor.numel() for tensor in module.teacher.own if tensor.is_floating_point())
        assert own >= sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def test_a_target_that_a_family_lacks_is_refused():
    model = ScratchModel(**choice("model/tiny_qwen2_5_vl.yaml")).load_model()
    with pytest.raises(ConfigError, match="deepstack: qwen2_5_vl has none; leave these out"):
        require_targets({"merger": 1.0, "deepstack": 1.0}, model, model)
