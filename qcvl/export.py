"""``python -m qcvl.export``: a checkpoint as one plain Hugging Face folder, its adapter merged into the base."""

from pathlib import Path

from omegaconf import DictConfig

from qcvl import config
from qcvl.errors import CheckpointError


def export(cfg: DictConfig) -> Path:
    """Merge and write weights (safetensors), config, tokenizer, template and processor files; returns the folder.

    With a ``share`` below 1 the weights lie that part of the way from the base to the checkpoint.
    """
    settings = config.build(cfg)
    output = Path(settings.output)
    if output.exists() and any(output.iterdir()):
        raise CheckpointError(f"{output} is not empty; choose another folder with output=")
    import torch
    from rich.console import Console

    from qcvl.checkpoints.contract import read_contract, write_contract
    from qcvl.checkpoints.merge import interpolate
    from qcvl.checkpoints.reopen import base_of, reopen

    checkpoint = Path(settings.checkpoint)
    merged = reopen(checkpoint, settings.model, merged=True)
    contract = read_contract(checkpoint)
    if settings.share != 1:
        base = base_of(contract, settings.model).load_model()
        interpolate(merged.model, base, settings.share)
    merged.model.to(getattr(torch, settings.dtype)).save_pretrained(output)
    merged.processing.save(output)
    write_contract(contract, output)
    Console().print(f"model {output}", highlight=False, markup=False, soft_wrap=True)
    return output


def main() -> None:
    """Console script ``qcvl-export``."""
    config.run("export", export)


if __name__ == "__main__":
    main()
