"""Two processes over gloo make the steps and the numbers of one process with batches twice as large."""

import pytest
from lightning.pytorch.strategies import DDPStrategy

pytestmark = pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")


@pytest.mark.parametrize(("limit", "accumulate", "aux_grounding"), [(8, 1, 0.0), (7, 2, 0.0), (8, 2, 0.5)])
def test_losses_gradients_and_validation_equal_those_of_a_single_process(
    make_module, make_datamodule, make_data, make_trainer, descent, logged, tmp_path, limit, accumulate, aux_grounding
):
    def run(name: str, batch_size: int, **changes) -> None:
        sources = {"train": {"en": make_data.source("en.jsonl")}, "val": {"val": make_data.source("en.jsonl")}}
        data = make_data(**sources, sample_limit=limit, batch_size=batch_size, val_batch_size=3)
        values = {"accumulate_grad_batches": accumulate, "gradient_clip_val": None, "max_epochs": 2}
        trainer = make_trainer(tmp_path / name, **values | changes)
        module = make_module(aux_grounding=aux_grounding, **descent(0.05))
        trainer.fit(module, make_datamodule(data=data, grounding=aux_grounding > 0))

    run("one", 2)
    run("two", 1, devices=2, strategy=DDPStrategy(process_group_backend="gloo", start_method="fork"))
    extra = ["train/aux_loss"] if aux_grounding else []
    for key in ("train/loss", "train/token_acc", "train/grad_norm", "eval/loss", "eval/token_acc", *extra):
        single, double = (logged(key, tmp_path / name) for name in ("one", "two"))
        assert single and double == pytest.approx(single, rel=1e-4), key


def test_a_process_whose_step_has_no_image_reduces_the_same_gradients_as_one_that_has(
    make_module, make_datamodule, make_data, make_trainer, descent, logged, conversations, tmp_path
):
    def run(name: str, batch_size: int, **changes) -> None:
        sources = {source: str(conversations / f"{source}.jsonl") for source in ("text", "chat", "en")}
        data = make_data(train=sources, val=sources, sampling="dense", batch_size=batch_size, val_batch_size=2)
        trainer = make_trainer(tmp_path / name, gradient_clip_val=None, max_epochs=1, **changes)
        trainer.fit(make_module(towers=["vision", "aligner", "llm"], **descent(0.05)), make_datamodule(data=data))

    run("one", 2)
    run("two", 1, devices=2, strategy=DDPStrategy(process_group_backend="gloo", start_method="fork"))
    for key in ("train/loss", "train/grad_norm/vision", "train/grad_norm/llm", "eval/loss", "eval/text/loss"):
        single, double = (logged(key, tmp_path / name) for name in ("one", "two"))
        assert single and double == pytest.approx(single, rel=1e-4, abs=1e-6), key
