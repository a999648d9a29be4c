"""``experiment=verify_real`` as users start it: all PASS on trained weights, exit code 1 on a folder that is wrong."""

import json
import shutil

import pytest

from qcvl.config import CONF_DIR

TINY = CONF_DIR.parent / "qcvl/models/tiny"
PATIENCE = 600


@pytest.mark.slow
@pytest.mark.timeout(2 * PATIENCE)
def test_the_embedded_weights_pass_every_check_and_a_changed_folder_fails_the_command(command, tmp_path):
    command.patience = PATIENCE
    shutil.copytree(TINY, tmp_path / "weights")
    shared = (
        "experiment=verify_real",
        f"model.path={tmp_path}/weights",
        "model.dtype=float32",
        "trainer.accelerator=cpu",
    )
    done = command("train", *shared, "model.lr_multiplier=10", "hydra.run.dir=good")
    assert done.code == 0, done.output
    told = json.loads((tmp_path / "good/verify.json").read_text())
    assert told["passed"] and len(told["checks"]) == 8
    assert done.output.count("PASS") == 8 and done.output.rstrip().endswith("good/verify.md")
    assert "⟦{" in done.output  # the labels were printed

    settings = tmp_path / "weights/preprocessor_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"resample": 0}))
    done = command("train", *shared, "trainer.max_steps=2", "hydra.run.dir=bad")
    assert done.code == 1 and done.error().startswith("3 of 8 checks failed (pixels, overfit, speed)")
