"""What is compared, each as the settings a user would type behind ``python -m qcvl.train``."""

WEIGHTS = (0.25, 1.0)  # of the divergence in objective=gkd_forward_only
PARTS = (0.25, 0.5, 0.75)  # of the way from the base to SFT's end, for interpolated weights

METHODS: dict[str, tuple[str, ...]] = {
    "SFT": (),
    "half rate": ("stage.rates.adapter=2.5e-5",),
    "5 % replay": ("data.weights={new: 0.95, old: 0.05}",),
    "rank 4": ("tuner.rank=4", "tuner.alpha=8"),
    **{
        f"anchor, weight {weight:g}": ("objective=gkd_forward_only", f"objective.llm_kd_weight={weight}")
        for weight in WEIGHTS
    },
    "anchor, drawn answers": ("objective=gkd", "objective.max_completion_length=160"),
}
INTERPOLATED = "interpolated weights"


SCENES = (
    "{{_target_: qcvl.data.sources.SceneSource, count: {count}, seed: {seed}, domain: base, language: en, repeat: 1, "
    "task: null, prompts: null}}"
)


def settings(method: str, *, seed: int, steps: int, every: int, photos: int, data: str, folder: str) -> list[str]:
    """The whole command of one run: stage 3, LoRA, a constant rate, scores on both tasks each ``every`` steps.

    ``data`` has the negatives, ``train.jsonl`` and ``val.jsonl``.
    """
    old = f"old: {SCENES.format(count=4000, seed=12)}, " if "replay" in method else ""
    return [
        "experiment=stage3_gkd" if METHODS[method][:1] == ("objective=gkd",) else "stage=3",
        "tuner=lora",
        "lr_scheduler=constant",
        "augment=none",
        "prompts=en",
        "data=jsonl",
        f"data.train={{{old}new: '{data}/train.jsonl'}}",
        f"data.val={{old: {SCENES.format(count=photos, seed=21)}, new: '{data}/val.jsonl'}}",
        "data.batch_size=8",
        f"data.epoch_samples={8 * steps}",
        "data.num_workers=0",
        f"data.val_batch_size={photos}",
        "data.val_generate=null",
        "generation.max_new_tokens=160",
        f"generation.batch_size={photos}",
        f"seed={seed}",
        f"trainer.max_steps={steps}",
        f"trainer.val_check_interval={every}",
        "trainer.accelerator=cpu",
        "trainer.enable_progress_bar=false",
        "callbacks.evaluation.panels=0",
        "callbacks.checkpoint.save_top_k=0",
        f"++paths.output_dir={folder}",
        *(part for part in METHODS[method] if part != "objective=gkd"),
    ]
