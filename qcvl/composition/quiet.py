"""What libraries say at every start and nobody can act on."""

import logging
import re
import warnings

_NOISE = re.compile(r"litlogger|PU available|val_check_interval|`train_dataloader` to estimate|`Trainer.fit` stopped")


def quiet() -> None:
    """Silence what Lightning and transformers say at every start and nobody can act on, and what they say twice."""
    from transformers.utils.logging import disable_progress_bar

    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda row: not _NOISE.search(row.getMessage())
    )
    logging.getLogger("lightning").propagate = False  # it has a handler of its own, beside Hydra's
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
    warnings.filterwarnings("ignore", message=r"The '\w+_dataloader' does not have many workers")
    warnings.filterwarnings("ignore", message=r"`is_gradient_checkpointing` is deprecated")
    warnings.filterwarnings("ignore", message=r"You have overridden `on_before_batch_transfer`")  # on purpose
    # Imported by peft where it is there; on a CPU it misses a faster kernel, and says so in each process.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    disable_progress_bar()  # of transformers: one line a checkpoint, drawn over the table of towers
