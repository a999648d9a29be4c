"""``stage.init_from=latest|previous``: the checkpoint an earlier stage left over the same base model."""

from pathlib import Path

from qcvl.checkpoints.contract import read_contract
from qcvl.checkpoints.folder import MANIFEST, verify
from qcvl.errors import CheckpointError
from qcvl.log import get_logger

LAST = "checkpoints/last"
SHOWN = 8  # reasons listed in the error

log = get_logger(__name__)


def find_latest(runs_root: Path, *, below_stage: int, base_fingerprint: str) -> Path:
    """The step folder behind the newest complete ``last`` under ``runs_root`` of a stage below ``below_stage``.

    Its contract must name the base model with ``base_fingerprint``.

    Raises:
        CheckpointError: when there is none, with the reason for each one that was looked at.
    """
    links = [path for path in Path(runs_root).glob(f"**/{LAST}") if path.is_dir()]
    passed_over = []
    for link in sorted(links, key=_written_at, reverse=True):
        if reason := _why_not(link, below_stage, base_fingerprint):
            passed_over.append(f"{link}: {reason}")
            continue
        folder = link.resolve()
        log.info("stage.init_from=latest is %s", folder)
        return folder
    seen = "\n".join(passed_over[:SHOWN]) or f"no {LAST} under {runs_root}"
    raise CheckpointError(
        f"stage.init_from=latest found no checkpoint of a stage below {below_stage} with the same base:\n{seen}\n"
        "run the earlier stage first, or give the folder: stage.init_from=PATH"
    )


def find_previous(output_dir: Path, stage: int) -> Path | None:
    """The last checkpoint of the sweep's job before the one in ``output_dir``; None (the base model) for stage 1.

    A sweep's jobs lie in folders named by their numbers, and this one needs the one before it to be done.

    Raises:
        CheckpointError: outside a sweep, for its first job, and where the job before left nothing of a lower stage.
    """
    if stage == 1:
        return None
    name = Path(output_dir).name
    if not name.isdigit() or name == "0":
        raise CheckpointError(
            f"stage.init_from=previous starts from the job before this one in a sweep, and {output_dir} has none "
            "before it; use experiment=two_stage, -m stage=1,2 stage.init_from=previous, or stage.init_from=latest"
        )
    link = Path(output_dir).with_name(str(int(name) - 1)) / LAST
    if not link.is_dir():
        raise CheckpointError(
            f"stage.init_from=previous: {link} is not there; the job before this one failed or is not done (jobs must "
            "run one after another)"
        )
    verify(link)
    found = read_contract(link).stage
    if found >= stage:
        raise CheckpointError(
            f"stage.init_from=previous: {link} is of stage {found}, expected one below {stage}; let stage be what the "
            "sweep varies last (it changes fastest)"
        )
    return link.resolve()


def _why_not(folder: Path, below_stage: int, base_fingerprint: str) -> str | None:
    """Why a checkpoint cannot be started from, or ``None``; the cheap reasons come before the hashes."""
    try:
        contract = read_contract(folder)
        if contract.stage >= below_stage:
            return f"is of stage {contract.stage}"
        if contract.base.fingerprint != base_fingerprint:
            return f"has another base, {contract.base.path}"
        verify(folder)
    except CheckpointError as error:
        return str(error)
    return None


def _written_at(folder: Path) -> int:
    """When the checkpoint was completed, in nanoseconds; 0 without a manifest."""
    manifest = folder / MANIFEST
    return manifest.stat().st_mtime_ns if manifest.is_file() else 0
