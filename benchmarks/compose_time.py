"""How long a user waits for ``python -m qcvl.train --cfg job``, beside ``import lightning`` alone.

The configuration is composed and checked before anything heavy is imported, so it must answer well before the import
of the trainer would. Seconds of the clock, each run a new process.
"""

import subprocess
import sys
import time
from collections.abc import Sequence

from measure import median_seconds, report

from qcvl.config import CONF_DIR

OURS = ("-m", "qcvl.train", "--cfg", "job", "stage=2", "tuner=lora")
PEER = ("-c", "import lightning")


def start(arguments: Sequence[str]) -> None:
    """Run python once with ``arguments``, its output thrown away."""
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True, cwd=CONF_DIR.parent)


def main(arguments: Sequence[str] = ()) -> None:
    """Compare seconds; ``--quick`` takes one repeat."""
    repeats = 1 if "--quick" in arguments else 5
    ours_s, peer_s = median_seconds([lambda: start(OURS), lambda: start(PEER)], repeats, clock=time.perf_counter)
    rows = {
        " ".join(("python", *OURS)): f"{ours_s:.2f} s",
        f'python -c "{PEER[1]}"': f"{peer_s:.2f} s",
    }
    report("compose_time", rows, ratio=peer_s / ours_s, peer="import lightning", seconds=ours_s, peer_seconds=peer_s)


if __name__ == "__main__":
    main(sys.argv[1:])
