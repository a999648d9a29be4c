"""Every command and every Python block of README.md, run in order in one folder, as a reader would."""

import pytest

from qcvl import config

# Appended to each command of a kind, so that training takes two steps and answers are short.
SMALL = {
    "qcvl.train": "trainer.max_steps=2 data.val_generate=2 data.num_workers=0 generation.max_new_tokens=16",
    "qcvl.evaluate": "limit=2 panels=1 generation.max_new_tokens=16",
    "qcvl.infer": "generation.max_new_tokens=16",
}


def written_as_file(block):
    """The file name in the first line of a Python block (``# my_parts.py``), or None."""
    first = block.body.splitlines()[0]
    return first.removeprefix("# ") if first.startswith("# ") and first.endswith(".py") else None


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_block_runs_after_the_blocks_before_it(block, workplace):
    if block.language == "python":
        name = written_as_file(block)
        (workplace.folder / (name or "block.py")).write_text(block.body, encoding="utf-8")
        lines = [] if name else ["python block.py"]
    else:
        lines = [f"{line} {SMALL.get(line.split()[2], '')} {block.extra}" for line in block.commands]
    for line in lines:
        done = workplace.type(line)
        assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def test_every_command_has_a_valid_configuration(command):
    python, _, module, *overrides = command
    assert python == "python" and module.startswith("qcvl.")
    if "-m" in overrides:  # the first job of a sweep
        overrides = [override.partition(",")[0] for override in overrides if override != "-m"]
    own = [override for override in overrides if not override.startswith("hydra.")]
    config.validate(config.load(module.removeprefix("qcvl."), own))


@pytest.mark.slow
def test_the_blocks_left_what_readme_says_they_write(workplace):
    first = workplace.folder / "outputs/first"
    if not first.is_dir():
        pytest.skip("runs after the blocks of this file: select the whole file")
    there = {path.name for path in first.iterdir()}
    assert {"config.yaml", "environment.json", "logging.jsonl", "metrics.json", "previews", "checkpoints"} <= there
    assert {path.name for path in (first / "checkpoints").iterdir()} == {"step-3", "last", "best"}  # resume made step 3
    assert (first / "checkpoints/last/adapter_model.safetensors").is_file()
    assert (workplace.folder / "outputs/first_look/sheet.png").is_file()
    assert (workplace.folder / "outputs/first_merged/model.safetensors").is_file()
    assert len((workplace.folder / "boards.jsonl").read_text().splitlines()) == 4
