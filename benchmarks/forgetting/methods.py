"""What is compared, each as the settings a user would type behind ``python -m qcvl.train``."""

OLD, NEW = "base", "demo"  # domains of the scenes: brushed panels, "red plate"; dark benches, "plate, red"
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


def scenes(domain: str, count: int, seed: int) -> str:
    """A source of English scenes, in Hydra's grammar."""
    return (
        f"{{_target_: qcvl.data.sources.SceneSource, count: {count}, seed: {seed}, domain: {domain}, "
        "language: en, repeat: 1, task: null, prompts: null}"
    )


def settings(method: str, *, seed: int, steps: int, every: int, photos: int, folder: str) -> list[str]:
    """The whole command of one run: stage 3, LoRA, a constant rate, scores on both tasks each ``every`` steps."""
    trained = {"new": scenes(NEW, 4000, 11)}
    if "replay" in method:
        trained["old"] = scenes(OLD, 4000, 12)
    answered = {"old": scenes(OLD, photos, 21), "new": scenes(NEW, photos, 22)}
    sources = {
        name: "{" + ", ".join(f"{key}: {source}" for key, source in chosen.items()) + "}"
        for name, chosen in (("train", trained), ("val", answered))
    }
    return [
        "experiment=stage3_gkd" if METHODS[method][:1] == ("objective=gkd",) else "stage=3",
        "tuner=lora",
        "lr_scheduler=constant",
        "augment=none",
        "prompts=en",
        "data=jsonl",
        *(f"data.{name}={value}" for name, value in sources.items()),
        "data.sampling=dense",
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
